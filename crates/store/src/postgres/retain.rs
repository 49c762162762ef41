//! Retention in small steps, always by id range: what is old is at the low end of each table. One node at a
//! time; what another is about to open again is locked before it is judged.

use std::collections::{HashMap, HashSet};

use mailspan_core::limits::RETENTION_ROWS_MAX;
use mailspan_core::{Millis, Seq, State};

use super::base::{Base, Fault, get};
use super::journal::Journal;
use super::{events, persons};
use crate::sqlite::accept::REQUEST_PROVES;
use crate::sqlite::counts::Place;
use crate::sqlite::persons::BUCKET_BITS;
use crate::sqlite::retain::{OPERATOR_LOG_MS, ROWS_LOOKED_AT_MAX};
use crate::write::{Keep, Wrote};

/// Events dropped in one step: each takes its deliveries and its link to a person along.
const EVENTS_DROPPED_MAX: usize = RETENTION_ROWS_MAX / 3;

/// Where the last step stopped: rows that must stay are not looked at again before the next round.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    table: usize,
    event: i64,
    request: i64,
    attempt: i64,
    transmission: Option<(i64, Vec<u8>)>,
}

/// One step of one table, each table after the other. 0 rows when a round over all of them has ended, or
/// another node is at it; a step that only looked at rows that must stay counts as one.
pub(crate) async fn step(journal: &mut Journal, keep: Keep) -> Result<Wrote, Fault> {
    let sql = "SELECT pg_try_advisory_xact_lock(hashtext('mailspan retention'), hashtext(current_schema()))";
    let alone = journal.base.row(sql, &[]).await?.map_or(Ok(false), |row| get(&row, 0))?;
    if !alone {
        return Ok(Wrote::Retained { rows: 0 });
    }
    let older_than = |ms: i64| Millis(keep.now.0.saturating_sub(ms.max(0)));
    let (requests, events) = (older_than(keep.requests_ms), older_than(keep.events_ms));
    loop {
        let rows = match journal.cursors.table {
            0 => drop_events(journal, events).await?,
            1 => drop_requests(journal, requests).await?,
            2 => drop_attempts(journal, requests).await?,
            3 => {
                let until = older_than(keep.dedupe_ms);
                journal.segments.drop_step(&journal.base, until, RETENTION_ROWS_MAX).await?
            }
            4 => drop_answers(&journal.base, keep.now).await?,
            5 => drop_transmissions(journal, events).await?,
            6 => drop_operator_log(&journal.base, older_than(OPERATOR_LOG_MS)).await?,
            _ => {
                journal.cursors.table = 0;
                return Ok(Wrote::Retained { rows: 0 });
            }
        };
        if rows > 0 {
            return Ok(Wrote::Retained { rows });
        }
        journal.cursors.table += 1;
    }
}

/// An event goes with its deliveries, unless one is pending or dead, or it waits for the router.
async fn drop_events(journal: &mut Journal, until: Millis) -> Result<usize, Fault> {
    let (old, mut is_end) = old_events(&journal.base, journal.cursors.event, until).await?;
    let stay = must_stay(&journal.base, &old).await?;
    let mut going = vec![];
    for seq in old {
        if going.len() == EVENTS_DROPPED_MAX {
            is_end = false;
            break;
        }
        journal.cursors.event = seq;
        if !stay.contains(&seq) {
            going.push(seq);
        }
    }
    // Locked now: an offer for one of them has come first, or finds it gone.
    let sql = "SELECT seq FROM events WHERE seq = ANY($1) ORDER BY seq FOR UPDATE";
    journal.base.rows(sql, &[&going]).await?;
    let stay = must_stay(&journal.base, &going).await?;
    going.retain(|seq| !stay.contains(seq));
    let rows = drop_these(journal, &going).await?;
    if is_end {
        journal.cursors.event = 0;
        return Ok(rows);
    }
    Ok(rows.max(1))
}

/// The next old events after the cursor, and whether none is left behind them.
async fn old_events(base: &Base, after: i64, until: Millis) -> Result<(Vec<i64>, bool), Fault> {
    let sql = "SELECT seq, received_at FROM events WHERE seq > $1 ORDER BY seq LIMIT $2";
    let rows = base.rows(sql, &[&after, &(ROWS_LOOKED_AT_MAX as i64)]).await?;
    let mut old = vec![];
    for row in &rows {
        if get::<i64, _>(row, 1)? >= until.0 {
            return Ok((old, true));
        }
        old.push(get(row, 0)?);
    }
    Ok((old, rows.len() < ROWS_LOOKED_AT_MAX))
}

