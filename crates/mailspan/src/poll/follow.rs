//! Begins rounds when they are due, some at once, none twice.

use std::sync::Arc;

use mailspan_core::limits::POLLS_MAX;
use mailspan_core::{DestinationId, Name};
use mailspan_store::{Store, Trouble};

use super::next;
use super::resync::{self, Resynced};
use super::turn::{Polled, turn};
use crate::app::{App, Live};
use crate::deliver::leases::RENEW_MS;
use crate::hub::{Destination, Source};
use crate::runtime;

/// Between two looks where nothing is due sooner.
const REST_MS: u64 = 60_000;
/// The same where other processes, commands among them, make rounds due too.
const SHARED_REST_MS: u64 = RENEW_MS;
/// While as many are asked as may be.
const FULL_MS: u64 = 1_000;
/// After trouble with the store.
const TROUBLE_MS: u64 = 1_000;

/// Runs until the program stops.
pub async fn run(app: App, owner: u128) {
    let mut stop = app.stop.clone();
    while !app.stopping() {
        let wait = match look(&app, owner).await {
            Ok(wait) => wait,
            Err(trouble) => {
                tracing::warn!("rounds wait: {trouble}");
                TROUBLE_MS
            }
        };
        tokio::select! {
            () = runtime::sleep(wait) => {}
            () = app.round_wake.notified() => {}
            _ = stop.changed() => {}
        }
    }
}

/// Begins what is due; how long until the next look.
async fn look(app: &App, owner: u128) -> Result<u64, Trouble> {
    let live = app.live();
    let all = rounds(&live);
    if all.is_empty() {
        return Ok(REST_MS);
    }
    let (rows, now) = (app.store.rounds().await?, runtime::now());
    let mut rest = if matches!(app.store, Store::Postgres(_)) { SHARED_REST_MS } else { REST_MS };
    for (about, round) in all {
        let row = rows.iter().find(|row| row.about == about);
        match next::wait(row, now) {
            None => {}
            Some(0) if app.rounds.under_way() >= POLLS_MAX => rest = rest.min(FULL_MS),
            Some(0) => begin(app, round, about, owner),
            Some(wait) => rest = rest.min(wait),
        }
    }
    Ok(rest)
}

/// What comes again.
enum Round {
    Poll(Arc<Source>),
    Resync(Arc<Destination>, u64),
}

/// With the numbers of their names.
fn rounds(live: &Live) -> Vec<(i64, Round)> {
    let mut all = Vec::new();
    for source in live.hub.sources.iter().filter(|source| is_polled(source)) {
        all.extend(live.source_id(&source.name).map(|about| (about, Round::Poll(source.clone()))));
    }
    for destination in &live.hub.destinations {
        let Some(every) = destination.resync else { continue };
        let id = live.destination_id(destination.name.as_str());
        all.extend(id.map(|id| (id.0, Round::Resync(destination.clone(), every.ms))));
    }
    all
}

fn is_polled(source: &Source) -> bool {
    source.asked.as_ref().is_some_and(|asked| asked.poll.is_some())
}

fn begin(app: &App, round: Round, about: i64, owner: u128) {
    let app = app.clone();
    runtime::spawn(async move {
        let Some(ours) = app.rounds.begin(about) else { return };
        let rest = match one_turn(&app, &round, about, owner).await {
            Ok(()) => 0,
            // Another process is at it.
            Err(Trouble::FenceLost) => RENEW_MS,
            Err(trouble) => {
                tracing::warn!(about = %round.name(), "a round waits: {trouble}");
                TROUBLE_MS
            }
        };
        runtime::sleep(rest).await;
        drop(ours);
        app.round_wake.notify_one();
    });
}

async fn one_turn(app: &App, round: &Round, about: i64, owner: u128) -> Result<(), Trouble> {
    match round {
        Round::Poll(source) => {
            let Some((asked, poll)) =
                source.asked.as_ref().and_then(|asked| Some((asked, asked.poll.as_ref()?)))
            else {
                return Ok(());
            };
            let of = Polled { source, asked, poll, about };
            turn(app, &of, owner, false).await.map(|_| ())
        }
        Round::Resync(settings, every_ms) => {
            let of = Resynced { settings, id: DestinationId(about), every_ms: *every_ms };
            resync::turn(app, &of, owner).await
        }
    }
}

impl Round {
    fn name(&self) -> &Name {
        match self {
            Round::Poll(source) => &source.name,
            Round::Resync(destination, _) => &destination.name,
        }
    }
}
