//! Runs the engine: what happened goes in, commands come out and are carried out.

use std::collections::HashMap;
use std::sync::Arc;

use mailspan_core::contact::concerns_contacts;
use mailspan_core::{
    Answer, Behind, Class, DeliveryId, DestinationId, Lost, Millis, Parcel, PersonId, Queue, Reason, Request,
    Room,
};
use mailspan_engine::{CallId, Command, Engine, Happened, Notice, Standing};
use mailspan_store::{Claim, Claimed, Trouble};
use tokio::sync::{mpsc, oneshot};

use crate::app::{App, Live, Stood};
use crate::deliver::flight::Flight;
use crate::deliver::settle::Settles;
use crate::deliver::{claim, gone, sign};
use crate::drill;
use crate::intake::system;
use crate::runtime;

const QUEUES: usize = Queue::ALL.len();
/// What has happened meanwhile is taken in together, at most so many: their settlements share a write.
const HEARD_MAX: usize = 64;
/// How long the maps of one claim may compute: a destination with slow maps gives way to others.
const MAP_MS_MAX: u128 = 100;
/// How far from the newest end of a queue is looked, once after a kill, for what was in flight from there: where more
/// has arrived since, it waits as any other.
const AGAIN_ROOM: u16 = 4_096;
/// Persons whose contacts are read at once.
pub const PERSONS_READ_MAX: usize = 1_000;

/// How is a destination doing, with so many deliveries waiting?
pub struct Ask {
    pub destination: DestinationId,
    pub backlog: u64,
    pub reply: oneshot::Sender<Option<Standing>>,
}

