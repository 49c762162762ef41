//! What stands before every operation: key, tenant, rate, size; and how errors leave.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use mailspan_core::limits::CONTACTS_BULK_BYTES_MAX;
use mailspan_core::{Name, RawRequest};

use super::errors::ApiError;
use super::rates::Grant;
use crate::app::App;
use crate::http::auth::Caller;
use crate::http::{intake, limit, peer};
use crate::runtime;

/// Who calls, for which tenant, and the request as it came.
#[derive(Clone)]
pub struct Call(Arc<Inner>);

pub struct Inner {
    pub caller: Caller,
    pub tenant: Name,
    pub raw: RawRequest,
    /// The address of the sender's machine.
    pub ip: Option<String>,
}

impl std::ops::Deref for Call {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Call {
    pub fn needs(&self, scope: &str) -> Result<(), ApiError> {
        if self.caller.may(scope) { Ok(()) } else { Err(ApiError::scope(scope)) }
    }
}

impl<S: Sync> FromRequestParts<S> for Call {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Call, ApiError> {
        // The gate stands before every route.
        parts.extensions.get::<Call>().cloned().ok_or_else(ApiError::unauthorized)
    }
}

/// Lets a request through, and gives errors their body. Every answer says what is left of the rate.
pub async fn pass(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let (parts, body) = request.into_parts();
    let (grant, result) = admit(&app, parts, body).await;
    let mut response = match result {
        Ok(request) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = error.at(&path, runtime::now());
    }
    if let Some(grant) = grant {
        grant.write(response.headers_mut());
    }
    response
}

pub async fn wrong_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path has not this method")
}

async fn admit(app: &App, mut parts: Parts, body: Body) -> (Option<Grant>, Result<Request, ApiError>) {
    let caller = match Caller::from_request_parts(&mut parts, app).await {
        Ok(caller) => caller,
        Err(problem) if problem.status == StatusCode::UNAUTHORIZED => {
            return (None, Err(ApiError::unauthorized()));
        }
        Err(problem) => return (None, Err(ApiError::new(problem.status, problem.detail))),
    };
    let tenant = match tenant_of(&caller, &parts.headers) {
        Ok(tenant) => tenant,
        Err(error) => return (None, Err(error)),
    };
    let settings = match app.tenants.settings(&app.store, &tenant).await {
        Ok(settings) => settings,
        Err(trouble) => return (None, Err(trouble.into())),
    };
    // The command socket is the operator's own.
    let limit = if caller.key_id == 0 { 0 } else { settings.rate_per_minute };
    let grant = app.rates.take(caller.key_id, limit, runtime::now());
    if grant.is_some_and(|grant| !grant.granted) {
        let text = "Too many requests: come again when X-RateLimit-Reset is reached";
        return (grant, Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, text)));
    }
    (grant, read(app, caller, tenant, parts, body).await)
}

/// The key's tenant; the header may repeat it.
fn tenant_of(caller: &Caller, headers: &HeaderMap) -> Result<Name, ApiError> {
    let asked = headers.get("x-tenant-id").map(|value| value.to_str().unwrap_or_default().trim());
    match (&caller.tenant, asked.filter(|asked| !asked.is_empty())) {
        (Some(own), None) => Ok(own.clone()),
        (Some(own), Some(asked)) if own.as_str() == asked => Ok(own.clone()),
        (Some(_), Some(_)) => {
            Err(ApiError::new(StatusCode::FORBIDDEN, "the API key is of another tenant than X-Tenant-Id"))
        }
        (None, Some(asked)) => Ok(Name::new(asked)),
        (None, None) => Ok(Name::default_tenant()),
    }
}

async fn read(
    app: &App,
    caller: Caller,
    tenant: Name,
    parts: Parts,
    body: Body,
) -> Result<Request, ApiError> {
    let live = app.live();
    let max = match parts.uri.path() {
        "/contacts/bulk" => CONTACTS_BULK_BYTES_MAX.max(live.hub.server.body_bytes_max),
        _ => live.hub.server.body_bytes_max,
    };
    let bytes =
        limit::read_body(body, &parts.headers, max).await.map_err(|trouble| ApiError::body(trouble, max))?;
    let encoding = parts.headers.get("content-encoding").and_then(|value| value.to_str().ok());
    let bytes = limit::inflate(&bytes, encoding.unwrap_or_default(), max)
        .map_err(|trouble| ApiError::body(trouble, max))?;
    let ip = peer::client(&parts, &live.hub.server.trusted_proxies).map(|ip| ip.to_string());
    let raw = intake::raw_request(&live, &parts, bytes);
    let mut request = Request::from_parts(parts, Body::empty());
    request.extensions_mut().insert(Call(Arc::new(Inner { caller, tenant, raw, ip })));
    Ok(request)
}
