//! `/contacts`: one contact, and lists of them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mailspan_core::contact::{Contact, ContactKey, ContactOutcome, ContactWrite, Turn, WriteMode};
use mailspan_core::{Name, Subject};
use mailspan_store::{Answered, ContactRow, Tell};

use super::errors::{ApiError, ErrorBody};
use super::gate::Call;
use super::input::{Aim, ContactInput, json};
use super::list::{ContactQuery, cursor};
use super::once::{self, Done};
use super::shape::{ContactOut, ContactPage, Erased, Meta};
use crate::app::App;
use crate::contacts::door::{self, Origin};

/// List contacts
///
/// By numbered pages, or by cursor for reconciliation: `updatedSince` with `cursor` (empty at the first call).
#[utoipa::path(
    get, path = "/contacts", tag = "contacts", params(ContactQuery),
    responses(
        (status = 200, body = ContactPage), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody),
    ),
)]
pub async fn list(
    State(app): State<App>,
    call: Call,
    query: Result<Query<ContactQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<ContactPage>, ApiError> {
    call.needs("contacts:read")?;
    let Query(query) = query.map_err(|rejected| ApiError::bad(rejected.body_text()))?;
    let asked = query.read(&call.tenant)?;
    let found = app.store.contacts(asked.filter.clone(), asked.page).await?;
    let data = found.rows.into_iter().map(|row| shown(&call, row)).collect();
    let meta = match (asked.page, found.total) {
        (mailspan_store::ContactPage::Numbered { page, .. }, Some(total)) => Meta {
            page: Some(page),
            limit: asked.limit,
            total: Some(total),
            total_pages: Some(total.div_ceil(asked.limit as u64)),
            next_cursor: None,
            has_more: found.more,
        },
        _ => Meta {
            limit: asked.limit,
            next_cursor: found.more.then(|| cursor(found.rev, &asked.filter)),
            has_more: found.more,
            ..Meta::default()
        },
    };
    Ok(Json(ContactPage { data, meta }))
}

/// Create or update a contact
///
/// Found by `externalId` when given, else by `email`.
#[utoipa::path(
    put, path = "/contacts", tag = "contacts", request_body = ContactInput, params(once::Header),
    responses(
        (status = 200, body = ContactOut), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 415, body = ErrorBody), (status = 422, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody),
    ),
)]
pub async fn put(State(app): State<App>, call: Call) -> Result<Response, ApiError> {
    call.needs("contacts:write")?;
    let write = read(&app, &call, WriteMode::Upsert, None).await?;
    written(&app, &call, write).await
}

/// Show a contact
///
/// By its id, or by its external id.
#[utoipa::path(
    get, path = "/contacts/{idOrExternalId}", tag = "contacts",
    params(("idOrExternalId" = String, Path, description = "id or externalId")),
    responses(
        (status = 200, body = ContactOut), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody),
    ),
)]
pub async fn show(
    State(app): State<App>,
    call: Call,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<ContactOut>, ApiError> {
    call.needs("contacts:read")?;
    let key = ContactKey::Id(id_of(id)?);
    let row = app.store.contact(&call.tenant, &key).await?.ok_or_else(|| ApiError::not_found("Contact"))?;
    Ok(Json(shown(&call, row)))
}

/// Change a contact
///
/// By its id, or by its external id; what is absent is left as it is.
#[utoipa::path(
    patch, path = "/contacts/{idOrExternalId}", tag = "contacts", request_body = ContactInput,
    params(("idOrExternalId" = String, Path, description = "id or externalId"), once::Header),
    responses(
        (status = 200, body = ContactOut), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 503, body = ErrorBody),
    ),
)]
pub async fn patch(
    State(app): State<App>,
    call: Call,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Response, ApiError> {
    call.needs("contacts:write")?;
    let key = ContactKey::Id(id_of(id)?);
    let write = read(&app, &call, WriteMode::Update, Some(key)).await?;
    written(&app, &call, write).await
}

/// Erase a contact
///
/// For good, here and at every destination that has such a call; the address stays suppressed under a keyed hash.
#[utoipa::path(
    delete, path = "/contacts/{idOrExternalId}", tag = "contacts",
    params(("idOrExternalId" = String, Path, description = "externalId or id")),
    responses(
        (status = 200, body = Erased), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody),
    ),
)]
pub async fn erase(
    State(app): State<App>,
    call: Call,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<Erased>, ApiError> {
    call.needs("contacts:write")?;
    let key = ContactKey::Id(id_of(id)?);
    let row = app.store.contact(&call.tenant, &key).await?.ok_or_else(|| ApiError::not_found("Contact"))?;
    let at = call.raw.received_at;
    // By what it is known by now: the subject of the event that tells the destinations.
    let key = ContactKey::Id(row.contact.uid.clone());
    let mut write = ContactWrite::new(key, WriteMode::Update, door::new_uid(), at, "api");
    write.erase = true;
    write.evidence.actor = Some(call.caller.name.clone());
    write.evidence.ip.clone_from(&call.ip);
    outcome(&app, &call, vec![write]).await?;
    Ok(Json(Erased { deleted: true, external_id: row.contact.external_id, suppressed: true }))
}

/// The id in a path, decoded.
pub fn id_of(id: Result<Path<String>, axum::extract::rejection::PathRejection>) -> Result<String, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::bad("the id in the path is not UTF-8"))?;
    if id.is_empty() || id.chars().count() > 256 || id.chars().any(char::is_control) {
        return Err(ApiError::bad(
            "the id in the path has 1 to 256 characters, none of them a control character",
        ));
    }
    Ok(id)
}

