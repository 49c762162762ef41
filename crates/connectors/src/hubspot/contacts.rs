//! Requests about contacts (specification «Contacts», 2026-03).

use std::collections::BTreeMap;

use mailspan_core::{Operation, Request};
use serde_json::{Value, json};

use super::call::{Call, Input};
use super::settings::Settings;
use crate::contract::Item;

/// `batch/update` or `batch/upsert`: the facts of all items of one contact in one input, later ones over
/// earlier ones. An input has no `associations`: HubSpot refuses them inside an upsert.
pub fn write(settings: &Settings, call: Call, items: &[Item], inputs: &[Input]) -> Request {
    let verb = if call == Call::Upsert { "upsert" } else { "update" };
    let inputs: Vec<Value> = inputs
        .iter()
        .map(|input| {
            let mut properties = merged(settings, items, &input.members);
            if call == Call::Upsert {
                properties.entry("email".to_owned()).or_insert_with(|| input.id.clone());
            }
            let trace = input.members.first().map(|&at| items[at].key.to_string());
            let mut body = json!({"id": input.id, "objectWriteTraceId": trace, "properties": properties});
            if call != Call::UpdateByRecord {
                body["idProperty"] = json!("email");
            }
            body
        })
        .collect();
    let path = format!("/crm/objects/{}/contacts/batch/{verb}", settings.version);
    Request::json("POST", path, &json!({"inputs": inputs}))
}

/// `batch/read` by address. The addresses come back with the records, because an answer has no order;
/// a contact can be found by one of its other addresses.
pub fn find(settings: &Settings, inputs: &[Input]) -> Request {
    let ids: Vec<Value> = inputs.iter().map(|input| json!({"id": input.id})).collect();
    let body = json!({
        "idProperty": "email",
        "properties": ["email", "hs_additional_emails"],
        "propertiesWithHistory": [],
        "inputs": ids,
    });
    Request::json("POST", format!("/crm/objects/{}/contacts/batch/read", settings.version), &body)
}

/// Deletes for good, with history (GDPR); answered 204.
pub fn erase(settings: &Settings, input: &Input) -> Request {
    let body = json!({"objectId": input.id, "idProperty": "email"});
    Request::json("POST", format!("/crm/objects/{}/contacts/gdpr-delete", settings.version), &body)
}

/// True when the operation sets something that has a property here.
pub fn sets_something(settings: &Settings, operation: &Operation) -> bool {
    match operation {
        Operation::SetFields { fields, .. } => fields.keys().any(|field| settings.property(field).is_some()),
        _ => true,
    }
}

fn merged(settings: &Settings, items: &[Item], members: &[usize]) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    for &at in members {
        let (Operation::SetFields { fields, .. } | Operation::UpsertContact { fields }) = items[at].operation
        else {
            continue;
        };
        for (field, value) in fields {
            if let Some(name) = settings.property(field) {
                properties.insert(name, text_of(value));
            }
        }
    }
    properties
}

/// HubSpot's properties are text: numbers in digits, several choices with semicolons, null clears.
fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text_of).collect::<Vec<_>>().join(";"),
        other => other.to_string(),
    }
}
