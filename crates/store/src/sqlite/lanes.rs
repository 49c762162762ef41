//! Lanes: destination, person and class. A lane with pending deliveries has exactly one head, the one
//! with a due time; the others wait without one.

use mailspan_core::{Cause, Class, Millis, PersonId, Queue, Reason, Seq, State};
use rusqlite::{OptionalExtension, params};

use super::base::Fault;
use super::counts::Place;
use super::group::Group;
use super::held::Held;

/// A delivery's flag: its event states consent, so its end is an answer in the ledger.
pub(crate) const ANSWERS_CONSENT: i64 = 1;

const PROGRESS_VERSION: i64 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lane {
    /// Below zero: nobody.
    pub person: i64,
    pub destination: i64,
    pub class: Class,
}

/// The person of a lane for an event about nobody: a lane of its own.
pub(crate) fn nobody(seq: Seq) -> i64 {
    PersonId::nobody(seq).0
}

/// True when something is pending in the lane.
pub(crate) fn is_busy(base: &Held, lane: Lane) -> Result<bool, Fault> {
    Ok(base
        .sql(
            "SELECT 1 FROM deliveries INDEXED BY deliveries_lane
             WHERE person = ?1 AND destination = ?2 AND class = ?3 AND state = 0 LIMIT 1",
        )?
        .exists(params![lane.person, lane.destination, lane.class as i64])?)
}

/// Makes the lowest delivery that waits the head, due since it came: a queue stays in the order of arrival, and at
/// its newest end is what has just arrived. Only for a lane whose head has just gone. Where order does not count
/// nothing waits, and what is due later stays due then.
pub(crate) fn promote(base: &Held, lane: Lane, at: Millis) -> Result<bool, Fault> {
    // Mostly nothing waits: to look first opens one index, to change at once opens all of them.
    let next: Option<i64> = base
        .sql(
            "SELECT id FROM deliveries INDEXED BY deliveries_lane
             WHERE person = ?1 AND destination = ?2 AND class = ?3 AND state = 0 AND due IS NULL
             ORDER BY id LIMIT 1",
        )?
        .query_row(params![lane.person, lane.destination, lane.class as i64], |row| row.get(0))
        .optional()?;
    let Some(next) = next else { return Ok(false) };
    base.sql("UPDATE deliveries SET due = min(since, ?2) WHERE id = ?1")?.execute(params![next, at.0])?;
    Ok(true)
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

/// `Head` when the destination now has something due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    Head,
    Waits,
    Dead,
    /// It was there already: never a second row.
    Exists,
}

pub(crate) fn make(group: &mut Group, new: &New) -> Result<Made, Fault> {
    let base = &group.base;
    let state = if new.failed.is_some() { State::Dead } else { State::Pending };
    let made = match state {
        State::Dead => Made::Dead,
        _ if new.ordered && is_busy(base, new.lane)? => Made::Waits,
        _ => Made::Head,
    };
    let due = (made == Made::Head).then_some(new.at.0);
    let id = group.marks.delivery + 1;
    let inserted = base.sql(
            "INSERT INTO deliveries (id, event, route, destination, tenant, person, class, cause, state, due, queue,
                flags, since, created_at, changed_at, reason_code, reason, v)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?13, ?13, ?14, ?15, ?16)
             ON CONFLICT (event, route, destination) DO NOTHING",
        )?
        .execute(params![
            id,
            new.event.0,
            new.route,
            new.lane.destination,
            new.tenant,
            new.lane.person,
            new.lane.class as i64,
            new.cause as i64,
            state as i64,
            due,
            Queue::of(new.lane.class, new.cause, 0) as i64,
            new.flags,
            new.at.0,
            new.failed.map(|reason| &reason.code),
            new.failed.map(|reason| &reason.text),
            PROGRESS_VERSION,
        ])?;
    if inserted == 0 {
        return Ok(Made::Exists);
    }
    group.marks.delivery = id;
    group.counts.raise(new.lane.destination, Place::Delivery(state), 1);
    let hurries =
        made == Made::Waits && new.lane.class == Class::Consent && hurry(&group.base, new.lane, new.at)?;
    Ok(if hurries { Made::Head } else { made })
}

/// An opt-out must not wait for the retry of what it makes void, an hour later: the head of its lane is due at once.
fn hurry(base: &Held, lane: Lane, at: Millis) -> Result<bool, Fault> {
    let hurried = base
        .sql(
            "UPDATE deliveries INDEXED BY deliveries_lane SET due = ?4
             WHERE person = ?1 AND destination = ?2 AND class = ?3 AND state = 0 AND due > ?4",
        )?
        .execute(params![lane.person, lane.destination, lane.class as i64, at.0])?;
    Ok(hurried > 0)
}
