//! Between our words and VRL's values, without loss: what VRL's numbers cannot hold is handed over as
//! text.

use mailspan_core::json::{self, Node};
use mailspan_core::limits::JSON_DEPTH_MAX;
use mailspan_core::{Event, RawRequest, cloudevents};
use serde_json::{Number, Value as Json};
use vrl::prelude::NotNan;
use vrl::value::{ObjectMap, Value};

/// The event as a destination of kind `http` gets it without a map: CloudEvents members, `data` as an
/// object. Members that the event does not have are missing, which VRL reads as `null`.
pub(crate) fn event(event: &Event) -> Value {
    let mut members = ObjectMap::new();
    let mut text = |key: &str, value: &str| members.insert(key.into(), value.into());
    text("specversion", "1.0");
    text("id", &event.id.to_string());
    text("source", &cloudevents::source_of(event));
    text("type", event.event_type.as_str());
    text("time", &event.time.rfc3339());
    text("tenant", event.tenant.as_str());
    text("receivedat", &event.received_at.rfc3339());
    text("datacontenttype", "application/json");
    if let Some(subject) = event.subject.shown() {
        text("subject", subject);
    }
    if event.test {
        members.insert("test".into(), true.into());
    }
    let data = json::parse(event.data.get().as_bytes()).map_or(Value::Null, |data| node(&data));
    members.insert("data".into(), data);
    Value::Object(members)
}

/// `{ body, headers, query }`: the body as JSON, else as the fields of a form, else as a string.
pub(crate) fn request(request: &RawRequest) -> Value {
    let mut headers = ObjectMap::new();
    for (name, value) in &request.headers {
        let value = String::from_utf8_lossy(value);
        match headers.get_mut(name.as_str()) {
            // RFC 9110, 5.3: repeated fields are one, joined by commas.
            Some(before) => *before = format!("{}, {value}", before.to_string_lossy()).into(),
            None => {
                headers.insert(name.as_str().into(), Value::from(&*value));
            }
        }
    }
    let body = match json::parse(&request.body) {
        Ok(body) => node(&body),
        Err(_) if is_form(request) => form(&request.body),
        Err(_) => Value::Bytes(request.body.clone()),
    };
    Value::Object(ObjectMap::from([
        ("body".into(), body),
        ("headers".into(), Value::Object(headers)),
        ("query".into(), form(request.query.as_bytes())),
    ]))
}

fn is_form(request: &RawRequest) -> bool {
    let kind = request.header("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// `a=1&b=2` as an object of strings; a name that stands more than once becomes an array.
fn form(text: &[u8]) -> Value {
    let mut fields = ObjectMap::new();
    for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let mut half = || decode(halves.next().unwrap_or_default());
        let (name, value) = (half(), Value::from(half()));
        match fields.get_mut(name.as_str()) {
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.clone(), value]),
            None => {
                fields.insert(name.into(), value);
            }
        }
    }
    Value::Object(fields)
}

