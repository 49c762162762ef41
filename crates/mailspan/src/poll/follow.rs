//! Begins rounds when they are due, some at once, none twice.

use std::sync::Arc;

use mailspan_core::limits::POLLS_MAX;
use mailspan_store::Trouble;

use super::next;
use super::turn::{Polled, turn};
use crate::app::{App, Live};
use crate::deliver::leases::RENEW_MS;
use crate::hub::Source;
use crate::runtime;

/// Between two looks where nothing is due sooner: what another process did is seen by then.
const REST_MS: u64 = 60_000;
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
                tracing::warn!("sources are not asked: {trouble}");
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
    let polled: Vec<&Arc<Source>> = live.hub.sources.iter().filter(|source| is_polled(source)).collect();
    if polled.is_empty() {
        return Ok(REST_MS);
    }
    let (rows, now) = (app.store.rounds().await?, runtime::now());
    let mut rest = REST_MS;
    for source in polled {
        let Some(about) = live.source_id(&source.name) else { continue };
        let row = rows.iter().find(|row| row.about == about);
        match next::wait(row, now) {
            None => {}
            Some(0) if app.rounds.under_way() >= POLLS_MAX => rest = rest.min(FULL_MS),
            Some(0) => begin(app, &live, source, about, owner),
            Some(wait) => rest = rest.min(wait),
        }
    }
    Ok(rest)
}

fn is_polled(source: &Source) -> bool {
    source.asked.as_ref().is_some_and(|asked| asked.poll.is_some())
}

fn begin(app: &App, live: &Arc<Live>, source: &Arc<Source>, about: i64, owner: u128) {
    let (app, live, source) = (app.clone(), live.clone(), source.clone());
    runtime::spawn(async move {
        let Some(ours) = app.rounds.begin(about) else { return };
        // Settings of a source stay those with which its turn began.
        let _live = live;
        let Some(asked) = &source.asked else { return };
        let Some(poll) = &asked.poll else { return };
        let of = Polled { source: &source, asked, poll, about };
        let rest = match turn(&app, &of, owner, false).await {
            Ok(_) => 0,
            // Another process is at it.
            Err(Trouble::FenceLost) => RENEW_MS,
            Err(trouble) => {
                tracing::warn!(source = %source.name, "what it said could not be kept: {trouble}");
                TROUBLE_MS
            }
        };
        runtime::sleep(rest).await;
        drop(ours);
        app.round_wake.notify_one();
    });
}
