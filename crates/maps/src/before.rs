//! What a contact was called before: a destination that has not heard of the change knows it by that.

use mailspan_core::json::Node;
use mailspan_core::limits::FORMER_NAME_TRIED_MS;
use mailspan_core::{Event, Fields, Millis, Person, fields};
use serde_json::Value as Json;

use crate::contact;

/// `previous_email` and `previous_external_id`, each a text, or a list where there are several: what the event says,
/// then what the contact left since then, or not long before it, the newest first. An event that is older than a
/// change is told as of today, so it may come to a destination before the change does.
pub(crate) fn names(event: &Event, data: Option<&Node<'_>>, person: Option<&Person>) -> Fields {
    let taken = |email: &Json| {
        let taken = person.map(|person| person.formerly.taken.as_slice()).unwrap_or_default();
        taken
            .iter()
            .any(|address| email.as_str().is_some_and(|text| address.as_str().eq_ignore_ascii_case(text)))
    };
    // Somebody else has it by now, and would be moved or unsubscribed.
    let said = contact::previous_email(data).filter(|email| !taken(email));
    let mut emails: Vec<Json> = said.into_iter().collect();
    let mut ids: Vec<Json> = Vec::new();
    let is_recent = |at: Millis| at.0.saturating_add(FORMER_NAME_TRIED_MS) > event.received_at.0;
    if let Some(person) = person {
        let addresses = person.formerly.addresses.iter().filter(|(_, at)| is_recent(*at));
        emails.extend(addresses.map(|(address, _)| Json::from(address.as_str())));
        let left = person.formerly.external_ids.iter().filter(|(_, at)| is_recent(*at));
        ids.extend(left.map(|(id, _)| Json::from(id.as_str())));
    }
    let named = [(fields::PREVIOUS_EMAIL, emails), (fields::PREVIOUS_EXTERNAL_ID, ids)];
    named.into_iter().filter_map(|(name, values)| Some((name.to_owned(), folded(values)?))).collect()
}

/// One as itself, several as a list; none twice.
fn folded(values: Vec<Json>) -> Option<Json> {
    let mut all: Vec<Json> = Vec::new();
    for value in values {
        if !value.is_null() && !all.contains(&value) {
            all.push(value);
        }
    }
    match all.len() {
        0 | 1 => all.pop(),
        _ => Some(Json::Array(all)),
    }
}
