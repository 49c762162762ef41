//! Replay and backfill: what exists is opened again, what does not is made; and giving up.
//!
//! Before anything is looked at, the events and their `unrouted` rows are locked: neither the router nor
//! retention comes between the look and the change.

use std::collections::HashSet;

use mailspan_core::{Class, DeliveryId, DestinationId, Event, Millis, Offer, Queue, Reason, State};

use super::base::{Base, Fault, clean, get};
use super::events;
use super::journal::Journal;
use super::lanes::{self, Lane, New};
use super::persons::{self, Who};
use crate::PageItem;
use crate::prepare::{identities, states_consent};
use crate::sqlite::lanes::{ANSWERS_CONSENT, nobody};
use crate::sqlite::offer::{Existing, all_is_done, discardable, done_kept};
use crate::sqlite::persons::Found;
use crate::write::Wrote;

/// A pending delivery is left as it is; there is never a second row for (event, route, destination).
pub(crate) async fn offer(
    journal: &mut Journal,
    offers: &[Offer],
    again: bool,
    at: Millis,
) -> Result<Wrote, Fault> {
    let seqs = offers.iter().map(|offer| offer.event.0).collect();
    let kept = lock(&journal.base, seqs).await?;
    let mut destinations: Vec<DestinationId> = vec![];
    for one in offers {
        if !kept.contains(&one.event.0) {
            return Err(Fault::refused(
                "event_gone",
                format!("event {} is no longer kept: retention has dropped it", one.event.0),
            ));
        }
        match existing(&journal.base, one).await? {
            Some(row) => {
                if reopen(journal, one, &row, again, at).await? == Some(true) {
                    destinations.push(one.destination);
                }
            }
            None => destinations.extend(make(journal, one, at).await?),
        }
    }
    destinations.sort();
    destinations.dedup();
    Ok(Wrote::Offered { destinations })
}

/// A page of a job: what still is in the state that it was found in is opened again, nothing is made.
/// How many were opened, and the destinations that now have a head.
pub(crate) async fn reopen_page(
    journal: &mut Journal,
    items: &[PageItem],
    again: bool,
    at: Millis,
) -> Result<(u64, Vec<DestinationId>), Fault> {
    let kept = lock(&journal.base, items.iter().map(|item| item.offer.event.0).collect()).await?;
    let (mut opened, mut destinations) = (0, vec![]);
    for item in items.iter().filter(|item| kept.contains(&item.offer.event.0)) {
        let Some(row) = existing(&journal.base, &item.offer).await? else { continue };
        if row.state != item.state {
            continue;
        }
        match reopen(journal, &item.offer, &row, again, at).await? {
            None => continue,
            Some(true) => destinations.push(item.offer.destination),
            Some(false) => {}
        }
        opened += 1;
    }
    destinations.sort();
    destinations.dedup();
    Ok((opened, destinations))
}

/// The events that are still there.
async fn lock(base: &Base, seqs: Vec<i64>) -> Result<HashSet<i64>, Fault> {
    let sql = "SELECT seq FROM events WHERE seq = ANY($1) ORDER BY seq FOR SHARE";
    let rows = base.rows(sql, &[&seqs]).await?;
    base.rows("SELECT seq FROM unrouted WHERE seq = ANY($1) ORDER BY seq FOR UPDATE", &[&seqs]).await?;
    rows.iter().map(|row| get(row, 0)).collect()
}