/// The WHATWG URL standard, 5.1: `+` is a space, `%` and two hex digits a byte, all else itself.
fn decode(text: &[u8]) -> String {
    let hex = |at: usize| text.get(at).and_then(|byte| (*byte as char).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        at += 1;
        match (byte, hex(at), hex(at + 1)) {
            (b'+', ..) => bytes.push(b' '),
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                at += 2;
            }
            _ => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// JSON as it was read. Of a key that stands twice the last is taken.
pub(crate) fn node(from: &Node<'_>) -> Value {
    match &from.value {
        json::Value::Null => Value::Null,
        json::Value::Bool(truth) => Value::Boolean(*truth),
        json::Value::Number => number(from.raw),
        json::Value::String(text) => Value::from(&**text),
        json::Value::Array(items) => items.iter().map(node).collect(),
        json::Value::Object(members) => {
            Value::Object(members.iter().map(|(key, member)| (key.as_ref().into(), node(member))).collect())
        }
    }
}

/// A number where it comes out again letter for letter, else its text: beyond 64 bits, `9.90`, `1e5`.
fn number(raw: &str) -> Value {
    if let Some(whole) = raw.parse::<i64>().ok().filter(|whole| whole.to_string() == raw) {
        return Value::Integer(whole);
    }
    let float = raw
        .parse::<f64>()
        .ok()
        .filter(|float| Number::from_f64(*float).is_some_and(|n| n.to_string() == raw));
    match float.and_then(|float| NotNan::new(float).ok()) {
        Some(float) => Value::Float(float),
        None => Value::from(raw),
    }
}

/// A program's result as JSON: integers and floats exactly, times as RFC 3339, bytes that are not
/// UTF-8 with U+FFFD. At most 64 levels and about `bytes_max` bytes.
pub(crate) fn json(value: Value, bytes_max: usize) -> Result<Json, String> {
    let mut left = bytes_max;
    convert(&value, JSON_DEPTH_MAX, &mut left).map_err(|why| match why {
        Unfit::Deep => format!("the result is nested deeper than {JSON_DEPTH_MAX}"),
        Unfit::Large => format!("the result has more than {bytes_max} bytes"),
        Unfit::Infinite => "the result has an infinite number, which JSON cannot hold".to_owned(),
    })
}

enum Unfit {
    Deep,
    Large,
    Infinite,
}

fn convert(value: &Value, depth: usize, left: &mut usize) -> Result<Json, Unfit> {
    let bytes = match value {
        Value::Bytes(bytes) => bytes.len(),
        Value::String(text) => text.len(),
        _ => 0,
    };
    *left = left.checked_sub(bytes + 2).ok_or(Unfit::Large)?;
    if depth == 0 && matches!(value, Value::Array(_) | Value::Object(_)) {
        return Err(Unfit::Deep);
    }
    Ok(match value {
        Value::Null => Json::Null,
        Value::Boolean(truth) => Json::Bool(*truth),
        Value::Integer(whole) => Json::from(*whole),
        Value::Float(float) => Json::Number(Number::from_f64(float.into_inner()).ok_or(Unfit::Infinite)?),
        Value::Bytes(_) | Value::String(_) | Value::Regex(_) | Value::Timestamp(_) => {
            Json::String(value.to_string_lossy().into_owned())
        }
        Value::Array(items) => {
            let mut out = Vec::new();
            for item in items {
                out.push(convert(item, depth - 1, left)?);
            }
            Json::Array(out)
        }
        Value::Object(members) => {
            let mut out = serde_json::Map::new();
            for (key, member) in members {
                *left = left.checked_sub(key.len() + 3).ok_or(Unfit::Large)?;
                out.insert(key.as_str().to_owned(), convert(member, depth - 1, left)?);
            }
            Json::Object(out)
        }
    })
}

/// The word for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Boolean(_) => "a boolean",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Bytes(_) | Value::String(_) | Value::Regex(_) | Value::Timestamp(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::event_of;

    fn round_trip(text: &str) -> String {
        let read = json::parse(text.as_bytes()).unwrap();
        super::json(node(&read), 1 << 20).map_or_else(|why| why, |json| json.to_string())
    }

    #[test]
    fn numbers_that_vrl_cannot_hold_are_text() {
        for text in ["9007199254740993", "-9223372036854775808", "0", "1.5", "0.1", "-0.0", "5.0"] {
            assert_eq!(round_trip(text), text);
        }
        for text in ["92356927693813856123", "9.90", "1e400", "-0", "0.10000000000000000001", "1E5"] {
            assert_eq!(round_trip(text), format!("\"{text}\""));
        }
    }

    #[test]
    fn the_event_is_what_an_http_destination_gets() {
        let event = event_of("email.clicked", r#"{"url":"https://x.example","n":9007199254740993}"#);
        let shown: Json = serde_json::from_str(&cloudevents::write(&event)).unwrap();
        assert_eq!(super::json(super::event(&event), 1 << 20).ok(), Some(shown));
    }

    #[test]
    fn forms_are_read() {
        let read = super::json(form(b"a=1&b=x+y%21&a=2&&c&%zz=%C3%A9"), 1 << 20).unwrap();
        assert_eq!(read.to_string(), r#"{"%zz":"é","a":["1","2"],"b":"x y!","c":""}"#);
    }

    #[test]
    fn results_are_bounded() {
        let deep = (0..65).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        assert!(super::json(deep, 1 << 20).unwrap_err().contains("deeper"));
        assert!(super::json(Value::from("x".repeat(100)), 50).unwrap_err().contains("bytes"));
        assert!(
            super::json(Value::Float(NotNan::new(f64::INFINITY).unwrap()), 50)
                .unwrap_err()
                .contains("infinite")
        );
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<f64>().prop_map(Json::from),
            "\\PC{0,12}".prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Json::from),
                prop::collection::btree_map("\\PC{0,6}", inner, 0..5)
                    .prop_map(|members| Json::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(json in any_json()) {
            let text = json.to_string();
            prop_assert_eq!(round_trip(&text), text);
        }

        #[test]
        fn whole_numbers_survive_as_number_or_text(digits in "-?[1-9][0-9]{0,40}") {
            let text = round_trip(&digits);
            prop_assert_eq!(text.trim_matches('"'), &digits);
        }
    }
}
