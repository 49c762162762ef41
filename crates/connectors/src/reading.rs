//! What the parsers of all sources share: bodies, times, bounded data.

use mailspan_core::json::{self, Node, Value};
use mailspan_core::limits::{EVENT_DATA_BYTES_MAX, EVENTS_PER_REQUEST_MAX, JSON_DEPTH_MAX};
use mailspan_core::{Millis, RawRequest, RawValue, clip};

use crate::contract::{BadBody, Unreadable};

/// The body as JSON.
pub fn body(request: &RawRequest) -> Result<Node<'_>, BadBody> {
    json::parse(&request.body).map_err(|error| bad(format!("the body is not JSON that we take: {error}")))
}

pub fn bad(text: impl Into<String>) -> BadBody {
    BadBody { text: text.into() }
}

/// Refuses a request with more events than one transaction takes.
pub fn bounded(events: usize) -> Result<(), BadBody> {
    if events <= EVENTS_PER_REQUEST_MAX {
        return Ok(());
    }
    Err(bad(format!(
        "{events} events in one request, at most {EVENTS_PER_REQUEST_MAX} are taken: send them in parts"
    )))
}

/// What stands there, for messages: «a number (7)», «nothing».
pub fn found(node: Option<&Node>) -> String {
    match node {
        None => "nothing".to_owned(),
        Some(node) => match node.value {
            Value::Null => "null".to_owned(),
            Value::Array(_) | Value::Object(_) => node.kind().to_owned(),
            _ => format!("{} ({})", node.kind(), clip(node.raw, 40)),
        },
    }
}

/// A text or the digits of a number, trimmed; nothing where it is empty. Ids over 2^53 stay whole.
pub fn word(node: Option<&Node>) -> Option<String> {
    let text = node?.scalar()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// An instant: RFC 3339, or a number of milliseconds or seconds, which may stand in quotes.
pub fn time(node: &Node) -> Option<Millis> {
    let text = node.scalar()?;
    let text = text.trim();
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'));
    match text.parse::<f64>() {
        Ok(number) if numeric => Millis::from_number(number),
        _ => Millis::parse_rfc3339(text),
    }
}

/// An event's `data` from the text of a JSON object, or why it is too much.
pub fn data(text: String) -> Result<Box<RawValue>, String> {
    if text.len() > EVENT_DATA_BYTES_MAX {
        return Err(format!(
            "the event's data has {} bytes, at most {EVENT_DATA_BYTES_MAX} are taken",
            text.len()
        ));
    }
    // Nothing is nested deeper than it has brackets; counting those is quick and nearly always enough.
    let brackets = text.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count();
    if brackets > JSON_DEPTH_MAX && depth(&text) > JSON_DEPTH_MAX {
        return Err(format!("the event's data is nested deeper than {JSON_DEPTH_MAX}"));
    }
    RawValue::from_string(text).map_err(|error| format!("the event's data is not JSON: {error}"))
}

/// The deepest nesting of a text that is JSON.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// An element that is put aside.
pub fn unreadable(part: usize, code: &str, text: String, node: &Node) -> Unreadable {
    Unreadable { part, reason: mailspan_core::Reason::new(code, text), raw: node.raw.to_owned() }
}

/// A value at a path of keys: `event.id`.
pub fn at<'n, 'a>(node: &'n Node<'a>, path: &str) -> Option<&'n Node<'a>> {
    path.split('.').try_fold(node, |node, key| node.get(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_time(text: &str, expected: Option<i64>) {
        let node = json::parse(text.as_bytes()).expect("the test writes JSON");
        assert_eq!(time(&node), expected.map(Millis), "{text}");
    }

    #[test]
    fn times_come_in_four_spellings() {
        check_time("1460989507000", Some(1_460_989_507_000));
        check_time("1460989507", Some(1_460_989_507_000));
        check_time("\"1460989507000\"", Some(1_460_989_507_000));
        check_time("\"2016-04-18T14:25:07Z\"", Some(1_460_989_507_000));
        check_time("1460989507.5", Some(1_460_989_507_500));
        for bad in ["\"inf\"", "\"NaN\"", "\"\"", "\"soon\"", "null", "{}", "1e300", "true"] {
            check_time(bad, None);
        }
    }

    #[test]
    fn data_is_bounded() {
        assert!(data(format!("{{\"a\":{}{}}}", "[".repeat(63), "]".repeat(63))).is_ok());
        assert!(data(format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64))).is_err());
        assert!(data(format!("{{\"a\":\"{}\"}}", "[\\\"".repeat(80))).is_ok());
        assert!(data(format!("{{\"a\":\"{}\"}}", "x".repeat(EVENT_DATA_BYTES_MAX))).is_err());
    }
}
