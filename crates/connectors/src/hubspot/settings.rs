//! What can be set, and how the hub's field words are spelled at HubSpot.

use std::collections::BTreeMap;

use mailspan_core::{clip, fields};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::contract::{BadSetting, settings};

/// The settings of a destination of kind `hubspot`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The dated API version that stands in every path. From `2026-09` on HubSpot enforces the
    /// account's own rules (required properties) on API writes too.
    #[serde(default = "default_version")]
    pub version: String,
    /// The subscription type (a number of HubSpot) that opt-outs and opt-ins change. Without it an
    /// opt-out unsubscribes from all e-mail and an opt-in changes nothing.
    #[serde(default)]
    pub subscription_id: Option<u64>,
    /// Other names for contact properties, by the hub's word: `open_count = "newsletter_opens"`.
    /// A word that is not named here gets the prefix `mt_`; an empty name leaves the fact out.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    /// The property of notes and tasks that holds the idempotency key. It must have unique values.
    #[serde(default = "default_note_key")]
    pub note_key: String,
}

/// The type of a property that the hub writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactType {
    Time,
    Count,
    Text,
    Flag,
}

/// A fact that the built-in map sets on contacts: the hub's word, the label shown at HubSpot, its type.
pub struct Fact {
    pub word: &'static str,
    pub label: &'static str,
    pub fact_type: FactType,
}

/// Every fact of [`fields`], in the order in which `prepare` shows them.
pub const FACTS: [Fact; 10] = [
    fact(fields::LAST_DELIVERED_AT, "Last email delivered", FactType::Time),
    fact(fields::LAST_OPENED_AT, "Last email opened", FactType::Time),
    fact(fields::LAST_CLICKED_AT, "Last email clicked", FactType::Time),
    fact(fields::OPEN_COUNT, "Email opens", FactType::Count),
    fact(fields::CLICK_COUNT, "Email clicks", FactType::Count),
    fact(fields::EMAIL_STATUS, "Email status", FactType::Text),
    fact(fields::BOUNCED_AT, "Email bounced", FactType::Time),
    fact(fields::BOUNCE_REASON, "Email bounce reason", FactType::Text),
    fact(fields::REVALIDATE_AT, "Email address to be re-validated", FactType::Time),
    fact(fields::DO_NOT_CONTACT, "Do not contact", FactType::Flag),
];

const fn fact(word: &'static str, label: &'static str, fact_type: FactType) -> Fact {
    Fact { word, label, fact_type }
}

fn default_version() -> String {
    "2026-03".to_owned()
}

fn default_note_key() -> String {
    "mt_event_key".to_owned()
}

impl Settings {
    /// Reads and checks: a version that fits into a path, names that HubSpot takes.
    pub fn read(value: &Value) -> Result<Settings, BadSetting> {
        let read: Settings = settings(value)?;
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if read.version.is_empty() || read.version.len() > 20 || !read.version.bytes().all(fits) {
            return Err(bad(&["version"], &read.version, "an API version: write one like \"2026-03\""));
        }
        if !is_property_name(&read.note_key) {
            return Err(bad(&["note_key"], &read.note_key, PROPERTY_NAME_HELP));
        }
        if let Some((word, name)) =
            read.properties.iter().find(|(_, n)| !n.is_empty() && !is_property_name(n))
        {
            return Err(bad(&["properties", word], name, PROPERTY_NAME_HELP));
        }
        Ok(read)
    }

    /// HubSpot's name for a field; nothing where the fact is left out or is no property name.
    pub fn property(&self, field: &str) -> Option<String> {
        if let Some(name) = self.properties.get(field) {
            return (!name.is_empty()).then(|| name.clone());
        }
        if FACTS.iter().any(|fact| fact.word == field) {
            return Some(format!("mt_{field}"));
        }
        is_property_name(field).then(|| field.to_owned())
    }
}

const PROPERTY_NAME_HELP: &str =
    "a property name: write lower-case letters, digits and underscores, a letter first, at most 100";

fn bad(path: &[&str], value: &str, help: &str) -> BadSetting {
    BadSetting {
        path: path.iter().map(|key| (*key).to_owned()).collect(),
        text: format!("`{}` is not {help}", clip(value, 60)),
    }
}

/// True for an internal name as HubSpot makes them.
pub fn is_property_name(name: &str) -> bool {
    name.len() <= 100
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(settings: Value, field: &str, expected: Option<&str>) {
        let settings = Settings::read(&settings).expect("good settings");
        assert_eq!(settings.property(field).as_deref(), expected, "{field}");
    }

    #[test]
    fn fields_get_their_names() {
        check(json!({}), "open_count", Some("mt_open_count"));
        check(json!({"properties": {"open_count": "opens"}}), "open_count", Some("opens"));
        check(json!({"properties": {"open_count": ""}}), "open_count", None);
        check(json!({}), "lifecyclestage", Some("lifecyclestage"));
        check(json!({}), "No Property", None);
    }

    #[test]
    fn bad_settings_point_at_their_place() {
        for (value, path) in [
            (json!({"version": "v/3"}), vec!["version"]),
            (json!({"note_key": "Mt Key"}), vec!["note_key"]),
            (json!({"properties": {"open_count": "Opens!"}}), vec!["properties", "open_count"]),
            (json!({"subscription_id": "x"}), vec!["subscription_id"]),
        ] {
            assert_eq!(Settings::read(&value).expect_err("bad settings").path, path, "{value}");
        }
        assert!(
            Settings::read(&json!({"note_kee": "x"})).expect_err("unknown key").text.contains("note_kee")
        );
    }
}