async fn must_stay(base: &Base, seqs: &[i64]) -> Result<HashSet<i64>, Fault> {
    if seqs.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = base
        .rows(
            "SELECT s.seq FROM unnest($1::bigint[]) AS s (seq)
             WHERE EXISTS (SELECT 1 FROM unrouted u WHERE u.seq = s.seq)
                OR EXISTS (SELECT 1 FROM deliveries d WHERE d.event = s.seq AND d.state IN (0, 4))",
            &[&seqs],
        )
        .await?;
    rows.iter().map(|row| get(row, 0)).collect()
}

async fn drop_these(journal: &mut Journal, seqs: &[i64]) -> Result<usize, Fault> {
    if seqs.is_empty() {
        return Ok(0);
    }
    let base = &journal.base;
    let mut persons = persons_of(base, seqs).await?;
    let dropped = base
        .written(
            "WITH gone AS (DELETE FROM deliveries WHERE event = ANY($1) RETURNING id, event, destination, state, person),
             untied AS (DELETE FROM tries WHERE delivery IN (SELECT id FROM gone))
             SELECT event, destination, state, person FROM gone",
            &[&seqs],
        )
        .await?;
    for row in &dropped {
        let (event, destination, person): (i64, i64, i64) = (get(row, 0)?, get(row, 1)?, get(row, 3)?);
        let unreadable = || Fault::unreadable("delivery of event", event);
        let state = State::from_number(get(row, 2)?).ok_or_else(unreadable)?;
        journal.counts.raise(destination, Place::Delivery(state), -1);
        journal.counts.raise(destination, Place::DroppedDelivery, 1);
        persons.insert(event, person);
    }
    let persons: Vec<(i64, i64)> = persons.into_iter().filter(|(_, person)| *person > 0).collect();
    let buckets: Vec<i64> = persons.iter().map(|(seq, _)| seq >> BUCKET_BITS).collect();
    let ids: Vec<i64> = persons.iter().map(|(_, person)| *person).collect();
    let linked: Vec<i64> = persons.iter().map(|(seq, _)| *seq).collect();
    base.execute(
        "DELETE FROM person_events p USING unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS g (bucket, person, seq)
         WHERE p.bucket = g.bucket AND p.person = g.person AND p.seq = g.seq",
        &[&buckets, &ids, &linked],
    )
    .await?;
    base.execute("DELETE FROM without_delivery WHERE seq = ANY($1)", &[&seqs]).await?;
    let gone = base.written("DELETE FROM events WHERE seq = ANY($1) RETURNING source", &[&seqs]).await?;
    for row in &gone {
        journal.counts.raise(get(row, 0)?, Place::DroppedEvent, 1);
    }
    Ok(gone.len() + 2 * dropped.len())
}

/// Whose events they are, as their subjects say; those with deliveries are told by these.
async fn persons_of(base: &Base, seqs: &[i64]) -> Result<HashMap<i64, i64>, Fault> {
    let mut persons = HashMap::new();
    let sql = format!(
        "SELECT {} FROM events e WHERE e.seq = ANY($1)
         AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event = e.seq)",
        events::EVENT_COLUMNS
    );
    for row in &base.rows(&sql, &[&seqs]).await? {
        let event = match events::event_of(base, row).await {
            Ok(event) => event,
            // Damaged: it goes, its link to a person stays and leads nowhere.
            Err(Fault::Trouble(_)) => continue,
            Err(fault) => return Err(fault),
        };
        let (Some(Seq(seq)), Some(tenant)) = (event.seq, base.tenant(event.tenant.as_str()).await?) else {
            continue;
        };
        if let Some(person) = persons::number_of(base, tenant, &event.subject).await? {
            persons.insert(seq, person);
        }
    }
    Ok(persons)
}

/// Raw requests, and the quarantined elements that came with others of that time. What a fact of consent came with
/// is its proof, and stays as long as it.
async fn drop_requests(journal: &mut Journal, until: Millis) -> Result<usize, Fault> {
    let base = &journal.base;
    let elements = drop_low(base, "unreadable", until).await?;
    let sql = "SELECT id, received_at, redacted FROM requests WHERE id > $1 ORDER BY id LIMIT $2";
    let rows = base.rows(sql, &[&journal.cursors.request, &(ROWS_LOOKED_AT_MAX as i64)]).await?;
    let mut is_end = rows.len() < ROWS_LOOKED_AT_MAX;
    let mut going: Vec<i64> = vec![];
    for row in &rows {
        if get::<i64, _>(row, 1)? >= until.0 {
            is_end = true;
            break;
        }
        if going.len() == RETENTION_ROWS_MAX {
            is_end = false;
            break;
        }
        journal.cursors.request = get(row, 0)?;
        if get::<i64, _>(row, 2)? & REQUEST_PROVES == 0 {
            going.push(journal.cursors.request);
        }
    }
    let gone = base.execute("DELETE FROM requests WHERE id = ANY($1)", &[&going]).await? as usize;
    let rows = elements + gone;
    Ok(if is_end { rows } else { rows.max(1) })
}

