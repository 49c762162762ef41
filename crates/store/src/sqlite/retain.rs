//! Retention in small steps, always by id range: what is old is at the low end of each table.

use mailspan_core::limits::RETENTION_ROWS_MAX;
use mailspan_core::{Millis, State};
use rusqlite::{OptionalExtension, params};

use super::accept::REQUEST_PROVES;
use super::base::{Base, Fault};
use super::counts::Place;
use super::group::Group;
use super::persons;
use crate::write::{Keep, Wrote};

/// Rows looked at in one step, where most of them must stay.
pub(crate) const ROWS_LOOKED_AT_MAX: usize = 10 * RETENTION_ROWS_MAX;

/// What operators decided is kept as long as evidence of consent: three years.
pub(crate) const OPERATOR_LOG_MS: i64 = 3 * 365 * 86_400_000;

/// Where the last step stopped: rows that must stay are not looked at again before the next round.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    table: usize,
    event: i64,
    /// Never set back while the process lives: numbers grow with time, and what stays behind it is proof, for good.
    request: i64,
    attempt: i64,
    transmission: Option<(i64, Vec<u8>)>,
}

/// One step of one table, each table after the other. 0 rows when a round over all of them has ended;
/// a step that only looked at rows that must stay counts as one.
pub(crate) fn step(group: &mut Group, keep: Keep) -> Result<Wrote, Fault> {
    let older_than = |ms: i64| Millis(keep.now.0.saturating_sub(ms.max(0)));
    let (requests, events) = (older_than(keep.requests_ms), older_than(keep.events_ms));
    loop {
        let rows = match group.cursors.table {
            0 => drop_events(group, events)?,
            1 => drop_requests(group, requests)?,
            2 => drop_attempts(group, requests)?,
            3 => {
                let (marks, until) = (*group.marks, older_than(keep.dedupe_ms));
                group.segments.drop_step(&group.base, &marks, until, keep.now, RETENTION_ROWS_MAX)?
            }
            4 => drop_answers(&group.base, keep.now)?,
            5 => drop_transmissions(group, events)?,
            6 => drop_operator_log(&group.base, older_than(OPERATOR_LOG_MS))?,
            _ => {
                group.cursors.table = 0;
                return Ok(Wrote::Retained { rows: 0 });
            }
        };
        if rows > 0 {
            return Ok(Wrote::Retained { rows });
        }
        group.cursors.table += 1;
    }
}

/// An event goes with its deliveries, unless one is pending or dead, or it waits for the router.
fn drop_events(group: &mut Group, until: Millis) -> Result<usize, Fault> {
    let (old, is_end) = old_events(&group.base, group.cursors.event, until)?;
    let mut rows = 0;
    for event in &old {
        group.cursors.event = event.seq;
        if !must_stay(&group.base, event.seq)? {
            rows += drop_event(group, event)?;
        }
        if rows >= RETENTION_ROWS_MAX {
            return Ok(rows);
        }
    }
    if is_end {
        group.cursors.event = 0;
        return Ok(rows);
    }
    Ok(rows.max(1))
}

struct OldEvent {
    seq: i64,
    source: i64,
    received_at: i64,
}

/// The next old events after the cursor, and whether none is left behind them.
fn old_events(base: &Base, after: i64, until: Millis) -> Result<(Vec<OldEvent>, bool), Fault> {
    let mut statement =
        base.sql("SELECT seq, source, received_at FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
    let mut rows = statement.query(params![after, ROWS_LOOKED_AT_MAX as i64])?;
    let mut old = vec![];
    while let Some(row) = rows.next()? {
        let event = OldEvent { seq: row.get(0)?, source: row.get(1)?, received_at: row.get(2)? };
        if event.received_at >= until.0 {
            return Ok((old, true));
        }
        old.push(event);
    }
    let is_end = old.len() < ROWS_LOOKED_AT_MAX;
    Ok((old, is_end))
}

fn must_stay(base: &Base, seq: i64) -> Result<bool, Fault> {
    Ok(base.sql(
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM unrouted WHERE seq = ?1)
             OR EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_once WHERE event = ?1 AND state IN (0, 4))",
        )?
        .exists([seq])?)
}

