//! Takes the leases and opens a desk for each destination.

use std::sync::Arc;

use mailspan_connectors::contract::Sink;
use mailspan_core::{Attempt, DestinationId, Millis};
use mailspan_engine::{Fence, Happened, day_began};
use mailspan_store::{LastSent, Store, Trouble, Write, Wrote};

use crate::app::App;
use crate::deliver::flight::Flight;
use crate::deliver::flown::Flown;
use crate::deliver::leases::LEASE_MS;
use crate::hub::Destination;
use crate::runtime;
use crate::telemetry::quiet::quiet;

/// Leases that are asked for together: a part of what the store takes in one transaction.
pub const LEASES_AT_ONCE: usize = 32;

/// The lease of one piece of work. On SQLite the lock on the file proves that nobody else lives, so the
/// store freed all leases when it was opened, and ours lasts as long as the lock. On PostgreSQL it lasts
/// [`LEASE_MS`] and is renewed by the same call. [`Trouble::FenceLost`] while another process holds it.
pub async fn lease(store: &Store, name: &str, owner: u128) -> Result<Fence, Trouble> {
    let now = runtime::now();
    let until = match store {
        Store::Sqlite(_) => Millis(i64::MAX),
        Store::Postgres(_) => now.plus(LEASE_MS),
    };
    let write = Write::Lease { name: name.to_owned(), owner, now, until };
    match store.write(write).await? {
        Wrote::Lease { fence: Some(fence) } => Ok(fence),
        _ => Err(Trouble::FenceLost),
    }
}

/// Opens desks for all destinations of the configuration in force.
pub async fn open_desks(app: &App, owner: u128) -> Result<(), Trouble> {
    let live = app.live();
    let all: Vec<_> = live.destinations.iter().collect();
    // Those that are asked for at once share a sync.
    for some in all.chunks(LEASES_AT_ONCE) {
        let ids = some.iter().map(|(id, _)| **id);
        let leased = ids.map(|id| async move { lease(&app.store, &name_of(id), owner).await });
        let leased = runtime::together(leased).await.into_iter().collect::<Result<Vec<Fence>, _>>()?;
        let held = some.iter().zip(leased).map(|((id, settings), fence)| (**id, *settings, fence));
        open_all(app, &held.collect::<Vec<_>>()).await?;
    }
    Ok(())
}

/// Tells the engine of desks whose leases were just taken.
pub async fn open_all(app: &App, held: &[(DestinationId, &Arc<Destination>, Fence)]) -> Result<(), Trouble> {
    // Read once those leases are held: an earlier owner writes nothing more.
    let last = app.store.last_sent().await?;
    let reads = held.iter().map(|(id, settings, fence)| async move {
        opened(&app.store, *id, settings, *fence, app.flight.get()).await
    });
    for ((id, settings, fence), opened) in held.iter().zip(runtime::together(reads).await) {
        tell_opened(app, (*id, *fence), settings, opened?, &last).await?;
    }
    Ok(())
}

/// The name of a destination's lease.
pub fn name_of(destination: DestinationId) -> String {
    format!("destination/{}", destination.0)
}

/// Tells the engine of a desk, and what an earlier process sent within the window of its rate: so a restart
/// costs no more of it than was used.
pub async fn tell_opened(
    app: &App,
    (destination, fence): (DestinationId, Fence),
    settings: &Destination,
    opened: [Happened; 2],
    last: &LastSent,
) -> Result<(), Trouble> {
    let now = runtime::now();
    let window = i64::try_from(settings.limits.rate.per_ms).unwrap_or(i64::MAX);
    let sent = last.since(destination, Millis(now.0.saturating_sub(window)));
    let unseen = match &sent {
        Some(sent) if !sent.is_empty() => settings.limits.unseen_max(),
        _ => 0,
    };
    if settings.limits.has_long_window() {
        presume(&app.store, destination, fence, unseen, now).await?;
    }
    for one in opened {
        app.tell(one).await;
    }
    // The engine's clock may be ahead of the wall clock, which stands in the rows.
    let ahead = runtime::steady().since(now);
    if let Some(sent) = sent {
        let sent = sent.into_iter().map(|at| at.plus(ahead)).collect();
        app.tell(Happened::SentBefore { destination, sent, unseen }).await;
    }
    Ok(())
}

/// Keeps that so many requests may have been sent which nobody could write down: whoever takes this lease next, within
/// the same window, counts them too. They are of no delivery.
async fn presume(
    store: &Store,
    destination: DestinationId,
    fence: Fence,
    unseen: u32,
    at: Millis,
) -> Result<(), Trouble> {
    if unseen == 0 {
        return Ok(());
    }
    let one = Attempt { at, took_ms: 0, items: 0, status: 0, request: None, answer: None };
    let attempts = (0..unseen).map(|_| one.clone()).collect();
    let write = Write::Settle { destination, fence, settlements: vec![], attempts, at, say: vec![] };
    store.write(write).await.map(|_| ())
}

/// Takes the lease of a destination and reads its standing: what the engine is to be told.
pub async fn desk(
    store: &Store,
    owner: u128,
    id: DestinationId,
    settings: &Destination,
    flight: Option<&Arc<Flight>>,
) -> Result<[Happened; 2], Trouble> {
    let fence = lease(store, &name_of(id), owner).await?;
    opened(store, id, settings, fence, flight).await
}

/// What the engine is to be told of a destination whose lease is held: that it is open, and what the day has seen.
pub async fn opened(
    store: &Store,
    id: DestinationId,
    settings: &Destination,
    fence: Fence,
    flight: Option<&Arc<Flight>>,
) -> Result<[Happened; 2], Trouble> {
    let stands = store.standing(id).await?;
    let degraded = stands.as_ref().is_some_and(|row| row.degraded.is_some());
    let paused = stands.and_then(|row| row.paused).or_else(|| settings.held().cloned());
    if let Some(reason) = &paused {
        let name = &settings.name;
        tracing::warn!(destination = %name, "still paused: {}; `mailspan destinations resume {name}`", quiet(reason));
    }
    let limits = settings.limits.clone();
    let sink: Arc<dyn Sink> = match flight {
        Some(flight) => {
            Arc::new(Flown { sink: settings.sink.clone(), destination: id, flight: flight.clone() })
        }
        None => settings.sink.clone(),
    };
    let requests = store.spent_since(id, day_began(runtime::now(), limits.day_starts_ms)).await?;
    let opened = Happened::Opened { destination: id, fence, limits, sink, paused, degraded };
    Ok([opened, Happened::Spent { destination: id, requests }])
}
