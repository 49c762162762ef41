//! One transaction of a destination's owner: states, attempts, and the next head of each lane.

use std::collections::{BTreeMap, BTreeSet};

use mailspan_core::{
    Attempt, Cause, Class, DeliveryId, DestinationId, Elsewhere, Millis, Outcome, Progress, Queue, Reason,
    Seq, Settlement, State, Verdict,
};
use mailspan_engine::Fence;
use rusqlite::{OptionalExtension, params};

use super::base::Fault;
use super::counts::Counts;
use super::group::Group;
use super::held::Held;
use super::lanes::{self, ANSWERS_CONSENT, Lane, Made, New};
use super::{leases, ledger, said, unsubscribes};
use crate::DeliveryRow;
use crate::write::{Say, Wrote};

/// Refused whole under an old fence. What is no longer pending was settled before: it is left as it is.
pub(crate) fn settle(
    group: &mut Group,
    destination: DestinationId,
    fence: Fence,
    settlements: &[Settlement],
    attempts: &[Attempt],
    at: Millis,
    say: &[(DeliveryId, Say<DeliveryRow>)],
) -> Result<Wrote, Fault> {
    leases::check(&group.base, &leases::of_destination(destination), fence)?;
    let first_attempt = group.marks.attempt + 1;
    for attempt in attempts {
        group.marks.attempt += 1;
        keep_attempt(&group.base, group.marks.attempt, destination, attempt)?;
    }
    spend(&group.base, destination, attempts)?;
    let (mut promoted, mut offered, mut told) = (false, vec![], BTreeSet::new());
    for settlement in settlements {
        let Some(row) = pending(&group.base, settlement, destination)? else { continue };
        let attempt = settlement
            .attempt
            .filter(|position| *position < attempts.len())
            .map(|position| first_attempt + position as i64);
        let change = Change { row, settlement, attempt, at };
        if tells(&change) && !unsubscribes::knew(&group.base, change.row.event, destination.0)? {
            told.insert(change.row.event.0);
        }
        promoted |= settle_one(&group.base, group.counts, &change)?;
        if let Some((delivery, say)) = say.iter().find(|(delivery, _)| *delivery == settlement.delivery) {
            said::say_dead(group, *delivery, say)?;
        }
        if let Some(elsewhere) = settlement.hand_on
            && lanes::make(group, &handed_on(&change.row, elsewhere, at))? == Made::Head
        {
            offered.push(elsewhere.destination);
        }
    }
    offered.sort();
    offered.dedup();
    let known_after_ms = unsubscribes::known(&group.base, &told, at)?;
    Ok(Wrote::Settled { promoted, offered, known_after_ms })
}

/// The destination knows of the consent from this settlement on.
fn tells(change: &Change) -> bool {
    let Change { row, settlement, .. } = change;
    row.flags & ANSWERS_CONSENT != 0 && tells_consent(row.lane.class, settlement)
}

/// The consent of a delivery of this class ends well: with the delivery, or before what remains of it.
pub(crate) fn tells_consent(class: Class, settlement: &Settlement) -> bool {
    match &settlement.outcome {
        Outcome::Ended { state, .. } => class == Class::Consent && *state != State::Dead,
        Outcome::CarriedBy { .. } => class == Class::Consent,
        Outcome::Again { class: lowered, .. } => {
            class == Class::Consent
                && *lowered != Class::Consent
                && !consent_verdict(&settlement.progress).starts_with(State::Dead.name())
        }
        Outcome::Progressed => false,
    }
}

/// A delivery of the same event and route, to where its notice goes instead.
fn handed_on(row: &Before, elsewhere: Elsewhere, at: Millis) -> New<'static> {
    let lane = Lane { person: row.lane.person, destination: elsewhere.destination.0, class: elsewhere.class };
    New {
        event: row.event,
        route: row.route,
        tenant: row.tenant,
        lane,
        cause: Cause::Live,
        flags: row.flags & ANSWERS_CONSENT,
        at,
        ordered: true,
        failed: None,
    }
}

/// What the row says before the settlement.
struct Before {
    event: Seq,
    route: i64,
    tenant: i64,
    lane: Lane,
    is_head: bool,
    queue: i64,
    flags: i64,
}

struct Change<'a> {
    row: Before,
    settlement: &'a Settlement,
    attempt: Option<i64>,
    at: Millis,
}

