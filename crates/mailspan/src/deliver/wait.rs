//! `?wait=10s`: answers with what each destination said.

use mailspan_core::{EventId, State};
use mailspan_store::{DeliveryFilter, DeliveryRow, Store, Trouble};

use crate::app::App;
use crate::runtime;

/// A settle storm wakes a waiter at most so often.
const LOOK_AGAIN_MS: u64 = 20;
/// Where other processes deliver too a waiter looks so often.
const SHARED_LOOK_MS: u64 = 250;

/// The deliveries of the events once all of them have ended, or nothing when the time is up or the program
/// stops.
pub async fn settled(
    app: &App,
    events: &[EventId],
    wait_ms: u64,
) -> Result<Option<Vec<DeliveryRow>>, Trouble> {
    let mut moved = app.moved.subscribe();
    let look = async {
        loop {
            moved.mark_unchanged();
            if let Some(rows) = all_ended(app, events).await? {
                return Ok(rows);
            }
            let changed = match app.store {
                Store::Sqlite(_) => moved.changed().await,
                // Another process may deliver, and says nothing of it.
                Store::Postgres(_) => {
                    runtime::within(SHARED_LOOK_MS, moved.changed()).await.unwrap_or(Ok(()))
                }
            };
            if changed.is_err() {
                return Err(Trouble::Broken("the program stops".to_owned()));
            }
            runtime::sleep(LOOK_AGAIN_MS).await;
        }
    };
    let mut stop = app.stop.clone();
    tokio::select! {
        rows = runtime::within(wait_ms, look) => rows.transpose(),
        // The program stops: what was accepted is kept, and the caller is told so.
        _ = stop.wait_for(|stop| *stop) => Ok(None),
    }
}

async fn all_ended(app: &App, events: &[EventId]) -> Result<Option<Vec<DeliveryRow>>, Trouble> {
    let mut rows = Vec::new();
    for id in events {
        let Some(row) = app.store.event(*id).await? else { return Ok(None) };
        if row.place == "waiting" {
            return Ok(None);
        }
        let filter = DeliveryFilter { event: Some(*id), limit: 1_000, ..DeliveryFilter::default() };
        let of_event = app.store.deliveries(filter).await?;
        if of_event.iter().any(|row| row.state == State::Pending) {
            return Ok(None);
        }
        rows.extend(of_event);
    }
    Ok(Some(rows))
}
