//! What the hub says of a contact that changed: the type and `data` of its own event.

use serde_json::{Value, json};

use super::apply::Turn;
use super::data::contact_json;
use super::{CONFIRM, Contact, Suppressed};
use crate::Millis;

/// Names of the members that are not what they were.
pub(super) fn differences(before: &Contact, after: &Contact) -> Vec<&'static str> {
    let pairs = [
        ("email", before.address != after.address),
        ("external_id", before.external_id != after.external_id),
        ("locale", before.locale != after.locale),
        ("opt_in", before.opt_in != after.opt_in),
        ("permission", before.permission != after.permission),
        ("consent_version", before.consent_version != after.consent_version),
        ("source", before.source != after.source),
        ("project_id", before.project != after.project),
        ("attributes", before.fields.attributes != after.fields.attributes),
        ("standard", before.fields.standard != after.fields.standard),
        ("custom", before.fields.custom != after.fields.custom),
        ("suppressed_at", before.suppressed_at != after.suppressed_at),
        ("unsubscribed_at", before.unsubscribed_at != after.unsubscribed_at),
    ];
    pairs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// The type and data of the hub's own event; nothing where nothing is to be said. `suppressed`: why the address is.
pub(super) fn event(
    turn: &Turn,
    before: Option<&Contact>,
    after: &Contact,
    names: &[&'static str],
    suppressed: Option<Suppressed>,
    origin: &str,
) -> Option<(&'static str, Value)> {
    let was_in = before.is_some_and(|before| before.opt_in);
    let event_type = match turn {
        Turn::Created => "contact.created",
        Turn::Updated if was_in && !after.opt_in => "contact.unsubscribed",
        // The person's own word, through the link that was sent.
        Turn::Updated if origin == CONFIRM => "contact.confirmed",
        Turn::Updated if !was_in && after.opt_in => "contact.subscribed",
        Turn::Updated => "contact.updated",
        _ => return None,
    };
    let old_address = before.and_then(|before| before.address.as_ref()).filter(|_| names.contains(&"email"));
    let mut data = json!({ "contact": contact_json(after), "changed": names, "origin": origin });
    if let Some(address) = old_address {
        data["previous"] = json!({ "email": address.as_str() });
    }
    if let Some(reason) = suppressed.filter(|_| names.contains(&"suppressed_at")) {
        data["suppressed_for"] = reason.name().into();
    }
    Some((event_type, data))
}

/// Of an address that no contact has: systems that mail it must know all the same.
pub(super) fn strangers_event(now: Option<(Suppressed, Millis)>, origin: &str) -> (&'static str, Value) {
    let mut data = json!({
        "contact": { "suppressed_at": now.map(|(_, at)| at.rfc3339()) },
        "changed": ["suppressed_at"],
        "origin": origin,
    });
    if let Some((reason, _)) = now {
        data["suppressed_for"] = reason.name().into();
    }
    ("contact.suppression_changed", data)
}
