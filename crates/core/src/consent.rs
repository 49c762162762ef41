//! What an event says about consent, known from its type alone.

use crate::{Consent, EventType};

/// The consent fact that an event states, if it states one.
pub fn consent_of(event_type: &EventType) -> Option<Consent> {
    match event_type.as_str() {
        "contact.subscribed" | "contact.confirmed" => Some(Consent::OptIn),
        "contact.unsubscribed" => Some(Consent::OptOut),
        "email.complained" => Some(Consent::DoNotContact),
        _ => None,
    }
}