async fn existing(base: &Base, offer: &Offer) -> Result<Option<Existing>, Fault> {
    let row = base
        .row(
            "SELECT id, person, state, progress FROM deliveries
             WHERE event = $1 AND route = $2 AND destination = $3 FOR UPDATE",
            &[&offer.event.0, &offer.route.0, &offer.destination.0],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let id: i64 = get(&row, 0)?;
    let unreadable = || Fault::unreadable("delivery", id);
    let state = State::from_number(get(&row, 2)?).ok_or_else(unreadable)?;
    let progress = match get::<Option<&[u8]>, _>(&row, 3)? {
        Some(bytes) => serde_json::from_slice(bytes).map_err(|_| unreadable())?,
        None => vec![],
    };
    Ok(Some(Existing { id, person: get(&row, 1)?, state, progress }))
}

/// Nothing where it was left as it is; true when it became the head of its lane.
async fn reopen(
    journal: &mut Journal,
    offer: &Offer,
    row: &Existing,
    again: bool,
    at: Millis,
) -> Result<Option<bool>, Fault> {
    if row.state == State::Pending || (!again && all_is_done(row)) {
        return Ok(None);
    }
    let base = &journal.base;
    let lane = Lane { person: row.person, destination: offer.destination.0, class: offer.class };
    let is_head = !offer.ordered || lanes::busy(base, &[lane]).await?.is_empty();
    let kept = if again {
        None
    } else {
        done_kept(&row.progress, row.id).map_err(|fault| Fault::Trouble(fault.trouble()))?
    };
    // What ended well at its first attempt is linked to it only here; the next attempt takes its place.
    base.execute(
        "INSERT INTO tries (delivery, attempt)
         SELECT id, last_attempt FROM deliveries WHERE id = $1 AND last_attempt IS NOT NULL ON CONFLICT DO NOTHING",
        &[&row.id],
    )
    .await?;
    base.execute(
        "UPDATE deliveries SET state = 0, class = $2, cause = $3, due = $4, queue = $5, attempts = 0, crashes = 0,
            since = $6, changed_at = $6, reason_code = NULL, reason = NULL, carried_by = NULL, progress = $7
         WHERE id = $1",
        &[
            &row.id,
            &(offer.class as i64),
            &(offer.cause as i64),
            &is_head.then_some(at.0),
            &(Queue::of(offer.class, offer.cause, 0) as i64),
            &at.0,
            &kept.as_ref().map(String::as_bytes),
        ],
    )
    .await?;
    journal.counts.moved(offer.destination.0, row.state, State::Pending);
    Ok(Some(is_head))
}

async fn make(journal: &mut Journal, offer: &Offer, at: Millis) -> Result<Vec<DestinationId>, Fault> {
    let base = &journal.base;
    let event = events::by_seq(base, offer.event).await?;
    let event: Event = event.ok_or_else(|| Fault::unreadable("event", offer.event.0))?;
    if event.test {
        return Ok(vec![]);
    }
    let tenant = base.made_tenant(event.tenant.as_str()).await?;
    let hashes = identities(&event.subject, &base.key);
    let persons =
        persons::find_or_make(base, &[Who { tenant, subject: &event.subject, hashes, event: None }]).await?;
    base.execute("DELETE FROM without_delivery WHERE seq = $1", &[&offer.event.0]).await?;
    let new = New {
        event: offer.event,
        route: offer.route.0,
        tenant,
        lane: Lane {
            person: persons.into_iter().find_map(Found::person).unwrap_or(nobody(offer.event)),
            destination: offer.destination.0,
            class: offer.class,
        },
        cause: offer.cause,
        flags: if states_consent(&event) { ANSWERS_CONSENT } else { 0 },
        at,
        ordered: offer.ordered,
        failed: None,
    };
    lanes::make(journal, &[new]).await
}

/// Gives a dead letter up. Anything else is refused: what is pending goes on, what is done is done.
pub(crate) async fn discard(
    journal: &mut Journal,
    id: DeliveryId,
    unserved: Option<DestinationId>,
    note: &str,
    at: Millis,
) -> Result<Wrote, Fault> {
    let base = &journal.base;
    let sql =
        "SELECT state, destination, tenant, due, person, class FROM deliveries WHERE id = $1 FOR UPDATE";
    let Some(row) = base.row(sql, &[&id.0]).await? else {
        return Err(Fault::refused("not_found", format!("there is no delivery {}", id.0)));
    };
    let (state, destination, tenant): (i64, i64, i64) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
    let before = discardable(id, state, unserved == Some(DestinationId(destination)))
        .map_err(|fault| Fault::Trouble(fault.trouble()))?;
    let reason = Reason::new("discarded", note);
    base.execute(
        "UPDATE deliveries SET state = $2, due = NULL, reason_code = $3, reason = $4, changed_at = $5, progress = NULL
         WHERE id = $1",
        &[&id.0, &(State::Discarded as i64), &reason.code, &clean(&reason.text), &at.0],
    )
    .await?;
    if get::<Option<i64>, _>(&row, 3)?.is_some() {
        let class = Class::from_number(get(&row, 5)?).unwrap_or(Class::Activity);
        lanes::promote(base, &[Lane { person: get(&row, 4)?, destination, class }], at).await?;
    }
    super::standing::log(base, tenant, at, "discard", id.0, note).await?;
    journal.counts.moved(destination, before, State::Discarded);
    Ok(Wrote::Done)
}
