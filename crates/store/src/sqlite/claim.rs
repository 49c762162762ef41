//! What a destination's owner reads: heads that are due, with what is needed to map them.

use mailspan_core::limits::{CARRIED_MAX, DESK_WINDOW_MAX};
use mailspan_core::{Cause, Class, DeliveryId, DestinationId, LastTimes, Millis, Progress, Queue, RouteId};
use rusqlite::{Row, params};

use super::base::{Base, Fault, maybe_millis};
use super::events::{EVENT_COLUMNS, event_of, is_for_several};
use super::persons::person_of;
use crate::Claim;

/// Heads due by `now`, at most `room` of each queue, and the earliest due time that was not taken.
pub(crate) fn claim(
    base: &Base,
    destination: DestinationId,
    room: [u16; Queue::ALL.len()],
    now: Millis,
) -> Result<(Vec<Claim>, Option<Millis>), Fault> {
    let mut claims = vec![];
    let mut next: Option<Millis> = None;
    for (queue, limit) in Queue::ALL.into_iter().zip(room) {
        let taken =
            if limit == 0 { 0 } else { claim_queue(base, destination, queue, limit, now, &mut claims)? };
        let left = next_due(base, destination, queue, taken)?;
        next = match (next, left) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
    Ok((claims, next))
}

/// What a delivery is mapped from.
const COLUMNS: &str =
    "d.id AS delivery, d.route, d.class, d.cause, d.attempts, d.crashes, d.since, d.progress,
            d.person, p.address, p.external_id, p.opens, p.clicks, p.opted_out_at, p.opted_in_at, p.erased,
            p.delivered_at, p.opened_at, p.clicked_at, p.bounced_at";

/// What waits behind these heads, in the order in which it would go, with the head it waits for; at most
/// [`CARRIED_MAX`] each and [`DESK_WINDOW_MAX`] together. Nothing behind what is no head any more.
pub(crate) fn behind(
    base: &Base,
    destination: DestinationId,
    heads: &[DeliveryId],
) -> Result<Vec<(DeliveryId, Claim)>, Fault> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS}, {COLUMNS}
         FROM deliveries h CROSS JOIN deliveries d INDEXED BY deliveries_lane
            ON d.person = h.person AND d.destination = h.destination AND d.class = h.class AND d.state = 0
         CROSS JOIN events e ON e.seq = d.event LEFT JOIN persons p ON p.id = d.person
         WHERE h.id = ?1 AND h.destination = ?2 AND h.state = 0 AND h.due IS NOT NULL AND d.due IS NULL
         ORDER BY d.id LIMIT ?3"
    );
    let mut statement = base.sql(&sql)?;
    let mut claims: Vec<(DeliveryId, Claim)> = vec![];
    for head in heads {
        let room = CARRIED_MAX.min(DESK_WINDOW_MAX - claims.len());
        let mut rows = statement.query(params![head.0, destination.0, room as i64])?;
        while let Some(row) = rows.next()? {
            match claim_of(base, row, destination) {
                Ok(claim) => claims.push((*head, claim)),
                // What comes after it must not go before it.
                Err(Fault::Trouble(_)) => break,
                Err(fault) => return Err(fault),
            }
        }
    }
    Ok(claims)
}

pub(crate) fn claim_sql() -> String {
    format!(
        "SELECT {EVENT_COLUMNS}, {COLUMNS}
         FROM deliveries d INDEXED BY deliveries_due CROSS JOIN events e ON e.seq = d.event
         LEFT JOIN persons p ON p.id = d.person
         WHERE d.destination = ?1 AND d.queue = ?2 AND d.due <= ?3 ORDER BY d.due, d.id LIMIT ?4"
    )
}

/// How many rows were taken, readable or not.
fn claim_queue(
    base: &Base,
    destination: DestinationId,
    queue: Queue,
    limit: u16,
    now: Millis,
    claims: &mut Vec<Claim>,
) -> Result<usize, Fault> {
    let mut statement = base.sql(&claim_sql())?;
    let mut rows = statement.query(params![destination.0, queue as i64, now.0, limit])?;
    let mut taken = 0;
    while let Some(row) = rows.next()? {
        taken += 1;
        match claim_of(base, row, destination) {
            Ok(claim) => claims.push(claim),
            // One damaged row must not stop its destination; its lane waits and shows in the lists.
            Err(Fault::Trouble(trouble)) => {
                tracing::error!(delivery = row.get::<_, i64>("delivery")?, %trouble, "a due delivery was passed over");
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(taken)
}

fn claim_of(base: &Base, row: &Row, destination: DestinationId) -> Result<Claim, Fault> {
    let id: i64 = row.get("delivery")?;
    let unreadable = || Fault::unreadable("delivery", id);
    let event = event_of(base, row)?;
    let progress: Vec<Progress> = match row.get::<_, Option<Vec<u8>>>("progress")? {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|_| unreadable())?,
        None => vec![],
    };
    let several_recipients = is_for_several(base, &event)?;
    Ok(Claim {
        delivery: DeliveryId(id),
        event,
        route: RouteId(row.get("route")?),
        destination,
        class: Class::from_number(row.get("class")?).ok_or_else(unreadable)?,
        cause: Cause::from_number(row.get("cause")?).ok_or_else(unreadable)?,
        attempts: row.get("attempts")?,
        crashes: row.get("crashes")?,
        since: Millis(row.get("since")?),
        person: person_of(row)?,
        progress,
        several_recipients,
        times: LastTimes {
            delivered_at: maybe_millis(row, "delivered_at")?,
            opened_at: maybe_millis(row, "opened_at")?,
            clicked_at: maybe_millis(row, "clicked_at")?,
            bounced_at: maybe_millis(row, "bounced_at")?,
        },
    })
}

pub(crate) const NEXT_DUE_SQL: &str = "SELECT due FROM deliveries INDEXED BY deliveries_due
     WHERE destination = ?1 AND queue = ?2 AND due IS NOT NULL ORDER BY due, id LIMIT 1 OFFSET ?3";

/// The due time of the first head of a queue after those taken.
fn next_due(
    base: &Base,
    destination: DestinationId,
    queue: Queue,
    taken: usize,
) -> Result<Option<Millis>, Fault> {
    let mut statement = base.sql(NEXT_DUE_SQL)?;
    let mut rows = statement.query(params![destination.0, queue as i64, taken as i64])?;
    Ok(rows.next()?.map(|row| row.get(0).map(Millis)).transpose()?)
}

pub(crate) const WORK_SQL: &str = "SELECT destination FROM deliveries INDEXED BY deliveries_due
     WHERE due IS NOT NULL AND destination > ?1 ORDER BY destination LIMIT 1";

/// Destinations that have a head: one step of the index for each.
pub(crate) fn work(base: &Base) -> Result<Vec<DestinationId>, Fault> {
    let mut statement = base.sql(WORK_SQL)?;
    let mut destinations: Vec<DestinationId> = vec![];
    loop {
        let last = destinations.last().map_or(i64::MIN, |last| last.0);
        let mut rows = statement.query([last])?;
        match rows.next()? {
            Some(row) => destinations.push(DestinationId(row.get(0)?)),
            None => return Ok(destinations),
        }
    }
}
