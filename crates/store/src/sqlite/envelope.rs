//! What an event holds beside its columns, packed: subject, transmission, role and data.

use mailspan_core::{Address, Event, RawValue, RecipientRole, Subject};

use crate::bytes_io::{Fields, put};
use crate::pack::{squeeze, unsqueeze};

const VERSION: u8 = 1;

/// What [`pack`] keeps.
pub(crate) struct Envelope {
    pub subject: Subject,
    pub transmission: Option<String>,
    pub recipient_role: Option<RecipientRole>,
    pub data: Box<RawValue>,
}

pub(crate) fn pack(event: &Event) -> Vec<u8> {
    packed(&event.subject, event.transmission.as_deref(), event.recipient_role, event.data.get())
}

/// Of an event whose person was erased: that it was, and nothing of what it said.
pub(crate) fn blank() -> Vec<u8> {
    packed(&Subject::nobody(), None, None, "{}")
}

/// With other data.
pub(crate) fn with_data(envelope: Envelope, data: &str) -> Vec<u8> {
    packed(&envelope.subject, envelope.transmission.as_deref(), envelope.recipient_role, data)
}

fn packed(subject: &Subject, transmission: Option<&str>, role: Option<RecipientRole>, data: &str) -> Vec<u8> {
    let mut plain = Vec::with_capacity(data.len() + 128);
    plain.push(VERSION);
    plain.push(match role {
        None => 0,
        Some(RecipientRole::To) => 1,
        Some(RecipientRole::Cc) => 2,
        Some(RecipientRole::Bcc) => 3,
    });
    put_maybe(&mut plain, subject.address.as_ref().map(Address::as_str));
    put_maybe(&mut plain, subject.external_id.as_deref());
    put_maybe(&mut plain, transmission);
    put(&mut plain, data.as_bytes());
    squeeze(&plain)
}

/// `None` where the bytes are damaged or of a version that is not known.
pub(crate) fn unpack(packed: &[u8]) -> Option<Envelope> {
    let plain = unsqueeze(packed)?;
    let mut fields = Fields(&plain);
    if fields.byte()? != VERSION {
        return None;
    }
    let recipient_role = match fields.byte()? {
        0 => None,
        1 => Some(RecipientRole::To),
        2 => Some(RecipientRole::Cc),
        3 => Some(RecipientRole::Bcc),
        _ => return None,
    };
    let address = match maybe(&mut fields)? {
        Some(text) => Some(Address::parse(&text).ok()?),
        None => None,
    };
    let external_id = maybe(&mut fields)?;
    let transmission = maybe(&mut fields)?;
    let data = RawValue::from_string(fields.text()?).ok()?;
    Some(Envelope { subject: Subject { address, external_id }, transmission, recipient_role, data })
}

fn put_maybe(out: &mut Vec<u8>, text: Option<&str>) {
    out.push(u8::from(text.is_some()));
    if let Some(text) = text {
        put(out, text.as_bytes());
    }
}

/// The outer `None`: damaged.
fn maybe(fields: &mut Fields) -> Option<Option<String>> {
    match fields.byte()? {
        0 => Some(None),
        _ => Some(Some(fields.text()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailspan_core::{EventId, EventType, Millis, Name};

    fn check(subject: Subject, transmission: Option<&str>, role: Option<RecipientRole>, data: &str) {
        let event = Event {
            seq: None,
            id: EventId(1),
            tenant: Name::default_tenant(),
            source: Name::new("s"),
            event_type: EventType::known("app.x"),
            subject: subject.clone(),
            time: Millis(0),
            received_at: Millis(0),
            test: false,
            transmission: transmission.map(str::to_owned),
            recipient_role: role,
            data: RawValue::from_string(data.to_owned()).unwrap().into(),
        };
        let envelope = unpack(&pack(&event)).unwrap();
        assert_eq!(envelope.subject, subject);
        assert_eq!(envelope.transmission.as_deref(), transmission);
        assert_eq!(envelope.recipient_role, role);
        assert_eq!(envelope.data.get(), data);
    }

    #[test]
    fn what_is_packed_comes_back_to_the_letter() {
        check(Subject::nobody(), None, None, r#"{"n":92356927693813856123,"n":1.50}"#);
        check(Subject::read("\"a b\"@Bücher.example"), Some("t"), Some(RecipientRole::Cc), "{}");
        check(Subject::read("cus_1"), Some(""), Some(RecipientRole::To), "{ \"a\" : 1e400 }");
    }
}
