//! The three vocabularies of one thing: `event` values, `status` values and past-tense slugs.

/// What a word of Mailtarget means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning {
    /// The word that all its synonyms stand for.
    pub word: &'static str,
    pub event_type: &'static str,
}

const MEANINGS: [(&[&str], Meaning); 11] = [
    (&["injection", "injected", "sent"], Meaning { word: "injection", event_type: "email.sent" }),
    (&["delivery", "delivered"], Meaning { word: "delivery", event_type: "email.delivered" }),
    (&["delay", "delayed", "deferred"], Meaning { word: "delay", event_type: "email.deferred" }),
    (&["bounce", "bounced", "hard_bounce"], Meaning { word: "bounce", event_type: "email.bounced" }),
    (&["soft_bounce", "soft_bounced"], Meaning { word: "soft_bounce", event_type: "email.bounced" }),
    (&["out_of_band"], Meaning { word: "out_of_band", event_type: "email.bounced" }),
    (&["open", "opened"], Meaning { word: "open", event_type: "email.opened" }),
    (&["click", "clicked"], Meaning { word: "click", event_type: "email.clicked" }),
    (
        &["complaint", "complained", "spam_complaint"],
        Meaning { word: "complaint", event_type: "email.complained" },
    ),
    (
        &["unsubscribe", "unsubscribed", "list_unsubscribe", "list_unsubscribed"],
        Meaning { word: "unsubscribe", event_type: "contact.unsubscribed" },
    ),
    (
        &["link_unsubscribe", "link_unsubscribed"],
        Meaning { word: "unsubscribe", event_type: "contact.unsubscribed" },
    ),
];

/// The meaning of a word, whatever its case and whether it is written with `_`, `-` or blanks;
/// nothing for a word that the sheet does not know.
pub fn meaning(word: &str) -> Option<Meaning> {
    let word = normal(word);
    MEANINGS.iter().find(|(words, _)| words.contains(&word.as_str())).map(|(_, meaning)| *meaning)
}

/// The word as it is compared: `Spam Complaint` is `spam_complaint`.
pub fn normal(word: &str) -> String {
    word.trim().to_ascii_lowercase().replace(['-', ' '], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &[&str], expected: Option<&str>) {
        for word in words {
            assert_eq!(meaning(word).map(|meaning| meaning.event_type), expected, "{word}");
        }
    }

    #[test]
    fn three_vocabularies_mean_the_same() {
        check(&["injection"], Some("email.sent"));
        check(&["delivery", "delivered", "Delivered"], Some("email.delivered"));
        check(&["delay", "deferred", "delayed"], Some("email.deferred"));
        check(&["bounce", "bounced", "soft_bounce", "out_of_band"], Some("email.bounced"));
        check(&["open", "opened"], Some("email.opened"));
        check(&["click", "clicked"], Some("email.clicked"));
        check(&["complaint", "complained", "spam_complaint", "spam-complaint"], Some("email.complained"));
        check(
            &["unsubscribe", "unsubscribed", "list_unsubscribe", "link_unsubscribe", "Link Unsubscribe"],
            Some("contact.unsubscribed"),
        );
        check(&["something_new", "", "opens"], None);
    }
}