fn pending(
    base: &Held,
    settlement: &Settlement,
    destination: DestinationId,
) -> Result<Option<Before>, Fault> {
    let mut statement = base.sql(
        "SELECT event, person, class, due, queue, flags, route, tenant FROM deliveries
         WHERE id = ?1 AND destination = ?2 AND state = 0",
    )?;
    let row = statement
        .query_row(params![settlement.delivery.0, destination.0], |row| {
            let due: Option<i64> = row.get(3)?;
            let class = Class::from_number(row.get(2)?).unwrap_or(Class::Activity);
            Ok(Before {
                event: Seq(row.get(0)?),
                lane: Lane { person: row.get(1)?, destination: destination.0, class },
                is_head: due.is_some(),
                queue: row.get(4)?,
                flags: row.get(5)?,
                route: row.get(6)?,
                tenant: row.get(7)?,
            })
        })
        .optional()?;
    Ok(row)
}

/// True when the lane's next delivery became its head.
fn settle_one(base: &Held, counts: &mut Counts, change: &Change) -> Result<bool, Fault> {
    link_attempt(base, change)?;
    match &change.settlement.outcome {
        Outcome::Ended { state, reason } => end(base, counts, change, *state, reason.as_ref(), None),
        Outcome::CarriedBy { delivery } => {
            end(base, counts, change, State::Coalesced, None, Some(delivery.0))
        }
        Outcome::Again { due, queue, class, reason } => {
            again(base, change, *due, *queue, *class, reason.as_ref())
        }
        Outcome::Progressed => progressed(base, change).map(|()| false),
    }
}

/// State, due, queue, class and reason stay as they are.
fn progressed(base: &Held, change: &Change) -> Result<(), Fault> {
    let Change { settlement, attempt, at, .. } = change;
    base.sql(
        "UPDATE deliveries SET attempts = ?2, crashes = ?3, progress = ?4, changed_at = ?5,
            last_attempt = coalesce(?6, last_attempt)
         WHERE id = ?1",
    )?
    .execute(params![
        settlement.delivery.0,
        settlement.attempts,
        settlement.crashes,
        packed(&settlement.progress)?.as_ref().map(String::as_bytes),
        at.0,
        attempt,
    ])?;
    Ok(())
}

/// Nothing is left to do in what ended well, so only a dead letter keeps how far it got, and what was handed on.
pub(crate) fn keeps_progress(settlement: &Settlement, ended: State) -> bool {
    ended == State::Dead || settlement.hand_on.is_some()
}

fn end(
    base: &Held,
    counts: &mut Counts,
    change: &Change,
    state: State,
    reason: Option<&Reason>,
    carried_by: Option<i64>,
) -> Result<bool, Fault> {
    let Change { row, settlement, at, .. } = change;
    if state == State::Pending {
        return Err(Fault::refused("not_an_end", "a delivery cannot end as pending"));
    }
    let progress = if keeps_progress(settlement, state) { packed(&settlement.progress)? } else { None };
    let (class, queue) = (row.lane.class, row.queue);
    let after = After { state, class, due: None, queue, reason, carried_by, progress };
    write(base, change, &after, *at)?;
    counts.moved(row.lane.destination, State::Pending, state);
    if row.flags & ANSWERS_CONSENT != 0 {
        let verdict = ledger::verdict(state, reason);
        let replace = row.lane.class == Class::Consent;
        ledger::answer(base, row.event, row.lane.destination, &verdict, *at, replace)?;
    }
    if row.is_head { lanes::promote(base, row.lane, *at) } else { Ok(false) }
}

fn again(
    base: &Held,
    change: &Change,
    due: Millis,
    queue: Queue,
    class: Class,
    reason: Option<&Reason>,
) -> Result<bool, Fault> {
    let Change { row, settlement, at, .. } = change;
    let moves = class != row.lane.class;
    let to = Lane { class, ..row.lane };
    // In its own lane it stays what it was; in another it is the head only where nothing is pending.
    let is_head = if moves { !lanes::is_busy(base, to)? } else { row.is_head };
    let after = After {
        state: State::Pending,
        class,
        due: is_head.then_some(due.0),
        queue: queue as i64,
        reason,
        carried_by: None,
        progress: packed(&settlement.progress)?,
    };
    write(base, change, &after, *at)?;
    if moves && row.lane.class == Class::Consent && row.flags & ANSWERS_CONSENT != 0 {
        // The consent itself is done: the lower class that remains must not hide that.
        let verdict = consent_verdict(&settlement.progress);
        ledger::answer(base, row.event, row.lane.destination, &verdict, *at, true)?;
    }
    if moves && row.is_head { lanes::promote(base, row.lane, *at) } else { Ok(false) }
}

