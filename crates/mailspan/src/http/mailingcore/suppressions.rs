//! `/suppressions`: addresses that are not mailed.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use mailspan_core::contact::{
    Change, ContactKey, ContactOutcome, ContactWrite, Stated, Suppressed, Turn, WriteMode,
};
use mailspan_core::{Address, Subject};
use mailspan_store::{Answered, SuppressionFilter, SuppressionRow, Tell};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::contacts::{answer, outcome, refusal};
use super::errors::{ApiError, ErrorBody};
use super::gate::Call;
use super::input::json;
use super::list::{number, plain_cursor, plain_opened};
use super::once::{self, Done};
use super::shape::{Meta, Removed, SuppressionOut, SuppressionPage};
use crate::app::App;
use crate::contacts::door;

/// Rows of a page, and the most of them.
const PAGE: (usize, usize) = (20, 100);

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub struct SuppressionQuery {
    /// 1 to 100; 20 where nothing is said.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100)]
    pub limit: Option<String>,
    /// `meta.nextCursor` of the page before.
    pub cursor: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct SuppressionInput {
    #[schema(example = "user@example.com", max_length = 254, format = "email")]
    pub email: String,
    /// bounce, complaint, unsubscribe or manual, which is the default.
    #[serde(default)]
    #[schema(example = "manual")]
    pub reason: Option<String>,
}

/// List suppressions
#[utoipa::path(
    get, path = "/suppressions", tag = "suppressions", params(SuppressionQuery),
    responses(
        (status = 200, body = SuppressionPage), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody),
    ),
)]
pub async fn list(
    State(app): State<App>,
    call: Call,
    query: Result<Query<SuppressionQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<SuppressionPage>, ApiError> {
    call.needs("suppressions:read")?;
    let Query(query) = query.map_err(|rejected| ApiError::bad(rejected.body_text()))?;
    let limit = number("limit", query.limit.as_deref(), PAGE)?;
    let after = plain_opened(query.cursor.as_deref())?;
    let filter = SuppressionFilter { tenant: Some(call.tenant.clone()), after, limit: limit + 1 };
    let mut rows = app.store.suppressions(filter).await?;
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| has_more).map(|row| plain_cursor(row.id));
    let data = rows.iter().map(SuppressionOut::new).collect();
    Ok(Json(SuppressionPage { data, meta: Meta { limit, next_cursor, has_more, ..Meta::default() } }))
}

/// Suppress an address
///
/// 201, or 200 where it is suppressed already. Another reason takes the place of `unsubscribe` alone, which a
/// confirmation lifts; of the others the first stays. `unsubscribe` and `complaint` opt out a contact that opted in
/// again since; of unsubscriptions the last counts then.
#[utoipa::path(
    post, path = "/suppressions", tag = "suppressions", request_body = SuppressionInput, params(once::Header),
    responses(
        (status = 201, body = SuppressionOut), (status = 200, body = SuppressionOut), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 503, body = ErrorBody),
    ),
)]
pub async fn add(State(app): State<App>, call: Call) -> Result<Response, ApiError> {
    call.needs("suppressions:write")?;
    let input: SuppressionInput = json(&call.raw.body)?;
    let address = Address::parse(&input.email).map_err(|why| ApiError::bad(format!("email: {why}")))?;
    let reason = reason(input.reason.as_deref())?;
    let known = app.store.suppression_of(&call.tenant, &address).await?;
    let status = if known.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    let before = known.as_ref().map(|row| row.reason);
    // Who agreed since opts out by it, whatever stands there: that is decided where it is written.
    let opts_out = matches!(reason, Suppressed::Complaint | Suppressed::Unsubscribe);
    let is_known =
        !opts_out && before.is_some_and(|before| before == reason || before == Suppressed::Erasure);
    if let (Some(row), true, None) = (&known, is_known, once::key(&call)?) {
        return Ok(answer(status, SuppressionOut::new(row)));
    }
    // What is known already is written no more; its answer is kept all the same, where a key asks for it.
    let writes = if is_known { vec![] } else { vec![new(&call, &address, reason, before)] };
    let tell = || Tell {
        suppression: Some(address.clone()),
        body: Box::new(move |outcomes, row| told(status, outcomes, row)),
    };
    match once::write(&app, &call, writes, tell).await? {
        Done::Answered(response) => return Ok(response),
        Done::Written(outcomes) => refused(&outcomes)?,
    }
    let row = kept(&app, &call, &address).await?;
    Ok(answer(status, SuppressionOut::new(&row)))
}

