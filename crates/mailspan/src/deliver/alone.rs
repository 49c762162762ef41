//! After an unclean end: what was being mapped or planned runs alone, one at a time, before anything is
//! sent. What ends the process again while it is alone is a dead letter at the next start; a kill for
//! any other reason finds nobody alone, so it counts against no delivery.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mailspan_connectors::contract::{Item, Known};
use mailspan_core::limits::QUEUE_ROOM_BATCHED;
use mailspan_core::{DestinationId, EventId, Millis, Outcome, Reason, Settlement, State};
use mailspan_store::{Claim, Trouble, Write};

use crate::app::{App, Live};
use crate::deliver::flight::{Flight, Left, Suspect};
use crate::deliver::{claim, start};
use crate::intake::system;
use crate::runtime;

const ENDED: &str = "its map or plan ended the process, and again when it ran alone: mend the map (or \
    report a built-in one as a bug), then replay";

/// Deals with what the last process left; to be called before the desks are opened.
pub async fn run(app: &App, flight: &Flight, left: Left, owner: u128) -> Result<(), Trouble> {
    let live = app.live();
    if let Some(suspect) = left.alone {
        condemn(app, suspect, owner).await?;
        flight.alone(None);
    }
    for suspect in left.suspects {
        for row in claims(app, suspect).await? {
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
            destination.sink.plan(&[Item { key, person, operation, step }], &Known::default());
        }
    }));
}

async fn condemn(app: &App, suspect: Suspect, owner: u128) -> Result<(), Trouble> {
    let Suspect { destination, .. } = suspect;
    if !app.live().destinations.contains_key(&destination) {
        return Ok(());
    }
    let fence = start::lease(&app.store, &format!("destination/{}", destination.0), owner).await?;
    for row in claims(app, suspect).await? {
        let settlements = vec![Settlement {
            delivery: row.delivery,
            outcome: Outcome::Ended {
                state: State::Dead,
                reason: Some(Reason::new("ended_the_process", ENDED)),
            },
            attempts: row.attempts,
            crashes: row.crashes.saturating_add(1),
            progress: row.progress,
            attempt: None,
        }];
        let at = runtime::now();
        app.store.write(Write::Settle { destination, fence, settlements, attempts: Vec::new(), at }).await?;
        let id = row.delivery.0;
        tracing::error!(delivery = id, "dead letter: {ENDED}; see `mailspan dead-letters show {id}`");
        system::dead_letter(app, row.delivery).await;
    }
    Ok(())
}

/// The heads that a suspect can be. It was claimed, so it stands among the first of its queue.
async fn claims(app: &App, suspect: Suspect) -> Result<Vec<Claim>, Trouble> {
    let Suspect { destination, event } = suspect;
    let (rows, _) = app.store.claim(destination, QUEUE_ROOM_BATCHED, Millis(i64::MAX)).await?;
    Ok(rows.into_iter().filter(|row| is_about(row, destination, event)).collect())
}

fn is_about(row: &Claim, destination: DestinationId, event: EventId) -> bool {
    row.destination == destination && row.event.id == event
}
