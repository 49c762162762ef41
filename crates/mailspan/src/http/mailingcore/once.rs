//! `Idempotency-Key`: what a request did is done once, and its answer is given again.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mailspan_connectors::signature::digest;
use mailspan_core::Digest;
use mailspan_core::contact::{ContactOutcome, ContactWrite};
use mailspan_core::limits::IDEMPOTENCY_KEY_BYTES_MAX;
use mailspan_store::{Answered, Idempotency, Tell};
use serde::Serialize;
use utoipa::IntoParams;

use super::errors::ApiError;
use super::gate::Call;
use crate::app::App;
use crate::contacts::door::{self, Origin};

/// As the document shows it.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "it is drawn, never made")]
pub struct Header {
    /// At most 255 printable characters of ASCII, your own choice. The same key with the same request is answered the same for 24 hours,
    /// with `Idempotent-Replayed: true`, and done once; with another request 422. Where the answer names a person
    /// who was erased since: 409.
    #[param(rename = "Idempotency-Key", max_length = 255, pattern = "^[ -~]*$", required = false)]
    idempotency_key: Option<String>,
}

/// What a request did.
pub enum Done {
    /// The answer, where the request has a key; the first one again, or the one that was kept just now.
    Answered(Response),
    /// Of a request without a key, or one whose answer is not kept as it is a refusal: an outcome for each write.
    Written(Vec<ContactOutcome>),
}

/// Writes all in one transaction, under the key of the request where it has one. `tell` makes its answer.
pub async fn write(
    app: &App,
    call: &Call,
    writes: Vec<ContactWrite>,
    tell: impl FnOnce() -> Tell,
) -> Result<Done, ApiError> {
    let idempotency = asked(call, tell)?;
    let credential = &call.caller.name;
    let origin = Origin { tenant: &call.tenant, credential, request: Some(&call.raw), cuts: Vec::new() };
    let (accepted, again) = door::write_once(app, origin, writes, idempotency).await?;
    Ok(match accepted.told {
        Some(answered) => Done::Answered(response(answered, again)),
        None => Done::Written(accepted.contacts),
    })
}

/// The key of the request, where it names one.
pub fn key(call: &Call) -> Result<Option<String>, ApiError> {
    let headers = &call.raw.headers;
    let Some((_, value)) = headers.iter().find(|(name, _)| name == "idempotency-key") else {
        return Ok(None);
    };
    let is_plain = |byte: &u8| (b' '..=b'~').contains(byte);
    if value.len() > IDEMPOTENCY_KEY_BYTES_MAX || !value.iter().all(is_plain) {
        let max = IDEMPOTENCY_KEY_BYTES_MAX;
        return Err(ApiError::bad(format!("an Idempotency-Key has at most {max} characters, all of ASCII")));
    }
    Ok(Some(String::from_utf8_lossy(value).into_owned()).filter(|key| !key.is_empty()))
}

fn asked(call: &Call, tell: impl FnOnce() -> Tell) -> Result<Option<Idempotency>, ApiError> {
    let Some(key) = key(call)? else { return Ok(None) };
    let api_key = call.caller.key_id;
    Ok(Some(Idempotency { api_key, key, body: whole_digest(call), tell: Some(tell()) }))
}

/// Of all that says what is to be done: the same body on another path is another request.
fn whole_digest(call: &Call) -> Digest {
    let raw = &call.raw;
    digest(&[raw.method.as_bytes(), b"\0", raw.path.as_bytes(), b"\0", &raw.body].concat())
}

fn response(answered: Answered, again: bool) -> Response {
    let status = StatusCode::from_u16(answered.status).unwrap_or(StatusCode::OK);
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], answered.body).into_response();
    if again {
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    response
}

/// As JSON; nothing where it cannot be written.
pub fn body(shown: &impl Serialize) -> Option<String> {
    serde_json::to_string(shown).ok()
}
