//! The router's shell: reads what waits, decides, commits, wakes the engine.

use mailspan_core::limits::ROUTE_BATCH_MAX;
use mailspan_engine::{Fence, Happened};
use mailspan_store::{Trouble, Write, Wrote};

use crate::app::App;
use crate::drill;
use crate::runtime;

/// How long a broken store is left alone.
const TROUBLE_MS: u64 = 1_000;

/// Runs until the program stops. One at a time, by the lease `router`.
pub async fn follow(app: App, fence: Fence) {
    let mut stop = app.stop.clone();
    while !app.stopping() {
        match step(&app, fence).await {
            Ok(0) => {
                tokio::select! { () = app.route_wake.notified() => {}, _ = stop.changed() => {} }
            }
            Ok(_) => {}
            Err(Trouble::FenceLost) => {
                tracing::error!("another process routes now: this router ends");
                return;
            }
            Err(trouble) => {
                tracing::warn!("routing waits: {trouble}");
                runtime::sleep(TROUBLE_MS).await;
            }
        }
    }
}

/// Routes what waits, at most [`ROUTE_BATCH_MAX`] events; how many there were.
pub async fn step(app: &App, fence: Fence) -> Result<usize, Trouble> {
    let events = app.store.unrouted(ROUTE_BATCH_MAX).await?;
    let n = events.len();
    if n == 0 {
        return Ok(0);
    }
    let live = app.live();
    let routed = events.into_iter().map(|event| super::route(&live, event)).collect();
    drill::point("route-before-commit");
    let wrote = drill::begun("route-in-commit", app.store.write(Write::Route { fence, routed })).await?;
    drill::point("route-after-commit");
    app.metrics.routed(n as u64);
    if let Wrote::Offered { destinations } = wrote {
        for destination in destinations {
            app.tell(Happened::Offered { destination }).await;
        }
    }
    app.has_moved();
    Ok(n)
}
