//! What an event says of a contact: `data.contact`, or the same members at the top of `data`.

use mailspan_core::json::{Node, Value};
use serde_json::Value as Json;

/// A member of the contact; nothing where it is missing. `null` clears.
pub(crate) fn member(data: Option<&Node<'_>>, name: &str) -> Option<Json> {
    let data = data?;
    let contact = data.get("contact").filter(|contact| contact.as_object().is_some());
    contact.unwrap_or(data).get(name).map(json)
}

/// The address before the change: `data.previous.email`, or `previous_email` beside the others.
pub(crate) fn previous_email(data: Option<&Node<'_>>) -> Option<Json> {
    let previous = data?.get("previous").and_then(|previous| previous.get("email")).map(json);
    previous.or_else(|| member(data, "previous_email"))
}

/// A number that would not come out letter for letter is handed over as text; of a key that stands twice
/// the last is taken.
fn json(node: &Node<'_>) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(truth) => Json::Bool(*truth),
        Value::Number => number(node.raw),
        Value::String(text) => Json::from(&**text),
        Value::Array(items) => items.iter().map(json).collect(),
        Value::Object(members) => members.iter().map(|(key, node)| (key.to_string(), json(node))).collect(),
    }
}

fn number(raw: &str) -> Json {
    match serde_json::from_str::<serde_json::Number>(raw) {
        Ok(number) if number.to_string() == raw => Json::Number(number),
        _ => Json::from(raw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(data: &str, name: &str, expected: Option<Json>) {
        let node = mailspan_core::json::parse(data.as_bytes()).expect("the test writes JSON");
        assert_eq!(member(Some(&node), name), expected, "{data}");
    }

    #[test]
    fn members_stand_in_the_contact_or_at_the_top() {
        check(r#"{"contact": {"locale": "de"}, "locale": "en"}"#, "locale", Some("de".into()));
        check(r#"{"locale": null}"#, "locale", Some(Json::Null));
        check(r#"{"contact": {}, "locale": "en"}"#, "locale", None);
        check(r#"{"contact": "c1", "locale": "en"}"#, "locale", Some("en".into()));
        let expected = serde_json::json!({"n": "92356927693813856123", "m": "1.50", "k": 7});
        let data = r#"{"attributes": {"n": 92356927693813856123, "m": 1.50, "k": 1, "k": 7}}"#;
        check(data, "attributes", Some(expected));
    }
}
