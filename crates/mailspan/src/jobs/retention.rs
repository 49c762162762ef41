//! Retention: drops what is older than the configuration keeps, a small step at a time.

use mailspan_core::Span;
use mailspan_store::{Keep, Trouble, Write, Wrote};

use crate::app::App;
use crate::drill;
use crate::runtime;

/// Between two looks when nothing was left to drop.
const REST_MS: u64 = 60_000;
/// Between two steps while there is something to drop: live traffic goes between them.
const STEP_MS: u64 = 50;

/// Runs until the program stops.
pub async fn run(app: App) {
    let mut stop = app.stop.clone();
    let mut wait = STEP_MS;
    while !app.stopping() {
        tokio::select! { () = runtime::sleep(wait) => {}, _ = stop.changed() => continue }
        wait = match step(&app).await {
            Ok(0) => REST_MS,
            Ok(rows) => {
                tracing::debug!(rows, "retention dropped rows");
                STEP_MS
            }
            Err(trouble) => {
                tracing::warn!("retention waits: {trouble}");
                REST_MS
            }
        };
    }
}

/// One step; how many rows it dropped.
pub async fn step(app: &App) -> Result<usize, Trouble> {
    let retention = app.live().hub.retention;
    let ms = |span: Span| i64::try_from(span.ms).unwrap_or(i64::MAX);
    let keep = Keep {
        now: runtime::now(),
        requests_ms: ms(retention.requests),
        events_ms: ms(retention.events),
        dedupe_ms: ms(retention.dedupe),
    };
    drill::point("retention");
    match drill::begun("retention-in-commit", app.store.write(Write::Retain(keep))).await? {
        Wrote::Retained { rows } => Ok(rows),
        _ => Ok(0),
    }
}
