//! `POST /contacts/bulk`: up to a thousand contacts in one transaction.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use mailspan_core::contact::{ContactOutcome, ContactWrite, Turn, WriteMode};
use mailspan_core::json::Node;
use mailspan_core::limits::CONTACTS_BULK_MAX;
use mailspan_core::{Address, Subject};
use mailspan_store::{Answered, Tell};
use serde::Deserialize;
use utoipa::ToSchema;

use super::contacts::{answer, refusal};
use super::errors::{ApiError, ErrorBody};
use super::gate::Call;
use super::input::{Aim, ContactInput, checked};
use super::once::{self, Done};
use super::shape::{BulkError, BulkSummary};
use crate::app::App;

/// Errors that one answer lists: enough to see what is wrong with a file.
const ERRORS_SHOWN_MAX: usize = 50;

#[derive(Debug, Deserialize, ToSchema)]
pub struct BulkInput {
    /// 1 to 1,000.
    #[schema(min_items = 1, max_items = 1000)]
    pub contacts: Vec<ContactInput>,
}

/// Create or update many contacts
///
/// What cannot be read refuses the whole call and names the rows; a conflict refuses its row alone. Rows are
/// applied in order.
#[utoipa::path(
    post, path = "/contacts/bulk", tag = "contacts", request_body = BulkInput, params(once::Header),
    responses(
        (status = 200, body = BulkSummary), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 415, body = ErrorBody), (status = 422, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody),
    ),
)]
pub async fn bulk(State(app): State<App>, call: Call) -> Result<Response, ApiError> {
    call.needs("contacts:write")?;
    let input: BulkInput = checked(&call.raw.body, all_are_objects)?;
    if input.contacts.is_empty() {
        return Err(ApiError::bad("contacts: is empty: give 1 to 1000"));
    }
    if input.contacts.len() > CONTACTS_BULK_MAX {
        let given = input.contacts.len();
        return Err(ApiError::bad(format!("contacts: has {given} rows, at most {CONTACTS_BULK_MAX}")));
    }
    let writes = writes(&app, &call, &input.contacts).await?;
    let rows: Arc<[ContactInput]> = input.contacts.into();
    let kept = rows.clone();
    let tell = || Tell { suppression: None, body: Box::new(move |outcomes, _| told(&kept, outcomes)) };
    Ok(match once::write(&app, &call, writes, tell).await? {
        Done::Answered(response) => response,
        // A single refused row is a failed row here, not a failed call.
        Done::Written(outcomes) => answer(StatusCode::OK, summary(&rows, &outcomes)),
    })
}

/// The same for a request that names an `Idempotency-Key`. It names those whose rows failed.
fn told(rows: &[ContactInput], outcomes: &[ContactOutcome]) -> Option<Answered> {
    let summary = summary(rows, outcomes);
    let address = |text: &Option<String>| text.as_deref().and_then(|text| Address::parse(text).ok());
    let about = summary
        .errors
        .iter()
        .map(|error| Subject { address: address(&error.email), external_id: error.external_id.clone() });
    Some(Answered { status: 200, body: once::body(&summary)?, about: about.collect() })
}

/// A list of members in their order is no contact, though serde would take it for one.
fn all_are_objects(root: &Node) -> Result<(), ApiError> {
    let rows = root.get("contacts").and_then(|rows| rows.as_array()).unwrap_or_default();
    match rows.iter().position(|row| row.as_object().is_none()) {
        Some(index) => Err(ApiError::bad(format!("contacts[{index}]: is an object"))),
        None => Ok(()),
    }
}

async fn writes(app: &App, call: &Call, rows: &[ContactInput]) -> Result<Vec<ContactWrite>, ApiError> {
    let uses_custom =
        rows.iter().any(|row| row.custom_fields.as_ref().is_some_and(|fields| !fields.is_empty()));
    let declared = if uses_custom { app.store.field_kinds(&call.tenant).await? } else { Vec::new() };
    let aim = Aim { call, mode: WriteMode::Upsert, key: None, origin: "bulk", declared: &declared };
    let (mut writes, mut wrong) = (Vec::with_capacity(rows.len()), Vec::new());
    for (index, row) in rows.iter().enumerate() {
        match row.write(&aim) {
            Ok(write) => writes.push(write),
            Err(errors) => wrong.extend(errors.iter().map(|error| format!("contacts[{index}].{error}"))),
        }
    }
    if wrong.is_empty() {
        return Ok(writes);
    }
    wrong.truncate(ERRORS_SHOWN_MAX);
    Err(ApiError::all(wrong))
}

/// A row that changed nothing counts as updated: it is as the caller wants it.
fn summary(rows: &[ContactInput], outcomes: &[ContactOutcome]) -> BulkSummary {
    let mut summary = BulkSummary { total: rows.len(), ..BulkSummary::default() };
    for (index, (row, outcome)) in rows.iter().zip(outcomes).enumerate() {
        match &outcome.turn {
            Turn::Created => summary.created += 1,
            Turn::Refused(reason) => {
                summary.failed += 1;
                let error = refusal(reason);
                summary.errors.push(BulkError {
                    index,
                    email: row.email.clone(),
                    external_id: row.external_id.clone().flatten(),
                    status_code: error.status.as_u16(),
                    message: error.message,
                });
            }
            _ => summary.updated += 1,
        }
    }
    summary
}
