//! `/healthz`, `/readyz`, `/metrics`.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::http::auth::Caller;
use crate::http::problem::Problem;

pub async fn alive() -> &'static str {
    "alive\n"
}

/// 200 when work can be accepted: the store answers and the program is not stopping.
pub async fn ready(State(app): State<App>) -> Response {
    if app.stopping() {
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the program stops")
            .into_response();
    }
    match app.store.unrouted(1).await {
        Ok(_) => "ready\n".into_response(),
        Err(trouble) => Problem::from(trouble).into_response(),
    }
}

pub async fn metrics(State(app): State<App>, caller: Caller) -> Result<Response, Problem> {
    caller.needs_whole("read")?;
    let live = app.live();
    for row in app.store.destinations(None).await? {
        if let Some(destination) = live.destinations.get(&row.destination) {
            app.metrics.standing(&destination.name, row.pending, row.dead, row.paused.is_some());
        }
    }
    app.metrics.sizes(&app.store.sizes().await?);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], app.metrics.text()).into_response())
}
