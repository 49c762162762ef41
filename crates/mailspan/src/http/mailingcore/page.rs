//! `/openapi.json`, and a page to read and try it: Swagger UI from the binary, nothing from elsewhere.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;

use super::document;
use crate::app::App;

/// Both files are those of the npm package `swagger-ui-dist` 5.35.0 (Apache-2.0), packed by gzip.
const SCRIPT: &[u8] = include_bytes!("swagger/swagger-ui-bundle.js.gz");
const STYLE: &[u8] = include_bytes!("swagger/swagger-ui.css.gz");
const START: &str = include_str!("swagger/start.js");
const PAGE: &str = include_str!("swagger/page.html");

/// Swagger UI writes styles into the page and draws images of its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The document and the page.
pub fn routes(document: &utoipa::openapi::OpenApi) -> Router<App> {
    let text: Arc<str> = document::text(document).into();
    let json = move || {
        let text = text.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], text.to_string()) }
    };
    Router::new()
        .route("/openapi.json", get(json))
        .route("/docs", get(async || page()))
        .route("/docs/start.js", get(async || file("text/javascript", START.as_bytes(), false)))
        .route("/docs/swagger-ui-bundle.js", get(async || file("text/javascript", SCRIPT, true)))
        .route("/docs/swagger-ui.css", get(async || file("text/css", STYLE, true)))
}

fn page() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Html(PAGE))
}

fn file(kind: &'static str, bytes: &'static [u8], packed: bool) -> impl IntoResponse {
    let mut headers: Vec<(HeaderName, &'static str)> = vec![
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "public, max-age=3600"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    if packed {
        headers.push((header::CONTENT_ENCODING, "gzip"));
    }
    (axum::response::AppendHeaders(headers), bytes)
}
