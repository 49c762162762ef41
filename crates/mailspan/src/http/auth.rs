//! API keys: only their hash is kept. The command socket needs none: its file is 0600.

use axum::extract::FromRequestParts;
use axum::http::{StatusCode, header, request::Parts};
use mailspan_connectors::signature::sha256;
use mailspan_core::Name;
use mailspan_store::Write;

use crate::app::App;
use crate::http::problem::Problem;
use crate::runtime;

/// A mark in the request's extensions: it came through the command socket, or from within.
#[derive(Debug, Clone, Copy)]
pub struct FromSocket;

/// Who calls, and what they may do.
#[derive(Debug, Clone)]
pub struct Caller {
    pub key_id: i64,
    pub name: String,
    pub scopes: Vec<String>,
    /// The one tenant whose rows it may see; nothing: all (the command socket).
    pub tenant: Option<Name>,
}

/// How exactly the last use of a key is known.
const USED_MS: u64 = 60_000;

/// The scopes there are, with what each allows.
pub const SCOPES: &[(&str, &str)] = &[
    ("events:write", "post events"),
    ("read", "read events, deliveries, destinations, ledger, audit and metrics"),
    ("operate", "replay, correct and discard dead letters; test, pause and resume destinations"),
    ("admin", "everything, keys included"),
    ("contacts:read", "list and show contacts"),
    ("contacts:write", "write, import and erase contacts"),
    ("suppressions:read", "list suppressions"),
    ("suppressions:write", "add and lift suppressions"),
    ("webhooks:manage", "webhook endpoints, their deliveries and secrets"),
];

impl Caller {
    /// True when the caller may do what needs `scope`; `admin` may do all, `operate` may read.
    pub fn may(&self, scope: &str) -> bool {
        let has = |wanted: &str| self.scopes.iter().any(|own| own == wanted);
        has(scope) || has("admin") || scope == "read" && has("operate")
    }

    /// True when rows of that tenant may be shown.
    pub fn sees(&self, tenant: &Name) -> bool {
        self.tenant.as_ref().is_none_or(|own| own == tenant)
    }

    /// What is about the whole hub is for the default tenant's keys and the socket.
    pub fn needs_whole(&self, scope: &str) -> Result<(), Problem> {
        self.needs(scope)?;
        if self.sees(&Name::default_tenant()) {
            return Ok(());
        }
        let detail = "the key is of one tenant, and this is about the whole hub";
        Err(Problem::new(StatusCode::FORBIDDEN, "other_tenant", detail))
    }

    pub fn needs(&self, scope: &str) -> Result<(), Problem> {
        if self.may(scope) {
            return Ok(());
        }
        let detail = format!("the key has not the scope `{scope}`");
        Err(Problem::new(StatusCode::FORBIDDEN, "missing_scope", detail))
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Caller, Problem> {
        if parts.extensions.get::<FromSocket>().is_some() {
            return Ok(Caller {
                key_id: 0,
                name: "socket".to_owned(),
                scopes: vec!["admin".to_owned()],
                tenant: None,
            });
        }
        let unknown = || {
            Problem::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "give an API key: `Authorization: Bearer KEY`",
            )
        };
        let value = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (scheme, key) = value.and_then(|value| value.split_once(' ')).ok_or_else(unknown)?;
        if !scheme.eq_ignore_ascii_case("bearer") || key.trim().is_empty() {
            return Err(unknown());
        }
        by_key(app, &sha256(key.trim().as_bytes())).await?.ok_or_else(unknown)
    }
}

/// Who holds a key that is valid now, by its SHA-256.
pub async fn by_key(app: &App, hash: &[u8; 32]) -> Result<Option<Caller>, mailspan_store::Trouble> {
    let now = runtime::now();
    let row = app.store.key_by_hash(*hash).await?;
    let Some(row) =
        row.filter(|row| row.revoked_at.is_none() && row.expires_at.is_none_or(|until| until > now))
    else {
        return Ok(None);
    };
    if row.last_used_at.is_none_or(|at| now.since(at) > USED_MS) {
        let app = app.clone();
        // Known to the minute is enough, and the caller does not wait for it.
        runtime::spawn(async move {
            if let Err(trouble) = app.store.write(Write::KeyUsed { id: row.id, at: now }).await {
                tracing::warn!("the use of a key could not be noted: {trouble}");
            }
        });
    }
    Ok(Some(Caller { key_id: row.id, name: row.shown, scopes: row.scopes, tenant: Some(row.tenant) }))
}