/// The row after the settlement.
struct After<'a> {
    state: State,
    class: Class,
    due: Option<i64>,
    queue: i64,
    reason: Option<&'a Reason>,
    carried_by: Option<i64>,
    progress: Option<String>,
}

fn write(base: &Held, change: &Change, after: &After, at: Millis) -> Result<(), Fault> {
    let settlement = change.settlement;
    base.sql(
        "UPDATE deliveries SET state = ?2, class = ?3, due = ?4, queue = ?5, attempts = ?6, crashes = ?7,
            reason_code = ?8, reason = ?9, carried_by = ?10, progress = ?11, changed_at = ?12,
            last_attempt = coalesce(?13, last_attempt)
         WHERE id = ?1",
    )?
    .execute(params![
        settlement.delivery.0,
        after.state as i64,
        after.class as i64,
        after.due,
        after.queue,
        settlement.attempts,
        settlement.crashes,
        after.reason.map(|reason| &reason.code),
        after.reason.map(|reason| &reason.text),
        after.carried_by,
        after.progress.as_ref().map(String::as_bytes),
        at.0,
        change.attempt,
    ])?;
    Ok(())
}

/// What ends well at its first attempt is found by `last_attempt`; all else is linked to each attempt.
fn link_attempt(base: &Held, change: &Change) -> Result<(), Fault> {
    let Some(attempt) = change.attempt else { return Ok(()) };
    if ends_well(&change.settlement.outcome) && change.settlement.attempts <= 1 {
        return Ok(());
    }
    base.sql("INSERT OR IGNORE INTO tries (delivery, attempt) VALUES (?1, ?2)")?
        .execute(params![change.settlement.delivery.0, attempt])?;
    Ok(())
}

/// Nothing is left to look into: no human, no further attempt.
pub(crate) fn ends_well(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Ended { state, .. } => *state != State::Dead,
        Outcome::CarriedBy { .. } => true,
        Outcome::Again { .. } | Outcome::Progressed => false,
    }
}

fn keep_attempt(base: &Held, id: i64, destination: DestinationId, attempt: &Attempt) -> Result<(), Fault> {
    base.sql(
        "INSERT INTO attempts (id, destination, at, ms, items, status, request, answer)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        id,
        destination.0,
        attempt.at.0,
        attempt.took_ms,
        attempt.items,
        attempt.status,
        attempt.request.as_deref().map(crate::pack::squeeze),
        attempt.answer,
    ])?;
    Ok(())
}

/// Counts exchanges by the quarter of an hour in which they were sent.
fn spend(base: &Held, destination: DestinationId, attempts: &[Attempt]) -> Result<(), Fault> {
    let mut quarters: BTreeMap<i64, i64> = BTreeMap::new();
    for attempt in attempts {
        *quarters.entry(quarter(attempt.at)).or_default() += 1;
    }
    for (quarter, n) in &quarters {
        base.sql(
            "INSERT INTO spent (destination, quarter, n) VALUES (?1, ?2, ?3)
             ON CONFLICT (destination, quarter) DO UPDATE SET n = n + ?3",
        )?
        .execute(params![destination.0, quarter, n])?;
    }
    if let Some(newest) = quarters.keys().next_back() {
        base.sql("DELETE FROM spent WHERE destination = ?1 AND quarter < ?2")?
            .execute(params![destination.0, newest - QUARTERS_KEPT])?;
    }
    Ok(())
}

/// The quarter of an hour since 1970: every time zone begins its day at one.
pub(crate) fn quarter(at: Millis) -> i64 {
    at.0.div_euclid(900_000)
}

/// Two days.
pub(crate) const QUARTERS_KEPT: i64 = 2 * 96;

pub(crate) fn packed(progress: &[Progress]) -> Result<Option<String>, Fault> {
    if progress.is_empty() {
        return Ok(None);
    }
    serde_json::to_string(progress)
        .map(Some)
        .map_err(|error| Fault::refused("unwritable_progress", error.to_string()))
}

pub(crate) fn consent_verdict(progress: &[Progress]) -> String {
    let ended = progress.iter().filter_map(|part| part.verdict.as_ref()).find(|verdict| verdict.is_final());
    match ended {
        Some(Verdict::Skipped { reason }) => ledger::verdict(State::Skipped, Some(reason)),
        Some(Verdict::Reject { reason }) => ledger::verdict(State::Dead, Some(reason)),
        _ => State::Delivered.name().to_owned(),
    }
}
