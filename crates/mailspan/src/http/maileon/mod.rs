//! `POST /webhooks/contacts/email`: the Maileon-compatible contact intake, for servers of third parties.
//!
//! Source of the rules: the vendor's page «Webhooks Maileon»; what it leaves open is in `docs/API.md`.

mod params;
mod write;

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mailspan_connectors::signature::sha256;
use mailspan_core::contact::Turn;
use mailspan_core::limits::INTAKE_BODY_BYTES_MAX;
use mailspan_core::{Name, Secret};
use mailspan_store::{Cut, Trouble};
use serde_json::json;

use crate::app::App;
use crate::contacts::door::{self, Origin};
use crate::http::auth::{Caller, by_key};
use crate::http::limit::{self, BodyTrouble};
use crate::http::{intake, peer};
use crate::runtime;
use params::Params;

/// What the caller gets: always JSON, never the key.
struct Answer {
    status: StatusCode,
    message: String,
    retry_after_s: Option<i64>,
}

fn answer(status: StatusCode, message: impl Into<String>) -> Answer {
    Answer { status, message: message.into(), retry_after_s: None }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let body = json!({ "status": self.status.as_u16(), "message": self.message });
        let mut response = intake::json(self.status, &body);
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Trouble> for Answer {
    fn from(trouble: Trouble) -> Answer {
        match trouble {
            Trouble::Refused(reason) => answer(StatusCode::BAD_REQUEST, reason.text),
            Trouble::Busy => Answer {
                retry_after_s: Some(5),
                ..answer(StatusCode::TOO_MANY_REQUESTS, "more arrives than can be written: come again")
            },
            Trouble::Broken(_) | Trouble::FenceLost => {
                tracing::error!("a contact could not be kept: {trouble}");
                let text = "nothing was kept: come again";
                Answer { retry_after_s: Some(5), ..answer(StatusCode::SERVICE_UNAVAILABLE, text) }
            }
        }
    }
}

pub async fn post(State(app): State<App>, request: Request<Body>) -> Response {
    match take(&app, request).await {
        Ok(answer) | Err(answer) => answer.into_response(),
    }
}

pub async fn wrong_method() -> Response {
    let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, "use POST").into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

async fn take(app: &App, request: Request<Body>) -> Result<Answer, Answer> {
    let (parts, body) = request.into_parts();
    // Before the key is read: who calls in clear has shown it to everyone, and must learn so.
    if !peer::is_secure(&parts, &app.live().hub) {
        return Err(answer(StatusCode::FORBIDDEN, "Only HTTPS is allowed: the API key is a secret"));
    }
    if parts.headers.contains_key(header::ORIGIN) {
        let text = "This call holds an API key and must not come from a browser: let your server make it";
        return Err(answer(StatusCode::FORBIDDEN, text));
    }
    let live = app.live();
    let bytes = limit::read_body(body, &parts.headers, INTAKE_BODY_BYTES_MAX).await.map_err(body_answer)?;
    let raw = intake::raw_request(&live, &parts, bytes);
    let params = Params::read(&raw).map_err(|(status, text)| answer(status, text))?;
    let caller = caller(app, &params).await?;
    let tenant = caller.tenant.clone().unwrap_or_else(Name::default_tenant);
    let settings = app.tenants.settings(&app.store, &tenant).await?;
    let grant = app.rates.take(caller.key_id, settings.rate_per_minute, runtime::now());
    if let Some(grant) = grant.filter(|grant| !grant.granted) {
        let refused = answer(StatusCode::TOO_MANY_REQUESTS, "too many requests with this key in a minute");
        return Err(Answer { retry_after_s: Some(grant.wait_s), ..refused });
    }
    let declared = app.store.field_kinds(&tenant).await?;
    let ip = peer::client(&parts, &live.hub.server.trusted_proxies).map(|ip: IpAddr| ip.to_string());
    let (declared, settings, actor) = (&declared, &settings, caller.name.as_str());
    let from = write::From { app, tenant: &tenant, raw: &raw, ip, declared, settings, actor };
    let write = write::write(&params, &from).map_err(|text| answer(StatusCode::BAD_REQUEST, text))?;
    let stored = params.without_key(&raw, &caller.name);
    let cuts = vec![Cut::Text { text: Secret::new(params.key().to_owned()), by: caller.name.clone() }];
    let origin = Origin { tenant: &tenant, credential: &caller.name, request: Some(&stored), cuts };
    let outcomes = door::write(app, origin, vec![write]).await?;
    match outcomes.first().map(|outcome| &outcome.turn) {
        Some(Turn::Refused(reason)) => Err(answer(StatusCode::BAD_REQUEST, reason.text.clone())),
        _ => Ok(answer(StatusCode::OK, "OK")),
    }
}

async fn caller(app: &App, params: &Params) -> Result<Caller, Answer> {
    let refused = || answer(StatusCode::UNAUTHORIZED, "Not Authorized");
    let key = params.key();
    if key.is_empty() {
        return Err(refused());
    }
    let caller = by_key(app, &sha256(key.as_bytes())).await?.ok_or_else(refused)?;
    match caller.may("contacts:write") {
        true => Ok(caller),
        false => Err(answer(StatusCode::FORBIDDEN, "the API key has not the scope contacts:write")),
    }
}

fn body_answer(trouble: BodyTrouble) -> Answer {
    match trouble {
        BodyTrouble::TooLarge => {
            answer(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {INTAKE_BODY_BYTES_MAX} bytes"))
        }
        BodyTrouble::TooSlow => answer(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
        BodyTrouble::Broken => answer(StatusCode::BAD_REQUEST, "the body ended too early"),
        BodyTrouble::Encoding => answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send the body plain"),
    }
}
