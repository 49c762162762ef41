//! What a destination's owner reads: heads that are due, with what is needed to map them.

use std::collections::HashSet;

use mailspan_core::limits::{CARRIED_MAX, DESK_WINDOW_MAX};
use mailspan_core::{
    Cause, Class, DeliveryId, DestinationId, LastTimes, Millis, Progress, Queue, Room, RouteId,
};
use tokio_postgres::Row;

use super::base::{Base, Fault, get, maybe_millis, millis, small};
use super::events::{EVENT_COLUMNS, event_of, several};
use super::persons::person_of;
use crate::{Claim, Claimed};

/// Heads due by `now`, at most `room` from either end of each queue, and the earliest due time that was not taken at
/// the oldest. One statement, so one state of the tables: of each queue it reads one head more than may be taken. Those that the
/// caller holds already (`held`, ascending) take room and are counted, but are not among the claims. Nothing where an
/// operator has paused the destination, perhaps at another node: it holds from the command's end on.
pub(crate) async fn claim(
    base: &Base,
    destination: DestinationId,
    room: Room,
    now: Millis,
    held: &[DeliveryId],
) -> Result<Claimed, Fault> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS}, d.queue, d.due, d.newest, {COLUMNS}
         FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS q (queue, oldest, newest)
         CROSS JOIN LATERAL (
            (SELECT w.*, false AS newest FROM deliveries w WHERE w.destination = $1 AND w.queue = q.queue
             AND w.due IS NOT NULL ORDER BY w.due, w.id LIMIT q.oldest + 1)
            UNION ALL
            (SELECT w.*, true FROM deliveries w WHERE w.destination = $1 AND w.queue = q.queue
             AND w.due <= $5 ORDER BY w.due DESC, w.id DESC LIMIT q.newest)) AS d
         JOIN events e ON e.seq = d.event LEFT JOIN persons p ON p.id = d.person
         WHERE NOT EXISTS (SELECT 1 FROM destinations s WHERE s.id = $1 AND s.paused_code = 'operator')
         ORDER BY d.queue, d.newest DESC, CASE WHEN d.newest THEN -d.due ELSE d.due END, d.id"
    );
    let queues: Vec<i64> = Queue::ALL.into_iter().map(|queue| queue as i64).collect();
    let oldest: Vec<i64> = room.oldest.into_iter().map(i64::from).collect();
    let newest: Vec<i64> = room.newest.into_iter().map(i64::from).collect();
    let mut both = HashSet::new();
    let Claimed { mut claims, came: mut taken, next_due: mut next } = Claimed::default();
    for row in &base.rows(&sql, &[&destination.0, &queues, &oldest, &newest, &now.0]).await? {
        let due = millis(row, "due")?;
        let queue = usize::try_from(get::<i64, _>(row, "queue")?).unwrap_or(0).min(taken.len() - 1);
        let newest: bool = get(row, "newest")?;
        if !newest && (due > now || taken[queue] == room.oldest[queue]) {
            next = Some(next.map_or(due, |known| known.min(due)));
            continue;
        }
        taken[queue] += u16::from(!newest);
        let delivery = DeliveryId(get(row, "delivery")?);
        if held.binary_search(&delivery).is_ok() || !both.insert(delivery) {
            continue;
        }
        match claim_of(base, row, destination).await {
            Ok(claim) => claims.push(Claim { newest, ..claim }),
            // One damaged row must not stop its destination; its lane waits and shows in the lists.
            Err(Fault::Trouble(trouble)) => {
                tracing::error!(delivery = delivery.0, %trouble, "a due delivery was passed over");
            }
            Err(fault) => return Err(fault),
        }
    }
    let several = several(base, claims.iter().map(|claim: &Claim| &claim.event)).await?;
    for claim in &mut claims {
        claim.several_recipients = claim.event.seq.is_some_and(|seq| several.contains(&seq));
    }
    Ok(Claimed { claims, came: taken, next_due: next })
}

/// What a delivery is mapped from.
const COLUMNS: &str =
    "d.id AS delivery, d.route, d.class, d.cause, d.attempts, d.crashes, d.since, d.progress,
            d.person, p.address, p.external_id, p.opens, p.clicks, p.opted_out_at, p.opted_in_at, p.erased,
            (SELECT k.suppressed_at FROM contacts k WHERE k.person = coalesce(p.same_as, p.id)) IS NOT NULL AS suppressed,
            p.delivered_at, p.opened_at, p.clicked_at, p.bounced_at";

