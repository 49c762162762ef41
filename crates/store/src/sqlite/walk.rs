//! A walk over the deliveries of one destination by id, a bounded number of rows a page.

use mailspan_core::limits::{ATTEMPTS_BACK_MAX, REPLAY_SCAN_MAX, REPLAYS_PENDING_MAX};
use mailspan_core::{DeliveryId, DestinationId, Millis, Seq, State};
use rusqlite::params;

use super::base::{Base, Fault};
use super::settle::quarter;
use super::{events, offer, persons};
use crate::{LastSent, Walk, Walked, WalkedRow};

const COLUMNS: &str = "id, event, route, destination, tenant, person, state, reason_code";

/// Rows are looked at until `limit` of them match, `REPLAY_SCAN_MAX` were seen, or `to` is reached.
pub(crate) fn page(base: &Base, walk: &Walk) -> Result<Walked, Fault> {
    let nothing = Walked { rows: vec![], after: walk.to };
    let Some(tenant) = base.tenant(walk.tenant.as_str())? else { return Ok(nothing) };
    let persons = match &walk.subject {
        Some(subject) => Some(persons::numbers_of(base, Some(&walk.tenant), subject)?),
        None => None,
    };
    // Of the others there is no index by destination: all deliveries in order are read, a piece at a time.
    let (from, condition) = match walk.states[..] {
        [State::Dead] => ("deliveries INDEXED BY deliveries_dead", "destination = ?4 AND state = 4 AND"),
        _ => ("deliveries NOT INDEXED", "?4 IS NOT NULL AND"),
    };
    let sql =
        format!("SELECT {COLUMNS} FROM {from} WHERE {condition} id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3");
    let mut statement = base.sql(&sql)?;
    let mut rows =
        statement.query(params![walk.after.0, walk.to.0, REPLAY_SCAN_MAX as i64, walk.destination.0])?;
    let mut walked = Walked { rows: vec![], after: walk.after };
    let mut seen = 0;
    while let Some(row) = rows.next()? {
        if walked.rows.len() >= walk.limit {
            return Ok(walked);
        }
        let read = Read {
            id: row.get(0)?,
            event: row.get(1)?,
            route: row.get(2)?,
            destination: row.get(3)?,
            tenant: row.get(4)?,
            person: row.get(5)?,
            state: row.get(6)?,
            reason: row.get(7)?,
        };
        seen += 1;
        walked.after = DeliveryId(read.id);
        let is_persons = persons.as_ref().is_none_or(|persons| persons.contains(&read.person));
        if read.tenant == tenant && is_persons {
            walked.rows.extend(matching(base, walk, read)?);
        }
    }
    if seen < REPLAY_SCAN_MAX {
        walked.after = walk.to;
    }
    Ok(walked)
}

struct Read {
    id: i64,
    event: i64,
    route: i64,
    destination: i64,
    tenant: i64,
    person: i64,
    state: i64,
    reason: Option<String>,
}

/// The event is read last: most rows are told apart without it.
fn matching(base: &Base, walk: &Walk, read: Read) -> Result<Option<WalkedRow>, Fault> {
    let state = State::from_number(read.state).ok_or_else(|| Fault::unreadable("delivery", read.id))?;
    if !walk.fits_delivery(read.destination, read.route, state, read.reason.as_deref()) {
        return Ok(None);
    }
    let mut statement = base.sql("SELECT type, received_at FROM events WHERE seq = ?1")?;
    let mut rows = statement.query([read.event])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let event_type = base.event_type(row.get(0)?)?;
    let received_at: i64 = row.get(1)?;
    if !walk.fits_event(event_type.as_str(), received_at) {
        return Ok(None);
    }
    let class = events::class_of(base, Seq(read.event), &event_type)?;
    let offer = offer::of_row(Seq(read.event), read.route, read.destination, class);
    Ok(Some(WalkedRow { delivery: DeliveryId(read.id), offer, state, reason: read.reason }))
}

pub(crate) fn span(base: &Base) -> Result<(DeliveryId, DeliveryId), Fault> {
    // Two statements: with both in one, SQLite reads the whole table.
    let end = |sql: &str| -> Result<i64, Fault> {
        Ok(base.sql(sql)?.query_row([], |row| row.get::<_, Option<i64>>(0))?.unwrap_or(0))
    };
    let first = end("SELECT min(id) FROM deliveries")?;
    let last = end("SELECT max(id) FROM deliveries")?;
    Ok((DeliveryId(first), DeliveryId(last)))
}

pub(crate) fn replays_pending(base: &Base, destination: DestinationId) -> Result<usize, Fault> {
    let pending: i64 = base
        .sql(
            "SELECT count(*) FROM (SELECT 1 FROM deliveries INDEXED BY deliveries_replays
             WHERE destination = ?1 AND state = 0 AND cause = 2 LIMIT ?2)",
        )?
        .query_row(params![destination.0, REPLAYS_PENDING_MAX as i64], |row| row.get(0))?;
    Ok(usize::try_from(pending).unwrap_or(0))
}

pub(crate) fn last_sent(base: &Base) -> Result<LastSent, Fault> {
    let mut statement = base.sql("SELECT destination, at FROM attempts ORDER BY id DESC LIMIT ?1")?;
    let rows = statement.query_map([ATTEMPTS_BACK_MAX as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(LastSent(rows.collect::<Result<_, _>>()?))
}

/// Exchanges with a destination in the quarters of an hour from that time on, the one it stands in whole; known
/// for two days back.
pub(crate) fn spent_since(base: &Base, destination: DestinationId, since: Millis) -> Result<u64, Fault> {
    let spent: i64 = base
        .sql("SELECT coalesce(sum(n), 0) FROM spent WHERE destination = ?1 AND quarter >= ?2")?
        .query_row(params![destination.0, quarter(since)], |row| row.get(0))?;
    Ok(u64::try_from(spent).unwrap_or(0))
}