/// Runs until told to stop and nothing is in flight any more, or `DRAIN_MS_MAX` is over.
pub async fn run(app: App, mut inbox: mpsc::Receiver<Happened>, mut asks: mpsc::Receiver<Ask>) {
    let mut engine = Engine::new(runtime::random_u64());
    let mut commands = Vec::new();
    let mut wake: Option<Millis> = None;
    let mut stop = app.stop.clone();
    let mut draining = false;
    loop {
        if draining && engine.idle() {
            return;
        }
        let timer = async {
            match wake {
                Some(at) => runtime::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let happened = tokio::select! {
            happened = inbox.recv() => match happened {
                Some(happened) => happened,
                None => return,
            },
            Some(ask) = asks.recv() => {
                // Whoever asked may have gone.
                let _ = ask.reply.send(engine.standing(runtime::steady(), ask.destination, ask.backlog));
                continue;
            }
            () = timer => {
                wake = None;
                Happened::Tick
            }
            _ = stop.changed(), if !draining => {
                draining = true;
                engine.drain();
                continue;
            }
        };
        engine.step(runtime::steady(), happened, &mut commands);
        for _ in 1..HEARD_MAX {
            let Ok(happened) = inbox.try_recv() else { break };
            engine.step(runtime::steady(), happened, &mut commands);
        }
        let mut settles = Settles::default();
        for command in commands.drain(..) {
            match command {
                Command::WakeAt(at) => wake = Some(wake.map_or(at, |earlier| earlier.min(at))),
                Command::Settle { destination, fence, settlements, attempts } => {
                    settles.add(destination, fence, settlements, attempts);
                }
                other => carry_out(&app, other),
            }
        }
        for settle in settles.all {
            let app = app.clone();
            runtime::spawn(async move { settle.write(&app).await });
        }
    }
}

fn carry_out(app: &App, command: Command) {
    let app = app.clone();
    match command {
        Command::Claim { destination, room, held } => runtime::spawn(async move {
            let happened = claim(&app, destination, room, held).await;
            app.tell(happened).await;
        }),
        Command::Send { call, destination, request, items, newest } => runtime::spawn(async move {
            if let Some(note) = app.newest.get().filter(|_| newest) {
                note.sent(destination, &items);
            }
            let is_shown = app.said.is_waited_for() || app.live().is_endpoint(destination);
            let what = is_shown.then(|| format!("{} {}", request.method, request.path).trim_end().to_owned());
            let answer = send(&app, destination, request).await;
            if let Some(what) = what {
                app.said.keep(items, what, &answer);
            }
            app.tell(answered(call, answer)).await;
        }),
        Command::Left { destination } => app.left(destination),
        Command::Stand { destination, fence, paused } => {
            app.stand(Stood::Word { destination, fence, paused });
        }
        Command::Announce { destination, what: Notice::QuotaInDanger { used, daily, resets }, .. } => {
            runtime::spawn(async move { quota_in_danger(&app, destination, used, daily, resets).await });
        }
        Command::Announce { destination, fence, what } => {
            app.stand(Stood::Breaker { destination, fence, what });
        }
        Command::Settle { .. } | Command::WakeAt(_) => {}
    }
}

fn answered(call: CallId, answer: Result<Answer, Lost>) -> Happened {
    Happened::Answered { call, answer }
}

/// Reads what is due and maps what is not held, on a thread that may compute, for at most
/// [`MAP_MS_MAX`]: what is left is claimed again at once, so a slow map holds up nobody but itself.
pub async fn claim(app: &App, destination: DestinationId, room: Room, held: Vec<DeliveryId>) -> Happened {
    let claimed = match app.newest.get().map(|note| note.before(destination)) {
        Some(before) if !before.is_empty() => again(app, destination, room, held, &before).await,
        _ => app.store.claim_beside(destination, room, runtime::steady(), held).await,
    };
    let mut claimed = match claimed {
        Ok(claimed) => claimed,
        Err(trouble) => {
            tracing::warn!("deliveries could not be read: {trouble}");
            return Happened::ClaimFailed { destination };
        }
    };
    drill::point("claim");
    let next_due = claimed.next_due;
    let (live, flight) = (app.live(), app.flight.get().cloned());
    let mut read = behind(app, &live, destination, &claimed.claims).await;
    if let Ok(behind) = &mut read
        && let Err(trouble) =
            today(app, &live, claimed.claims.iter_mut().chain(behind.values_mut().flatten())).await
    {
        read = Err(trouble);
    }
    let behind = match read {
        Ok(behind) => behind,
        Err(trouble) => {
            tracing::warn!("deliveries could not be read: {trouble}");
            return Happened::ClaimFailed { destination };
        }
    };
    let mapped = app.turns.map(move || {
        let mapped = map(&live, flight.as_deref(), claimed, behind, room);
        flight.inspect(|flight| flight.mapped(destination));
        mapped
    });
    let mapped = mapped.await;
    match mapped {
        Some((parcels, more)) => Happened::Claimed { destination, parcels, next_due, more: Some(more) },
        None => Happened::ClaimFailed { destination },
    }
}

/// The first claim after a kill: what was in flight from the newest end, before all others.
async fn again(
    app: &App,
    destination: DestinationId,
    mut room: Room,
    held: Vec<DeliveryId>,
    before: &[DeliveryId],
) -> Result<Claimed, Trouble> {
    room.newest = [AGAIN_ROOM; QUEUES];
    let mut claimed = app.store.claim_beside(destination, room, runtime::steady(), held).await?;
    let (mut first, others): (Vec<Claim>, Vec<Claim>) =
        std::mem::take(&mut claimed.claims).into_iter().partition(|claim| before.contains(&claim.delivery));
    first.iter_mut().for_each(|claim| claim.newest = false);
    let is_gone = |delivery: &&DeliveryId| first.iter().all(|claim| claim.delivery != **delivery);
    let gone: Vec<DeliveryId> = before.iter().filter(is_gone).copied().collect();
    if let Some(note) = app.newest.get() {
        note.kept(&gone);
    }
    first.extend(others.into_iter().filter(|claim| !claim.newest));
    claimed.claims = first;
    Ok(claimed)
}

/// What waits behind each head, in order.
type Waiting = HashMap<DeliveryId, Vec<Claim>>;

/// Where updates are coalesced, those behind the heads that are new to the engine.
async fn behind(
    app: &App,
    live: &Live,
    destination: DestinationId,
    claims: &[Claim],
) -> Result<Waiting, Trouble> {
    let mut waiting = Waiting::new();
    if !live.destinations.get(&destination).is_some_and(|settings| settings.limits.coalesces) {
        return Ok(waiting);
    }
    let updates = claims.iter().filter(|claim| claim.class == Class::Profile);
    let heads: Vec<DeliveryId> = updates.map(|claim| claim.delivery).collect();
    if !heads.is_empty() {
        for (head, claim) in app.store.behind(destination, heads).await? {
            waiting.entry(head).or_default().push(claim);
        }
    }
    Ok(waiting)
}

/// Adds to claims whose event carries a contact what is known of that one now. Lanes of consent and of profiles
/// overtake each other: whichever comes last must tell what is so, not what was so. And who was erased and is gone
/// since, where the route would make contacts of what happens.
pub async fn today(app: &App, live: &Live, claims: impl Iterator<Item = &mut Claim>) -> Result<(), Trouble> {
    let is_told = |claim: &&mut Claim| {
        let concerns = concerns_contacts(&claim.event.event_type);
        concerns && claim.person.is_some() && claim::tells_today(live, claim)
    };
    let mut claims: Vec<&mut Claim> = claims.collect();
    gone::mark(app, live, &mut claims).await?;
    let mut carriers: Vec<&mut Claim> = claims.into_iter().filter(is_told).collect();
    let mut persons: Vec<PersonId> =
        carriers.iter().filter_map(|claim| Some(claim.person.as_ref()?.id)).collect();
    persons.sort_unstable();
    persons.dedup();
    let mut contacts = HashMap::new();
    for part in persons.chunks(PERSONS_READ_MAX) {
        contacts.extend(app.store.contacts_of(part.to_vec()).await?);
    }
    for claim in &mut carriers {
        let found = claim.person.as_ref().and_then(|person| contacts.get(&person.id));
        claim.contact = found.cloned().map(Box::new);
    }
    Ok(())
}

fn map(
    live: &Live,
    flight: Option<&Flight>,
    claimed: Claimed,
    mut waiting: Waiting,
    room: Room,
) -> (Vec<Parcel>, [bool; QUEUES]) {
    let began = runtime::instant();
    // Horizons count from a time of the wall clock, which may have been set back since.
    let ahead = runtime::steady().since(runtime::now());
    let mut more: [bool; QUEUES] = std::array::from_fn(|queue| {
        let room = room.oldest[queue];
        room > 0 && claimed.came[queue] >= room
    });
    let mut parcels = Vec::with_capacity(claimed.claims.len());
    for row in claimed.claims {
        if !parcels.is_empty() && began.elapsed().as_millis() > MAP_MS_MAX {
            more[Queue::of(row.class, row.cause, row.attempts) as usize] = true;
            continue;
        }
        flight.inspect(|flight| flight.mapping(row.destination, row.event.id));
        let mut parcel = claim::parcel(live, row);
        parcel.since = parcel.since.plus(ahead);
        for row in waiting.remove(&parcel.delivery).unwrap_or_default() {
            // A run that is cut short is a shorter run: the others wait on.
            if began.elapsed().as_millis() > MAP_MS_MAX {
                break;
            }
            flight.inspect(|flight| flight.mapping(row.destination, row.event.id));
            let Parcel { delivery, attempts, crashes, parts, .. } = claim::parcel(live, row);
            parcel.behind.push(Behind { delivery, attempts, crashes, parts: parts.unwrap_or_default() });
        }
        parcels.push(parcel);
    }
    (parcels, more)
}

async fn send(app: &App, destination: DestinationId, request: Request) -> Result<Answer, Lost> {
    let live = app.live();
    let Some(settings) = live.destinations.get(&destination).cloned() else {
        let why = Reason::new("no_destination", "its destination is not in the configuration any more");
        return Err(Lost { sent: false, refused: false, why });
    };
    if !app.may_send() {
        let why = Reason::new(
            "lease_over",
            "this process was silent for so long that another may serve the destination",
        );
        return Err(Lost { sent: false, refused: false, why });
    }
    let request = sign::sign(&settings, request, runtime::now()).map_err(|why| Lost {
        sent: false,
        refused: true,
        why,
    })?;
    let egress = Arc::clone(&live.egress);
    drill::point("send-before");
    let mut answer = egress.send(&settings.target, request).await;
    if let Ok(answer) = &mut answer
        && answer.status >= 300
    {
        sign::redact(&settings, answer);
    }
    drill::point("send-after");
    app.metrics.exchange(&settings.name, answer.as_ref().map_or(0, |answer| answer.status));
    answer
}

async fn quota_in_danger(app: &App, destination: DestinationId, used: u64, daily: u32, resets: Millis) {
    let live = app.live();
    let Some(settings) = live.destinations.get(&destination) else { return };
    tracing::warn!(
        destination = %settings.name, used, daily, "the daily quota is nearly used, it starts anew at {}", resets.rfc3339()
    );
    system::quota_in_danger(app, &settings.tenant, &settings.name, used, daily, resets).await;
}
