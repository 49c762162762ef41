//! Reading a contact as callers write it: strict, with every problem named as the vendor's pipe would.

use mailspan_core::{Address, clip};
use serde_json::{Map, Value};

pub(crate) const LOCALES: [&str; 6] = ["es", "en", "it", "fr", "ca", "de"];
const ATTRIBUTES_BYTES_MAX: usize = 16 << 10;

/// What a caller says of a contact: an outer `None` leaves a value alone, an inner one clears it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Input {
    pub email: Option<String>,
    pub external_id: Option<Option<String>>,
    pub locale: Option<Option<String>>,
    pub opt_in: Option<bool>,
    pub attributes: Option<Map<String, Value>>,
    pub consent_version: Option<Option<String>>,
    pub source: Option<Option<String>>,
    pub project_id: Option<Option<String>>,
}

/// Reads an object; `place` stands before each name in the problems.
pub(crate) fn contact(value: &Value, place: &str) -> Result<Input, Vec<String>> {
    let Some(members) = value.as_object() else { return Err(vec![format!("{place}must be an object")]) };
    let mut input = Input::default();
    let mut wrong = Vec::new();
    for (name, value) in members {
        let mut say = |what: &str| wrong.push(format!("{place}{name} {what}"));
        let mut text = |max: usize| match value {
            Value::Null => Some(None),
            Value::String(text) if text.chars().count() <= max => Some(Some(text.clone())),
            Value::String(_) => {
                say(&format!("must be shorter than or equal to {max} characters"));
                None
            }
            _ => {
                say("must be a string");
                None
            }
        };
        match name.as_str() {
            "email" => match value.as_str().map(|text| (text, Address::parse(text))) {
                Some((text, Ok(_))) if !text.contains('<') => input.email = Some(text.trim().to_lowercase()),
                _ => say("must be an email"),
            },
            "externalId" => input.external_id = text(128),
            "consentVersion" => input.consent_version = text(64),
            "source" => input.source = text(64),
            "projectId" => input.project_id = text(64),
            "locale" => match value {
                Value::Null => input.locale = Some(None),
                Value::String(text) if LOCALES.contains(&text.as_str()) => {
                    input.locale = Some(Some(text.clone()))
                }
                _ => say("must be one of the following values: es, en, it, fr, ca, de"),
            },
            "optIn" => match value.as_bool() {
                Some(opt_in) => input.opt_in = Some(opt_in),
                None => say("must be a boolean value"),
            },
            "attributes" => match value.as_object() {
                Some(all) if value.to_string().len() <= ATTRIBUTES_BYTES_MAX => {
                    input.attributes = Some(all.clone())
                }
                Some(_) => say("must not be larger than 16 KiB"),
                None => say("must be an object"),
            },
            other => wrong.push(format!("{place}property {} should not exist", clip(other, 60))),
        }
    }
    if wrong.is_empty() { Ok(input) } else { Err(wrong) }
}
