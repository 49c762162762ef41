//! Events for tests.

use mailspan_core::{Event, EventId, EventType, Millis, Name, RawValue, Subject};

/// An event of `mailtarget` about `Ann@x.example`, on 2026-05-08T03:14:15Z.
pub(crate) fn event_of(event_type: &str, data: &str) -> Event {
    Event {
        seq: None,
        id: EventId(0x0197_f0c2_0000_7000_8000_0000_0000_0001),
        tenant: Name::default_tenant(),
        source: Name::new("mailtarget"),
        event_type: EventType::parse(event_type).unwrap(),
        subject: Subject::read("Ann@x.example"),
        time: Millis::parse_rfc3339("2026-05-08T03:14:15Z").unwrap(),
        received_at: Millis::parse_rfc3339("2026-05-08T03:14:16.5Z").unwrap(),
        test: false,
        transmission: None,
        recipient_role: None,
        extensions: None,
        data: RawValue::from_string(data.to_owned()).unwrap().into(),
    }
}
