//! On a database that several processes share: who routes, and who serves which destination.
//!
//! A lease lasts [`LEASE_MS`] and is renewed each third of it. Who hangs or is cut off loses it then; who dies
//! loses it at once, as its session ends. Another process takes it with the next fence; what the first one
//! writes after that is refused.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering;

use mailspan_core::{DestinationId, Reason};
use mailspan_engine::{Fence, Happened};
use mailspan_store::{Heard, LeaseRow, Look, Trouble, Write, Wrote};
use tokio::sync::watch;

use crate::app::App;
use crate::deliver::start::{LEASES_AT_ONCE, name_of};
use crate::deliver::{spread, start};
use crate::route::follow::follow;
use crate::runtime;

/// How long a process may be silent before another takes over.
pub const LEASE_MS: u64 = 10_000;
pub const RENEW_MS: u64 = LEASE_MS / 3;
/// After a renewal that failed: nothing is sent meanwhile, so it is tried again soon.
const AGAIN_MS: u64 = 1_000;
/// A process that starts after a kill finds the leases of the one before it while the database has not noticed that
/// its session ended, mostly for some tens of milliseconds: for so long it looks so often.
const EARLY_MS: u64 = 6_000;
const EARLY_REST_MS: u64 = 200;
const ROUTER: &str = "router";
/// What stayed free for so many turns is taken by whoever knows it: processes with another configuration, or
/// of an older version, leave it.
const LEFT_TURNS: u32 = 6;

/// What this process holds.
#[derive(Default)]
struct Held {
    router: Option<(Fence, watch::Sender<bool>)>,
    desks: HashMap<DestinationId, Desk>,
    /// For how many turns those that nobody holds were free.
    free: HashMap<DestinationId, u32>,
    /// Taken because nobody else did: kept while the same processes live.
    kept: HashSet<DestinationId>,
    nodes: BTreeSet<u128>,
    /// This process started a moment ago, and looks often.
    is_early: bool,
}

/// A destination whose lease this process holds.
struct Desk {
    /// What the engine was told last: the lease, and the digest of the settings. Nothing: it could not be told yet.
    told: Option<(Fence, u64)>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    /// It is being handed over: what is in flight ends first.
    Leaving,
    /// Nothing is in flight: the lease is to be given up.
    Left,
}

