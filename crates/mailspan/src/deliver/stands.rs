//! How destinations stand is written down, with what the hub says of it.

use std::sync::atomic::Ordering;

use mailspan_core::{DestinationId, Reason};
use mailspan_engine::{Happened, Notice};
use mailspan_store::{Trouble, Write};
use tokio::sync::mpsc;

use crate::app::{App, Stood};
use crate::drill;
use crate::intake::system;
use crate::runtime;
use crate::telemetry::quiet::quiet;

/// How long a broken store is left alone before a standing is written again.
const AGAIN_MS: u64 = 1_000;

/// Keeps the standings of destinations, one after another, so that the last word is the one that stays.
/// What cannot be written is tried again: a dead credential must not be used after a restart. What the store refuses
/// is given up, as it would be refused again, and those of others wait behind it.
pub async fn keep_standings(app: App, mut stands: mpsc::Receiver<Stood>) {
    while let Some(stood) = stands.recv().await {
        if !keep(&app, &stood).await {
            return;
        }
        app.stood_kept.fetch_add(1, Ordering::SeqCst);
        if let Stood::Word { destination, paused: None, .. } = stood {
            // Where several share a store a claim before this found it paused.
            app.tell(Happened::Offered { destination }).await;
        }
        app.route_wake.notify_one();
        app.has_moved();
    }
}

/// False where this process ends before it is kept.
async fn keep(app: &App, stood: &Stood) -> bool {
    loop {
        drill::stand_point("stand-before-commit");
        match app.store.write(write(app, stood)).await {
            Ok(_) => {
                drill::stand_point("stand-after-commit");
                tell(app, stood);
                return true;
            }
            // Another process serves it, and finds out for itself.
            Err(Trouble::FenceLost) => {
                tracing::warn!(
                    destination = stood.destination().0,
                    "how it stands was not kept: another process serves it since this one was silent"
                );
                return true;
            }
            Err(Trouble::Refused(why)) => {
                tracing::error!(
                    destination = stood.destination().0,
                    "how it stands was not kept, and is not known after a restart: the store refuses it: {}; report \
                     this as a bug",
                    quiet(&why)
                );
                return true;
            }
            Err(trouble) if app.stopping() => {
                tracing::error!("the standing of a destination was not kept: {trouble}");
                return false;
            }
            Err(trouble) => {
                tracing::warn!("the standing of a destination waits: {trouble}");
                runtime::sleep(AGAIN_MS).await;
            }
        }
    }
}

fn write(app: &App, stood: &Stood) -> Write {
    let (live, at) = (app.live(), runtime::now());
    match stood {
        Stood::Word { destination, fence, paused } => {
            let say = system::of_standing(&live, *destination, paused.as_ref());
            Write::Stand { destination: *destination, fence: *fence, paused: paused.clone(), at, say }
        }
        Stood::Breaker { destination, fence, what } => {
            let (say, degraded) =
                (system::of_breaker(&live, *destination, what), *what != Notice::BreakerClosed);
            Write::Degrade { destination: *destination, fence: *fence, degraded, at, say }
        }
    }
}

impl Stood {
    fn destination(&self) -> DestinationId {
        match self {
            Stood::Word { destination, .. } | Stood::Breaker { destination, .. } => *destination,
        }
    }
}

fn tell(app: &App, stood: &Stood) {
    match stood {
        Stood::Word { destination, paused, .. } => tell_word(app, *destination, paused.as_ref()),
        Stood::Breaker { destination, what, .. } => tell_breaker(app, *destination, what),
    }
}

fn tell_word(app: &App, destination: DestinationId, paused: Option<&Reason>) {
    let live = app.live();
    let Some(settings) = live.destinations.get(&destination) else { return };
    let name = &settings.name;
    match paused {
        Some(reason) => tracing::warn!(
            destination = %name,
            "paused, its queue is kept: {}; see `mailspan destinations list`, mend it, then `mailspan destinations resume {name}`",
            quiet(reason)
        ),
        None => tracing::info!(destination = %name, "active again"),
    }
}

fn tell_breaker(app: &App, destination: DestinationId, what: &Notice) {
    let live = app.live();
    let Some(settings) = live.destinations.get(&destination) else { return };
    match what {
        Notice::BreakerOpened { reason, probe_at } => tracing::warn!(
            destination = %settings.name,
            "degraded, deliveries wait until {}: {}; see `mailspan destinations list`",
            probe_at.rfc3339(), quiet(reason)
        ),
        Notice::BreakerClosed => tracing::info!(destination = %settings.name, "works again"),
        Notice::QuotaInDanger { .. } => {}
    }
}
