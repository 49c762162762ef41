//! The one list of connectors.

use crate::contract::Kind;

/// Every kind, in the order in which they are shown.
pub static KINDS: &[&Kind] = &[
    &crate::mailtarget::KIND,
    &crate::standard_webhooks::KIND,
    &crate::hmac::KIND,
    &crate::api::KIND,
    &crate::http::KIND,
    &crate::hubspot::KIND,
    &crate::mailingcore::KIND,
    &crate::maileon::KIND,
];

pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().find(|kind| kind.name == name)
}
