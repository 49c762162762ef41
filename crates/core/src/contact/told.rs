//! What the hub says of a contact that changed: the type and `data` of its own event.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::apply::Turn;
use super::data::Shown;
use super::{CONFIRM, Contact, Suppressed, formerly};
use crate::{Formerly, Millis};

/// Type and `data` of an event.
pub(super) type Told = (&'static str, Box<RawValue>);

/// Members by name, as they are written.
#[derive(Serialize)]
struct Said<'a> {
    changed: &'a [&'static str],
    contact: Shown<'a>,
    origin: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Previous<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suppressed_for: Option<&'static str>,
}

#[derive(Serialize)]
struct Previous<'a> {
    email: &'a str,
}

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
) -> Option<Told> {
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
    let data = Said {
        changed: names,
        contact: Shown::new(after),
        origin,
        previous: old_address.map(|address| Previous { email: address.as_str() }),
        suppressed_for: suppressed.filter(|_| names.contains(&"suppressed_at")).map(Suppressed::name),
    };
    Some((event_type, text(&data)))
}

/// Of whom is erased: systems may know them by what they were called before.
pub(super) fn erased(contact: Value, before: &Formerly, origin: &str) -> Told {
    let mut data = json!({ "contact": contact, "origin": origin });
    if let Some(names) = formerly::formerly_json(before) {
        data["formerly"] = names;
    }
    ("contact.erased", text(&data))
}

/// Of an address that no contact has: systems that mail it must know all the same.
pub(super) fn strangers_event(now: Option<(Suppressed, Millis)>, origin: &str) -> Told {
    let mut data = json!({
        "contact": { "suppressed_at": now.map(|(_, at)| at.rfc3339()) },
        "changed": ["suppressed_at"],
        "origin": origin,
    });
    if let Some((reason, _)) = now {
        data["suppressed_for"] = reason.name().into();
    }
    ("contact.suppression_changed", text(&data))
}

/// As JSON.
pub(super) fn text(data: &impl Serialize) -> Box<RawValue> {
    // Keys are texts and numbers are finite: a value that was read can be written.
    to_raw_value(data).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
