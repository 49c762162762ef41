//! Reasons as a log may have them. What a destination answered may name anybody, and a log is not reached by an
//! erasure: its words are in the store, beside the delivery.

use mailspan_core::Reason;

/// The code, and the status where a destination answered: `refused (HTTP 422)`.
pub fn quiet(reason: &Reason) -> String {
    match status(&reason.text) {
        Some(status) => format!("{} (HTTP {status})", reason.code),
        None => reason.code.clone(),
    }
}

fn status(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("HTTP ")?;
    rest.get(..3).filter(|status| status.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vendors_words_are_not_in_it() {
        for (text, expected) in [
            (r#"HTTP 422 {"error":"EXT-7788 is locked"}"#, "refused (HTTP 422)"),
            ("ann was refused", "refused"),
            ("HTTP", "refused"),
            ("HTTP ééé", "refused"),
        ] {
            assert_eq!(quiet(&Reason::new("refused", text)), expected);
        }
    }
}
