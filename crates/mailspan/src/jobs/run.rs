//! Runs jobs while the hub serves: one page of each in turn, live traffic between them.

use std::collections::HashMap;

use mailspan_engine::Fence;
use mailspan_store::{JobRow, Trouble};

use crate::app::App;
use crate::deliver::start;
use crate::jobs::replay::{self, Stepped};
use crate::runtime;

/// Between two rounds of pages.
const STEP_MS: u64 = 10;
/// While every job waits for room.
const WAIT_MS: u64 = 100;
/// After trouble with the store.
const TROUBLE_MS: u64 = 1_000;
/// Between two looks when no job runs; a new one wakes us.
const REST_MS: u64 = 60_000;

/// Runs until the program stops.
pub async fn run(app: App, owner: u128) {
    let mut stop = app.stop.clone();
    let mut fences = HashMap::new();
    while !app.stopping() {
        let wait = match round(&app, owner, &mut fences).await {
            Ok(wait) => wait,
            Err(trouble) => {
                tracing::warn!("jobs wait: {trouble}");
                TROUBLE_MS
            }
        };
        tokio::select! {
            () = runtime::sleep(wait) => {}
            () = app.job_wake.notified() => {}
            _ = stop.changed() => {}
        }
    }
}

/// A page of each job; how long to wait before the next round.
async fn round(app: &App, owner: u128, fences: &mut HashMap<i64, Fence>) -> Result<u64, Trouble> {
    let jobs = app.store.running_jobs().await?;
    fences.retain(|id, _| jobs.iter().any(|job| job.id == *id));
    let mut wait = REST_MS;
    for job in &jobs {
        // The trouble of one does not hold up the others.
        let next = page(app, owner, fences, job).await.unwrap_or_else(|trouble| {
            tracing::warn!(job = job.id, "the job waits: {trouble}");
            TROUBLE_MS
        });
        wait = wait.min(next);
    }
    Ok(wait)
}

async fn page(
    app: &App,
    owner: u128,
    fences: &mut HashMap<i64, Fence>,
    job: &JobRow,
) -> Result<u64, Trouble> {
    let fence = match fences.get(&job.id) {
        Some(fence) => *fence,
        None => match start::lease(&app.store, &format!("job/{}", job.id), owner).await {
            Ok(fence) => *fences.entry(job.id).or_insert(fence),
            // Another process runs it.
            Err(Trouble::FenceLost) => return Ok(TROUBLE_MS),
            Err(trouble) => return Err(trouble),
        },
    };
    match replay::step(app, job, fence).await {
        Ok(Stepped::Page | Stepped::Ended) => Ok(STEP_MS),
        Ok(Stepped::Waits) => Ok(WAIT_MS),
        // Paused or cancelled since it was read.
        Err(Trouble::Refused(reason)) => {
            tracing::debug!(job = job.id, "a page was not written: {reason}");
            Ok(WAIT_MS)
        }
        Err(Trouble::FenceLost) => {
            fences.remove(&job.id);
            Ok(TROUBLE_MS)
        }
        Err(trouble) => Err(trouble),
    }
}

/// Where no hub runs: does what can be done at once. The rest goes on when a hub is started.
pub async fn drive(app: &App, id: i64) -> Result<(), Trouble> {
    let fence = start::lease(&app.store, &format!("job/{id}"), runtime::random_u128()).await?;
    while let Some(job) = app.store.job(id).await? {
        if replay::step(app, &job, fence).await? != Stepped::Page {
            return Ok(());
        }
    }
    Ok(())
}
