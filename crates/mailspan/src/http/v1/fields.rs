//! `/v1/fields`: custom fields that a tenant declares.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use mailspan_core::{Name, clip};
use mailspan_store::{FieldRow, FieldWrite, Write};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::contacts::fields::{FIELDS_MAX, check_name, kind};
use crate::contacts::names;
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::runtime;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declare {
    name: String,
    kind: String,
}

pub async fn list(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    may_read(&caller)?;
    let tenant = tenant_of(&caller, &headers)?;
    let rows = app.store.field_kinds(&tenant).await?;
    Ok(Json(json!({ "items": rows.iter().map(shown).collect::<Vec<_>>(), "next": null })))
}

/// Declares a field. The same again is no error; another type is.
pub async fn declare(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Json(body): Json<Declare>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    may_write(&caller)?;
    let tenant = tenant_of(&caller, &headers)?;
    check_name(&body.name).map_err(|why| Problem::bad(format!("field \"name\": {why}")))?;
    let kind = kind(&body.kind).map_err(|why| Problem::bad(format!("field \"kind\": {why}")))?;
    let words = body.name.split([' ', '/', ':', ',', ';', '(', ')']).chain([body.name.as_str()]);
    if names::a_contact(&app, &tenant, words).await? {
        let why = "holds the external id of a contact: an erasure could not take it out";
        return Err(Problem::bad(format!("field \"name\": {why}")));
    }
    let known = app.store.field_kinds(&tenant).await?;
    if let Some(row) = known.iter().find(|row| row.name == body.name) {
        if row.kind == kind {
            return Ok((StatusCode::OK, Json(shown(row))));
        }
        let detail = format!("`{}` is declared as {}: a field keeps its type", row.name, row.kind.name());
        return Err(Problem::new(StatusCode::CONFLICT, "field_exists", detail));
    }
    if known.len() >= FIELDS_MAX {
        return Err(Problem::bad(format!("a tenant has at most {FIELDS_MAX} custom fields")));
    }
    let at = runtime::now();
    let write = FieldWrite { tenant, name: body.name.clone(), kind: Some(kind), at };
    app.store.write(Write::Field(write)).await?;
    Ok((StatusCode::CREATED, Json(shown(&FieldRow { name: body.name, kind, made_at: at }))))
}

/// Values that contacts carry stay with them, and cannot be written any more.
pub async fn drop(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    may_write(&caller)?;
    let tenant = tenant_of(&caller, &headers)?;
    if !app.store.field_kinds(&tenant).await?.iter().any(|row| row.name == name) {
        return Err(Problem::not_found(format!("there is no custom field `{}`", clip(&name, 64))));
    }
    app.store
        .write(Write::Field(FieldWrite { tenant, name: name.clone(), kind: None, at: runtime::now() }))
        .await?;
    Ok(Json(json!({ "name": name, "dropped": true })))
}

fn may_read(caller: &Caller) -> Result<(), Problem> {
    if caller.may("contacts:read") { Ok(()) } else { caller.needs("read") }
}

fn may_write(caller: &Caller) -> Result<(), Problem> {
    if caller.may("contacts:write") { Ok(()) } else { caller.needs("operate") }
}

/// The key's tenant; the command socket names one in `X-Tenant-Id`.
pub fn tenant_of(caller: &Caller, headers: &HeaderMap) -> Result<Name, Problem> {
    let asked = headers.get("x-tenant-id").and_then(|value| value.to_str().ok()).map(str::trim);
    match (&caller.tenant, asked.filter(|asked| !asked.is_empty())) {
        (Some(own), None) => Ok(own.clone()),
        (Some(own), Some(asked)) if own.as_str() == asked => Ok(own.clone()),
        (Some(_), Some(_)) => {
            let detail = "the key is of another tenant than X-Tenant-Id";
            Err(Problem::new(StatusCode::FORBIDDEN, "other_tenant", detail))
        }
        (None, Some(asked)) => Ok(Name::new(asked)),
        (None, None) => Ok(Name::default_tenant()),
    }
}

fn shown(row: &FieldRow) -> Value {
    json!({ "name": row.name, "kind": row.kind.name(), "made_at": row.made_at.iso() })
}
