//! Requests (vendor pages «create contact», «synchronize contacts», «unsubscribe contacts», REST API 1.0).

use std::collections::{BTreeMap, HashSet};

use mailspan_core::limits::{BULK_BYTES_MAX, BULK_CONTACTS_MAX};
use mailspan_core::xml::escaped;
use mailspan_core::{Fields, Operation, Request, fields};
use serde_json::{Value, json};

use super::call::{Call, Whom, call_of, email_of, external_id_of, text};
use super::settings::Settings;
use crate::contract::Item;
use crate::percent::percent;

const XML: &str = "application/vnd.maileon.api+xml";
const JSON: &str = "application/vnd.maileon.api+json";

/// The standard fields that Maileon has.
const STANDARD: [&str; 17] = [
    "ADDRESS",
    "BIRTHDAY",
    "CITY",
    "COUNTRY",
    "FIRSTNAME",
    "FULLNAME",
    "GENDER",
    "HNR",
    "LASTNAME",
    "LOCALE",
    "NAMEDAY",
    "ORGANIZATION",
    "REGION",
    "SALUTATION",
    "STATE",
    "TITLE",
    "ZIP",
];

/// Name and value, as Maileon takes them.
type Values = BTreeMap<String, String>;

/// Every call but the synchronisation carries one item.
pub fn one(settings: &Settings, call: &Call, item: &Item) -> Request {
    match call {
        Call::OptIn | Call::Synchronise { .. } => {
            let email = percent(&email_of(item).unwrap_or_default());
            let query = opt_in_query(settings, item);
            typed("POST", format!("/contacts/email/{email}?{query}"), &contact(settings, item, false))
        }
        Call::Move { old } => {
            typed("PUT", format!("/contacts/email/{}", percent(old)), &contact(settings, item, true))
        }
        Call::Unsubscribe(whom) => unsubscribe(settings, whom),
        Call::Leave { old } => unsubscribe(settings, &Whom::Address(old.clone())),
        Call::Mark { address } => bare("PUT", format!("/contacts/email/{}/unsubscription", percent(address))),
        Call::Delete(whom) => bare("DELETE", place(whom)),
    }
}

fn unsubscribe(settings: &Settings, whom: &Whom) -> Request {
    let account = settings.newsletter_account.map(|id| format!("?nlaccountid={id}"));
    bare("DELETE", format!("{}/unsubscribe{}", place(whom), account.unwrap_or_default()))
}

fn place(whom: &Whom) -> String {
    match whom {
        Whom::Address(address) => format!("/contacts/email/{}", percent(address)),
        Whom::ExternalId(id) => format!("/contacts/externalid/{}", percent(id)),
    }
}

/// `sync_mode=1`: an existing contact is updated. Below level 4 Maileon may ask for confirmation itself.
fn opt_in_query(settings: &Settings, item: &Item) -> String {
    let empty = Fields::new();
    let fields = match item.operation {
        Operation::UpsertContact { fields } => fields,
        _ => &empty,
    };
    let permission = fields.get(fields::PERMISSION).and_then(Value::as_u64).unwrap_or(2);
    let asks = settings.doi && !matches!(permission, 4 | 5);
    let mut query = match asks {
        true => "permission=1&sync_mode=1&doi=true".to_owned(),
        false => format!("permission={permission}&sync_mode=1"),
    };
    if asks && settings.doi_plus {
        query.push_str("&doiplus=true");
    }
    if let Some(mailing) = settings.doi_mailing.as_ref().filter(|_| asks) {
        query.push_str(&format!("&doimailing={}", percent(mailing)));
    }
    let src = text(fields, fields::SOURCE).unwrap_or_else(|| settings.src.clone());
    if !src.is_empty() {
        query.push_str(&format!("&src={}", percent(&src)));
    }
    query
}

/// The body of a single contact. The address stands in it only where it changes.
fn contact(settings: &Settings, item: &Item, moves: bool) -> Value {
    let (standard, custom) = values(settings, item);
    let mut body = json!({});
    if moves {
        body["email"] = json!(email_of(item));
    }
    if let Some(id) = external_id_of(item) {
        body["external_id"] = json!(id);
    }
    if !standard.is_empty() {
        body["standard_fields"] = json!(standard);
    }
    if !custom.is_empty() {
        body["custom_fields"] = json!(custom);
    }
    body
}

