//! The words of Mailspan: types that two or more crates speak of. Pure: no I/O, no clock, no randomness.

pub mod chain;
pub mod cloudevents;
mod consent;
pub mod contact;
mod delivery;
mod event;
mod ids;
pub mod json;
pub mod limits;
mod operation;
mod person;
mod random;
mod request;
mod secret;
mod subject;
mod time;
mod verdict;
pub mod xml;

use std::borrow::Cow;

pub use consent::{class_of, class_of_type, consent_of, counted_time, stated_opt_in, states_opt_in};
pub use delivery::{
    Attempt, Behind, Cause, Elsewhere, Offer, Outcome, Parcel, Part, Progress, Queue, Room, Settlement,
    State, fold,
};
pub use event::{Class, ECHOED, Event, EventType, OUTLIVED, RecipientRole};
pub use ids::{DeliveryId, DestinationId, Digest, EventId, Key, Name, PersonId, RequestId, RouteId, Seq};
pub use operation::{Consent, Fields, Operation, fields};
pub use person::{Formerly, LastTimes, Person, superseded};
pub use random::SplitMix64;
pub use request::{Answer, KEY, Lost, Named, RawRequest, Request};
pub use secret::{Secret, SecretRef};
pub use serde_json::value::RawValue;
pub use subject::{Address, Subject};
pub use time::{Millis, Rate, Span};
pub use verdict::{HANDED_ON, Reason, Signal, Step, Verdict};

/// True for what must not reach a terminal or a page as it is: control characters, and marks that turn
/// the direction of the text or are not seen (Unicode TR36, 2.5).
pub fn is_unshown(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// The first `chars` characters, with an ellipsis where something was cut.
pub fn clip(text: &str, chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars) {
        None => Cow::Borrowed(text),
        Some((at, _)) => Cow::Owned(format!("{}…", &text[..at])),
    }
}
