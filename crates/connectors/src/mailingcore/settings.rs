//! What can be set.

use mailspan_core::limits::{POLL_ROWS_MAX, ROUND_MS_MAX};
use mailspan_core::{Span, clip};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::contract::{BadSetting, settings};

/// The settings of a destination of kind `mailingcore`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The tenant's id (`cl…`), sent as `X-Tenant-Id`. MailingCore advises to send it always.
    #[serde(default)]
    pub tenant_id: Option<String>,
    /// The SMTP project that contacts are written into (`projectId`).
    #[serde(default)]
    pub project_id: Option<String>,
    /// Whether complaints, hard bounces, the hub's own suppressions, and opt-outs of people who cannot be found
    /// by an external id are written to the suppression list. Default: true.
    #[serde(default = "yes")]
    pub push_suppressions: bool,
}

/// The settings of a source of kind `mailingcore`, its poll included.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSettings {
    /// The tenant's id (`cl…`): sent as `X-Tenant-Id` when asking, and webhooks of another tenant are put aside.
    #[serde(default)]
    pub tenant_id: Option<String>,
    /// How far the timestamp of a signature may be from our clock, either way. Default: "5m".
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub tolerance: Option<Span>,
    /// How MailingCore is asked for the contacts that have changed, where the source has `auth`.
    #[serde(default)]
    pub poll: PollSettings,
}

/// The poll of such a source.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PollSettings {
    /// How often it is asked. Default: "15m".
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub every: Option<Span>,
    /// How far before the end of the last round the next one begins. Default: "60s".
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub overlap: Option<Span>,
    /// Contacts in one page, 1 to 500. Default: 500.
    #[serde(default)]
    pub page: Option<u32>,
}

fn yes() -> bool {
    true
}

impl Settings {
    pub fn read(value: &Value) -> Result<Settings, BadSetting> {
        let read: Settings = settings(value)?;
        check_id(&read.tenant_id, "tenant_id")?;
        Ok(read)
    }
}

impl SourceSettings {
    /// An id that can stand in a header, times and a page that make sense.
    pub fn check(&self) -> Result<(), BadSetting> {
        check_id(&self.tenant_id, "tenant_id")?;
        let poll = &self.poll;
        if poll.every.is_some_and(|span| span.ms < 1_000) {
            let text = "it would ask without pause: write \"15m\", at least \"1s\"";
            return Err(bad_poll("every", text.to_owned()));
        }
        if poll.every.is_some_and(|span| span.ms > ROUND_MS_MAX) {
            return Err(bad_poll(
                "every",
                "it would hardly ever ask: write \"15m\", at most \"31d\"".to_owned(),
            ));
        }
        if let Some(page) = poll.page.filter(|page| !(1..=POLL_ROWS_MAX).contains(page)) {
            return Err(bad_poll("page", format!("a page has 1 to {POLL_ROWS_MAX} contacts, not {page}")));
        }
        Ok(())
    }
}

fn check_id(id: &Option<String>, key: &str) -> Result<(), BadSetting> {
    let Some(id) = id else { return Ok(()) };
    if (1..=100).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(bad(key, format!("`{}` is no id of MailingCore: write one like \"clxxxxxxxx\"", clip(id, 60))))
}

fn bad_poll(key: &str, text: String) -> BadSetting {
    BadSetting { path: vec!["poll".to_owned(), key.to_owned()], text }
}

fn bad(key: &str, text: String) -> BadSetting {
    BadSetting { path: vec![key.to_owned()], text }
}
