//! The Transmission API, as the vendor's clients call it.

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, Response, header};
use axum::routing::{get, post};
use mailspan_core::Millis;
use serde_json::{Value, json};

use super::maker::Sent;
use super::payload::logged;
use super::transmission::{self, Transmission};
use super::{Mailtarget, Platform};
use crate::gate::{Stop, Way};
use crate::wire::{self, Reply, deliver, hang, lock};

/// A whole message with its attachments: the specification's «20 KB» can only mean this.
const MESSAGE_BYTES_MAX: usize = 20 << 20;

pub(super) fn router(platform: &Mailtarget) -> Router {
    Router::new()
        .route("/v1/layang/transmissions", post(transmit))
        .route("/v1/analytic/transmission/{id}/events", get(events))
        .route("/_sandbox/state", get(show_state))
        .route("/_sandbox/faults", post(change_faults))
        .fallback(nowhere)
        .layer(DefaultBodyLimit::disable())
        .with_state(platform.clone())
}

fn refusal(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({"error": code, "message": message}))
}

async fn nowhere() -> Response<Body> {
    let reply = refusal(404, "not_found", "no such path: POST /v1/layang/transmissions sends");
    deliver(reply, Way::Plain).await
}

async fn transmit(State(platform): State<Mailtarget>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MESSAGE_BYTES_MAX).await else {
        let reply = refusal(413, "payload_too_large", "a message has at most 20 MB");
        return deliver(reply, Way::Plain).await;
    };
    let now = (platform.clock)();
    let answered = exchange(&mut lock(&platform.platform), &parts.headers, &body, now);
    match answered {
        Some((reply, way)) => deliver(reply, way).await,
        None => hang().await,
    }
}

fn exchange(platform: &mut Platform, headers: &HeaderMap, body: &[u8], now: Millis) -> Option<(Reply, Way)> {
    if let Some(stop) = platform.gate.before() {
        return stopped(&stop).map(|reply| (reply, Way::Plain));
    }
    let expected = format!("Bearer {}", platform.api_key);
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if platform.api_key.is_empty() || given != Some(expected.as_str()) {
        return stopped(&Stop::Unauthorized).map(|reply| (reply, Way::Plain));
    }
    if platform.gate.faults.missing_scopes.is_some() {
        let reply = refusal(403, "forbidden", "the key lacks the scope Send via API");
        return Some((reply, Way::Plain));
    }
    if let Some(stop) = platform.gate.limits(now) {
        return stopped(&stop).map(|reply| (reply, Way::Plain));
    }
    let read =
        serde_json::from_slice::<Value>(body).map_err(|error| format!("the body is not JSON: {error}"));
    let reply = match read.and_then(|body| transmission::read(&body)) {
        Ok(wanted) => accept(platform, wanted, now),
        Err(why) => refusal(400, "invalid_request", &why),
    };
    let way = platform.gate.way();
    Some((reply, way))
}

/// The log of a transmission: what was told of it, and what was forgotten to be told.
async fn events(
    State(platform): State<Mailtarget>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    let now = (platform.clock)();
    let answered = {
        let mut platform = lock(&platform.platform);
        let way = platform.gate.way();
        match barred(&mut platform, &headers, now) {
            Some(stop) => stop.map(|reply| (reply, Way::Plain)),
            None => Some((log(&platform, &id), way)),
        }
    };
    match answered {
        Some((reply, way)) => deliver(reply, way).await,
        None => hang().await,
    }
}

/// What keeps a call out before it is looked at; the inner nothing: it is never answered.
fn barred(platform: &mut Platform, headers: &HeaderMap, now: Millis) -> Option<Option<Reply>> {
    if let Some(stop) = platform.gate.before() {
        return Some(stopped(&stop));
    }
    let expected = format!("Bearer {}", platform.api_key);
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if platform.api_key.is_empty() || given != Some(expected.as_str()) {
        return Some(stopped(&Stop::Unauthorized));
    }
    platform.gate.limits(now).map(|stop| stopped(&stop))
}

fn log(platform: &Platform, id: &str) -> Reply {
    if !platform.sent.iter().any(|sent| sent.transmission_id == id) {
        return refusal(404, "not_found", "no such transmission");
    }
    let told = platform.told.iter().filter(|event| event.transmission_id == id);
    let events: Vec<Value> = told.filter_map(logged).collect();
    Reply::json(200, &json!({"events": events}))
}

/// Business rules, then 200: at least one client takes 201 for a failure.
fn accept(platform: &mut Platform, wanted: Transmission, now: Millis) -> Reply {
    if wanted.sender.to_lowercase().ends_with(".invalid") {
        return refusal(422, "unverified_sending_domain", "the domain of from.email is not verified");
    }
    let suppressed =
        wanted.recipients.iter().find(|(address, _)| platform.suppressed.contains(&address.to_lowercase()));
    if let Some((address, _)) = suppressed
        && !wanted.transactional
    {
        return refusal(422, "suppressed_recipient", &format!("{address} is on the suppression list"));
    }
    let transmission_id = platform.maker.transmission_id();
    platform.accept(Sent {
        transmission_id: transmission_id.clone(),
        at: now,
        subject: wanted.subject,
        sender: wanted.sender,
        recipients: wanted.recipients,
        metadata: wanted.metadata,
        links: wanted.links,
        opens_tracked: wanted.opens_tracked,
    });
    Reply::json(200, &json!({"transmissionId": transmission_id}))
}

fn stopped(stop: &Stop) -> Option<Reply> {
    match stop {
        Stop::Hang => None,
        Stop::Unauthorized => Some(refusal(401, "unauthorized", "the API key is missing or not valid")),
        Stop::TooMany { policy: "DAILY", .. } => {
            Some(refusal(420, "sending_limit_exceeded", "the daily sending limit is exceeded"))
        }
        Stop::TooMany { wait_ms, .. } => {
            let reply = refusal(429, "rate_limited", "too many requests");
            Some(reply.with("retry-after", wait_ms.div_ceil(1_000).max(1)))
        }
        Stop::Status(status) => Some(refusal(*status, "internal_error", "broken by a fault of the sandbox")),
    }
}

async fn show_state(State(platform): State<Mailtarget>) -> Response<Body> {
    let state = {
        let platform = lock(&platform.platform);
        let last: Vec<Value> = platform.sent.iter().rev().take(20).map(shown).collect();
        json!({
            "vendor": "mailtarget",
            "faults": platform.gate.faults.to_string(),
            "sends": platform.sends,
            "events": platform.queue.progress(),
            "suppressed": platform.suppressed.len(),
            "last_sends": last,
        })
    };
    deliver(Reply::json(200, &state), Way::Plain).await
}

fn shown(sent: &Sent) -> Value {
    let recipients: Vec<&String> = sent.recipients.iter().map(|(address, _)| address).collect();
    json!({
        "transmissionId": sent.transmission_id,
        "at": sent.at.rfc3339(),
        "subject": sent.subject,
        "recipients": recipients,
        "metadata": sent.metadata,
    })
}

async fn change_faults(State(platform): State<Mailtarget>, request: Request) -> Response<Body> {
    let reply = wire::change_faults(request, |faults| platform.set_faults(faults)).await;
    deliver(reply, Way::Plain).await
}
