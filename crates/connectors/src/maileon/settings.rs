//! What can be set.

use std::collections::BTreeMap;

use mailspan_core::clip;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::words::meaning;
use crate::contract::{BadSetting, settings};

/// The settings of a destination of kind `maileon`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What Maileon shows as the origin of a contact (`src`) where the contact says none.
    #[serde(default = "default_src")]
    pub src: String,
    /// Let Maileon ask for confirmation by its own double opt-in where somebody opts in below level 4.
    #[serde(default)]
    pub doi: bool,
    /// With `doi`: after the confirmation single-user tracking is allowed too (permission 5).
    #[serde(default)]
    pub doi_plus: bool,
    /// With `doi`: the key of the DOI mailing; else the account's own.
    #[serde(default)]
    pub doi_mailing: Option<String>,
    /// Other names for custom fields, by the hub's name: `plan = "Plan"`; an empty name leaves the field out.
    #[serde(default)]
    pub custom_fields: BTreeMap<String, String>,
    /// Free attributes that go into custom fields: `plan = "Plan"`. Others are not written.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// The newsletter account that opt-outs unsubscribe from; else all of them.
    #[serde(default)]
    pub newsletter_account: Option<u64>,
    /// Whether an opt-out of somebody whom Maileon does not know sets its unsubscription marker, so that no
    /// later synchronisation brings the address in. Default: false.
    #[serde(default)]
    pub push_suppressions: bool,
}

/// The settings of a source of kind `maileon`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSettings {
    /// The one event that comes to this source: doi, unsubscription, bounce, filtered or contact_field_change.
    /// Without it each webhook's URL names it: `?type=unsubscription`.
    #[serde(default)]
    pub event: Option<String>,
}

fn default_src() -> String {
    "mailspan".to_owned()
}

impl Settings {
    pub fn read(value: &Value) -> Result<Settings, BadSetting> {
        let read: Settings = settings(value)?;
        for (key, names) in [("custom_fields", &read.custom_fields), ("attributes", &read.attributes)] {
            if let Some((word, name)) = names.iter().find(|(_, name)| !fits(name)) {
                let text = format!(
                    "`{}` is no name of a custom field: write 3 to 64 characters, or \"\" to leave it out",
                    clip(name, 80)
                );
                return Err(BadSetting { path: vec![key.to_owned(), word.clone()], text });
            }
        }
        Ok(read)
    }

    /// Maileon's name for a custom field of the hub.
    pub fn custom(&self, name: &str) -> Option<String> {
        let own = self.custom_fields.get(name).cloned().unwrap_or_else(|| name.to_owned());
        (!own.is_empty()).then_some(own)
    }
}

fn fits(name: &str) -> bool {
    name.is_empty() || (3..=64).contains(&name.chars().count())
}

impl SourceSettings {
    pub fn check(&self) -> Result<(), BadSetting> {
        match &self.event {
            Some(event) if meaning(event).is_none() => Err(BadSetting {
                path: vec!["event".to_owned()],
                text: format!(
                    "`{}` is no event of Maileon: write doi, unsubscription, bounce, filtered or contact_field_change",
                    clip(event, 60)
                ),
            }),
            _ => Ok(()),
        }
    }
}
