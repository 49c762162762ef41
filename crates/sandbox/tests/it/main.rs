//! The fakes, called through their routers: no sockets, no waiting.
#![allow(clippy::unwrap_used, reason = "helpers of tests; clippy.toml allows it in #[test] functions only")]

mod hubspot;
mod hubspot_faults;
mod maileon;
mod mailingcore;
mod mailtarget;
mod receiver;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use http_body_util::BodyExt;
use mailspan_core::Millis;
use mailspan_sandbox::Clock;
use serde_json::Value;
use tower::ServiceExt;

/// A clock that stands until it is moved.
#[derive(Clone)]
pub struct Time(Arc<AtomicI64>);

impl Time {
    /// 2026-05-08T03:00:00Z.
    pub fn still() -> Time {
        Time(Arc::new(AtomicI64::new(1_778_209_200_000)))
    }

    pub fn clock(&self) -> Clock {
        let now = self.0.clone();
        Arc::new(move || Millis(now.load(Ordering::Relaxed)))
    }

    pub fn pass(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

/// What came back; the body is null where it is empty, a string where it is no JSON.
#[derive(Debug)]
pub struct Back {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Back {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub const TOKEN: &str = "pat-sandbox";

/// Calls a router with the token; a null body is none.
pub async fn call(router: &Router, method: &str, path: &str, body: Value) -> Back {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    raw(router, method, path, &[("authorization", &format!("Bearer {TOKEN}"))], body)
        .await
        .expect("an answer")
}

/// Calls a router; the error is that of a body that breaks off.
pub async fn raw(
    router: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Result<Back, String> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    let body = match serde_json::from_slice(&bytes) {
        Ok(value) => value,
        Err(_) if bytes.is_empty() => Value::Null,
        Err(_) => Value::String(String::from_utf8_lossy(&bytes).into_owned()),
    };
    Ok(Back { status: parts.status.as_u16(), headers: parts.headers, body })
}
