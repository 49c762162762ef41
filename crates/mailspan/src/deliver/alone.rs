//! After an unclean end: what was being mapped, planned or judged runs alone, one at a time, before anything is
//! sent; what was judged with the answer that was noted with it. What ends the process again while it is alone is a
//! dead letter at the next start; a kill for any other reason finds nobody alone, so it counts against no delivery.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mailspan_connectors::contract::{Item, Known};
use mailspan_core::limits::{QUEUE_ROOM, QUEUE_ROOM_BATCHED};
use mailspan_core::{
    Class, DeliveryId, DestinationId, EventId, Millis, Outcome, Queue, Reason, Room, Settlement, State,
};
use mailspan_store::{Claim, Trouble, Write};

use crate::app::{App, Live};
use crate::deliver::flight::{Flight, Left, Stage, Suspect, event_of};
use crate::deliver::judged::Judged;
use crate::deliver::{claim, shell, start};
use crate::drill;
use crate::intake::system;
use crate::runtime;

/// Lanes whose rows behind the head are read by one statement.
const LANES_READ_AT_ONCE: usize = 64;

const ENDED: &str = "its map or plan ended the process, and again when it ran alone: mend the map (or \
    report a built-in one as a bug), then replay";
const JUDGED: &str = "judging the answer to it ended the process, and again when that ran alone: report it as a \
    bug, with what the destination answered; a replay sends it again";

/// Deals with what the last process left; to be called before the desks are opened.
pub async fn run(app: &App, flight: &Flight, left: Left, owner: u128) -> Result<(), Trouble> {
    let live = app.live();
    if let Some(suspect) = left.alone {
        condemn(app, suspect, owner, ENDED).await?;
        flight.alone(None);
    }
    match left.judged {
        Some((Stage::Usual, judged)) => judge_alone(app, flight, &judged).await?,
        Some((Stage::Alone, judged)) => {
            for event in events(&judged) {
                let suspect = Suspect { destination: judged.destination, event };
                condemn(app, suspect, owner, JUDGED).await?;
            }
            flight.judged();
        }
        None => {}
    }
    let mut suspects: BTreeMap<DestinationId, Vec<EventId>> = BTreeMap::new();
    left.suspects.iter().for_each(|one| suspects.entry(one.destination).or_default().push(one.event));
    for (destination, events) in suspects {
        for row in as_claimed(app, destination, &events).await? {
            let suspect = Suspect { destination: row.destination, event: row.event.id };
            tracing::warn!(
                delivery = row.delivery.0,
                event = %suspect.event,
                "the last process ended while it mapped or planned this: it runs alone first"
            );
            flight.alone(Some(suspect));
            rehearse(&live, row);
            flight.alone(None);
        }
    }
    Ok(())
}

/// Map and plan, both pure. Panics are left to the engine, which counts them.
fn rehearse(live: &Live, row: Claim) {
    let destination = live.destinations.get(&row.destination);
    let parcel = claim::parcel(live, row);
    let (Some(destination), Ok(parts)) = (destination, &parcel.parts) else { return };
    let _ = catch_unwind(AssertUnwindSafe(|| {
        for part in parts {
            let person = parcel.person.as_ref();
            let (key, operation, step) = (&part.key, &part.operation, part.step.as_ref());
            let elsewhere = parcel.elsewhere.is_some();
            destination.sink.plan(&[Item { key, person, operation, step, elsewhere }], &Known::default());
        }
    }));
}

/// The whole batch, as the answer is to all of it.
async fn judge_alone(app: &App, flight: &Flight, judged: &Judged) -> Result<(), Trouble> {
    let live = app.live();
    let rows = as_claimed(app, judged.destination, &events(judged)).await?;
    let Some(destination) = live.destinations.get(&judged.destination) else { return Ok(()) };
    tracing::warn!(
        destination = %destination.name, deliveries = rows.len(),
        "the last process ended while it judged an answer: that runs alone first"
    );
    flight.judging_alone(judged);
    let parcels: Vec<_> = rows.into_iter().map(|row| claim::parcel(&live, row)).collect();
    let items = parcels.iter().flat_map(|parcel| {
        parcel.parts.iter().flatten().map(|part| Item {
            key: &part.key,
            person: parcel.person.as_ref(),
            operation: &part.operation,
            step: part.step.as_ref(),
            elsewhere: parcel.elsewhere.is_some(),
        })
    });
    let items: Vec<Item> = items.filter(|item| judged.keys.contains(item.key)).collect();
    if !items.is_empty() {
        drill::poison_answer(&judged.answer);
        let _ = catch_unwind(AssertUnwindSafe(|| destination.sink.judge(&items, &judged.answer)));
    }
    flight.judged();
    Ok(())
}

