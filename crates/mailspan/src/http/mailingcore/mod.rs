//! The MailingCore-compatible API: contacts, suppressions, webhook endpoints; paths hang off the root.
//!
//! What the vendor's pages leave open is decided in `docs/API.md`.

pub mod attempts;
pub mod bulk;
pub mod contacts;
pub mod document;
pub mod endpoints;
pub mod errors;
pub mod gate;
pub mod input;
pub mod list;
pub mod once;
pub mod page;
pub mod rates;
pub mod shape;
pub mod suppressions;

use axum::response::Response;
use axum::{Router, middleware};
use mailspan_core::Millis;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use errors::ApiError;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Mailspan: contacts API",
        description = "Compatible with MailingCore: contacts, suppressions and webhook endpoints of one tenant. \
The tenant is that of the API key; `X-Tenant-Id` may repeat it.",
    ),
    modifiers(&Keys),
    security(("api_key" = [])),
)]
struct Document;

struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("api_key", SecurityScheme::Http(scheme));
    }
}

/// Every operation, with the gate around it, and the document that is drawn from them.
pub fn routes(app: &App) -> (Router<App>, utoipa::openapi::OpenApi) {
    let (router, document) = operations().split_for_parts();
    let router = router
        .method_not_allowed_fallback(gate::wrong_method)
        .layer(middleware::from_fn_with_state(app.clone(), gate::pass));
    (router, document)
}

/// An unknown path below one of this API, in its own words.
pub fn nothing_at(path: &str, now: Millis) -> Option<Response> {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let is_below = matches!(first, "contacts" | "suppressions") || path.starts_with("/webhooks/endpoints/");
    is_below.then(|| ApiError::not_found("the path").at(path, now))
}

fn operations() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(contacts::list, contacts::put))
        .routes(routes!(contacts::show, contacts::patch, contacts::erase))
        .routes(routes!(bulk::bulk))
        .routes(routes!(suppressions::list, suppressions::add))
        .routes(routes!(suppressions::remove))
        .routes(routes!(endpoints::list, endpoints::create))
        .routes(routes!(endpoints::remove))
        .routes(routes!(endpoints::toggle))
        .routes(routes!(endpoints::rotate))
        .routes(routes!(attempts::list))
        .routes(routes!(attempts::test))
        .routes(routes!(attempts::redeliver))
}
