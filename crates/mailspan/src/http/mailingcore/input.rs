//! Bodies of contact writes: read, checked whole, turned into writes.

use std::collections::BTreeMap;

use mailspan_core::contact::{Change, ContactKey, ContactWrite, Evidence, Permission, WriteMode};
use mailspan_core::json::Node;
use mailspan_core::limits::{CONSENT_PAGE_CHARS_MAX, CONTACT_LABEL_CHARS_MAX};
use mailspan_core::{Address, clip};
use mailspan_store::FieldRow;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use utoipa::ToSchema;

use super::errors::ApiError;
use super::gate::Call;
use crate::contacts::{door, fields, rules};
use crate::http::words::json_words;

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
    /// The words that were agreed to: kept by their SHA-256, in the evidence of the consent.
    #[schema(value_type = Option<String>)]
    pub consent_text: Option<String>,
    /// Their SHA-256, where the words themselves are not given: 64 hexadecimal digits.
    #[schema(value_type = Option<String>, min_length = 64, max_length = 64, pattern = "^[0-9A-Fa-f]{64}$")]
    pub consent_text_hash: Option<String>,
    /// The form or page of the consent.
    #[schema(value_type = Option<String>, max_length = 255)]
    pub consent_page: Option<String>,
    /// The IP address of the person's machine; without it, that of the caller is kept.
    #[schema(value_type = Option<String>, max_length = 64, example = "203.0.113.7")]
    pub consent_ip: Option<String>,
    /// 1 none, 2 single, 3 confirmed, 4 double, 5 double plus, 6 other; 4 and 5 are never lowered, save by another
    /// address (2). Who has opted out is opted in by `optIn` alone.
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
    checked(body, |_| Ok(()))
}

/// The same, where `check` refuses a body that is an object as well.
pub fn checked<T: serde::de::DeserializeOwned>(
    body: &[u8],
    check: impl FnOnce(&Node) -> Result<(), ApiError>,
) -> Result<T, ApiError> {
    let root = parsed(body)?;
    // A list of members in their order is none, though serde would take it for one.
    if root.as_object().is_none() {
        return Err(ApiError::bad("the body is an object"));
    }
    rules::exact(&root).map_err(ApiError::bad)?;
    check(&root)?;
    let mut reader = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let why = clip(&json_words(&error.inner().to_string()), 200).into_owned();
        ApiError::bad(if path == "." { why } else { format!("{path}: {why}") })
    })
}

/// Reads a body as far as that it is JSON.
fn parsed(body: &[u8]) -> Result<Node<'_>, ApiError> {
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
        let external_id = text(&mut wrong, "externalId", &self.external_id, rules::external_id);
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
        write.consent_version = text(&mut wrong, "consentVersion", &self.consent_version, label);
        write.source = text(&mut wrong, "source", &self.source, label);
        write.project = text(&mut wrong, "projectId", &self.project_id, label);
        write.attributes = attributes(&mut wrong, &self.attributes);
        write.opt_in = self.opt_in;
        if let Some(number) = self.permission {
            let level = keep(&mut wrong, "permission", Permission::try_from(number));
            let contradicts = match (self.opt_in, level) {
                (Some(true), Some(Permission::None)) => true,
                (Some(false), Some(level)) => level != Permission::None,
                _ => false,
            };
            if contradicts {
                wrong.push(
                    "permission: contradicts optIn: 1 (none) goes with false, 2 to 6 with true".to_owned(),
                );
            }
            write.permission = level;
        }
        write.standard = read_fields(&mut wrong, "standardFields", &self.standard_fields, fields::standard);
        write.custom = read_fields(&mut wrong, "customFields", &self.custom_fields, |name, value| {
            fields::custom(aim.declared, name, value)
        });
        write.evidence = self.evidence(aim, &mut wrong);
        write.ip_given = self.consent_ip.as_deref().is_some_and(|ip| !ip.trim().is_empty());
        if wrong.is_empty() { Ok(write) } else { Err(wrong) }
    }

    fn evidence(&self, aim: &Aim, wrong: &mut Vec<String>) -> Evidence {
        let hash = rules::text_hash(self.consent_text.as_deref(), self.consent_text_hash.as_deref());
        let mut given = |name: &str, value: &Option<String>, max: usize| {
            let text = value.as_deref().map(str::trim).filter(|text| !text.is_empty())?;
            keep(wrong, name, rules::label(text, max)).map(|()| text.to_owned())
        };
        let page = given("consentPage", &self.consent_page, CONSENT_PAGE_CHARS_MAX);
        let ip = given("consentIp", &self.consent_ip, CONTACT_LABEL_CHARS_MAX);
        let ip = ip.and_then(|ip| keep(wrong, "consentIp", rules::ip(&ip)).map(|()| ip));
        Evidence {
            origin: aim.origin.to_owned(),
            actor: Some(aim.call.caller.name.clone()),
            ip: ip.or_else(|| aim.call.ip.clone()),
            page,
            text_hash: keep(wrong, "consentTextHash", hash).flatten(),
            source: self.source.clone().flatten(),
            consent_version: self.consent_version.clone().flatten(),
            user_agent: aim.call.raw.header("user-agent").map(|agent| clip(agent, 200).into_owned()),
            ..Evidence::default()
        }
    }
}

fn label(text: &str) -> Result<(), String> {
    rules::label(text, CONTACT_LABEL_CHARS_MAX)
}

fn keep<T>(wrong: &mut Vec<String>, name: &str, read: Result<T, String>) -> Option<T> {
    read.map_err(|why| wrong.push(format!("{name}: {why}"))).ok()
}

fn text(
    wrong: &mut Vec<String>,
    name: &str,
    value: &Option<Option<String>>,
    check: impl Fn(&str) -> Result<(), String>,
) -> Change<String> {
    match value {
        None => Change::Keep,
        Some(None) => Change::Clear,
        Some(Some(text)) if text.trim().is_empty() => {
            wrong.push(format!("{name}: is empty: leave it out, or write null to clear it"));
            Change::Keep
        }
        Some(Some(text)) => {
            let text = text.trim().to_owned();
            keep(wrong, name, check(&text)).map_or(Change::Keep, |()| Change::Set(text))
        }
    }
}

fn locale(wrong: &mut Vec<String>, value: &Option<Option<String>>) -> Change<String> {
    match value {
        None => Change::Keep,
        Some(None) => Change::Clear,
        Some(Some(locale)) => keep(wrong, "locale", rules::locale(locale))
            .map_or(Change::Keep, |()| Change::Set(locale.clone())),
    }
}

fn attributes(wrong: &mut Vec<String>, value: &Option<Option<Value>>) -> Change<BTreeMap<String, Value>> {
    match value {
        None => Change::Keep,
        Some(None) => Change::Clear,
        Some(Some(Value::Object(members))) => {
            let members = members.clone().into_iter().collect();
            keep(wrong, "attributes", rules::attributes(&members))
                .map_or(Change::Keep, |()| Change::Set(members))
        }
        Some(Some(_)) => {
            wrong.push("attributes: is an object".to_owned());
            Change::Keep
        }
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
