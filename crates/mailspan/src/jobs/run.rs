//! Runs jobs while the hub serves: one page of each in turn, live traffic between them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mailspan_engine::Fence;
use mailspan_store::{JobRow, Store, Trouble};

use crate::app::App;
use crate::contacts::import::IMPORT;
use crate::deliver::leases::RENEW_MS;
use crate::deliver::start;
use crate::jobs::replay::{self, Stepped};
use crate::runtime;

/// Between two rounds of pages.
const STEP_MS: u64 = 10;
/// While every job waits for room.
const WAIT_MS: u64 = 100;
/// How often a command looks whether a hub has done its job, [`WAIT_MS`] apart.
const LOOKS_MAX: u32 = 50;
/// After trouble with the store.
const TROUBLE_MS: u64 = 1_000;
/// Between two looks when no job runs; a new one wakes us.
const REST_MS: u64 = 60_000;
/// The same where other processes make jobs too, and may die over them.
const SHARED_REST_MS: u64 = RENEW_MS;

/// The leases of jobs that this process holds, with the moment each was asked for last.
type Held = HashMap<i64, (Fence, Instant)>;

/// Runs until the program stops.
pub async fn run(app: App, owner: u128) {
    let mut stop = app.stop.clone();
    let mut held = Held::new();
    while !app.stopping() {
        let wait = match round(&app, owner, &mut held).await {
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
async fn round(app: &App, owner: u128, held: &mut Held) -> Result<u64, Trouble> {
    let jobs = app.store.running_jobs().await?;
    held.retain(|id, _| jobs.iter().any(|job| job.id == *id));
    let mut wait = if is_shared(app) { SHARED_REST_MS } else { REST_MS };
    // The rows of an import come from its client.
    for job in jobs.iter().filter(|job| job.kind != IMPORT) {
        // The trouble of one does not hold up the others.
        let next = page(app, owner, held, job).await.unwrap_or_else(|trouble| {
            tracing::warn!(job = job.id, "the job waits: {trouble}");
            TROUBLE_MS
        });
        wait = wait.min(next);
    }
    Ok(wait)
}

async fn page(app: &App, owner: u128, held: &mut Held, job: &JobRow) -> Result<u64, Trouble> {
    let fence = match lease(app, owner, held, job.id).await {
        Ok(fence) => fence,
        // Another process runs it.
        Err(Trouble::FenceLost) => return Ok(TROUBLE_MS),
        Err(trouble) => return Err(trouble),
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
            held.remove(&job.id);
            Ok(TROUBLE_MS)
        }
        Err(trouble) => Err(trouble),
    }
}

fn is_shared(app: &App) -> bool {
    matches!(app.store, Store::Postgres(_))
}

/// Taken, or renewed in time where it runs out: who dies over a job loses it.
async fn lease(app: &App, owner: u128, held: &mut Held, id: i64) -> Result<Fence, Trouble> {
    let now = runtime::instant();
    let lasts = |asked: Instant| !is_shared(app) || now < asked + Duration::from_millis(RENEW_MS);
    if let Some((fence, _)) = held.get(&id).filter(|(_, asked)| lasts(*asked)) {
        return Ok(*fence);
    }
    held.remove(&id);
    let fence = start::lease(&app.store, &format!("job/{id}"), owner).await?;
    held.insert(id, (fence, now));
    Ok(fence)
}

/// Where this process serves nothing: does what can be done at once. The rest is done by a hub that runs.
pub async fn drive(app: &App, id: i64) -> Result<(), Trouble> {
    let (owner, mut held) = (runtime::random_u128(), Held::new());
    let mut looks = 0;
    while let Some(job) = app.store.job(id).await?.filter(|job| !job.state.has_ended()) {
        let stepped = match lease(app, owner, &mut held, id).await {
            Ok(fence) => replay::step(app, &job, fence).await,
            Err(trouble) => Err(trouble),
        };
        match stepped {
            Ok(Stepped::Page) => {}
            Ok(_) => return Ok(()),
            // A hub on the same database was quicker: short work is soon done.
            Err(Trouble::FenceLost) if is_shared(app) && looks < LOOKS_MAX => {
                looks += 1;
                runtime::sleep(WAIT_MS).await;
            }
            Err(Trouble::FenceLost) if is_shared(app) => return Ok(()),
            Err(trouble) => return Err(trouble),
        }
    }
    Ok(())
}
