//! `POST /v1/events`: events from an application.

use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use mailspan_core::limits::{IDEMPOTENCY_KEY_BYTES_MAX, WAIT_MS_MAX};
use mailspan_core::{EventId, Span};
use mailspan_store::{AttemptRow, DeliveryRow};
use serde_json::json;

use crate::app::App;
use crate::deliver::said::Exchange;
use crate::deliver::wait;
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::http::v1::deliveries::shown;
use crate::http::{intake, peer};
use crate::intake::door::{self, Entered, answer_body, enter};

/// 202 with counts and ids after the commit (`Idempotent-Replayed: true` where it is the first answer
/// again); with `?wait=10s` what each destination said, or 202
/// when the time is up.
pub async fn post(State(app): State<App>, request: Request<Body>) -> Response {
    match take(&app, request).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn take(app: &App, request: Request<Body>) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let caller = Caller::from_request_parts(&mut parts, app).await?;
    caller.needs("events:write")?;
    let live = app.live();
    intake::takes(&live)?;
    let source = live.hub.sources.iter().find(|source| source.kind.name == "api").cloned();
    let source = source.ok_or_else(|| {
        Problem::not_found("no source of kind `api` is configured: add `[sources.app]` with `kind = \"api\"`")
    })?;
    if !caller.sees(&source.tenant) {
        let detail = format!("the key is of another tenant than the source `{}`", source.name);
        return Err(Problem::new(StatusCode::FORBIDDEN, "other_tenant", detail));
    }
    let raw = intake::read(&live, &parts, body).await?;
    let wait_ms = wait_of(&raw.query)?;
    let idempotency_key = match raw.header("idempotency-key") {
        Some(key) if key.len() > IDEMPOTENCY_KEY_BYTES_MAX => {
            return Err(Problem::bad(format!(
                "an Idempotency-Key has at most {IDEMPOTENCY_KEY_BYTES_MAX} bytes"
            )));
        }
        key => key.filter(|key| !key.is_empty()).map(str::to_owned),
    };
    let door = door::Caller { key_id: caller.key_id, name: caller.name, idempotency_key };
    // From before it is accepted: a destination may answer sooner than we ask.
    let _waiting = wait_ms.map(|_| app.said.wait());
    let peer = peer::client(&parts, &live.hub.server.trusted_proxies);
    let (accepted, again) = match enter(app, &source, raw, peer, Some(door)).await {
        Entered::Accepted { accepted, again } => (accepted, again),
        Entered::Other(response) => return Ok(response),
    };
    let mut answer = answer_body(&accepted);
    if let Some(wait_ms) = wait_ms
        && let Some(deliveries) = said(app, &accepted.ids, wait_ms).await?
    {
        answer.deliveries = Some(deliveries);
    }
    let status = if answer.deliveries.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = intake::json(status, &answer);
    if again {
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn wait_of(query: &str) -> Result<Option<u64>, Problem> {
    let mut value = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.strip_prefix("wait=") {
            Some(text) => value = value.or(Some(text)),
            None => {
                let name = pair.split('=').next().unwrap_or_default();
                let name = mailspan_core::clip(name, 40);
                return Err(Problem::bad(format!("there is no parameter `{name}` here: use wait")));
            }
        }
    }
    let Some(value) = value else { return Ok(None) };
    let span = Span::parse(value).map_err(|why| Problem::bad(format!("field \"wait\": {why}")))?;
    Ok(Some(span.ms.min(WAIT_MS_MAX)))
}

async fn said(app: &App, ids: &[EventId], wait_ms: u64) -> Result<Option<serde_json::Value>, Problem> {
    let Some(rows) = wait::settled(app, ids, wait_ms).await? else { return Ok(None) };
    let mut said = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut value = shown(row);
        let answers = answers(app, row).await?;
        if let Some(last) = answers.last() {
            value["status"] = last["status"].clone();
            value["answer"] = last["answer"].clone();
        }
        value["answers"] = json!(answers);
        said.push(value);
    }
    Ok(Some(json!(said)))
}

/// Each request that was made for a delivery, in order. What another process sent is known from the store alone:
/// without the answers that were a success.
async fn answers(app: &App, row: &DeliveryRow) -> Result<Vec<serde_json::Value>, Problem> {
    let said = app.said.of(row.id);
    if !said.is_empty() {
        let one =
            |one: &Exchange| json!({ "request": one.request, "status": one.status, "answer": one.answer });
        return Ok(said.iter().map(one).collect());
    }
    let first_line = |request: &Vec<u8>| {
        let text = String::from_utf8_lossy(request);
        text.lines().next().unwrap_or_default().to_owned()
    };
    let attempts = app.store.attempts(row.id).await?;
    let one = |one: &AttemptRow| {
        let request = one.request.as_ref().map(first_line);
        json!({ "request": request, "status": one.status, "answer": one.answer })
    };
    Ok(attempts.iter().map(one).collect())
}
