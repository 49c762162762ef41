//! The canonical event: an immutable fact, CloudEvents 1.0 compatible.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::{EventId, Millis, Name, Seq, Subject};

/// One fact as it is kept in the journal.
#[derive(Debug, Clone)]
pub struct Event {
    /// Given by the journal; nothing before that.
    pub seq: Option<Seq>,
    pub id: EventId,
    pub tenant: Name,
    pub source: Name,
    pub event_type: EventType,
    pub subject: Subject,
    /// When it happened, as the sender says; else when it was received.
    pub time: Millis,
    pub received_at: Millis,
    /// A provider's test event: kept and shown, makes no delivery.
    pub test: bool,
    /// What a mailing platform calls the send (`transmissionId`): metadata belongs to it.
    pub transmission: Option<String>,
    /// How the recipient stood in the mail; `None` where the source does not say.
    pub recipient_role: Option<RecipientRole>,
    /// A JSON object, to the letter as built when it was received: large numbers survive.
    pub data: Arc<RawValue>,
    /// Extension attributes of the CloudEvent that it came as: an object of texts, numbers and flags, made by
    /// [`crate::cloudevents::extensions`]. Passed on, and looked at by nobody.
    pub extensions: Option<Arc<RawValue>>,
}

/// What an account told, and the hub had written there itself: kept, and sent nowhere.
pub const ECHOED: &str = "contact.echoed";
/// What happened before the person was erased: kept without saying of whom, and sent nowhere.
pub const OUTLIVED: &str = "contact.outlived";

/// Metadata is trusted for the `to` recipient only (design, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipientRole {
    To,
    Cc,
    Bcc,
}

/// `family.verb_past`, for example `email.clicked`; at most 128 bytes of `[a-z0-9._-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(Arc<str>);

impl EventType {
    /// Reads a type: letters, digits, `.`, `_`, `-`, with a dot inside; upper case is kept.
    pub fn parse(text: &str) -> Result<EventType, String> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':');
        if text.is_empty() || text.len() > crate::limits::EVENT_TYPE_BYTES_MAX || !text.bytes().all(fits) {
            return Err(format!(
                "`{}` is no event type: write family.verb_past, like app.signed_up",
                crate::clip(text, 60)
            ));
        }
        Ok(EventType(text.into()))
    }

    /// A type that the program itself names.
    pub fn known(text: &'static str) -> EventType {
        EventType(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The class of a lane, known when routing, before any map has run.
    pub fn class(&self) -> Class {
        match &*self.0 {
            "contact.subscribed"
            | "contact.confirmed"
            | "contact.unsubscribed"
            | "contact.erased"
            | "email.complained" => Class::Consent,
            "contact.created" | "contact.updated" | "email.bounced" | "email.delivered" => Class::Profile,
            _ => Class::Activity,
        }
    }
}

impl std::fmt::Display for EventType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How urgent an operation is; the smaller goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Opt-in, opt-out, do-not-contact, erasure.
    Consent = 0,
    Profile = 1,
    Activity = 2,
}

impl Class {
    pub fn name(self) -> &'static str {
        ["consent", "profile", "activity"][self as usize]
    }

    /// From the number that is stored.
    pub fn from_number(number: i64) -> Option<Class> {
        [Class::Consent, Class::Profile, Class::Activity].get(usize::try_from(number).ok()?).copied()
    }
}