/// What waits behind these heads, in the order in which it would go, with the head it waits for; at most
/// [`CARRIED_MAX`] each and [`DESK_WINDOW_MAX`] together. Nothing behind what is no head any more.
pub(crate) async fn behind(
    base: &Base,
    destination: DestinationId,
    heads: &[DeliveryId],
) -> Result<Vec<(DeliveryId, Claim)>, Fault> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS}, l.head, {COLUMNS}
         FROM unnest($1::bigint[]) WITH ORDINALITY AS l (head, position) JOIN deliveries h ON h.id = l.head
         CROSS JOIN LATERAL (SELECT w.* FROM deliveries w WHERE w.person = h.person
            AND w.destination = h.destination AND w.class = h.class AND w.state = 0 AND w.due IS NULL
            ORDER BY w.id LIMIT $3) AS d
         JOIN events e ON e.seq = d.event LEFT JOIN persons p ON p.id = d.person
         WHERE h.destination = $2 AND h.state = 0 AND h.due IS NOT NULL
         ORDER BY l.position, d.id LIMIT $4"
    );
    let ids: Vec<i64> = heads.iter().map(|head| head.0).collect();
    let (each, all) = (CARRIED_MAX as i64, DESK_WINDOW_MAX as i64);
    let mut claims: Vec<(DeliveryId, Claim)> = vec![];
    // What comes after a damaged row must not go before it.
    let mut damaged = None;
    for row in &base.rows(&sql, &[&ids, &destination.0, &each, &all]).await? {
        let head = DeliveryId(get(row, "head")?);
        if damaged == Some(head) {
            continue;
        }
        match claim_of(base, row, destination).await {
            Ok(claim) => claims.push((head, claim)),
            Err(Fault::Trouble(_)) => damaged = Some(head),
            Err(fault) => return Err(fault),
        }
    }
    let several = several(base, claims.iter().map(|(_, claim)| &claim.event)).await?;
    for (_, claim) in &mut claims {
        claim.several_recipients = claim.event.seq.is_some_and(|seq| several.contains(&seq));
    }
    Ok(claims)
}

async fn claim_of(base: &Base, row: &Row, destination: DestinationId) -> Result<Claim, Fault> {
    let id: i64 = get(row, "delivery")?;
    let unreadable = || Fault::unreadable("delivery", id);
    let progress: Vec<Progress> = match get::<Option<&[u8]>, _>(row, "progress")? {
        Some(bytes) => serde_json::from_slice(bytes).map_err(|_| unreadable())?,
        None => vec![],
    };
    Ok(Claim {
        delivery: DeliveryId(id),
        event: event_of(base, row).await?,
        route: RouteId(get(row, "route")?),
        destination,
        class: Class::from_number(get(row, "class")?).ok_or_else(unreadable)?,
        cause: Cause::from_number(get(row, "cause")?).ok_or_else(unreadable)?,
        attempts: small(row, "attempts")?,
        crashes: small(row, "crashes")?,
        since: millis(row, "since")?,
        person: person_of(row)?,
        progress,
        several_recipients: false,
        times: LastTimes {
            delivered_at: maybe_millis(row, "delivered_at")?,
            opened_at: maybe_millis(row, "opened_at")?,
            clicked_at: maybe_millis(row, "clicked_at")?,
            bounced_at: maybe_millis(row, "bounced_at")?,
        },
        newest: false,
        contact: None,
        gone: false,
    })
}

/// Destinations that have a head: one step of the index for each.
pub(crate) async fn work(base: &Base) -> Result<Vec<DestinationId>, Fault> {
    let rows = base
        .rows(
            "WITH RECURSIVE found (destination) AS (
                (SELECT min(destination) FROM deliveries WHERE due IS NOT NULL)
                UNION ALL
                SELECT (SELECT min(d.destination) FROM deliveries d
                        WHERE d.due IS NOT NULL AND d.destination > f.destination)
                FROM found f WHERE f.destination IS NOT NULL)
             SELECT destination FROM found WHERE destination IS NOT NULL ORDER BY destination",
            &[],
        )
        .await?;
    rows.iter().map(|row| get(row, 0).map(DestinationId)).collect()
}
