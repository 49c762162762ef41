//! CloudEvents 1.0 in JSON: writing an event, and the members that are ours.

use crate::{Event, json};

pub const STRUCTURED: &str = "application/cloudevents+json";
pub const BATCHED: &str = "application/cloudevents-batch+json";

/// The event in structured mode (CloudEvents JSON format 1.0.2, 3). `source` is `/{tenant}/{source}`
/// for another tenant than the default, else `/{source}`; extensions are `tenant` and `receivedat`.
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
        };
        assert_eq!(
            write(&event),
            r#"{"specversion":"1.0","id":"0197f0c2-0000-7000-8000-000000000001","source":"/mailtarget","type":"email.opened","subject":"a@b.co","time":"2023-11-14T22:13:20.123Z","tenant":"default","receivedat":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":92356927693813856123}}"#
        );
    }
}