/// Takes, hands over and renews leases until the program stops. The store frees them at an orderly end.
pub async fn keep(app: App, owner: u128) {
    let mut held = Held::default();
    let mut stop = app.stop.clone();
    let mut lost = app.store.lost();
    let early = runtime::steady().plus(EARLY_MS);
    while !app.stopping() {
        let (began, sessions_lost) = (runtime::instant(), app.sessions_lost());
        held.is_early = runtime::steady() < early;
        let rest = match turn(&app, owner, &mut held).await {
            Ok(()) => {
                app.leased_until(began, LEASE_MS, sessions_lost);
                let has_all = held.router.is_some() && held.desks.len() == app.live().destinations.len();
                if held.is_early && !has_all { EARLY_REST_MS } else { RENEW_MS }
            }
            Err(trouble) => {
                tracing::warn!("leases could not be renewed: {trouble}");
                AGAIN_MS
            }
        };
        tokio::select! {
            () = runtime::sleep(rest) => {}
            () = another(&mut lost) => {}
            () = app.lease_wake.notified() => {}
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

/// At rest one write and one read, however many destinations this process serves.
async fn turn(app: &App, owner: u128, held: &mut Held) -> Result<(), Trouble> {
    end_left(app, owner, held).await?;
    let ids: Vec<DestinationId> = held.desks.keys().copied().collect();
    let mut names = vec![spread::node(owner)];
    names.extend(held.router.is_some().then(|| ROUTER.to_owned()));
    names.extend(ids.iter().map(|id| name_of(*id)));
    let fences = renew(app, owner, names).await?;
    let mut fences = fences.into_iter();
    if fences.next().flatten().is_none() {
        lease(app, &spread::node(owner), owner).await?;
    }
    if held.router.is_some() {
        still_routes(app, held, fences.next().flatten());
    }
    for (id, fence) in ids.iter().zip(fences) {
        renewed(app, held, *id, fence).await?;
    }
    // What the engine decides and is not kept yet must not be taken back: the next look sees it.
    let stood = app.stood.load(Ordering::SeqCst);
    let is_kept = app.stood_kept.load(Ordering::SeqCst) == stood;
    let serving = held.desks.iter().filter(|(_, desk)| desk.stage == Stage::Serving);
    let look = app.store.look(serving.map(|(id, _)| *id).collect()).await?;
    for (id, (paused, pending)) in &look.standings {
        follow_standing(app, *id, paused.clone(), *pending, is_kept.then_some(stood)).await;
    }
    router(app, owner, held, &look).await?;
    share(app, owner, held, &look.leases).await
}

/// Gives up what nothing is in flight of, and what was taken out of the configuration.
async fn end_left(app: &App, owner: u128, held: &mut Held) -> Result<(), Trouble> {
    for id in app.take_left() {
        // Lost and taken anew meanwhile: then it is not left any more.
        if let Some(desk) = held.desks.get_mut(&id).filter(|desk| desk.stage == Stage::Leaving) {
            desk.stage = Stage::Left;
        }
    }
    let live = app.live();
    let desks: Vec<(DestinationId, Stage)> = held.desks.iter().map(|(id, desk)| (*id, desk.stage)).collect();
    for (id, stage) in desks {
        if stage == Stage::Left {
            give_up(app, owner, held, id).await?;
            tracing::info!(destination = id.0, "handed over to another process");
        } else if !live.destinations.contains_key(&id) {
            // Its desk is closed already.
            app.tell(Happened::Closed { destination: id }).await;
            give_up(app, owner, held, id).await?;
        }
    }
    Ok(())
}

async fn renew(app: &App, owner: u128, names: Vec<String>) -> Result<Vec<Option<Fence>>, Trouble> {
    let until = runtime::now().plus(LEASE_MS);
    match app.store.write(Write::Renew { names, owner, until }).await? {
        Wrote::Renewed { fences } => Ok(fences),
        _ => Ok(Vec::new()),
    }
}

/// The lease of a destination that nothing of is in flight here.
async fn give_up(app: &App, owner: u128, held: &mut Held, destination: DestinationId) -> Result<(), Trouble> {
    app.store.write(Write::Release { name: name_of(destination), owner }).await?;
    held.desks.remove(&destination);
    app.owns(destination, false);
    Ok(())
}

/// What the renewal of a destination's lease says: it goes on, under this fence, or another has it.
async fn renewed(app: &App, held: &mut Held, id: DestinationId, fence: Option<Fence>) -> Result<(), Trouble> {
    let live = app.live();
    let Some(desk) = held.desks.get_mut(&id) else { return Ok(()) };
    // Taken out of the configuration a moment ago: the next turn gives it up.
    let Some(settings) = live.destinations.get(&id) else { return Ok(()) };
    let Some(fence) = fence else {
        held.desks.remove(&id);
        app.owns(id, false);
        app.tell(Happened::Closed { destination: id }).await;
        tracing::warn!(destination = %settings.name, "served by another process now");
        return Ok(());
    };
    if desk.told == Some((fence, settings.digest)) {
        return Ok(());
    }
    let is_new = desk.told.is_none_or(|(told, _)| told != fence);
    if is_new {
        desk.stage = Stage::Serving;
    }
    let opened = start::opened(&app.store, id, settings, fence, app.flight.get()).await?;
    if is_new {
        let last = app.store.last_sent().await?;
        start::tell_opened(app, (id, fence), settings, opened, &last).await?;
        tracing::info!(destination = %settings.name, fence = fence.0, "served by this process");
    } else {
        for one in opened {
            app.tell(one).await;
        }
    }
    desk.told = Some((fence, settings.digest));
    Ok(())
}

/// Takes what is free, or hands over what others lack.
async fn share(app: &App, owner: u128, held: &mut Held, leases: &[LeaseRow]) -> Result<(), Trouble> {
    let live = app.live();
    let known: BTreeSet<DestinationId> = live.destinations.keys().copied().collect();
    let seen = spread::seen(leases, owner, &known, runtime::now());
    for dead in &seen.dead {
        app.store.write(Write::Release { name: spread::node(*dead), owner: *dead }).await?;
    }
    let nodes: BTreeSet<u128> = seen.counts.keys().copied().collect();
    if std::mem::replace(&mut held.nodes, nodes.clone()) != nodes {
        held.kept.clear();
    }
    let mine: BTreeSet<DestinationId> =
        held.desks.iter().filter(|(_, desk)| desk.stage == Stage::Serving).map(|(id, _)| *id).collect();
    let plan = spread::plan(&seen, owner, mine.len());
    // The highest numbers first: whoever looks again hands over the same.
    for id in mine.iter().rev().filter(|id| !held.kept.contains(id)).take(plan.give) {
        if let Some(desk) = held.desks.get_mut(id) {
            desk.stage = Stage::Leaving;
            app.tell(Happened::Leaving { destination: *id }).await;
        }
    }
    held.free.retain(|id, _| seen.free.contains(id));
    let mut wanted = Vec::new();
    for id in seen.free {
        let turns = held.free.entry(id).or_insert(0);
        *turns += u32::from(!held.is_early);
        wanted.push((id, *turns > LEFT_TURNS));
    }
    let mut room = plan.take;
    loop {
        let mut some = Vec::new();
        wanted.retain(|(id, is_left)| {
            let now = some.len() < LEASES_AT_ONCE && (*is_left || some.len() < room);
            some.extend(now.then_some((*id, *is_left)));
            !now
        });
        if some.is_empty() {
            return Ok(());
        }
        room = room.saturating_sub(take(app, owner, held, some).await?);
    }
}

/// How many were given: for some another was quicker. Those asked for at once share a transaction.
async fn take(
    app: &App,
    owner: u128,
    held: &mut Held,
    wanted: Vec<(DestinationId, bool)>,
) -> Result<usize, Trouble> {
    let ids = wanted.iter().map(|(id, _)| *id);
    let leases = ids.map(|id| async move { lease(app, &name_of(id), owner).await });
    let leases = runtime::together(leases).await;
    let (mut given, mut failed) = (Vec::new(), None);
    for ((id, is_left), lease) in wanted.into_iter().zip(leases) {
        match lease {
            Ok(Some(fence)) => {
                held.desks.insert(id, Desk { told: None, stage: Stage::Serving });
                app.owns(id, true);
                held.kept.extend(is_left.then_some(id));
                given.push((id, fence));
            }
            Ok(None) => {}
            Err(trouble) => failed = Some(trouble),
        }
    }
    if given.is_empty() {
        return failed.map_or(Ok(0), Err);
    }
    let live = app.live();
    let known = given.iter().filter_map(|(id, fence)| Some((*id, live.destinations.get(id)?, *fence)));
    let known: Vec<_> = known.collect();
    start::open_all(app, &known).await?;
    for (id, settings, fence) in known {
        tracing::info!(destination = %settings.name, fence = fence.0, "served by this process");
        if let Some(desk) = held.desks.get_mut(&id) {
            desk.told = Some((fence, settings.digest));
        }
    }
    failed.map_or(Ok(given.len()), Err)
}

/// The router ends where its lease is another's or was taken anew.
fn still_routes(app: &App, held: &mut Held, now: Option<Fence>) {
    if held.router.as_ref().map(|(fence, _)| *fence) == now {
        return;
    }
    if let Some((_, over)) = held.router.take() {
        // The router may have ended by itself.
        let _ = over.send(true);
        app.route_wake.notify_one();
    }
}

async fn router(app: &App, owner: u128, held: &mut Held, look: &Look) -> Result<(), Trouble> {
    if held.router.is_some() {
        // What committed late, or was accepted by a process whose word got lost, is found by this look.
        if look.unrouted {
            app.route_wake.notify_one();
        }
        return Ok(());
    }
    let now = runtime::now();
    if look.leases.iter().any(|lease| lease.name == ROUTER && lease.owner != owner && lease.until > now) {
        return Ok(());
    }
    if let Some(fence) = lease(app, ROUTER, owner).await? {
        let (over, is_over) = watch::channel(false);
        runtime::spawn(follow(app.clone(), fence, is_over));
        held.router = Some((fence, over));
        tracing::info!(fence = fence.0, "this process routes");
    }
    Ok(())
}

async fn lease(app: &App, name: &str, owner: u128) -> Result<Option<Fence>, Trouble> {
    let now = runtime::now();
    let write = Write::Lease { name: name.to_owned(), owner, now, until: now.plus(LEASE_MS) };
    match app.store.write(write).await? {
        Wrote::Lease { fence } => Ok(fence),
        _ => Ok(None),
    }
}

/// A command at another process, or without one, wrote a standing: the desk hears of it here. `kept`: all that the
/// engine had decided before the look was kept by then, up to this number.
async fn follow_standing(
    app: &App,
    destination: DestinationId,
    paused: Option<Reason>,
    pending: u64,
    kept: Option<u64>,
) {
    let Some(doing) = app.standing(destination, pending).await else { return };
    if kept != Some(app.stood.load(Ordering::SeqCst)) {
        return;
    }
    let is_held = app.live().destinations.get(&destination).is_some_and(|settings| settings.held().is_some());
    match (paused, doing.paused) {
        (Some(reason), None) if reason.code == "operator" => {
            app.tell(Happened::Paused { destination, reason }).await
        }
        (None, Some(_)) if !is_held => app.tell(Happened::Resumed { destination }).await,
        _ => {}
    }
    // What was offered by a process whose word got lost.
    if pending > 0 {
        app.tell(Happened::Offered { destination }).await;
    }
}

/// Hands on what other processes announce.
pub async fn listen(app: App) {
    let mut ear = app.store.listen();
    while !app.stopping() {
        match ear.next().await {
            Heard::Accepted => app.route_wake.notify_one(),
            Heard::Stood => app.lease_wake.notify_one(),
            Heard::Endpoints => app.endpoints_wake.notify_one(),
            Heard::Offered(destinations) => {
                for destination in destinations {
                    app.tell(Happened::Offered { destination }).await;
                }
            }
        }
        app.has_moved();
    }
}
