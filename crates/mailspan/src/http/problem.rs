//! Errors of the HTTP surface: RFC 9457 `application/problem+json`.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use mailspan_store::Trouble;

/// How long a sender should wait when we are in trouble: longer than a checkpoint, shorter than its patience.
const RETRY_AFTER_S: &str = "5";

/// What a caller is told. Internal detail is logged by whoever made it, not carried here.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// Stable, for programs.
    pub code: String,
    /// For people: what is wrong and what to do.
    pub detail: String,
}

impl Problem {
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Problem {
        Problem { status, code: code.to_owned(), detail: detail.into() }
    }

    pub fn bad(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
    }
}

impl From<Trouble> for Problem {
    fn from(trouble: Trouble) -> Problem {
        match trouble {
            Trouble::Busy => Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "busy",
                "more arrives than can be written: come again",
            ),
            Trouble::Broken(why) => {
                tracing::error!("the store cannot be used: {why}");
                Problem::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "store_unavailable",
                    "nothing was kept: come again",
                )
            }
            Trouble::FenceLost => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "not_the_owner",
                "another process does this work now",
            ),
            Trouble::Refused(reason) if reason.code == "idempotency_conflict" => {
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, &reason.code, reason.text)
            }
            Trouble::Refused(reason) => Problem::new(StatusCode::CONFLICT, &reason.code, reason.text),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("error"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        let mut response =
            (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string())
                .into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER_S));
        }
        response
    }
}
