//! A contact as JSON in events, and what an event of another source says of one.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Change, Contact, ContactKey, ContactWrite, Evidence, Permission, Stated, Suppressed, WriteMode};
use crate::limits::{CONSENT_PAGE_CHARS_MAX, CONTACT_LABEL_CHARS_MAX, EXTERNAL_ID_BYTES_MAX};
use crate::{Address, Event, EventType};

/// The `contact` member of the hub's own contact events, written without a copy of the contact; members by name.
#[derive(Serialize)]
pub struct Shown<'c> {
    attributes: &'c BTreeMap<String, Value>,
    consent_version: Option<&'c str>,
    custom: &'c BTreeMap<String, Value>,
    email: Option<&'c str>,
    external_id: Option<&'c str>,
    id: &'c str,
    locale: Option<&'c str>,
    opt_in: bool,
    permission: Permission,
    project_id: Option<&'c str>,
    source: Option<&'c str>,
    standard: &'c BTreeMap<String, Value>,
    suppressed_at: Option<String>,
    unsubscribed_at: Option<String>,
}

impl<'c> Shown<'c> {
    pub fn new(contact: &'c Contact) -> Shown<'c> {
        Shown {
            attributes: &contact.fields.attributes,
            consent_version: contact.consent_version.as_deref(),
            custom: &contact.fields.custom,
            email: contact.address.as_ref().map(Address::as_str),
            external_id: contact.external_id.as_deref(),
            id: &contact.uid,
            locale: contact.locale.as_deref(),
            opt_in: contact.opt_in,
            permission: contact.permission,
            project_id: contact.project.as_deref(),
            source: contact.source.as_deref(),
            standard: &contact.fields.standard,
            suppressed_at: contact.suppressed_at.map(|at| at.rfc3339()),
            unsubscribed_at: contact.unsubscribed_at.map(|at| at.rfc3339()),
        }
    }
}

/// [`Shown`] as text.
pub fn contact_json(contact: &Contact) -> String {
    // Keys are texts and numbers are finite: what was read can be written.
    serde_json::to_string(&Shown::new(contact)).unwrap_or_else(|_| "null".to_owned())
}

/// What an event says of a contact: families `contact.*`, `email.complained`, and a hard
/// `email.bounced` (which suppresses where `bounces` is set). `None` where it says nothing of one.
/// Members of `data.contact`, or of `data` itself, that cannot be read are passed over: the event is
/// kept as it came.
pub fn read_event(event: &Event, uid: String, bounces: bool) -> Option<ContactWrite> {
    if event.test || !concerns_contacts(&event.event_type) {
        return None;
    }
    let data: Value = serde_json::from_str(event.data.get()).ok()?;
    let subject = &event.subject;
    let key = ContactKey::Subject {
        address: subject.address.clone(),
        external_id: subject
            .external_id
            .clone()
            .or_else(|| label(member(&data, "external_id"), EXTERNAL_ID_BYTES_MAX)),
    };
    let mut write = ContactWrite::new(key, WriteMode::Follow, uid, event.time, event.source.as_str());
    read_evidence(&mut write.evidence, &data);
    match event.event_type.as_str() {
        "contact.created" | "contact.updated" => {
            write.mode = WriteMode::Upsert;
            read_members(&mut write, &data);
            if let Some(opt_in) = member(&data, "opt_in").and_then(Value::as_bool).filter(|_| is_new(&data)) {
                write.stated = vec![if opt_in { Stated::OptIn(permission(&data)) } else { Stated::OptOut }];
            }
        }
        "contact.subscribed" | "contact.confirmed" => {
            write.mode = WriteMode::Upsert;
            read_members(&mut write, &data);
            let confirmed = event.event_type.as_str() == "contact.confirmed";
            let least = if confirmed { Some(Permission::Double) } else { None };
            write.stated = vec![Stated::OptIn(permission(&data).or(least))];
        }
        "contact.unsubscribed" => {
            write.stated = vec![Stated::OptOut];
            if !by_program(&data) {
                write.suppress = Change::Set(Suppressed::Unsubscribe);
            }
        }
        "email.complained" => {
            write.stated = vec![Stated::DoNotContact];
            write.suppress = Change::Set(Suppressed::Complaint);
        }
        "email.bounced" if bounces && data.get("bounce").and_then(Value::as_str) == Some("hard") => {
            write.suppress = Change::Set(Suppressed::Bounce);
        }
        "contact.erased" => write.erase = true,
        _ => return None,
    }
    Some(write)
}

/// True for types that can say something of a contact: the others need not be read for it.
pub fn concerns_contacts(event_type: &EventType) -> bool {
    let name = event_type.as_str();
    name.starts_with("contact.") || matches!(name, "email.complained" | "email.bounced")
}

/// A program opted the contact out where its account is, as `optIn: false` at the hub's own API does: whoever owns
/// consent can grant it anew. What the hub wrote there itself comes back so too.
fn by_program(data: &Value) -> bool {
    data.get("reason").and_then(Value::as_str) == Some("api")
}

/// An opt-out that suppresses nobody: a program made it in the account that tells of it.
pub fn is_by_program(event: &Event) -> bool {
    serde_json::from_str(event.data.get()).is_ok_and(|data: Value| by_program(&data))
}

/// Who lists what changed speaks of consent only where it is among it: the rest is repetition.
fn is_new(data: &Value) -> bool {
    match data.get("changed").and_then(Value::as_array) {
        Some(names) => names.is_empty() || names.iter().any(|name| name == "opt_in" || name == "permission"),
        None => true,
    }
}

fn read_members(write: &mut ContactWrite, data: &Value) {
    let text = |name: &str, max: usize| match member(data, name) {
        None => Change::Keep,
        Some(Value::Null) => Change::Clear,
        value => label(value, max).map_or(Change::Keep, Change::Set),
    };
    write.locale = text("locale", CONTACT_LABEL_CHARS_MAX);
    write.consent_version = text("consent_version", CONTACT_LABEL_CHARS_MAX);
    write.source = text("source", CONTACT_LABEL_CHARS_MAX);
    if let ContactKey::Subject { address, external_id } = &mut write.key {
        if let Some(text) = member(data, "email").and_then(Value::as_str)
            && let Ok(given) = Address::parse(text)
        {
            *address = Some(given);
        }
        if let Some(id) = external_id.clone() {
            write.external_id = Change::Set(id);
        }
        write.address = address.clone();
    }
    if let Some(Value::Object(attributes)) = member(data, "attributes") {
        write.attributes = Change::Set(attributes.clone().into_iter().collect());
    }
    write.standard = fields(member(data, "standard"));
    write.custom = fields(member(data, "custom"));
}

/// What proves the consent that an event tells of, as far as its sender says it.
fn read_evidence(evidence: &mut Evidence, data: &Value) {
    let first = |names: &[&str], chars: usize| {
        let given = names.iter().find_map(|name| member(data, name).and_then(Value::as_str));
        let text: String = given?.trim().chars().filter(|c| !c.is_control()).take(chars).collect();
        (!text.is_empty()).then_some(text)
    };
    evidence.consent_version = first(&["consent_version"], CONTACT_LABEL_CHARS_MAX);
    evidence.source = first(&["source"], CONTACT_LABEL_CHARS_MAX);
    evidence.ip = first(&["consent_ip", "ip"], CONTACT_LABEL_CHARS_MAX);
    evidence.page = first(&["consent_page", "page"], CONSENT_PAGE_CHARS_MAX);
    evidence.user_agent = first(&["user_agent"], CONSENT_PAGE_CHARS_MAX);
}

fn fields(value: Option<&Value>) -> BTreeMap<String, Change<Value>> {
    let none = Map::new();
    let given = value.and_then(Value::as_object).unwrap_or(&none);
    let change = |value: &Value| match value {
        Value::Null => Change::Clear,
        value => Change::Set(value.clone()),
    };
    given.iter().map(|(name, value)| (name.clone(), change(value))).collect()
}

fn permission(data: &Value) -> Option<Permission> {
    member(data, "permission").and_then(Value::as_i64).and_then(Permission::from_number)
}

/// `data.contact.NAME`, else `data.NAME`.
fn member<'a>(data: &'a Value, name: &str) -> Option<&'a Value> {
    data.get("contact").and_then(|contact| contact.get(name)).or_else(|| data.get(name))
}

fn label(value: Option<&Value>, max: usize) -> Option<String> {
    let text = match value? {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    (!text.is_empty() && text.len() <= max).then_some(text)
}
