//! Bodies of contact writes: read, checked whole, turned into writes.

use std::collections::BTreeMap;

use mailspan_core::contact::{Change, ContactKey, ContactWrite, Evidence, Permission, Stated, WriteMode};
use mailspan_core::limits::{CONTACT_ATTRIBUTES_BYTES_MAX, CONTACT_ATTRIBUTES_DEPTH_MAX};
use mailspan_core::{Address, clip};
use mailspan_store::FieldRow;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use utoipa::ToSchema;

use super::errors::ApiError;
use super::gate::Call;
use crate::contacts::{door, fields};

/// Locales that contacts may have (MailingCore, «contacts overview»).
pub const LOCALES: [&str; 6] = ["es", "en", "it", "fr", "ca", "de"];
/// Characters of `externalId`.
const EXTERNAL_ID_CHARS_MAX: usize = 128;
/// Characters of `consentVersion`, `source` and `projectId`.
const LABEL_CHARS_MAX: usize = 64;

/// A contact to be written. What is absent is left as it is; `null` clears.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ContactInput {
    /// Unique in the tenant, compared without case.
    #[schema(example = "ana@example.com", max_length = 254, format = "email")]
    pub email: Option<String>,
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>, example = "user-12345", max_length = 128)]
    pub external_id: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<Locale>, example = "es")]
    pub locale: Option<Option<String>>,
    /// Marketing consent; a new contact without it has none.
    #[schema(example = true)]
    pub opt_in: Option<bool>,
    /// Replaced whole; at most 16 KiB and 5 levels.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<Object>)]
    pub attributes: Option<Option<Value>>,
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>, example = "2026-01", max_length = 64)]
    pub consent_version: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>, example = "signup", max_length = 64)]
    pub source: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>, max_length = 64)]
    pub project_id: Option<Option<String>>,
    /// 1 none, 2 single, 3 confirmed, 4 double, 5 double plus, 6 other; 4 and 5 are never lowered.
    #[schema(minimum = 1, maximum = 6)]
    pub permission: Option<u8>,
    /// Maileon's standard fields: `FIRSTNAME`.
    #[schema(value_type = Option<Object>)]
    pub standard_fields: Option<BTreeMap<String, Value>>,
    /// Fields that the tenant declared.
    #[schema(value_type = Option<Object>)]
    pub custom_fields: Option<BTreeMap<String, Value>>,
}

/// Tells an absent member from `null`.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(from).map(Some)
}

/// Of the document alone: which locales there are.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "it is drawn, never made")]
enum Locale {
    Es,
    En,
    It,
    Fr,
    Ca,
    De,
}

/// Reads a JSON body, which is an object; what is wrong names its member.
pub fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let root = parsed(body)?;
    // A list of members in their order is none, though serde would take it for one.
    if root.as_object().is_none() {
        return Err(ApiError::bad("the body is an object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let why = clip(&error.inner().to_string(), 200).into_owned();
        ApiError::bad(if path == "." { why } else { format!("{path}: {why}") })
    })
}

/// Reads a body as far as that it is JSON.
pub fn parsed(body: &[u8]) -> Result<mailspan_core::json::Node<'_>, ApiError> {
    mailspan_core::json::parse(body).map_err(|error| ApiError::bad(format!("the body is not JSON: {error}")))
}

/// How the contact of a write is found, and what the call says of it.
pub struct Aim<'a> {
    pub call: &'a Call,
    pub mode: WriteMode,
    /// Nothing: by what the body says.
    pub key: Option<ContactKey>,
    pub origin: &'a str,
    pub declared: &'a [FieldRow],
}

