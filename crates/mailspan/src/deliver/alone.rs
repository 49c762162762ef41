//! After an unclean end: what was being mapped, planned or judged runs alone, one at a time, before anything is
//! sent; what was judged with the answer that was noted with it. What ends the process again while it is alone is a dead letter at the next start; a kill for
//! any other reason finds nobody alone, so it counts against no delivery.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mailspan_connectors::contract::{Item, Known};
use mailspan_core::limits::QUEUE_ROOM_BATCHED;
use mailspan_core::{Class, EventId, Millis, Outcome, Reason, Room, Settlement, State};
use mailspan_store::{Claim, Trouble, Write};

use crate::app::{App, Live};
use crate::deliver::flight::{Flight, Left, Stage, Suspect, event_of};
use crate::deliver::judged::Judged;
use crate::deliver::{claim, start};
use crate::drill;
use crate::intake::system;
use crate::runtime;

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
            for suspect in suspects(&judged) {
                condemn(app, suspect, owner, JUDGED).await?;
            }
            flight.judged();
        }
        None => {}
    }
    for suspect in left.suspects {
        for row in together(app, suspect).await? {
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
    let mut rows = Vec::new();
    for suspect in suspects(judged) {
        rows.extend(together(app, suspect).await?);
    }
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
fn suspects(judged: &Judged) -> Vec<Suspect> {
    let mut events: Vec<EventId> = judged.keys.iter().filter_map(event_of).collect();
    events.dedup();
    events.into_iter().map(|event| Suspect { destination: judged.destination, event }).collect()
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
    let rows = together(app, suspect).await?;
    for row in rows.into_iter().filter(|row| is_about(row, suspect)) {
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
        app.store.write(Write::Settle { destination, fence, settlements, attempts: Vec::new(), at }).await?;
        let id = row.delivery.0;
        tracing::error!(delivery = id, "dead letter: {why}; see `mailspan dead-letters show {id}`");
        system::dead_letter(app, row.delivery).await;
    }
    Ok(())
}

/// The heads that a suspect can be, and where it waits behind one, that lane as far as it goes together: a request
/// that carries several is noted under one of them. It was claimed, so it stands near one of the ends of its queue.
async fn together(app: &App, suspect: Suspect) -> Result<Vec<Claim>, Trouble> {
    let destination = suspect.destination;
    let room = Room { oldest: QUEUE_ROOM_BATCHED, newest: QUEUE_ROOM_BATCHED };
    let heads = app.store.claim_beside(destination, room, Millis(i64::MAX), Vec::new()).await?;
    let mut found = Vec::new();
    for head in heads.claims {
        let mut lane = vec![head];
        if lane[0].class == Class::Profile {
            let behind = app.store.behind(destination, vec![lane[0].delivery]).await?;
            lane.extend(behind.into_iter().map(|(_, row)| row));
        }
        if lane.iter().any(|row| is_about(row, suspect)) {
            found.append(&mut lane);
        }
    }
    Ok(found)
}

fn is_about(row: &Claim, suspect: Suspect) -> bool {
    row.destination == suspect.destination && row.event.id == suspect.event
}
