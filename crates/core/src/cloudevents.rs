//! CloudEvents 1.0 in JSON: writing an event, and the members that are ours.

use serde_json::value::RawValue;

use crate::Event;
use crate::json::{self, Node, Value};
use crate::limits::{EXTENSIONS_BYTES_MAX, EXTENSIONS_MAX};

pub const STRUCTURED: &str = "application/cloudevents+json";
pub const BATCHED: &str = "application/cloudevents-batch+json";

/// Attributes of the specification (1.0.2, 3.1), the members of its JSON format, and the extensions that are ours.
const NO_EXTENSIONS: [&str; 13] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
    "data_base64",
    "tenant",
    "receivedat",
    "test",
];

/// The extension attributes among the members of an event: names of `a-z` and `0-9` (1.0.2, 3.1), values that are
/// text, a number or a flag, to the letter; of a name that stands twice the last. At most [`EXTENSIONS_MAX`], in
/// [`EXTENSIONS_BYTES_MAX`] together; what is more is left out. Nothing where there are none.
pub fn extensions(event: &Node) -> Option<Box<RawValue>> {
    let mut kept: Vec<(&str, String)> = Vec::new();
    let mut bytes = 2;
    for (name, node) in event.as_object()?.iter().rev() {
        let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let is_plain = matches!(node.value, Value::String(_) | Value::Number | Value::Bool(_));
        let is_new = !kept.iter().any(|(other, _)| *other == name.as_ref());
        if name.is_empty() || !is_name || !is_plain || !is_new || NO_EXTENSIONS.contains(&name.as_ref()) {
            continue;
        }
        let size = name.len() + node.raw.len() + 4;
        if kept.len() < EXTENSIONS_MAX && bytes + size <= EXTENSIONS_BYTES_MAX {
            bytes += size;
            kept.push((name.as_ref(), node.raw.to_owned()));
        }
    }
    kept.reverse();
    if kept.is_empty() { None } else { RawValue::from_string(json::object(kept)).ok() }
}

/// The event in structured mode (CloudEvents JSON format 1.0.2, 3). `source` is `/{tenant}/{source}`
/// for another tenant than the default, else `/{source}`; extensions are `tenant` and `receivedat`, and those that
/// it came with.
pub fn write(event: &Event) -> String {
    let mut members = vec![
        ("specversion", "\"1.0\"".to_owned()),
        ("id", json::quote(&event.id.to_string())),
        ("source", json::quote(&source_of(event))),
        ("type", json::quote(event.event_type.as_str())),
    ];
    if let Some(subject) = event.subject.shown() {
        members.push(("subject", json::quote(subject)));
    }
    members.push(("time", json::quote(&event.time.rfc3339())));
    members.push(("tenant", json::quote(event.tenant.as_str())));
    members.push(("receivedat", json::quote(&event.received_at.rfc3339())));
    if event.test {
        members.push(("test", "true".to_owned()));
    }
    let carried = event.extensions.as_deref().and_then(|text| json::parse(text.get().as_bytes()).ok());
    for (name, node) in carried.iter().filter_map(Node::as_object).flatten() {
        members.push((name, node.raw.to_owned()));
    }
    members.push(("datacontenttype", "\"application/json\"".to_owned()));
    members.push(("data", event.data.get().to_owned()));
    json::object(members)
}

/// The event's `source`: `/{source}`, for another tenant than the default `/{tenant}/{source}`.
pub fn source_of(event: &Event) -> String {
    match event.tenant.as_str() {
        "default" => format!("/{}", event.source),
        tenant => format!("/{tenant}/{}", event.source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::*;

    #[test]
    fn data_is_written_to_the_letter() {
        let event = Event {
            seq: None,
            id: EventId(0x0197_f0c2_0000_7000_8000_0000_0000_0001),
            tenant: Name::default_tenant(),
            source: Name::new("mailtarget"),
            event_type: EventType::known("email.opened"),
            subject: Subject::read("a@b.co"),
            time: Millis(1_700_000_000_123),
            received_at: Millis(1_700_000_001_000),
            test: false,
            transmission: None,
            recipient_role: None,
            data: serde_json::value::RawValue::from_string(r#"{"n":92356927693813856123}"#.to_owned())
                .unwrap()
                .into(),
            extensions: None,
        };
        assert_eq!(
            write(&event),
            r#"{"specversion":"1.0","id":"0197f0c2-0000-7000-8000-000000000001","source":"/mailtarget","type":"email.opened","subject":"a@b.co","time":"2023-11-14T22:13:20.123Z","tenant":"default","receivedat":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":92356927693813856123}}"#
        );
    }
    #[test]
    fn extensions_are_what_is_not_of_the_specification_and_not_ours() {
        let check = |event: &str, expected: Option<&str>| {
            let node = json::parse(event.as_bytes()).unwrap();
            assert_eq!(extensions(&node).as_deref().map(RawValue::get), expected, "{event}");
        };
        check(r#"{"specversion":"1.0","id":"1","type":"a.b","data":{},"data_base64":"","tenant":"x"}"#, None);
        check(
            r#"{"traceparent":"00-ab","n":9007199254740993,"f":true}"#,
            Some(r#"{"traceparent":"00-ab","n":9007199254740993,"f":true}"#),
        );
        check(r#"{"a":"1","b":"2","a":"3"}"#, Some(r#"{"b":"2","a":"3"}"#));
        check(r#"{"Upper":"1","with-dash":"2","o":{},"l":[],"z":null,"":1}"#, None);
        let many = (0..EXTENSIONS_MAX + 5).map(|n| format!("\"x{n}\":{n}")).collect::<Vec<_>>().join(",");
        let many = format!("{{{many}}}");
        let node = json::parse(many.as_bytes()).unwrap();
        let kept = extensions(&node).unwrap();
        assert_eq!(json::parse(kept.get().as_bytes()).unwrap().as_object().unwrap().len(), EXTENSIONS_MAX);
        check(&format!("{{\"a\":\"{}\",\"b\":1}}", "x".repeat(EXTENSIONS_BYTES_MAX)), Some(r#"{"b":1}"#));
    }
}
