//! The audit: rows counted now against running sums kept since the first start.

use mailspan_core::State;

use super::base::{Base, Fault};
use super::counts::{Place, total};
use super::route::{TEST, UNMATCHED};
use crate::Audit;

pub(crate) fn audit(base: &Base) -> Result<Audit, Fault> {
    let place = |place: i64| format!("SELECT count(*) FROM without_delivery WHERE place = {place}");
    let mut sums = [0; 6];
    for (kept, state) in sums.iter_mut().zip(State::ALL) {
        *kept = sum(base, Place::Delivery(state))?;
    }
    Ok(judge(Sums {
        accepted: sum(base, Place::Accepted)?,
        duplicates: sum(base, Place::Duplicate)?,
        refused: sum(base, Place::Refused)?,
        quarantined: sum(base, Place::Quarantined)?,
        dropped_events: sum(base, Place::DroppedEvent)?,
        dropped_deliveries: sum(base, Place::DroppedDelivery)?,
        waiting: count(base, "SELECT count(*) FROM unrouted")?,
        // Offered before the router came: such an event waits.
        routed: count(
            base,
            "SELECT count(*) FROM (SELECT DISTINCT event FROM deliveries) WHERE event NOT IN (SELECT seq FROM unrouted)",
        )?,
        unmatched: count(base, &place(UNMATCHED))?,
        test: count(base, &place(TEST))?,
        events: count(base, "SELECT count(*) FROM events")?,
        rows: by_state(base)?,
        sums,
    }))
}

/// What a back end has counted: running sums, and rows of each place.
pub(crate) struct Sums {
    pub accepted: u64,
    pub duplicates: u64,
    pub refused: u64,
    pub quarantined: u64,
    pub dropped_events: u64,
    pub dropped_deliveries: u64,
    pub waiting: u64,
    pub routed: u64,
    pub unmatched: u64,
    pub test: u64,
    pub events: u64,
    /// Deliveries of each state: rows, and running sums.
    pub rows: [u64; 6],
    pub sums: [u64; 6],
}

pub(crate) fn judge(of: Sums) -> Audit {
    let [pending, delivered, skipped, coalesced, dead, discarded] = of.rows;
    let mut audit = Audit {
        accepted: of.accepted,
        duplicates: of.duplicates,
        refused: of.refused,
        quarantined: of.quarantined,
        waiting: of.waiting,
        routed: of.routed,
        unmatched: of.unmatched,
        test: of.test,
        dropped_events: of.dropped_events,
        deliveries: of.dropped_deliveries + of.sums.iter().sum::<u64>(),
        pending,
        delivered,
        skipped,
        coalesced,
        dead,
        discarded,
        dropped_deliveries: of.dropped_deliveries,
        adds_up: true,
        differences: vec![],
    };
    for ((state, counted), kept) in State::ALL.into_iter().zip(of.rows).zip(of.sums) {
        compare(&mut audit, &format!("{} deliveries", state.name()), kept, counted);
    }
    compare_events(&mut audit, of.events);
    audit.adds_up = audit.differences.is_empty();
    audit
}

fn compare_events(audit: &mut Audit, kept: u64) {
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
