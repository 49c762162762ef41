//! Tenants and their settings.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mailspan_core::Name;
use mailspan_store::{Store, Trouble};
use serde::{Deserialize, Serialize};

use crate::runtime;

/// Requests a minute of one API key (MailingCore, «rate limits»).
const RATE_PER_MINUTE: u32 = 300;
/// How long settings may be out of date in one process.
const FRESH_MS: u64 = 2_000;
/// Tenants whose settings are kept in memory.
const KEPT_MAX: usize = 10_000;

/// What an operator decides for one tenant. Unknown members of a later version are kept out of the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Requests a minute of each API key; 0: no limit.
    pub rate_per_minute: u32,
    /// Ask for a confirmation again of who has confirmed before.
    pub confirm_again: bool,
    /// A hard bounce suppresses the address.
    pub bounces_suppress: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { rate_per_minute: RATE_PER_MINUTE, confirm_again: true, bounces_suppress: true }
    }
}

impl Settings {
    /// From what is stored; what cannot be read is the default.
    pub fn read(text: &str) -> Settings {
        serde_json::from_str(text).unwrap_or_default()
    }
}

/// Settings as read a moment ago.
#[derive(Default)]
pub struct Tenants(Mutex<HashMap<Name, (Settings, Instant)>>);

impl Tenants {
    /// Of a tenant; one that was never made has the defaults.
    pub async fn settings(&self, store: &Store, tenant: &Name) -> Result<Settings, Trouble> {
        let now = runtime::instant();
        if let Some((settings, at)) = self.lock().get(tenant)
            && now.duration_since(*at) < Duration::from_millis(FRESH_MS)
        {
            return Ok(settings.clone());
        }
        let row = store.tenant(tenant).await?;
        let settings = row.map(|row| Settings::read(&row.settings)).unwrap_or_default();
        let mut kept = self.lock();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(tenant.clone(), (settings.clone(), now));
        Ok(settings)
    }

    /// After a change in this process.
    pub fn forget(&self, tenant: &Name) {
        self.lock().remove(tenant);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Name, (Settings, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
