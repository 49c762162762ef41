//! What a destination's owner reads: heads that are due, with what is needed to map them.

use std::collections::HashSet;

use mailspan_core::limits::{CARRIED_MAX, DESK_WINDOW_MAX};
use mailspan_core::{
    Cause, Class, DeliveryId, DestinationId, LastTimes, Millis, Progress, Queue, Room, RouteId,
};
use rusqlite::{Row, params};

use super::base::{Base, Fault};
use super::events::{EVENT_COLUMNS, EVENT_COLUMNS_N, event_of, is_for_several};
use super::persons::person_of;
use crate::{Claim, Claimed};

/// Heads due by `now`, at most `room` from either end of each queue, and the earliest due time that was not taken at
/// the oldest. Those that the caller holds already (`held`, ascending) take room and are counted, but not read.
pub(crate) fn claim(
    base: &Base,
    destination: DestinationId,
    room: Room,
    now: Millis,
    held: &[DeliveryId],
) -> Result<Claimed, Fault> {
    let mut claimed = Claimed::default();
    for queue in Queue::ALL {
        let of = Of { destination, queue, now, held };
        claim_end(base, &of, End::Newest(room.newest[queue as usize]), &mut claimed)?;
        claim_end(base, &of, End::Oldest(room.oldest[queue as usize]), &mut claimed)?;
        let taken = usize::from(claimed.came[queue as usize]);
        let left = next_due(base, destination, queue, taken)?;
        claimed.next_due = match (claimed.next_due, left) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
    Ok(claimed)
}

/// What a delivery is mapped from.
const COLUMNS: &str = "d.id, d.route, d.class, d.cause, d.attempts, d.crashes, d.since, d.progress,
            d.person, p.address, p.external_id, p.opens, p.clicks, p.opted_out_at, p.opted_in_at, p.erased,
            EXISTS (SELECT 1 FROM contacts c WHERE c.person = coalesce(p.same_as, p.id) AND c.suppressed_at IS NOT NULL),
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
            let delivery = DeliveryId(row.get(DELIVERY)?);
            match claim_of(base, row, destination, delivery) {
                Ok(claim) => claims.push((*head, claim)),
                // What comes after it must not go before it.
                Err(Fault::Trouble(_)) => break,
                Err(fault) => return Err(fault),
            }
        }
    }
    Ok(claims)
}

pub(crate) fn claim_sql(order: &str) -> String {
    format!(
        "SELECT {EVENT_COLUMNS}, {COLUMNS}
         FROM deliveries d INDEXED BY deliveries_due CROSS JOIN events e ON e.seq = d.event
         LEFT JOIN persons p ON p.id = d.person
         WHERE d.destination = ?1 AND d.queue = ?2 AND d.due <= ?3 ORDER BY {order} LIMIT ?4"
    )
}

/// Whose heads are read.
struct Of<'a> {
    destination: DestinationId,
    queue: Queue,
    now: Millis,
    held: &'a [DeliveryId],
}

/// How many, from which end.
#[derive(Clone, Copy)]
enum End {
    Oldest(u16),
    Newest(u16),
}

/// Where the columns of the delivery, of its person and of the person's times begin in [`claim_sql`].
const DELIVERY: usize = EVENT_COLUMNS_N;
const PERSON: usize = DELIVERY + 8;
const TIMES: usize = PERSON + 9;

fn claim_end(base: &Base, of: &Of, end: End, claimed: &mut Claimed) -> Result<(), Fault> {
    let (limit, order, newest) = match end {
        End::Oldest(limit) => (limit, "d.due, d.id", false),
        End::Newest(limit) => (limit, "d.due DESC, d.id DESC", true),
    };
    if limit == 0 {
        return Ok(());
    }
    let both: HashSet<DeliveryId> = claimed.claims.iter().map(|claim| claim.delivery).collect();
    let mut statement = base.sql(&claim_sql(order))?;
    let mut rows = statement.query(params![of.destination.0, of.queue as i64, of.now.0, limit])?;
    while let Some(row) = rows.next()? {
        claimed.came[of.queue as usize] += u16::from(!newest);
        let delivery = DeliveryId(row.get(DELIVERY)?);
        if of.held.binary_search(&delivery).is_ok() || both.contains(&delivery) {
            continue;
        }
        match claim_of(base, row, of.destination, delivery) {
            Ok(claim) => claimed.claims.push(Claim { newest, ..claim }),
            // One damaged row must not stop its destination; its lane waits and shows in the lists.
            Err(Fault::Trouble(trouble)) => {
                tracing::error!(delivery = delivery.0, %trouble, "a due delivery was passed over");
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

fn claim_of(
    base: &Base,
    row: &Row,
    destination: DestinationId,
    delivery: DeliveryId,
) -> Result<Claim, Fault> {
    let unreadable = || Fault::unreadable("delivery", delivery.0);
    let event = event_of(base, row)?;
    let progress: Vec<Progress> = match row.get_ref(DELIVERY + 7)?.as_blob_or_null() {
        Ok(Some(bytes)) => serde_json::from_slice(bytes).map_err(|_| unreadable())?,
        Ok(None) => vec![],
        Err(_) => return Err(unreadable()),
    };
    let several_recipients = is_for_several(base, &event)?;
    let time =
        |at: usize| -> Result<Option<Millis>, Fault> { Ok(row.get::<_, Option<i64>>(at)?.map(Millis)) };
    Ok(Claim {
        delivery,
        event,
        route: RouteId(row.get(DELIVERY + 1)?),
        destination,
        class: Class::from_number(row.get(DELIVERY + 2)?).ok_or_else(unreadable)?,
        cause: Cause::from_number(row.get(DELIVERY + 3)?).ok_or_else(unreadable)?,
        attempts: row.get(DELIVERY + 4)?,
        crashes: row.get(DELIVERY + 5)?,
        since: Millis(row.get(DELIVERY + 6)?),
        person: person_of(row, PERSON)?,
        progress,
        several_recipients,
        times: LastTimes {
            delivered_at: time(TIMES)?,
            opened_at: time(TIMES + 1)?,
            clicked_at: time(TIMES + 2)?,
            bounced_at: time(TIMES + 3)?,
        },
        newest: false,
        contact: None,
        gone: false,
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