pub fn shown(call: &Call, row: ContactRow) -> ContactOut {
    ContactOut::new(call.tenant.as_str(), row.contact)
}

async fn read(
    app: &App,
    call: &Call,
    mode: WriteMode,
    key: Option<ContactKey>,
) -> Result<ContactWrite, ApiError> {
    let input: ContactInput = json(&call.raw.body)?;
    let declared = match &input.custom_fields {
        Some(fields) if !fields.is_empty() => app.store.field_kinds(&call.tenant).await?,
        _ => Vec::new(),
    };
    input.write(&Aim { call, mode, key, origin: "api", declared: &declared }).map_err(ApiError::all)
}

async fn written(app: &App, call: &Call, write: ContactWrite) -> Result<Response, ApiError> {
    let tenant = call.tenant.clone();
    let tell = || Tell { suppression: None, body: Box::new(move |outcomes, _| told(&tenant, outcomes)) };
    let outcomes = match once::write(app, call, vec![write], tell).await? {
        Done::Answered(response) => return Ok(response),
        Done::Written(outcomes) => outcomes,
    };
    let outcome = outcomes.into_iter().next().ok_or_else(|| ApiError::not_found("Contact"))?;
    if let Turn::Refused(reason) = &outcome.turn {
        return Err(refusal(reason));
    }
    let contact = outcome.contact.ok_or_else(|| ApiError::not_found("Contact"))?;
    Ok(answer(StatusCode::OK, ContactOut::new(call.tenant.as_str(), Arc::unwrap_or_clone(contact))))
}

/// The contact as it was answered, for a request that names an `Idempotency-Key`.
fn told(tenant: &Name, outcomes: &[ContactOutcome]) -> Option<Answered> {
    let ContactOutcome { contact: Some(contact), turn, .. } = outcomes.first()? else { return None };
    if matches!(turn, Turn::Refused(_)) {
        return None;
    }
    let about = Subject { address: contact.address.clone(), external_id: contact.external_id.clone() };
    let body = once::body(&ContactOut::new(tenant.as_str(), Contact::clone(contact)))?;
    Some(Answered { status: 200, body, about: vec![about] })
}

/// Writes; a refusal of a single write is the error.
pub async fn outcome(
    app: &App,
    call: &Call,
    writes: Vec<ContactWrite>,
) -> Result<Vec<ContactOutcome>, ApiError> {
    let single = writes.len() == 1;
    let origin = Origin {
        tenant: &call.tenant,
        credential: &call.caller.name,
        request: Some(&call.raw),
        cuts: Vec::new(),
    };
    let outcomes = door::write(app, origin, writes).await?;
    match outcomes.first().map(|outcome| &outcome.turn) {
        Some(Turn::Refused(reason)) if single => Err(refusal(reason)),
        _ => Ok(outcomes),
    }
}

/// What a refused write is answered.
pub fn refusal(reason: &mailspan_core::Reason) -> ApiError {
    let status = match reason.code.as_str() {
        "not_found" => return ApiError::not_found("Contact"),
        "external_id_conflict" | "address_conflict" => StatusCode::CONFLICT,
        _ => StatusCode::BAD_REQUEST,
    };
    ApiError::new(status, reason.text.clone())
}

/// For handlers whose answers differ in status.
pub fn answer<T: serde::Serialize>(status: StatusCode, body: T) -> Response {
    (status, Json(body)).into_response()
}
