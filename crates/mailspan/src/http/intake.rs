//! `POST {path of a source}`: webhook intake. The order of checks: size → source → signature →
//! duplicate → store → answer.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Request, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use mailspan_core::RawRequest;
use serde::Serialize;

use crate::app::{App, Live};
use crate::http::limit::{self, BodyTrouble};
use crate::http::problem::Problem;
use crate::http::{mailingcore, peer};
use crate::hub::{Access, Source};
use crate::intake::door::{Entered, answer_body, enter};
use crate::runtime;

/// The fallback of the router: the paths of sources are the configuration's.
pub async fn any(State(app): State<App>, request: Request<Body>) -> Response {
    if find(&app.live(), request.uri().path()).is_none()
        && let Some(response) = mailingcore::nothing_at(request.uri().path(), runtime::now())
    {
        return response;
    }
    match take(&app, request).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn take(app: &App, request: Request<Body>) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let live = app.live();
    let source = find(&live, parts.uri.path()).ok_or_else(|| Problem::not_found("nothing is here"))?;
    takes(&live)?;
    if parts.method != Method::POST {
        let detail = "webhooks are posted: use POST";
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail));
    }
    let raw = read(&live, &parts, body).await?;
    let peer = peer::client(&parts, &live.hub.server.trusted_proxies);
    match enter(app, &source, raw, peer, None).await {
        Entered::Accepted { accepted, .. } => Ok(json(StatusCode::OK, &answer_body(&accepted))),
        Entered::Other(response) => Ok(response),
    }
}

/// A process of role `delivery` takes no events: 503, so that the sender or its load balancer tries another.
pub fn takes(live: &Live) -> Result<(), Problem> {
    if live.hub.server.role.takes() {
        return Ok(());
    }
    let detail =
        "this process takes no events: send them to one that does, and point the load balancer there";
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "takes_no_events", detail))
}

/// The source at a path. A secret path has one more segment, judged when verifying.
fn find(live: &Live, path: &str) -> Option<Arc<Source>> {
    let fits = |source: &&Arc<Source>| match &source.access {
        Some(Access::Path { .. }) => {
            path.strip_prefix(&source.path).is_some_and(|rest| rest.starts_with('/'))
        }
        _ => source.path == path,
    };
    live.hub.sources.iter().filter(|source| source.kind.name != "api").find(fits).cloned()
}

/// Reads the body and makes the raw request: bytes exactly as they came.
pub async fn read(live: &Live, parts: &Parts, body: Body) -> Result<RawRequest, Problem> {
    let max = live.hub.server.body_bytes_max;
    let body =
        limit::read_body(body, &parts.headers, max).await.map_err(|trouble| body_problem(trouble, max))?;
    Ok(raw_request(live, parts, body))
}

pub fn body_problem(trouble: BodyTrouble, max: usize) -> Problem {
    match trouble {
        BodyTrouble::TooLarge => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("a body has at most {max} bytes"),
        ),
        BodyTrouble::TooSlow => {
            Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body did not come in time")
        }
        BodyTrouble::Broken => Problem::bad(
            "the body ended before its announced length, or is not what its Content-Encoding says",
        ),
        BodyTrouble::Encoding => Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "encoding",
            "send the body plain, or as Content-Encoding gzip or deflate",
        ),
    }
}

pub fn raw_request(live: &Live, parts: &Parts, body: Bytes) -> RawRequest {
    let path_and_query = parts.uri.path_and_query().map_or("/", |both| both.as_str());
    RawRequest {
        method: parts.method.to_string(),
        url: format!("{}{path_and_query}", live.hub.server.public_url),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect(),
        body,
        received_at: runtime::now(),
    }
}

pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
