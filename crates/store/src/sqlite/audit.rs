//! The audit: rows counted now against running sums kept since the first start.

use mailspan_core::State;

use super::base::{Base, Fault};
use super::counts::{Place, total};
use super::route::{TEST, UNMATCHED};
use crate::Audit;

pub(crate) fn audit(base: &Base) -> Result<Audit, Fault> {
    let mut audit = Audit {
        accepted: sum(base, Place::Accepted)?,
        duplicates: sum(base, Place::Duplicate)?,
        refused: sum(base, Place::Refused)?,
        quarantined: sum(base, Place::Quarantined)?,
        waiting: count(base, "SELECT count(*) FROM unrouted")?,
        // Offered before the router came: such an event waits.
        routed: count(
            base,
            "SELECT count(*) FROM (SELECT DISTINCT event FROM deliveries) WHERE event NOT IN (SELECT seq FROM unrouted)",
        )?,
        unmatched: count(base, &format!("SELECT count(*) FROM without_delivery WHERE place = {UNMATCHED}"))?,
        test: count(base, &format!("SELECT count(*) FROM without_delivery WHERE place = {TEST}"))?,
        dropped_events: sum(base, Place::DroppedEvent)?,
        deliveries: 0,
        pending: 0,
        delivered: 0,
        skipped: 0,
        coalesced: 0,
        dead: 0,
        discarded: 0,
        dropped_deliveries: sum(base, Place::DroppedDelivery)?,
        adds_up: true,
        differences: vec![],
    };
    let rows = by_state(base)?;
    [audit.pending, audit.delivered, audit.skipped, audit.coalesced, audit.dead, audit.discarded] = rows;
    audit.deliveries = audit.dropped_deliveries;
    for (state, counted) in State::ALL.into_iter().zip(rows) {
        let kept = sum(base, Place::Delivery(state))?;
        audit.deliveries += kept;
        compare(&mut audit, &format!("{} deliveries", state.name()), kept, counted);
    }
    compare_events(base, &mut audit)?;
    audit.adds_up = audit.differences.is_empty();
    Ok(audit)
}

fn compare_events(base: &Base, audit: &mut Audit) -> Result<(), Fault> {
    let kept = count(base, "SELECT count(*) FROM events")?;
    let placed = audit.waiting + audit.routed + audit.unmatched + audit.test;
    if kept != placed {
        audit.differences.push(format!(
            "{kept} events are kept, but {placed} are waiting, routed, unmatched or test: an event is in no place or in two"
        ));
    }
    let accounted = placed + audit.dropped_events;
    if audit.accepted != accounted {
        audit.differences.push(format!(
            "{} events were accepted, but {accounted} are in a place or were dropped by retention",
            audit.accepted
        ));
    }
    Ok(())
}

fn compare(audit: &mut Audit, what: &str, kept: u64, counted: u64) {
    if kept != counted {
        audit.differences.push(format!("the running sum says {kept} {what}, the table has {counted}"));
    }
}

fn by_state(base: &Base) -> Result<[u64; 6], Fault> {
    let mut rows = [0; 6];
    let mut statement = base.conn.prepare("SELECT state, count(*) FROM deliveries GROUP BY state")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let state: usize = row.get::<_, u32>(0)? as usize;
        if let Some(place) = rows.get_mut(state) {
            *place = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        }
    }
    Ok(rows)
}

fn sum(base: &Base, place: Place) -> Result<u64, Fault> {
    Ok(u64::try_from(total(base, place)?).unwrap_or(0))
}

fn count(base: &Base, sql: &str) -> Result<u64, Fault> {
    let n: i64 = base.conn.prepare(sql)?.query_row([], |row| row.get(0))?;
    Ok(u64::try_from(n).unwrap_or(0))
}
