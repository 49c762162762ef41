//! `/healthz`, `/readyz`, `/metrics`.

use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use mailspan_core::Millis;
use mailspan_store::{Trouble, Write};

use crate::app::App;
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::runtime;

pub async fn alive() -> &'static str {
    "alive\n"
}

/// 200 when work can be accepted: the store answers and the program is not stopping.
pub async fn ready(State(app): State<App>) -> Response {
    if app.stopping() {
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the program stops")
            .into_response();
    }
    match probe(&app).await {
        Ok(()) => "ready\n".into_response(),
        Err(trouble) => Problem::from(trouble).into_response(),
    }
}

/// How long after a failed write nothing less than a further one of its kind shows that the store is well.
const BROKEN_MS: u64 = 5_000;

/// A read; and a write where the last one failed, so that a disk with room again is noticed though
/// nobody sends any more.
async fn probe(app: &App) -> Result<(), Trouble> {
    app.store.unrouted(1).await?;
    let broken_at = app.broken_at.load(Ordering::Relaxed);
    if broken_at != 0 {
        let now = runtime::now();
        // A disk without room for events may have some for a probe.
        if now.since(Millis(broken_at)) < BROKEN_MS {
            return Err(Trouble::Broken(
                "what arrived a moment ago could not be kept: see the log".to_owned(),
            ));
        }
        let owner = runtime::random_u128();
        app.store.write(Write::Lease { name: "probe".to_owned(), owner, now, until: now }).await?;
        app.broken_at.store(0, Ordering::Relaxed);
    }
    Ok(())
}

pub async fn metrics(State(app): State<App>, caller: Caller) -> Result<Response, Problem> {
    caller.needs_whole("read")?;
    let live = app.live();
    for row in app.store.destinations(None).await? {
        if let Some(destination) = live.destinations.get(&row.destination) {
            app.metrics.standing(&destination.name, row.pending, row.dead, row.paused.is_some());
        }
    }
    for source in live.hub.sources.iter().filter(|source| source.asked.is_some()) {
        let Some(about) = live.source_id(&source.name) else { continue };
        let today = runtime::now().0.div_euclid(86_400_000);
        let days = app.store.listed(about, 1).await?;
        let sums = days.iter().filter(|day| day.day == today);
        let (listed, known) = sums.fold((0, 0), |(l, k), day| (l + day.listed, k + day.known));
        app.metrics.completeness(&source.name, listed, known);
    }
    app.metrics.sizes(&app.store.sizes().await?);
    app.metrics.unsubscribes_under_way(&app.store.unsubscribes_under_way().await?, runtime::now());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], app.metrics.text()).into_response())
}
