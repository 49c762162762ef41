//! A walk over the deliveries of one destination by id, a bounded number of rows a page.

use std::collections::HashMap;

use mailspan_core::limits::{ATTEMPTS_BACK_MAX, REPLAY_SCAN_MAX, REPLAYS_PENDING_MAX};
use mailspan_core::{DeliveryId, DestinationId, EventType, Millis, Seq, State};
use tokio_postgres::Row;

use super::base::{Base, Fault, get};
use super::{events, persons};
use crate::sqlite::offer;
use crate::sqlite::settle::quarter;
use crate::{LastSent, Walk, Walked, WalkedRow};

const COLUMNS: &str = "id, event, route, destination, tenant, person, state, reason_code";

/// Rows are looked at until `limit` of them match, `REPLAY_SCAN_MAX` were seen, or `to` is reached.
pub(crate) async fn page(base: &Base, walk: &Walk) -> Result<Walked, Fault> {
    let nothing = Walked { rows: vec![], after: walk.to };
    let Some(tenant) = base.tenant(walk.tenant.as_str()).await? else { return Ok(nothing) };
    let persons = match &walk.subject {
        Some(subject) => Some(persons::numbers_of(base, Some(&walk.tenant), subject).await?),
        None => None,
    };
    // Of the others there is no index by destination: all deliveries in order are read, a piece at a time.
    let condition = match walk.states[..] {
        [State::Dead] => "destination = $4 AND state = 4 AND",
        _ => "$4::bigint IS NOT NULL AND",
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM deliveries WHERE {condition} id > $1 AND id <= $2 ORDER BY id LIMIT $3"
    );
    let rows =
        base.rows(&sql, &[&walk.after.0, &walk.to.0, &(REPLAY_SCAN_MAX as i64), &walk.destination.0]).await?;
    let Some(last) = rows.last() else { return Ok(nothing) };
    let last = DeliveryId(get(last, 0)?);
    let end = if rows.len() < REPLAY_SCAN_MAX { walk.to } else { last };
    let mut fitting = vec![];
    for row in &rows {
        let read = read_of(row)?;
        let is_persons = persons.as_ref().is_none_or(|persons| persons.contains(&read.person));
        let fits = walk.fits_delivery(read.destination, read.route, read.state, read.reason.as_deref());
        if read.tenant == tenant && is_persons && fits {
            fitting.push(read);
        }
    }
    let found = matching(base, walk, fitting).await?;
    let after = match found.last() {
        Some(row) if found.len() == walk.limit && row.delivery != last => row.delivery,
        _ => end,
    };
    Ok(Walked { rows: found, after })
}

struct Read {
    id: i64,
    event: i64,
    route: i64,
    destination: i64,
    tenant: i64,
    person: i64,
    state: State,
    reason: Option<String>,
}

fn read_of(row: &Row) -> Result<Read, Fault> {
    let id: i64 = get(row, 0)?;
    Ok(Read {
        id,
        event: get(row, 1)?,
        route: get(row, 2)?,
        destination: get(row, 3)?,
        tenant: get(row, 4)?,
        person: get(row, 5)?,
        state: State::from_number(get(row, 6)?).ok_or_else(|| Fault::unreadable("delivery", id))?,
        reason: get(row, 7)?,
    })
}

/// The first of them whose events match too. Events are read last, and no more than are needed: most rows are
/// told apart without them.
async fn matching(base: &Base, walk: &Walk, mut left: Vec<Read>) -> Result<Vec<WalkedRow>, Fault> {
    let mut found = vec![];
    while !left.is_empty() && found.len() < walk.limit {
        let behind = left.split_off(left.len().min(walk.limit));
        let events = events_of(base, &left).await?;
        for read in std::mem::replace(&mut left, behind) {
            let Some((event_type, received_at)) = events.get(&read.event) else { continue };
            if found.len() < walk.limit && walk.fits_event(event_type.as_str(), *received_at) {
                let class = events::class_of(base, Seq(read.event), event_type).await?;
                let offer = offer::of_row(Seq(read.event), read.route, read.destination, class);
                let delivery = DeliveryId(read.id);
                found.push(WalkedRow { delivery, offer, state: read.state, reason: read.reason });
            }
        }
    }
    Ok(found)
}

/// Type and time of arrival.
async fn events_of(base: &Base, reads: &[Read]) -> Result<HashMap<i64, (EventType, i64)>, Fault> {
    let seqs: Vec<i64> = reads.iter().map(|read| read.event).collect();
    let rows = base.rows("SELECT seq, type, received_at FROM events WHERE seq = ANY($1)", &[&seqs]).await?;
    let mut events = HashMap::new();
    for row in &rows {
        events.insert(get(row, 0)?, (base.event_type(get(row, 1)?).await?, get(row, 2)?));
    }
    Ok(events)
}

pub(crate) async fn span(base: &Base) -> Result<(DeliveryId, DeliveryId), Fault> {
    let row = base.row("SELECT min(id), max(id) FROM deliveries", &[]).await?;
    let Some(row) = row else { return Ok((DeliveryId(0), DeliveryId(0))) };
    let end = |column: usize| Ok::<_, Fault>(DeliveryId(get::<Option<i64>, _>(&row, column)?.unwrap_or(0)));
    Ok((end(0)?, end(1)?))
}

pub(crate) async fn replays_pending(base: &Base, destination: DestinationId) -> Result<usize, Fault> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM deliveries
               WHERE destination = $1 AND state = 0 AND cause = 2 LIMIT $2) AS pending";
    let row = base.row(sql, &[&destination.0, &(REPLAYS_PENDING_MAX as i64)]).await?;
    let pending: i64 = row.map_or(Ok(0), |row| get(&row, 0))?;
    Ok(usize::try_from(pending).unwrap_or(0))
}

pub(crate) async fn last_sent(base: &Base) -> Result<LastSent, Fault> {
    let sql = "SELECT destination, at FROM attempts ORDER BY id DESC LIMIT $1";
    let rows = base.rows(sql, &[&(ATTEMPTS_BACK_MAX as i64)]).await?;
    rows.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect::<Result<_, Fault>>().map(LastSent)
}

/// Exchanges with a destination in the quarters of an hour from that time on, the one it stands in whole; known
/// for two days back.
pub(crate) async fn spent_since(
    base: &Base,
    destination: DestinationId,
    since: Millis,
) -> Result<u64, Fault> {
    let sql = "SELECT coalesce(sum(n), 0)::bigint FROM spent WHERE destination = $1 AND quarter >= $2";
    let row = base.row(sql, &[&destination.0, &quarter(since)]).await?;
    let spent: i64 = row.map_or(Ok(0), |row| get(&row, 0))?;
    Ok(u64::try_from(spent).unwrap_or(0))
}
