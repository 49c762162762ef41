//! How final a bounce is. Hard: the address does not exist; block: policy or spam filter; else soft.

/// What a bounce says, as far as it says it.
pub struct Evidence<'a> {
    /// Normal word: `bounce`, `soft_bounce`, `out_of_band`.
    pub word: &'a str,
    /// From the `event` key of generation A, whose `bounce` is permanent by definition.
    pub single: bool,
    pub class: Option<&'a str>,
    /// Texts that may hold a status or an SMTP answer.
    pub texts: &'a [String],
}

/// `hard`, `block` or `soft`.
///
/// Hard is a `bounce` of generation A; class 10 (invalid recipient) or 30 (no RCPT) of generation B
/// and of a late bounce; where no class is given, a status 5.1.x in the reason. Classes follow
/// SparkPost's numbers; 50 to 54 are refusals of policy.
pub fn finality(evidence: &Evidence) -> &'static str {
    if evidence.word == "bounce" && evidence.single {
        return "hard";
    }
    let class = evidence.class.and_then(|class| class.trim().parse::<u32>().ok());
    match class {
        Some(50..=54) => "block",
        _ if evidence.word == "soft_bounce" => "soft",
        Some(10 | 30) => "hard",
        Some(_) => "soft",
        None if evidence.texts.iter().any(|text| has_bad_address(text)) => "hard",
        None => "soft",
    }
}

/// True where a text holds an enhanced status 5.1.x (RFC 3463, 3.2: bad address), as in
/// `550 5.1.1 user unknown`. Not where the digits are a part of something longer, as in an IP address.
fn has_bad_address(text: &str) -> bool {
    text.match_indices("5.1.").any(|(at, found)| {
        let before = text[..at].chars().next_back();
        let rest = &text[at + found.len()..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let mut after = rest[digits..].chars();
        let longer = match after.next() {
            Some('.') => after.next().is_some_and(|c| c.is_ascii_digit()),
            Some(c) => c.is_ascii_alphanumeric(),
            None => false,
        };
        let inside = before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '.');
        (1..=3).contains(&digits) && !longer && !inside
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(word: &str, single: bool, class: Option<&str>, reason: &str, expected: &str) {
        let texts = [reason.to_owned()];
        let evidence = Evidence { word, single, class, texts: &texts };
        assert_eq!(finality(&evidence), expected, "{word} {single} {class:?} {reason}");
    }

    #[test]
    fn hard_needs_evidence_unless_generation_a_says_so() {
        check("bounce", true, None, "", "hard");
        check("bounce", true, Some("51"), "", "hard");
        check("bounce", false, Some("10"), "", "hard");
        check("bounce", false, Some("30"), "", "hard");
        check("bounce", false, Some("51"), "550 5.1.1", "block");
        check("bounce", false, Some("20"), "550 5.1.1", "soft");
        check("bounce", false, None, "550 5.1.1 user unknown", "hard");
        check("bounce", false, Some(""), "smtp;550-5.1.10 RESOLVER", "hard");
        check("bounce", false, None, "552 5.2.2 mailbox full", "soft");
        check("bounce", false, None, "", "soft");
        check("soft_bounce", true, None, "550 5.1.1", "soft");
        check("soft_bounce", false, Some("10"), "", "soft");
        check("soft_bounce", false, Some("54"), "", "block");
        check("out_of_band", true, None, "", "soft");
        check("out_of_band", true, None, "(5.1.1)", "hard");
        check("out_of_band", false, Some("30"), "", "hard");
    }

    #[test]
    fn a_status_is_no_part_of_something_longer() {
        for text in ["from 5.1.2.3", "15.1.1", "v5.1.1", "5.1.", "5.1.x", "5.1.1234", "4.5.1.1"] {
            assert!(!has_bad_address(text), "{text}");
        }
        for text in ["5.1.1", "#5.1.1.", "550 5.1.1 x", "550-5.1.1", "é5.1.1 x".trim_start_matches('é')] {
            assert!(has_bad_address(text), "{text}");
        }
    }
}