/// Deletes from the low end of a table whose `received_at` grows with its id.
async fn drop_low(base: &Base, table: &str, until: Millis) -> Result<usize, Fault> {
    let sql = format!(
        "DELETE FROM {table} WHERE id IN
         (SELECT l.id FROM (SELECT id, received_at FROM {table} ORDER BY id LIMIT {RETENTION_ROWS_MAX}) AS l
          WHERE l.received_at < $1)"
    );
    Ok(base.execute(&sql, &[&until.0]).await? as usize)
}

/// Attempts of a delivery that is pending or dead stay with it.
async fn drop_attempts(journal: &mut Journal, until: Millis) -> Result<usize, Fault> {
    let base = &journal.base;
    let sql = "SELECT id, at FROM attempts WHERE id > $1 ORDER BY id LIMIT $2";
    let rows = base.rows(sql, &[&journal.cursors.attempt, &(ROWS_LOOKED_AT_MAX as i64)]).await?;
    let mut is_end = rows.len() < ROWS_LOOKED_AT_MAX;
    let mut old: Vec<i64> = vec![];
    for row in &rows {
        if get::<i64, _>(row, 1)? >= until.0 {
            is_end = true;
            break;
        }
        old.push(get(row, 0)?);
    }
    let needed = base
        .rows(
            "SELECT a.id FROM unnest($1::bigint[]) AS a (id) WHERE EXISTS (SELECT 1 FROM tries t
                JOIN deliveries d ON d.id = t.delivery WHERE t.attempt = a.id AND d.state IN (0, 4))",
            &[&old],
        )
        .await?;
    let needed: HashSet<i64> = needed.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
    let mut going = vec![];
    for id in old {
        if going.len() == RETENTION_ROWS_MAX {
            is_end = false;
            break;
        }
        journal.cursors.attempt = id;
        if !needed.contains(&id) {
            going.push(id);
        }
    }
    let mut dropped = base.execute("DELETE FROM tries WHERE attempt = ANY($1)", &[&going]).await? as usize;
    dropped += base.execute("DELETE FROM attempts WHERE id = ANY($1)", &[&going]).await? as usize;
    if is_end {
        journal.cursors.attempt = 0;
        return Ok(dropped);
    }
    Ok(dropped.max(1))
}

async fn drop_answers(base: &Base, now: Millis) -> Result<usize, Fault> {
    let rows = base
        .execute(
            "DELETE FROM answers WHERE until <= $1 AND (tenant, api_key, key) IN
             (SELECT tenant, api_key, key FROM answers WHERE until <= $1 ORDER BY until LIMIT $2)",
            &[&now.0, &(RETENTION_ROWS_MAX as i64)],
        )
        .await?;
    Ok(rows as usize)
}

/// Sends have random keys and no index by time: each step reads on from where the last one stopped.
async fn drop_transmissions(journal: &mut Journal, until: Millis) -> Result<usize, Fault> {
    let base = &journal.base;
    let (source, hash) = journal.cursors.transmission.take().unwrap_or((0, vec![]));
    let seen = base
        .rows(
            "SELECT source, hash, seen_at FROM transmissions WHERE (source, hash) > ($1, $2)
             ORDER BY source, hash LIMIT $3",
            &[&source, &hash, &(RETENTION_ROWS_MAX as i64)],
        )
        .await?;
    let (mut sources, mut hashes) = (vec![], vec![]);
    for row in &seen {
        if get::<i64, _>(row, 2)? < until.0 {
            sources.push(get::<i64, _>(row, 0)?);
            hashes.push(get::<Vec<u8>, _>(row, 1)?);
        }
    }
    let rows = base
        .execute(
            "DELETE FROM transmissions t USING unnest($1::bigint[], $2::bytea[]) AS g (source, hash)
             WHERE t.source = g.source AND t.hash = g.hash",
            &[&sources, &hashes],
        )
        .await? as usize;
    match seen.last() {
        Some(last) if seen.len() == RETENTION_ROWS_MAX => {
            journal.cursors.transmission = Some((get(last, 0)?, get(last, 1)?));
            Ok(rows.max(1))
        }
        _ => Ok(rows),
    }
}

async fn drop_operator_log(base: &Base, until: Millis) -> Result<usize, Fault> {
    let rows = base
        .execute(
            "DELETE FROM operator_log WHERE at < $1
             AND id <= (SELECT max(l.id) FROM (SELECT id FROM operator_log ORDER BY id LIMIT $2) AS l)",
            &[&until.0, &(RETENTION_ROWS_MAX as i64)],
        )
        .await?;
    Ok(rows as usize)
}
