//! Errors of the MailingCore-compatible API: the documented members always, the names of RFC 7807 that
//! its SDK reads beside them.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mailspan_core::Millis;
use mailspan_store::Trouble;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::limit::BodyTrouble;

/// What a caller is told.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub status: StatusCode,
    pub message: String,
    /// Each thing that is wrong, where there are several.
    pub errors: Vec<String>,
}

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    #[schema(example = 403)]
    pub status_code: u16,
    #[schema(example = "Missing required API key scope: contacts:write")]
    pub message: String,
    #[schema(example = "/contacts")]
    pub path: String,
    #[schema(example = "2026-06-30T12:00:00.000Z")]
    pub timestamp: String,
    /// RFC 7807.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// The same as `message`.
    pub detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, message: message.into(), errors: Vec::new() }
    }

    pub fn bad(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    /// 400 with everything that is wrong; `errors` is not empty.
    pub fn all(errors: Vec<String>) -> ApiError {
        let message = errors.join("; ");
        ApiError { status: StatusCode::BAD_REQUEST, message, errors }
    }

    pub fn not_found(what: &str) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, format!("{what} not found"))
    }

    pub fn scope(scope: &str) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, format!("Missing required API key scope: {scope}"))
    }

    pub fn unauthorized() -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "Invalid or missing API key")
    }

    pub fn body(trouble: BodyTrouble, max: usize) -> ApiError {
        match trouble {
            BodyTrouble::TooLarge => {
                ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {max} bytes"))
            }
            BodyTrouble::TooSlow => {
                ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")
            }
            BodyTrouble::Broken => ApiError::bad("the body ended before its announced length"),
            BodyTrouble::Encoding => ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send the body plain, or as Content-Encoding gzip or deflate",
            ),
        }
    }

    /// With the path and the time of the request.
    pub fn at(&self, path: &str, now: Millis) -> Response {
        let title = self.status.canonical_reason().unwrap_or("error").to_owned();
        let body = ErrorBody {
            status_code: self.status.as_u16(),
            message: self.message.clone(),
            path: path.to_owned(),
            timestamp: now.iso(),
            kind: "about:blank".to_owned(),
            title,
            status: self.status.as_u16(),
            detail: self.message.clone(),
            errors: self.errors.clone(),
        };
        let text = serde_json::to_string(&body).unwrap_or_default();
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/json")], text).into_response();
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

/// The gate writes the body: it knows the path.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Trouble> for ApiError {
    fn from(trouble: Trouble) -> ApiError {
        match trouble {
            Trouble::Busy => {
                ApiError::new(StatusCode::TOO_MANY_REQUESTS, "more arrives than can be written: come again")
            }
            Trouble::Broken(why) => {
                tracing::error!("the store cannot be used: {why}");
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "nothing was kept: come again")
            }
            Trouble::FenceLost => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "another process does this work now")
            }
            Trouble::Refused(reason) => {
                let status = match reason.code.as_str() {
                    "not_found" => StatusCode::NOT_FOUND,
                    "idempotency_conflict" => StatusCode::UNPROCESSABLE_ENTITY,
                    _ => StatusCode::CONFLICT,
                };
                ApiError::new(status, reason.text)
            }
        }
    }
}