fn new(call: &Call, address: &Address, reason: Suppressed, before: Option<Suppressed>) -> ContactWrite {
    let mut write = change(call, address);
    write.suppress = Change::Set(reason);
    match (reason, before) {
        // The fact of its own, whatever the person has said before.
        (Suppressed::Complaint, None | Some(Suppressed::Unsubscribe)) => {
            write.stated.push(Stated::DoNotContact);
        }
        // Sent every night beside a reason that stays, it must leave one fact and no more.
        (Suppressed::Complaint | Suppressed::Unsubscribe, _) => write.opt_in = Some(false),
        _ => {}
    }
    write
}

/// As it was answered, for a request that names an `Idempotency-Key`.
fn told(status: StatusCode, outcomes: &[ContactOutcome], row: Option<&SuppressionRow>) -> Option<Answered> {
    refused(outcomes).ok()?;
    let row = row?;
    let about = Subject { address: row.address.clone(), external_id: None };
    let body = once::body(&SuppressionOut::new(row))?;
    Some(Answered { status: status.as_u16(), body, about: vec![about] })
}

fn refused(outcomes: &[ContactOutcome]) -> Result<(), ApiError> {
    match outcomes.first().map(|outcome| &outcome.turn) {
        Some(Turn::Refused(reason)) => Err(refusal(reason)),
        _ => Ok(()),
    }
}

/// Lift a suppression
///
/// The address may be mailed again where it consents; `optIn` stays as it is.
#[utoipa::path(
    delete, path = "/suppressions/{email}", tag = "suppressions",
    params(("email" = String, Path, description = "the address, URL-encoded")),
    responses(
        (status = 200, body = Removed), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody),
    ),
)]
pub async fn remove(
    State(app): State<App>,
    call: Call,
    email: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<Removed>, ApiError> {
    call.needs("suppressions:write")?;
    let Path(email) = email.map_err(|_| ApiError::bad("the address in the path is not UTF-8"))?;
    let address = Address::parse(&email).map_err(|why| ApiError::bad(format!("email: {why}")))?;
    if app.store.suppression_of(&call.tenant, &address).await?.is_none() {
        return Err(ApiError::not_found("Suppression"));
    }
    let mut write = change(&call, &address);
    write.suppress = Change::Clear;
    outcome(&app, &call, vec![write]).await?;
    Ok(Json(Removed { removed: true }))
}

/// Follows a contact that is known; an address that is not is suppressed all the same.
fn change(call: &Call, address: &Address) -> ContactWrite {
    let key = ContactKey::Address(address.clone());
    let mut write = ContactWrite::new(key, WriteMode::Follow, door::new_uid(), call.raw.received_at, "api");
    write.evidence.actor = Some(call.caller.name.clone());
    write.evidence.ip.clone_from(&call.ip);
    write
}

async fn kept(app: &App, call: &Call, address: &Address) -> Result<SuppressionRow, ApiError> {
    let row = app.store.suppression_of(&call.tenant, address).await?;
    row.ok_or_else(|| {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "it was lifted in this moment: come again")
    })
}

fn reason(word: Option<&str>) -> Result<Suppressed, ApiError> {
    match word.map(str::trim).filter(|word| !word.is_empty()) {
        None => Ok(Suppressed::Manual),
        Some(word) => Suppressed::from_name(word)
            .filter(|reason| *reason != Suppressed::Erasure)
            .ok_or_else(|| ApiError::bad("reason: is bounce, complaint, unsubscribe or manual")),
    }
}
