//! What an event holds beside its columns, packed: subject, transmission, role, data and extensions.

use mailspan_core::{Address, Event, RawValue, RecipientRole, Subject};

use crate::bytes_io::{Fields, put};
use crate::pack::{squeeze, unsqueeze};

/// Without extensions, as older versions write and read it.
const VERSION: u8 = 1;
/// With extensions behind the data.
const WITH_EXTENSIONS: u8 = 2;

/// What [`pack`] keeps.
pub(crate) struct Envelope {
    pub subject: Subject,
    pub transmission: Option<String>,
    pub recipient_role: Option<RecipientRole>,
    pub data: Box<RawValue>,
    pub extensions: Option<Box<RawValue>>,
}

pub(crate) fn pack(event: &Event) -> Vec<u8> {
    let extensions = event.extensions.as_deref().map(RawValue::get);
    packed(&event.subject, event.transmission.as_deref(), event.recipient_role, event.data.get(), extensions)
}

/// Of an event whose person was erased: that it was, and nothing of what it said.
pub(crate) fn blank() -> Vec<u8> {
    packed(&Subject::nobody(), None, None, "{}", None)
}

/// With other data; without extensions, which may name the person that the data named.
pub(crate) fn with_data(envelope: Envelope, data: &str) -> Vec<u8> {
    packed(&envelope.subject, envelope.transmission.as_deref(), envelope.recipient_role, data, None)
}

fn packed(
    subject: &Subject,
    transmission: Option<&str>,
    role: Option<RecipientRole>,
    data: &str,
    extensions: Option<&str>,
) -> Vec<u8> {
    let mut plain = Vec::with_capacity(data.len() + 128);
    plain.push(if extensions.is_some() { WITH_EXTENSIONS } else { VERSION });
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
    if let Some(extensions) = extensions {
        put(&mut plain, extensions.as_bytes());
    }
    squeeze(&plain)
}

/// `None` where the bytes are damaged or of a version that is not known.
pub(crate) fn unpack(packed: &[u8]) -> Option<Envelope> {
    let plain = unsqueeze(packed)?;
    let mut fields = Fields(&plain);
    let version = fields.byte()?;
    if !matches!(version, VERSION | WITH_EXTENSIONS) {
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
    let extensions = match version {
        WITH_EXTENSIONS => Some(RawValue::from_string(fields.text()?).ok()?),
        _ => None,
    };
    let subject = Subject { address, external_id };
    Some(Envelope { subject, transmission, recipient_role, data, extensions })
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
            extensions: None,
        };
        let envelope = unpack(&pack(&event)).unwrap();
        assert!(envelope.extensions.is_none());
        let text = r#"{"traceparent":"00-ab","n":9007199254740993}"#;
        let extensions = Some(RawValue::from_string(text.to_owned()).unwrap().into());
        let with = unpack(&pack(&Event { extensions, ..event })).unwrap();
        assert_eq!(with.extensions.as_deref().map(RawValue::get), Some(text));
        assert_eq!((with.subject, with.data.get()), (subject.clone(), data));
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

    /// Version 1, byte by byte, as it was written before there were extensions; and without them nothing else is
    /// written now, so that an older program reads it.
    #[test]
    fn the_first_version_is_read_and_still_written_where_it_suffices() {
        let mut plain = vec![1, 0, 1];
        put(&mut plain, b"a@b.co");
        plain.extend([0, 0]);
        put(&mut plain, b"{}");
        let envelope = unpack(&squeeze(&plain)).unwrap();
        assert_eq!((envelope.subject.shown(), envelope.data.get()), (Some("a@b.co"), "{}"));
        assert!(envelope.extensions.is_none());
        plain[0] = 3;
        assert!(unpack(&squeeze(&plain)).is_none(), "a version that is not known was read");
        plain[0] = 2;
        assert!(unpack(&squeeze(&plain)).is_none(), "extensions that are cut off were read");
    }
}
