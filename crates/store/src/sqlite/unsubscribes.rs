//! How far unsubscribes have come: which are not known everywhere yet, and how long it took until one was.
//!
//! A destination knows when its delivery of class `consent` ended, but not as a dead letter: that needs a human, and
//! until then the system behind it does not know. What a destination has answered stands in the ledger, so a replay
//! of what it knows counts for nothing.

use std::collections::BTreeSet;

use mailspan_core::limits::UNSUBSCRIBES_LOOKED_AT_MAX;
use mailspan_core::{Millis, Seq};
use rusqlite::params;

use super::base::{Base, Fault};
use super::lanes::ANSWERS_CONSENT;

/// The destination has answered this event's consent before.
const ANSWERED: &str = "SELECT 1 FROM ledger f INDEXED BY ledger_event
    JOIN ledger_answers a ON a.fact = f.id WHERE f.event = ?1 AND a.destination = ?2 AND a.verdict NOT LIKE 'dead%'";

/// When it was learned; nothing where the event is no unsubscribe, or repeats what the person had said before with
/// no opt-in since (the echo of a system that was told): a complaint after an unsubscribe is news.
const LEARNED: &str = "SELECT min(l.learned_at) FROM ledger l INDEXED BY ledger_event
    WHERE l.event = ?1 AND l.what IN (1, 2) AND NOT EXISTS (
        SELECT 1 FROM ledger b INDEXED BY ledger_person
        WHERE b.person = l.person AND b.id < l.id AND b.what IN (1, 2) AND b.what >= l.what AND NOT EXISTS (
            SELECT 1 FROM ledger i INDEXED BY ledger_person
            WHERE i.person = l.person AND i.what = 0 AND i.id BETWEEN b.id AND l.id))";

/// True where the destination knew before.
pub(crate) fn knew(base: &Base, event: Seq, destination: i64) -> Result<bool, Fault> {
    Ok(base.sql(ANSWERED)?.exists(params![event.0, destination])?)
}

/// Of events that one more destination knows since `at`: milliseconds from learning of it, of each unsubscribe that
/// no destination is left to tell.
pub(crate) fn known(base: &Base, events: &BTreeSet<i64>, at: Millis) -> Result<Vec<u64>, Fault> {
    let mut known = vec![];
    for event in events {
        if let Some(since) = learned(base, *event)?
            && !waits(base, *event)?
        {
            known.push(at.since(Millis(since)));
        }
    }
    Ok(known)
}

fn learned(base: &Base, event: i64) -> Result<Option<i64>, Fault> {
    Ok(base.sql(LEARNED)?.query_row([event], |row| row.get(0))?)
}

/// A destination is left to tell.
fn waits(base: &Base, event: i64) -> Result<bool, Fault> {
    let mut statement = base.sql(
        "SELECT destination FROM deliveries INDEXED BY deliveries_once
         WHERE event = ?1 AND flags & 1 AND state IN (0, 4)",
    )?;
    let mut rows = statement.query([event])?;
    while let Some(row) = rows.next()? {
        if !knew(base, Seq(event), row.get(0)?)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// When those were learned that are under way, the oldest first: of each destination the heads of lanes and the
/// dead letters, and what is not routed; of each [`UNSUBSCRIBES_LOOKED_AT_MAX`] rows are looked at.
pub(crate) fn under_way(base: &Base) -> Result<Vec<Millis>, Fault> {
    let mut events = BTreeSet::new();
    let max = UNSUBSCRIBES_LOOKED_AT_MAX as i64;
    let mut statement = base.sql("SELECT seq FROM unrouted ORDER BY seq LIMIT ?1")?;
    let mut rows = statement.query([max])?;
    while let Some(row) = rows.next()? {
        events.insert(row.get::<_, i64>(0)?);
    }
    let mut statement = base.sql("SELECT id FROM destinations ORDER BY id LIMIT 10000")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        untold(base, row.get(0)?, max, &mut events)?;
    }
    let mut since = vec![];
    for event in events {
        since.extend(learned(base, event)?.map(Millis));
    }
    since.sort_unstable();
    Ok(since)
}

fn untold(base: &Base, destination: i64, max: i64, events: &mut BTreeSet<i64>) -> Result<(), Fault> {
    let pending = "SELECT event, flags FROM deliveries INDEXED BY deliveries_due
        WHERE destination = ?1 AND queue = 0 AND due IS NOT NULL ORDER BY due, id LIMIT ?2";
    // What was a dead letter waits among the replays.
    let replayed = "SELECT event, flags FROM deliveries INDEXED BY deliveries_due
        WHERE destination = ?1 AND queue = 5 AND due IS NOT NULL ORDER BY due, id LIMIT ?2";
    let dead = "SELECT event, flags FROM deliveries INDEXED BY deliveries_dead
        WHERE destination = ?1 AND state = 4 ORDER BY id LIMIT ?2";
    for sql in [pending, replayed, dead] {
        let mut statement = base.sql(sql)?;
        let mut rows = statement.query(params![destination, max])?;
        while let Some(row) = rows.next()? {
            let (event, flags): (i64, i64) = (row.get(0)?, row.get(1)?);
            if flags & ANSWERS_CONSENT != 0 && !knew(base, Seq(event), destination)? {
                events.insert(event);
            }
        }
    }
    Ok(())
}
