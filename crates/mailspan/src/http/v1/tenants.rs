//! `/v1/tenants`: tenants, their settings, and the first key of each.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use mailspan_core::Name;
use mailspan_store::{TenantRow, TenantWrite, Write};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::contacts::tenants::Settings;
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::http::v1::keys;
use crate::runtime;

/// What the first key of a tenant may do: all that an integration needs (MailingCore, «B2B SaaS pattern»).
const FIRST_SCOPES: [&str; 6] = [
    "contacts:read",
    "contacts:write",
    "suppressions:read",
    "suppressions:write",
    "webhooks:manage",
    "events:write",
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    name: String,
}

/// Settings to change; what is absent stays.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    rate_per_minute: Option<u32>,
    confirm_again: Option<bool>,
    bounces_suppress: Option<bool>,
}

pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<Create>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    caller.needs_whole("admin")?;
    let name = tenant_name(&body.name)?;
    let known = app.store.tenant(&name).await?;
    if known.is_some_and(|row| row.made_at.is_some()) {
        let detail =
            format!("the tenant `{name}` exists: `mailspan keys create --tenant {name}` makes further keys");
        return Err(Problem::new(StatusCode::CONFLICT, "tenant_exists", detail));
    }
    let settings = serde_json::to_string(&Settings::default()).unwrap_or_default();
    app.store.write(Write::Tenant(TenantWrite { name: name.clone(), settings, at: runtime::now() })).await?;
    app.tenants.forget(&name);
    let scopes = FIRST_SCOPES.map(str::to_owned).to_vec();
    let key = keys::make(&app, name.clone(), scopes.clone(), "the first key".to_owned(), None).await?;
    let value = json!({ "tenant": name, "key_id": key.id, "key": key.text, "scopes": scopes });
    Ok((StatusCode::CREATED, Json(value)))
}

pub async fn list(State(app): State<App>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.needs("read")?;
    let rows = app.store.tenants().await?;
    let items: Vec<Value> = rows.iter().filter(|row| caller.sees(&row.name)).map(shown).collect();
    Ok(Json(json!({ "items": items, "next": null })))
}

pub async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Json(body): Json<Change>,
) -> Result<Json<Value>, Problem> {
    caller.needs_whole("admin")?;
    let name = tenant_name(&name)?;
    let row = app.store.tenant(&name).await?;
    let row = row
        .ok_or_else(|| Problem::not_found(format!("there is no tenant `{name}`: `mailspan tenants list`")))?;
    let mut settings = Settings::read(&row.settings);
    settings.rate_per_minute = body.rate_per_minute.unwrap_or(settings.rate_per_minute);
    settings.confirm_again = body.confirm_again.unwrap_or(settings.confirm_again);
    settings.bounces_suppress = body.bounces_suppress.unwrap_or(settings.bounces_suppress);
    let text = serde_json::to_string(&settings).unwrap_or_default();
    app.store
        .write(Write::Tenant(TenantWrite { name: name.clone(), settings: text, at: runtime::now() }))
        .await?;
    app.tenants.forget(&name);
    Ok(Json(json!({ "tenant": name, "settings": settings })))
}

fn shown(row: &TenantRow) -> Value {
    json!({
        "tenant": row.name,
        "settings": Settings::read(&row.settings),
        "made_at": row.made_at.map(|at| at.iso()),
    })
}

/// Lower-case letters, digits, `-` and `_`; 1 to 64.
pub fn tenant_name(name: &str) -> Result<Name, Problem> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if (1..=64).contains(&name.len()) && name.chars().all(fits) {
        return Ok(Name::new(name));
    }
    Err(Problem::bad("field \"name\": a tenant's name has 1 to 64 lower-case letters, digits, - and _"))
}
