//! On a database that several processes share: who routes, and who serves which destination.
//!
//! A lease lasts [`LEASE_MS`] and is renewed each half of it, all in one transaction. Who hangs or is cut off loses it then; who dies
//! loses it at once, as its session ends. Another process takes it with the next fence; what the first one
//! writes after that is refused.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::Poll;

use mailspan_core::DestinationId;
use mailspan_engine::{Fence, Happened};
use mailspan_store::{Trouble, Write, Wrote};
use tokio::sync::watch;

use crate::app::App;
use crate::deliver::start;
use crate::route::follow::follow;
use crate::runtime;

/// How long a process may be silent before another takes over.
pub const LEASE_MS: u64 = 10_000;
pub const RENEW_MS: u64 = LEASE_MS / 2;
/// After a renewal that failed: nothing is sent meanwhile, so it is tried again soon.
const AGAIN_MS: u64 = 1_000;

/// What this process holds.
#[derive(Default)]
struct Held {
    router: Option<(Fence, watch::Sender<bool>)>,
    desks: HashMap<DestinationId, Fence>,
}

/// Takes and renews leases until the program stops. The store frees them at an orderly end.
pub async fn keep(app: App, owner: u128) {
    let mut held = Held::default();
    let mut stop = app.stop.clone();
    let mut lost = app.store.lost();
    while !app.stopping() {
        let (began, sessions_lost) = (runtime::instant(), app.sessions_lost());
        let rest = match turn(&app, owner, &mut held).await {
            Ok(()) => {
                app.leased_until(began, LEASE_MS, sessions_lost);
                RENEW_MS
            }
            Err(trouble) => {
                tracing::warn!("leases could not be renewed: {trouble}");
                AGAIN_MS
            }
        };
        tokio::select! {
            () = runtime::sleep(rest) => {}
            () = another(&mut lost) => {}
            _ = stop.changed() => {}
        }
    }
    if let Some((_, over)) = held.router {
        // The router may have ended by itself.
        let _ = over.send(true);
    }
}

/// Resolves when a session was lost: leases are asked for again at once.
async fn another(lost: &mut Option<watch::Receiver<u64>>) {
    if let Some(lost) = lost
        && lost.changed().await.is_ok()
    {
        return;
    }
    // Nothing is lost on SQLite, nor in a store that is closed.
    std::future::pending().await
}

async fn turn(app: &App, owner: u128, held: &mut Held) -> Result<(), Trouble> {
    let live = app.live();
    let destinations: Vec<_> = live.destinations.iter().collect();
    // Asked for at once, they share a transaction and its sync.
    let mut asked: Vec<Asked> = vec![Box::pin(lease(app, "router".to_owned(), owner))];
    for (id, _) in &destinations {
        asked.push(Box::pin(lease(app, format!("destination/{}", id.0), owner)));
    }
    let mut given = all(asked).await.into_iter();
    router(app, given.next().transpose()?.flatten(), held);
    for ((id, settings), now) in destinations.into_iter().zip(given) {
        let now = now?;
        let before = held.desks.get(id).copied();
        match (before, now) {
            (before, Some(fence)) if before != Some(fence) => {
                held.desks.insert(*id, fence);
                app.owns(*id, true);
                let opened = start::opened(&app.store, *id, settings, fence, app.flight.get()).await?;
                start::tell_opened(app, *id, settings, opened).await?;
                tracing::info!(destination = %settings.name, fence = fence.0, "served by this process");
            }
            (Some(_), Some(_)) => follow_standing(app, *id).await?,
            (Some(_), None) => {
                held.desks.remove(id);
                app.owns(*id, false);
                app.tell(Happened::Closed { destination: *id }).await;
                tracing::warn!(destination = %settings.name, "served by another process now");
            }
            (None, _) => {}
        }
    }
    Ok(())
}

type Asked<'a> = Pin<Box<dyn Future<Output = Result<Option<Fence>, Trouble>> + Send + 'a>>;

/// What each of them gives, in their order.
async fn all(mut asked: Vec<Asked<'_>>) -> Vec<Result<Option<Fence>, Trouble>> {
    let mut given: Vec<Option<_>> = asked.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (ask, given) in asked.iter_mut().zip(&mut given).filter(|(_, given)| given.is_none()) {
            if let Poll::Ready(result) = ask.as_mut().poll(cx) {
                *given = Some(result);
            }
        }
        if given.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    given.into_iter().flatten().collect()
}

fn router(app: &App, now: Option<Fence>, held: &mut Held) {
    if held.router.as_ref().map(|(fence, _)| *fence) == now {
        // What committed late, or was accepted by a process whose word got lost, is found by this look.
        app.route_wake.notify_one();
        return;
    }
    if let Some((_, over)) = held.router.take() {
        let _ = over.send(true);
        app.route_wake.notify_one();
    }
    if let Some(fence) = now {
        let (over, is_over) = watch::channel(false);
        runtime::spawn(follow(app.clone(), fence, is_over));
        held.router = Some((fence, over));
        tracing::info!(fence = fence.0, "this process routes");
    }
}

async fn lease(app: &App, name: String, owner: u128) -> Result<Option<Fence>, Trouble> {
    let now = runtime::now();
    let write = Write::Lease { name, owner, now, until: now.plus(LEASE_MS) };
    match app.store.write(write).await? {
        Wrote::Lease { fence } => Ok(fence),
        _ => Ok(None),
    }
}

/// A command at another process, or without one, wrote a standing: the desk hears of it here.
async fn follow_standing(app: &App, destination: DestinationId) -> Result<(), Trouble> {
    let Some(row) = app.store.standing(destination).await? else { return Ok(()) };
    let Some(doing) = app.standing(destination, row.pending).await else { return Ok(()) };
    match (row.paused, doing.paused) {
        (Some(reason), None) if reason.code == "operator" => {
            app.tell(Happened::Paused { destination, reason }).await
        }
        (None, Some(_)) => app.tell(Happened::Resumed { destination }).await,
        _ => {}
    }
    // What was offered by a process whose word got lost.
    if row.pending > 0 {
        app.tell(Happened::Offered { destination }).await;
    }
    Ok(())
}

/// Hands on what other processes announce.
pub async fn listen(app: App) {
    let mut offered = app.store.listen();
    while !app.stopping() {
        let destinations = offered.next().await;
        if destinations.is_empty() {
            app.route_wake.notify_one();
        }
        for destination in destinations {
            app.tell(Happened::Offered { destination }).await;
        }
        app.has_moved();
    }
}
