//! The router's shell: reads what waits, decides, commits, wakes the engine.

use mailspan_core::limits::ROUTE_BATCH_MAX;
use mailspan_core::{Event, EventId, Name, State};
use mailspan_engine::{Fence, Happened};
use mailspan_store::{Routed, Trouble, Write, Wrote};
use tokio::sync::watch;

use crate::app::{App, Live};
use crate::drill;
use crate::intake::system;
use crate::runtime;
use crate::telemetry::quiet::quiet;

/// How long a broken store is left alone.
const TROUBLE_MS: u64 = 1_000;
/// A step of so many events shows that many arrive.
const GATHER_EVENTS: usize = 64;
/// How long the router then waits for more: persons, indexes and the sync are touched once for all of a step, so
/// fewer and larger steps leave more of the writer to intake. With less traffic it does not wait at all.
const GATHER_MS: u64 = 40;
/// How long the conditions of one step may compute.
const ROUTE_MS_MAX: u128 = 100;

/// Runs until the program stops or the lease `router` is over: one process routes at a time.
pub async fn follow(app: App, fence: Fence, mut over: watch::Receiver<bool>) {
    let mut stop = app.stop.clone();
    while !app.stopping() && !*over.borrow() {
        match step(&app, fence).await {
            Ok(0) => {
                tokio::select! {
                    () = app.route_wake.notified() => {}
                    _ = stop.changed() => {}
                    // Where the lease lasts as long as the process nobody holds the other end.
                    Ok(()) = over.changed() => {}
                }
            }
            Ok(GATHER_EVENTS..ROUTE_BATCH_MAX) => runtime::sleep(GATHER_MS).await,
            Ok(_) => {}
            Err(Trouble::FenceLost) => {
                tracing::warn!("another process routes now: this router ends");
                return;
            }
            Err(trouble) => {
                tracing::warn!("routing waits: {trouble}");
                runtime::sleep(TROUBLE_MS).await;
            }
        }
    }
}

/// As many as can be decided in [`ROUTE_MS_MAX`], one at least: the rest is read again. A slow condition
/// holds up the router, but nobody at the door.
fn within_budget(live: &Live, events: Vec<Event>) -> Vec<Routed> {
    let began = runtime::instant();
    let mut routed = Vec::with_capacity(events.len());
    for event in events {
        if !routed.is_empty() && began.elapsed().as_millis() > ROUTE_MS_MAX {
            break;
        }
        routed.push(super::route(live, event));
    }
    routed
}

/// A delivery that its route's condition failed for.
struct Dead {
    destination: Name,
    event: EventId,
    /// As a log may have it: what the condition says may quote the event.
    why: String,
}

/// Those of a step, each with what is to be said of it in the same write.
fn dead_letters(live: &Live, routed: &mut [Routed]) -> Vec<Dead> {
    let mut dead = Vec::new();
    for one in routed {
        for towards in &mut one.to {
            let Some(reason) = &towards.failed else { continue };
            towards.say = system::of_dead(live, &one.event.tenant);
            let settings = live.destinations.get(&towards.destination);
            let destination = settings.map_or(Name::new(""), |settings| settings.name.clone());
            dead.push(Dead { destination, event: one.event.id, why: quiet(reason) });
        }
    }
    dead
}

/// Routes what waits, at most [`ROUTE_BATCH_MAX`] events; how many there were.
pub async fn step(app: &App, fence: Fence) -> Result<usize, Trouble> {
    let events = app.store.unrouted(ROUTE_BATCH_MAX).await?;
    if events.is_empty() {
        return Ok(0);
    }
    let live = app.live();
    let deciding = live.clone();
    let Some(mut routed) = app.turns.route(move || within_budget(&deciding, events)).await else {
        return Err(Trouble::Broken("a condition panicked".to_owned()));
    };
    let n = routed.len();
    let dead = dead_letters(&live, &mut routed);
    drill::point("route-before-commit");
    let wrote = drill::begun("route-in-commit", app.store.write(Write::Route { fence, routed })).await?;
    drill::point("route-after-commit");
    app.metrics.routed(n as u64);
    for Dead { destination, event, why } in &dead {
        app.metrics.settled(destination, State::Dead.name());
        tracing::warn!(
            destination = %destination, event = %event,
            "dead letter: {why}; see `mailspan dead-letters list --event {event}`"
        );
    }
    if !dead.is_empty() {
        // What was said of them waits to be routed.
        app.route_wake.notify_one();
    }
    if let Wrote::Offered { destinations } = wrote {
        for destination in destinations {
            app.tell(Happened::Offered { destination }).await;
        }
    }
    app.has_moved();
    Ok(n)
}