/// Standard and custom fields. Null clears, which is an empty text at Maileon.
fn values(settings: &Settings, item: &Item) -> (Values, Values) {
    let Operation::UpsertContact { fields } = item.operation else { return Default::default() };
    let members = |name: &str| fields.get(name).and_then(Value::as_object).into_iter().flatten();
    let mut standard = Values::new();
    if let Some(locale) = fields.get(fields::LOCALE) {
        standard.insert("LOCALE".to_owned(), shown(locale).replace('-', "_"));
    }
    for (name, value) in members(fields::STANDARD).filter(|(name, _)| STANDARD.contains(&name.as_str())) {
        standard.insert(name.clone(), shown(value));
    }
    let mut custom = Values::new();
    for (name, value) in members(fields::ATTRIBUTES) {
        let own = settings.attributes.get(name).filter(|own| !own.is_empty());
        custom.extend(own.map(|own| (own.clone(), shown(value))));
    }
    for (name, value) in members(fields::CUSTOM) {
        custom.extend(settings.custom(name).map(|own| (own, shown(value))));
    }
    (standard, custom)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `POST /contacts`: the contacts of all items with the same permission, and the positions of these items. No
/// address and no external id stands twice: Maileon ignores the second.
///
/// `override_permission=false`: only who is new there gets the permission, so none is lowered.
/// `reimport_unsubscribed_contacts=false`: who unsubscribed there stays so. `ignore_invalid_contacts=true`: a
/// bad contact does not stop the others, and is named.
pub fn synchronise(settings: &Settings, permission: Option<u8>, items: &[Item]) -> (Request, Vec<usize>) {
    let mut seen: HashSet<String> = HashSet::new();
    let mut body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><contacts>".to_owned();
    let mut takes = Vec::new();
    for (position, item) in items.iter().enumerate() {
        if takes.len() == BULK_CONTACTS_MAX {
            break;
        }
        if call_of(settings, item) != Ok(Call::Synchronise { permission }) {
            continue;
        }
        let mine = [email_of(item).map(|email| format!("@{}", email.to_lowercase())), external_id_of(item)];
        let row = element(settings, item);
        let taken = mine.iter().flatten().any(|key| seen.contains(key));
        if taken || (!takes.is_empty() && body.len() + row.len() > BULK_BYTES_MAX) {
            continue;
        }
        seen.extend(mine.into_iter().flatten());
        body.push_str(&row);
        takes.push(position);
    }
    body.push_str("</contacts>");
    let permission = permission.map(|level| format!("permission={level}&")).unwrap_or_default();
    let path = format!(
        "/contacts?{permission}sync_mode=1&use_external_id=false&ignore_invalid_contacts=true\
         &reimport_unsubscribed_contacts=false&override_permission=false"
    );
    (Request { body: body.into(), ..with_type("POST", path, XML) }, takes)
}

fn element(settings: &Settings, item: &Item) -> String {
    let (standard, custom) = values(settings, item);
    let mut row = format!("<contact><email>{}</email>", escaped(&email_of(item).unwrap_or_default()));
    if let Some(id) = external_id_of(item) {
        row.push_str(&format!("<external_id>{}</external_id>", escaped(&id)));
    }
    for (name, values) in [("standard_fields", standard), ("custom_fields", custom)] {
        if values.is_empty() {
            continue;
        }
        row.push_str(&format!("<{name}>"));
        for (field, value) in values {
            let (field, value) = (escaped(&field), escaped(&value));
            row.push_str(&format!("<field><name>{field}</name><value>{value}</value></field>"));
        }
        row.push_str(&format!("</{name}>"));
    }
    row.push_str("</contact>");
    row
}

fn typed(method: &'static str, path: String, body: &Value) -> Request {
    Request { body: body.to_string().into(), ..with_type(method, path, JSON) }
}

fn with_type(method: &'static str, path: String, content_type: &str) -> Request {
    let mut request = bare(method, path);
    request.headers.push(("content-type".to_owned(), content_type.to_owned()));
    request
}

/// Answers are XML, whatever was sent.
pub fn bare(method: &'static str, path: String) -> Request {
    Request { method, path, headers: vec![("accept".to_owned(), XML.to_owned())], body: Default::default() }
}