/// Each event once.
fn events(judged: &Judged) -> Vec<EventId> {
    let mut events: Vec<EventId> = judged.keys.iter().filter_map(event_of).collect();
    events.dedup();
    events
}

async fn condemn(app: &App, suspect: Suspect, owner: u128, why: &'static str) -> Result<(), Trouble> {
    let Suspect { destination, .. } = suspect;
    if !app.live().destinations.contains_key(&destination) {
        return Ok(());
    }
    let fence = match start::lease(&app.store, &format!("destination/{}", destination.0), owner).await {
        // Another process has it, and finds out for itself.
        Err(Trouble::FenceLost) => return Ok(()),
        lease => lease?,
    };
    let rows = together(app, destination, &[suspect.event]).await?;
    for row in rows.into_iter().filter(|row| row.event.id == suspect.event) {
        let settlements = vec![Settlement {
            delivery: row.delivery,
            outcome: Outcome::Ended {
                state: State::Dead,
                reason: Some(Reason::new("ended_the_process", why)),
            },
            attempts: row.attempts,
            crashes: row.crashes.saturating_add(1),
            progress: row.progress,
            attempt: None,
            hand_on: None,
        }];
        let at = runtime::now();
        let live = app.live();
        let say = live.destinations.get(&destination).and_then(|to| system::of_dead(&live, &to.tenant));
        let say = say.into_iter().map(|say| (row.delivery, say)).collect();
        let attempts = Vec::new();
        app.store.write(Write::Settle { destination, fence, settlements, attempts, at, say }).await?;
        let id = row.delivery.0;
        tracing::error!(delivery = id, "dead letter: {why}; see `mailspan dead-letters show {id}`");
        app.route_wake.notify_one();
    }
    Ok(())
}

/// With what a claim adds: they are mapped from the same as when they ended the process.
async fn as_claimed(
    app: &App,
    destination: DestinationId,
    events: &[EventId],
) -> Result<Vec<Claim>, Trouble> {
    let mut rows = together(app, destination, events).await?;
    shell::today(app, &app.live(), rows.iter_mut()).await?;
    Ok(rows)
}

/// The heads that these events can be, and where one waits behind a head, that lane as far as it goes together: a
/// request that carries several is noted under one of them. In the order of the events. They were claimed, so they
/// stand near one of the ends of their queue; where a destination takes large batches, and not all are found near by,
/// it is looked as far as those reach.
async fn together(app: &App, destination: DestinationId, events: &[EventId]) -> Result<Vec<Claim>, Trouble> {
    let live = app.live();
    let limits = live.destinations.get(&destination).map(|settings| &settings.limits);
    let batches = limits.is_some_and(|limits| limits.batch_max > 1);
    let coalesces = limits.is_some_and(|limits| limits.coalesces);
    let lanes = lanes(app, destination, QUEUE_ROOM, coalesces).await?;
    let found = among(lanes, events);
    if !batches || events.iter().all(|event| found.iter().any(|row| row.event.id == *event)) {
        return Ok(found);
    }
    let lanes = self::lanes(app, destination, QUEUE_ROOM_BATCHED, coalesces).await?;
    Ok(among(lanes, events))
}

/// All that is due, whenever, near the ends of the queues: each head, with what goes together with it.
async fn lanes(
    app: &App,
    destination: DestinationId,
    room: [u16; Queue::ALL.len()],
    coalesces: bool,
) -> Result<Vec<Vec<Claim>>, Trouble> {
    let room = Room { oldest: room, newest: room };
    let heads = app.store.claim_beside(destination, room, Millis(i64::MAX), Vec::new()).await?.claims;
    let updates = heads.iter().filter(|head| head.class == Class::Profile).map(|head| head.delivery);
    let updates: Vec<DeliveryId> = if coalesces { updates.collect() } else { Vec::new() };
    let mut behind: HashMap<DeliveryId, Vec<Claim>> = HashMap::new();
    for some in updates.chunks(LANES_READ_AT_ONCE) {
        for (head, row) in app.store.behind(destination, some.to_vec()).await? {
            behind.entry(head).or_default().push(row);
        }
    }
    let lane = |head: Claim| {
        let behind = behind.remove(&head.delivery).unwrap_or_default();
        std::iter::once(head).chain(behind).collect()
    };
    Ok(heads.into_iter().map(lane).collect())
}

/// The lanes in which one of these stands, by the first of them.
fn among(lanes: Vec<Vec<Claim>>, events: &[EventId]) -> Vec<Claim> {
    let place = |row: &Claim| events.iter().position(|event| *event == row.event.id);
    let first = |lane: Vec<Claim>| Some((lane.iter().filter_map(place).min()?, lane));
    let mut found: Vec<(usize, Vec<Claim>)> = lanes.into_iter().filter_map(first).collect();
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().flat_map(|(_, lane)| lane).collect()
}
