//! `/v1/keys`: API keys. A key is shown once, its hash is kept.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mailspan_connectors::signature::sha256;
use mailspan_core::{Millis, Name, Span};
use mailspan_store::{KeyRow, NewKey, Write, Wrote};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::contacts::seal::{SealError, Seals};
use crate::http::auth::{Caller, SCOPES};
use crate::http::body::JsonBody;
use crate::http::path::Segment;
use crate::http::problem::Problem;
use crate::runtime;

/// Characters of a key by which it is recognised in listings.
const SHOWN_CHARS: usize = 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    scopes: Vec<String>,
    #[serde(default)]
    note: String,
    /// `"90d"`; without it the key does not expire.
    #[serde(default)]
    expires: Option<Span>,
    #[serde(default)]
    tenant: Option<String>,
}

pub async fn create(
    State(app): State<App>,
    caller: Caller,
    JsonBody(body): JsonBody<Create>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    caller.needs_whole("admin")?;
    if body.scopes.is_empty() {
        return Err(Problem::bad("field \"scopes\": give at least one"));
    }
    for scope in &body.scopes {
        if !SCOPES.iter().any(|(name, _)| name == scope) {
            let names: Vec<&str> = SCOPES.iter().map(|(name, _)| *name).collect();
            let given = mailspan_core::clip(scope, 40);
            return Err(Problem::bad(format!("there is no scope `{given}`: there are {}", names.join(", "))));
        }
    }
    let tenant = tenant(&app, body.tenant.as_deref()).await?;
    let expires_at = body.expires.map(|span| runtime::now().plus(span.ms));
    let made = make(&app, tenant, body.scopes.clone(), body.note, expires_at).await?;
    let expires_at = expires_at.map(|at| at.iso());
    let value = json!({ "id": made.id, "key": made.text, "scopes": body.scopes, "expires_at": expires_at });
    Ok((StatusCode::CREATED, Json(value)))
}

/// One that was made, or that the configuration names: a mistyped one would see nothing, for ever.
async fn tenant(app: &App, given: Option<&str>) -> Result<Name, Problem> {
    let Some(given) = given else { return Ok(Name::default_tenant()) };
    let mut known: Vec<Name> = app.store.tenants().await?.into_iter().map(|row| row.name).collect();
    known.push(Name::default_tenant());
    let hub = &app.live().hub;
    known.extend(hub.sources.iter().map(|source| source.tenant.clone()));
    known.extend(hub.destinations.iter().map(|destination| destination.tenant.clone()));
    known.sort();
    known.dedup();
    if let Some(tenant) = known.iter().find(|name| name.as_str() == given) {
        return Ok(tenant.clone());
    }
    let names: Vec<&str> = known.iter().map(Name::as_str).collect();
    let given = mailspan_core::clip(given, 40);
    Err(Problem::bad(format!(
        "there is no tenant `{given}`: there are {}; `mailspan tenants create` makes one",
        names.join(", ")
    )))
}

/// A key that was made; its text is nowhere else.
pub struct Made {
    pub id: String,
    pub text: String,
}

pub async fn make(
    app: &App,
    tenant: Name,
    scopes: Vec<String>,
    note: String,
    expires_at: Option<Millis>,
) -> Result<Made, Problem> {
    let text = new_secret("msk_");
    let new = NewKey {
        tenant,
        hash: sha256(text.as_bytes()),
        shown: text.chars().take(SHOWN_CHARS).collect(),
        scopes,
        note,
        created_at: runtime::now(),
        expires_at,
    };
    let wrote = app.store.write(Write::Key(new)).await?;
    let id = if let Wrote::Key { id } = wrote { id.to_string() } else { String::new() };
    Ok(Made { id, text })
}

/// Seals every secret under the first store key that is not yet, and the key of the address hashes; afterwards the
/// old keys are not needed.
pub async fn reseal(State(app): State<App>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.needs_whole("admin")?;
    let live = app.live();
    let broken = |why: SealError| Problem::new(StatusCode::CONFLICT, "store_key", why.to_string());
    let seals = Seals::of(&live.hub.storage, &live.hub.store_keys).map_err(broken)?;
    let rows = app.store.sealed_all().await?;
    let mut resealed = 0_u64;
    for row in rows.iter().filter(|row| seals.is_old(row)) {
        let secret = seals.open(row).map_err(broken)?;
        let write = seals.seal(&row.tenant, &row.about, &secret).map_err(broken)?;
        app.store.write(Write::Sealed(write)).await?;
        resealed += 1;
    }
    if let Some(first) = seals.first() {
        app.store.write(Write::IdentityKey(first.clone())).await?;
    }
    let address_key = if seals.first().is_some() { "sealed" } else { "bare" };
    Ok(Json(json!({ "sealed": rows.len(), "resealed": resealed, "address_key": address_key })))
}

/// 256 random bits as text behind a prefix.
pub fn new_secret(prefix: &str) -> String {
    let bytes = [runtime::random_u128().to_be_bytes(), runtime::random_u128().to_be_bytes()].concat();
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

fn shown(row: &KeyRow) -> Value {
    json!({
        "id": row.id.to_string(),
        "key": format!("{}…", row.shown),
        "tenant": row.tenant,
        "scopes": row.scopes,
        "note": row.note,
        "created_at": row.created_at.iso(),
        "expires_at": row.expires_at.map(|at| at.iso()),
        "revoked_at": row.revoked_at.map(|at| at.iso()),
        "last_used_at": row.last_used_at.map(|at| at.iso()),
    })
}

pub async fn list(State(app): State<App>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.needs_whole("admin")?;
    let rows = app.store.keys().await?;
    Ok(Json(json!({ "items": rows.iter().map(shown).collect::<Vec<_>>(), "next": null })))
}

pub async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Segment(id): Segment,
) -> Result<Json<Value>, Problem> {
    caller.needs_whole("admin")?;
    let number: i64 =
        id.parse().map_err(|_| Problem::bad("the id of a key is a number: see `mailspan keys list`"))?;
    if !app.store.keys().await?.iter().any(|row| row.id == number) {
        return Err(Problem::not_found(format!("there is no key {number}")));
    }
    app.store.write(Write::RevokeKey { id: number, at: runtime::now() }).await?;
    Ok(Json(json!({ "id": id, "revoked": true })))
}