impl ContactInput {
    /// The write, or everything that is wrong with it; each text begins with the member's name.
    pub fn write(&self, aim: &Aim) -> Result<ContactWrite, Vec<String>> {
        let mut wrong = Vec::new();
        let address =
            self.email.as_deref().and_then(|email| keep(&mut wrong, "email", Address::parse(email)));
        if aim.key.is_none() && self.email.is_none() {
            wrong.push("email: is required".to_owned());
        }
        let external_id = text(&mut wrong, "externalId", &self.external_id, EXTERNAL_ID_CHARS_MAX);
        let key = aim.key.clone().unwrap_or_else(|| ContactKey::Subject {
            address: address.clone(),
            external_id: match &external_id {
                Change::Set(id) => Some(id.clone()),
                _ => None,
            },
        });
        let at = aim.call.raw.received_at;
        let mut write = ContactWrite::new(key, aim.mode, door::new_uid(), at, aim.origin);
        write.address = address;
        write.external_id = external_id;
        write.locale = locale(&mut wrong, &self.locale);
        write.consent_version = text(&mut wrong, "consentVersion", &self.consent_version, LABEL_CHARS_MAX);
        write.source = text(&mut wrong, "source", &self.source, LABEL_CHARS_MAX);
        write.project = text(&mut wrong, "projectId", &self.project_id, LABEL_CHARS_MAX);
        write.attributes = attributes(&mut wrong, &self.attributes);
        write.opt_in = self.opt_in;
        if let Some(number) = self.permission {
            let level = keep(&mut wrong, "permission", Permission::try_from(number));
            write.stated.extend(level.map(Stated::Level));
        }
        write.standard = read_fields(&mut wrong, "standardFields", &self.standard_fields, fields::standard);
        write.custom = read_fields(&mut wrong, "customFields", &self.custom_fields, |name, value| {
            fields::custom(aim.declared, name, value)
        });
        write.evidence = self.evidence(aim);
        if wrong.is_empty() { Ok(write) } else { Err(wrong) }
    }

    fn evidence(&self, aim: &Aim) -> Evidence {
        Evidence {
            origin: aim.origin.to_owned(),
            actor: Some(aim.call.caller.name.clone()),
            ip: aim.call.ip.clone(),
            source: self.source.clone().flatten(),
            consent_version: self.consent_version.clone().flatten(),
            user_agent: aim.call.raw.header("user-agent").map(|agent| clip(agent, 200).into_owned()),
            ..Evidence::default()
        }
    }
}

fn keep<T>(wrong: &mut Vec<String>, name: &str, read: Result<T, String>) -> Option<T> {
    read.map_err(|why| wrong.push(format!("{name}: {why}"))).ok()
}

fn text(wrong: &mut Vec<String>, name: &str, value: &Option<Option<String>>, max: usize) -> Change<String> {
    match value {
        None => Change::Keep,
        Some(None) => Change::Clear,
        Some(Some(text)) if text.trim().is_empty() => {
            wrong.push(format!("{name}: is empty: leave it out, or write null to clear it"));
            Change::Keep
        }
        Some(Some(text)) if text.chars().count() > max => {
            wrong.push(format!("{name}: has at most {max} characters"));
            Change::Keep
        }
        Some(Some(text)) if text.chars().any(char::is_control) => {
            wrong.push(format!("{name}: has a control character"));
            Change::Keep
        }
        Some(Some(text)) => Change::Set(text.trim().to_owned()),
    }
}

fn locale(wrong: &mut Vec<String>, value: &Option<Option<String>>) -> Change<String> {
    match value {
        None => Change::Keep,
        Some(None) => Change::Clear,
        Some(Some(locale)) if LOCALES.contains(&locale.as_str()) => Change::Set(locale.clone()),
        Some(Some(locale)) => {
            let known = LOCALES.join(", ");
            wrong.push(format!("locale: `{}` is not one of {known}", clip(locale, 20)));
            Change::Keep
        }
    }
}

fn attributes(wrong: &mut Vec<String>, value: &Option<Option<Value>>) -> Change<BTreeMap<String, Value>> {
    match value {
        None => Change::Keep,
        Some(None) => Change::Clear,
        Some(Some(Value::Object(members))) => {
            let bytes = serde_json::to_string(members).map_or(0, |text| text.len());
            if bytes > CONTACT_ATTRIBUTES_BYTES_MAX {
                wrong.push(format!("attributes: have {bytes} bytes, at most {CONTACT_ATTRIBUTES_BYTES_MAX}"));
            }
            if members.values().any(|value| depth(value) >= CONTACT_ATTRIBUTES_DEPTH_MAX) {
                wrong.push(format!("attributes: have more than {CONTACT_ATTRIBUTES_DEPTH_MAX} levels"));
            }
            Change::Set(members.clone().into_iter().collect())
        }
        Some(Some(_)) => {
            wrong.push("attributes: is an object".to_owned());
            Change::Keep
        }
    }
}

/// Levels below a value; the parser has bounded them.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn read_fields(
    wrong: &mut Vec<String>,
    name: &str,
    given: &Option<BTreeMap<String, Value>>,
    read: impl Fn(&str, &Value) -> Result<Option<Value>, String>,
) -> BTreeMap<String, Change<Value>> {
    let mut changes = BTreeMap::new();
    for (field, value) in given.iter().flatten() {
        if let Some(value) = keep(wrong, name, read(field, value)) {
            changes.insert(field.clone(), value.map_or(Change::Clear, Change::Set));
        }
    }
    changes
}
