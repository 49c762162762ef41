//! Lanes: destination, person and class. A lane with pending deliveries has exactly one head, the one
//! with a due time; the others wait without one. All of this is called under the lock of the destination's
//! lease row.

use std::collections::HashSet;

use mailspan_core::{Cause, Class, DestinationId, Millis, Queue, Reason, Seq, State};

use super::base::{Base, Fault, clean, get};
use super::journal::Journal;
use crate::sqlite::counts::Place;

/// The version of the stored progress.
pub(crate) const PROGRESS_VERSION: i64 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Lane {
    /// Below zero: nobody.
    pub person: i64,
    pub destination: i64,
    pub class: Class,
}

/// A delivery that does not exist yet.
pub(crate) struct New<'a> {
    pub event: Seq,
    pub route: i64,
    pub tenant: i64,
    pub lane: Lane,
    pub cause: Cause,
    pub flags: i64,
    pub at: Millis,
    /// False: due at once, whatever waits in its lane.
    pub ordered: bool,
    /// A dead letter from the start.
    pub failed: Option<&'a Reason>,
}

/// Columns of lanes.
struct Columns {
    persons: Vec<i64>,
    destinations: Vec<i64>,
    classes: Vec<i64>,
}

fn columns(lanes: &[Lane]) -> Columns {
    Columns {
        persons: lanes.iter().map(|lane| lane.person).collect(),
        destinations: lanes.iter().map(|lane| lane.destination).collect(),
        classes: lanes.iter().map(|lane| lane.class as i64).collect(),
    }
}

/// Those in which something is pending.
pub(crate) async fn busy(base: &Base, lanes: &[Lane]) -> Result<HashSet<Lane>, Fault> {
    if lanes.is_empty() {
        return Ok(HashSet::new());
    }
    let asked = columns(lanes);
    let rows = base
        .rows(
            "SELECT l.person, l.destination, l.class
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS l (person, destination, class)
             CROSS JOIN LATERAL (SELECT 1 FROM deliveries d WHERE d.person = l.person
                AND d.destination = l.destination AND d.class = l.class AND d.state = 0 LIMIT 1) AS b",
            &[&asked.persons, &asked.destinations, &asked.classes],
        )
        .await?;
    let mut busy = HashSet::new();
    for row in &rows {
        let class = Class::from_number(get(row, 2)?).unwrap_or(Class::Activity);
        busy.insert(Lane { person: get(row, 0)?, destination: get(row, 1)?, class });
    }
    Ok(busy)
}

/// Makes the lowest delivery that waits the head, in each lane, due since it came: a queue stays in the order of
/// arrival, and at its newest end is what has just arrived. Only for lanes whose head has just gone; lanes
/// are distinct. Where order does not count nothing waits, and what is due later stays due then. True when
/// there was one to promote.
pub(crate) async fn promote(base: &Base, lanes: &[Lane], at: Millis) -> Result<bool, Fault> {
    if lanes.is_empty() {
        return Ok(false);
    }
    let left = columns(lanes);
    let promoted = base
        .execute(
            "UPDATE deliveries SET due = least(since, $4) WHERE id IN
             (SELECT w.id FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS l (person, destination, class)
              CROSS JOIN LATERAL (SELECT d.id FROM deliveries d WHERE d.person = l.person
                 AND d.destination = l.destination AND d.class = l.class AND d.state = 0 AND d.due IS NULL
                 ORDER BY d.id LIMIT 1) AS w)",
            &[&left.persons, &left.destinations, &left.classes, &at.0],
        )
        .await?;
    Ok(promoted > 0)
}

