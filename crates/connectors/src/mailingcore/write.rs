//! Requests (vendor pages newsletter/upsert-contact, bulk-import, unsubscribe; deliverability/suppressions).

use std::collections::HashSet;

use mailspan_core::limits::{BULK_BYTES_MAX, BULK_CONTACTS_MAX};
use mailspan_core::{Operation, Request, fields};
use serde_json::{Map, Value, json};

use super::call::{Call, call_of, email_of, external_id_of};
use super::settings::Settings;
use crate::contract::Item;
use crate::percent::percent;

/// The locales that MailingCore takes.
const LOCALES: [&str; 6] = ["es", "en", "it", "fr", "ca", "de"];

/// One contact by `PUT`, several by one bulk call: no address and no external id stands twice in it, so that
/// each row is one item's alone. Also the positions of the items that it carries.
pub fn upsert(settings: &Settings, items: &[Item]) -> (Request, Vec<usize>) {
    let mut keys: HashSet<String> = HashSet::new();
    let mut rows: Vec<Value> = Vec::new();
    let mut takes = Vec::new();
    let mut bytes = 0;
    for (position, item) in items.iter().enumerate() {
        if takes.len() == BULK_CONTACTS_MAX {
            break;
        }
        if call_of(settings, item) != Ok(Call::Upsert) {
            continue;
        }
        let mine = [email_of(item).map(|email| format!("@{}", email.to_lowercase())), external_id_of(item)];
        let row = contact(settings, item);
        let length = row.to_string().len();
        let taken = mine.iter().flatten().any(|key| keys.contains(key));
        if taken || (!rows.is_empty() && bytes + length > BULK_BYTES_MAX) {
            continue;
        }
        bytes += length;
        keys.extend(mine.into_iter().flatten());
        rows.push(row);
        takes.push(position);
    }
    match <[Value; 1]>::try_from(rows) {
        Ok([one]) => (Request::json("PUT", "/contacts", &one), takes),
        Err(rows) => (Request::json("POST", "/contacts/bulk", &json!({"contacts": rows})), takes),
    }
}

/// A contact as MailingCore takes it. What the event does not say is left out, and stays there.
fn contact(settings: &Settings, item: &Item) -> Value {
    let mut row = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        row.extend(value.map(|value| (name.to_owned(), value)));
    };
    put("email", email_of(item).map(Value::from));
    put("externalId", external_id_of(item).map(Value::from));
    put("projectId", settings.project_id.as_deref().map(Value::from));
    if let Operation::UpsertContact { fields } = item.operation {
        put("locale", fields.get(fields::LOCALE).and_then(locale));
        put("optIn", fields.get(fields::OPT_IN).filter(|value| value.is_boolean()).cloned());
        put("consentVersion", fields.get(fields::CONSENT_VERSION).cloned());
        put("source", fields.get(fields::SOURCE).cloned());
        put("attributes", attributes(fields));
    }
    Value::Object(row)
}

/// The language of a locale (`de_AT` is `de`), where MailingCore has it; null clears.
fn locale(value: &Value) -> Option<Value> {
    let Some(text) = value.as_str() else { return value.is_null().then_some(Value::Null) };
    let language = text.trim().split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
    LOCALES.contains(&language.as_str()).then(|| language.into())
}

/// Free attributes, standard and custom fields in one object, since MailingCore has one and replaces it whole; where
/// names meet, the field counts: an attribute may be what a list of MailingCore told of that field.
fn attributes(fields: &mailspan_core::Fields) -> Option<Value> {
    let parts = [fields::ATTRIBUTES, fields::STANDARD, fields::CUSTOM];
    let found: Vec<&Map<String, Value>> =
        parts.iter().filter_map(|name| fields.get(*name)?.as_object()).collect();
    if found.is_empty() {
        return None;
    }
    Some(Value::Object(
        found.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect(),
    ))
}

/// Every other call carries one item.
pub fn one(call: &Call, item: &Item) -> Request {
    match call {
        // Of one contact only where the plan gives no items, which it never does.
        Call::Upsert => Request::json("PUT", "/contacts", &json!({})),
        Call::Find { external_id } => get(format!("/contacts/{}", percent(external_id))),
        Call::OptIn { id, opt_in } => {
            Request::json("PATCH", format!("/contacts/{}", percent(id)), &json!({"optIn": opt_in}))
        }
        Call::Rename { id } => {
            let body = json!({"externalId": external_id_of(item), "email": email_of(item)});
            Request::json("PATCH", format!("/contacts/{}", percent(id)), &body)
        }
        Call::Suppress { address, reason } => {
            Request::json("POST", "/suppressions", &json!({"email": address, "reason": reason}))
        }
        Call::Lift { address } => bare("DELETE", format!("/suppressions/{}", percent(address))),
        Call::Erase { external_id } => bare("DELETE", format!("/contacts/{}", percent(external_id))),
    }
}

pub fn get(path: String) -> Request {
    bare("GET", path)
}

fn bare(method: &'static str, path: String) -> Request {
    let headers = vec![("accept".to_owned(), "application/json".to_owned())];
    Request { method, path, headers, body: Default::default() }
}

pub fn add_tenant(tenant: Option<&str>, request: &mut Request) {
    request.headers.extend(tenant.map(|id| ("x-tenant-id".to_owned(), id.to_owned())));
}
