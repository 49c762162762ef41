//! What the JSON reader complains of, in words of JSON: its own name types of the program.

/// As the reader says it, a place at its end included; a text of another form stays as it is.
pub fn json_words(error: &str) -> String {
    let (text, place) = error.split_at(error.rfind(" at line ").unwrap_or(error.len()));
    let told = ["invalid type: ", "invalid value: ", "invalid length "]
        .iter()
        .find_map(|kind| text.strip_prefix(kind)?.rsplit_once(", expected "));
    match told {
        Some((given, wanted)) => {
            format!("expected {}, not {}{place}", wanted_word(wanted), given_word(given))
        }
        None => error.to_owned(),
    }
}

fn wanted_word(wanted: &str) -> String {
    let word = match wanted {
        "a string" | "str" => "a text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        "u8" => "a whole number from 0 to 255",
        "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        other if other.starts_with("struct ") => "an object",
        other if other.starts_with("enum ") => "one of its words",
        other => other,
    };
    word.to_owned()
}

/// Values that are long or may name somebody are not repeated.
fn given_word(given: &str) -> String {
    let (kind, rest) = given.split_once(' ').unwrap_or((given, ""));
    match kind {
        "string" | "character" => "a text".to_owned(),
        "integer" | "number" => format!("the number {}", rest.trim_matches('`')),
        "floating" => format!("the number {}", rest.trim_start_matches("point ").trim_matches('`')),
        "boolean" => rest.trim_matches('`').to_owned(),
        "sequence" => "a list".to_owned(),
        "map" => "an object".to_owned(),
        "null" | "unit" | "Option" => "null".to_owned(),
        _ => given.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "it is read, never looked at")]
    struct Row {
        text: Option<String>,
        level: Option<u8>,
        list: Option<Vec<i64>>,
        truth: Option<bool>,
        map: Option<BTreeMap<String, bool>>,
        inner: Option<Box<Row>>,
    }

    fn check(json: &str, expected: &str) {
        let error = serde_json::from_str::<Row>(json).unwrap_err().to_string();
        let told = json_words(&error);
        assert!(told.starts_with(expected), "{json}: {error}: {told}");
        assert!(!told.contains("struct") && !told.contains("u8"), "{told}");
    }

    #[test]
    fn what_is_wrong_is_said_in_words_of_json() {
        check(r#""x""#, "expected an object, not a text at line 1");
        check(r#"{"inner":7}"#, "expected an object, not the number 7");
        check(r#"{"text":true}"#, "expected a text, not true");
        check(r#"{"text":{}}"#, "expected a text, not an object");
        check(r#"{"level":300}"#, "expected a whole number from 0 to 255, not the number 300");
        check(r#"{"level":1.5}"#, "expected a whole number from 0 to 255, not the number 1.5");
        check(r#"{"list":"a, expected b"}"#, "expected a list, not a text");
        check(r#"{"list":[null]}"#, "expected a whole number, not null");
        check(r#"{"truth":[]}"#, "expected true or false, not a list");
        check(r#"{"map":1}"#, "expected an object, not the number 1");
        assert_eq!(
            json_words("missing field `email` at line 1 column 2"),
            "missing field `email` at line 1 column 2"
        );
    }
}