/// Makes deliveries, in order; what exists for (event, route, destination) is left as it is. Gives the
/// destinations that now have something due.
pub(crate) async fn make(journal: &mut Journal, news: &[New<'_>]) -> Result<Vec<DestinationId>, Fault> {
    let base = &journal.base;
    let mut exists = existing(base, news).await?;
    let asked: HashSet<Lane> =
        news.iter().filter(|new| new.ordered && new.failed.is_none()).map(|new| new.lane).collect();
    let mut busy = busy(base, &asked.into_iter().collect::<Vec<_>>()).await?;
    let mut rows = vec![];
    let mut destinations = vec![];
    for new in news {
        if !exists.insert((new.event.0, new.route, new.lane.destination)) {
            continue;
        }
        let state = if new.failed.is_some() { State::Dead } else { State::Pending };
        let is_head = state == State::Pending && !(new.ordered && busy.contains(&new.lane));
        if state == State::Pending {
            busy.insert(new.lane);
        }
        if is_head {
            destinations.push(DestinationId(new.lane.destination));
        }
        rows.push((new, state, is_head.then_some(new.at.0)));
        journal.counts.raise(new.lane.destination, Place::Delivery(state), 1);
    }
    let ids = base.numbers("deliveries_id", rows.len()).await?;
    insert(base, &ids, &rows).await?;
    let waits = rows.iter().filter(|(_, state, due)| *state == State::Pending && due.is_none());
    let behind: Vec<&New> = waits.map(|row| row.0).filter(|new| new.lane.class == Class::Consent).collect();
    destinations.extend(hurry(base, &behind).await?);
    Ok(destinations)
}

/// An opt-out must not wait for the retry of what it makes void, an hour later: the head of its lane is due at once.
/// Gives the destinations of those that were not due before.
async fn hurry(base: &Base, behind: &[&New<'_>]) -> Result<Vec<DestinationId>, Fault> {
    if behind.is_empty() {
        return Ok(Vec::new());
    }
    let asked = columns(&behind.iter().map(|new| new.lane).collect::<Vec<_>>());
    let ats: Vec<i64> = behind.iter().map(|new| new.at.0).collect();
    let rows = base
        .rows(
            "UPDATE deliveries d SET due = l.at
             FROM (SELECT person, destination, class, min(at) AS at
                FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS t (person, destination, class, at)
                GROUP BY 1, 2, 3) AS l
             WHERE d.person = l.person AND d.destination = l.destination AND d.class = l.class AND d.state = 0
                AND d.due > l.at
             RETURNING d.destination",
            &[&asked.persons, &asked.destinations, &asked.classes, &ats],
        )
        .await?;
    rows.iter().map(|row| Ok(DestinationId(get(row, 0)?))).collect()
}

async fn existing(base: &Base, news: &[New<'_>]) -> Result<HashSet<(i64, i64, i64)>, Fault> {
    let mut events: Vec<i64> = news.iter().map(|new| new.event.0).collect();
    events.dedup();
    let rows = base
        .rows("SELECT event, route, destination FROM deliveries WHERE event = ANY($1)", &[&events])
        .await?;
    rows.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?, get(row, 2)?))).collect()
}

type Row<'a, 'b> = (&'a New<'b>, State, Option<i64>);

async fn insert(base: &Base, ids: &[i64], rows: &[Row<'_, '_>]) -> Result<(), Fault> {
    if rows.is_empty() {
        return Ok(());
    }
    let of = |value: fn(&Row) -> i64| rows.iter().map(value).collect::<Vec<i64>>();
    let dues: Vec<Option<i64>> = rows.iter().map(|row| row.2).collect();
    let codes: Vec<_> = rows.iter().map(|row| row.0.failed.map(|reason| clean(&reason.code))).collect();
    let texts: Vec<_> = rows.iter().map(|row| row.0.failed.map(|reason| clean(&reason.text))).collect();
    base.execute(
        "INSERT INTO deliveries (id, event, route, destination, tenant, person, class, cause, state, due, queue,
            flags, since, created_at, changed_at, reason_code, reason, v)
         SELECT r.id, r.event, r.route, r.destination, r.tenant, r.person, r.class, r.cause, r.state, r.due, r.queue,
            r.flags, r.at, r.at, r.at, r.code, r.text, $16::bigint
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
            $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[],
            $15::text[]) AS r (id, event, route, destination, tenant, person, class, cause, state, due, queue, flags,
            at, code, text)",
        &[
            &ids,
            &of(|row| row.0.event.0),
            &of(|row| row.0.route),
            &of(|row| row.0.lane.destination),
            &of(|row| row.0.tenant),
            &of(|row| row.0.lane.person),
            &of(|row| row.0.lane.class as i64),
            &of(|row| row.0.cause as i64),
            &of(|row| row.1 as i64),
            &dues,
            &of(|row| Queue::of(row.0.lane.class, row.0.cause, 0) as i64),
            &of(|row| row.0.flags),
            &of(|row| row.0.at.0),
            &codes,
            &texts,
            &PROGRESS_VERSION,
        ],
    )
    .await?;
    Ok(())
}