fn drop_event(group: &mut Group, event: &OldEvent) -> Result<usize, Fault> {
    let mut rows = 1;
    let found: Vec<(i64, i64, i64, i64)> = {
        let mut statement = group.base.sql(
            "SELECT id, destination, state, person FROM deliveries INDEXED BY deliveries_once WHERE event = ?1",
        )?;
        let found = statement
            .query_map([event.seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        found.collect::<Result<_, _>>()?
    };
    for (id, destination, state, _) in &found {
        let base = &group.base;
        rows += base.sql("DELETE FROM tries WHERE delivery = ?1")?.execute([id])?;
        rows += base.sql("DELETE FROM deliveries WHERE id = ?1")?.execute([id])?;
        let state = State::from_number(*state).ok_or_else(|| Fault::unreadable("delivery", *id))?;
        group.counts.raise(*destination, Place::Delivery(state), -1);
        group.counts.raise(*destination, Place::DroppedDelivery, 1);
        mark_dropped(base, "deliveries", *id)?;
    }
    let base = &group.base;
    if let Some(person) = person_of(base, event.seq, found.first().map(|row| row.3))? {
        rows += base
            .sql("DELETE FROM person_events WHERE bucket = ?1 AND person = ?2 AND seq = ?3")?
            .execute(params![event.seq >> persons::BUCKET_BITS, person, event.seq])?;
    }
    rows += base.sql("DELETE FROM without_delivery WHERE seq = ?1")?.execute([event.seq])?;
    base.sql("DELETE FROM events WHERE seq = ?1")?.execute([event.seq])?;
    mark_dropped(base, "events", event.seq)?;
    group.counts.raise(event.source, Place::DroppedEvent, 1);
    Ok(rows)
}

/// Whose event it is: as its deliveries say, else as its subject says.
fn person_of(base: &Base, seq: i64, of_delivery: Option<i64>) -> Result<Option<i64>, Fault> {
    if let Some(person) = of_delivery {
        return Ok(Some(person).filter(|person| *person > 0));
    }
    let Some(event) = super::events::by_seq(base, mailspan_core::Seq(seq))? else { return Ok(None) };
    match base.tenant(event.tenant.as_str())? {
        Some(tenant) => persons::number_of(base, tenant, &event.subject),
        None => Ok(None),
    }
}

/// Raw requests, and the quarantined elements that came with others of that time. What a fact of consent came with
/// is its proof, and stays as long as it.
fn drop_requests(group: &mut Group, until: Millis) -> Result<usize, Fault> {
    let elements = drop_low(&group.base, "unreadable", until)?;
    let (old, is_end) = old_requests(&group.base, group.cursors.request, until)?;
    let mut rows = elements;
    for (id, flags) in old {
        if rows >= elements + RETENTION_ROWS_MAX {
            return Ok(rows);
        }
        group.cursors.request = id;
        if flags & REQUEST_PROVES == 0 {
            rows += group.base.sql("DELETE FROM requests WHERE id = ?1")?.execute([id])?;
            mark_dropped(&group.base, "requests", id)?;
        }
    }
    Ok(if is_end { rows } else { rows.max(1) })
}

/// The next old requests after the cursor with their flags, and whether none is left behind them.
fn old_requests(base: &Base, after: i64, until: Millis) -> Result<(Vec<(i64, i64)>, bool), Fault> {
    let mut statement =
        base.sql("SELECT id, received_at, redacted FROM requests WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let mut rows = statement.query(params![after, ROWS_LOOKED_AT_MAX as i64])?;
    let mut old = vec![];
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(1)? >= until.0 {
            return Ok((old, true));
        }
        old.push((row.get(0)?, row.get(2)?));
    }
    let is_end = old.len() < ROWS_LOOKED_AT_MAX;
    Ok((old, is_end))
}

/// Deletes from the low end of a table whose `received_at` grows with its id.
fn drop_low(base: &Base, table: &str, until: Millis) -> Result<usize, Fault> {
    let first_young = format!(
        "SELECT max(id) FROM (SELECT id, received_at FROM {table} ORDER BY id LIMIT {RETENTION_ROWS_MAX})
         WHERE received_at < ?1"
    );
    let last: Option<i64> = base.sql(&first_young)?.query_row([until.0], |row| row.get(0))?;
    let Some(last) = last else { return Ok(0) };
    let rows = base
        .sql(&format!("DELETE FROM {table} WHERE id <= ?1 AND received_at < ?2"))?
        .execute(params![last, until.0])?;
    mark_dropped(base, table, last)?;
    Ok(rows)
}

/// Attempts of a delivery that is pending or dead stay with it.
fn drop_attempts(group: &mut Group, until: Millis) -> Result<usize, Fault> {
    let base = &group.base;
    let old: Vec<(i64, i64)> = {
        let mut statement = base.sql("SELECT id, at FROM attempts WHERE id > ?1 ORDER BY id LIMIT ?2")?;
        let rows = statement.query_map(params![group.cursors.attempt, ROWS_LOOKED_AT_MAX as i64], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        rows.collect::<Result<_, _>>()?
    };
    let mut is_end = old.len() < ROWS_LOOKED_AT_MAX;
    let mut rows = 0;
    for (id, at) in old {
        if at >= until.0 {
            is_end = true;
            break;
        }
        if rows >= RETENTION_ROWS_MAX {
            return Ok(rows);
        }
        group.cursors.attempt = id;
        let is_needed = base
            .sql(
                "SELECT 1 FROM tries t INDEXED BY tries_attempt CROSS JOIN deliveries d ON d.id = t.delivery
                 WHERE t.attempt = ?1 AND d.state IN (0, 4)",
            )?
            .exists([id])?;
        if !is_needed {
            rows += base.sql("DELETE FROM tries WHERE attempt = ?1")?.execute([id])?;
            rows += base.sql("DELETE FROM attempts WHERE id = ?1")?.execute([id])?;
            mark_dropped(base, "attempts", id)?;
        }
    }
    if is_end {
        group.cursors.attempt = 0;
        return Ok(rows);
    }
    Ok(rows.max(1))
}

fn drop_answers(base: &Base, now: Millis) -> Result<usize, Fault> {
    Ok(base
        .sql(
            "DELETE FROM answers WHERE (tenant, api_key, key) IN
             (SELECT tenant, api_key, key FROM answers INDEXED BY answers_until WHERE until <= ?1 LIMIT ?2)",
        )?
        .execute(params![now.0, RETENTION_ROWS_MAX as i64])?)
}

/// Sends have random keys and no index by time: each step reads on from where the last one stopped.
fn drop_transmissions(group: &mut Group, until: Millis) -> Result<usize, Fault> {
    let base = &group.base;
    let (source, hash) = group.cursors.transmission.take().unwrap_or((0, vec![]));
    let seen: Vec<(i64, Vec<u8>, i64)> = {
        let mut statement = base.sql(
            "SELECT source, hash, seen_at FROM transmissions WHERE (source, hash) > (?1, ?2)
             ORDER BY source, hash LIMIT ?3",
        )?;
        let rows = statement.query_map(params![source, hash, ROWS_LOOKED_AT_MAX as i64], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
        rows.collect::<Result<_, _>>()?
    };
    let is_end = seen.len() < ROWS_LOOKED_AT_MAX;
    let mut rows = 0;
    let mut last = None;
    for (source, hash, seen_at) in seen {
        if seen_at < until.0 {
            rows += base
                .sql("DELETE FROM transmissions WHERE source = ?1 AND hash = ?2")?
                .execute(params![source, hash])?;
        }
        last = Some((source, hash));
        if rows >= RETENTION_ROWS_MAX {
            break;
        }
    }
    if is_end && rows < RETENTION_ROWS_MAX {
        return Ok(rows);
    }
    group.cursors.transmission = last;
    Ok(rows.max(1))
}

fn drop_operator_log(base: &Base, until: Millis) -> Result<usize, Fault> {
    Ok(base
        .sql(
            "DELETE FROM operator_log WHERE at < ?1
             AND id <= (SELECT max(id) FROM (SELECT id FROM operator_log ORDER BY id LIMIT ?2))",
        )?
        .execute(params![until.0, RETENTION_ROWS_MAX as i64])?)
}

/// Numbers are never given twice, even when the highest row is dropped before a restart.
fn mark_dropped(base: &Base, table: &str, id: i64) -> Result<(), Fault> {
    let name = format!("dropped_{table}");
    let known: Option<i64> = base
        .sql("SELECT value FROM meta WHERE name = ?1")?
        .query_row([&name], |row| row.get(0))
        .optional()?;
    if known.is_none_or(|known| known < id) {
        base.sql("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?.execute(params![name, id])?;
    }
    Ok(())
}
