//! One transaction of a destination's owner: states, attempts, and the next head of each lane.
//!
//! Settlements are applied in runs: within one no lane is touched twice, so one statement for all of them does
//! what one after the other would. What waits in a lane and ends touches it not: head and order stay.

use std::collections::{HashMap, HashSet};

use mailspan_core::{
    Attempt, Cause, Class, DeliveryId, DestinationId, Millis, Outcome, Reason, Seq, Settlement, State,
};
use mailspan_engine::Fence;

use super::base::{Base, Fault, clean, get};
use super::journal::Journal;
use super::lanes::{self, Lane, New};
use super::{leases, ledger, unsubscribes};
use crate::sqlite::lanes::ANSWERS_CONSENT;
use crate::sqlite::leases::of_destination;
use crate::sqlite::ledger::verdict;
use crate::sqlite::settle::{
    QUARTERS_KEPT, consent_verdict, ends_well, keeps_progress, packed, quarter, tells_consent,
};
use crate::write::Wrote;

/// Refused whole under an old fence. What is no longer pending was settled before: it is left as it is.
pub(crate) async fn settle(
    journal: &mut Journal,
    destination: DestinationId,
    fence: Fence,
    settlements: &[Settlement],
    attempts: &[Attempt],
    at: Millis,
) -> Result<Wrote, Fault> {
    leases::check(&journal.leases, &of_destination(destination), fence)?;
    if settlements.iter().any(|one| matches!(one.outcome, Outcome::Ended { state: State::Pending, .. })) {
        return Err(Fault::refused("not_an_end", "a delivery cannot end as pending"));
    }
    let attempt_ids = keep_attempts(&journal.base, destination, attempts).await?;
    let (mut promoted, mut offered, mut told) = (false, vec![], vec![]);
    let mut rest = settlements;
    while !rest.is_empty() {
        let rows = pending(&journal.base, rest, destination).await?;
        let run = run_length(rest, &rows);
        let changes: Vec<Change> = rest[..run]
            .iter()
            .filter_map(|settlement| {
                let row = rows.get(&settlement.delivery)?;
                let attempt = settlement.attempt.and_then(|position| attempt_ids.get(position).copied());
                Some(Change { row, settlement, attempt, at })
            })
            .collect();
        told.extend(told_now(&journal.base, &changes, destination).await?);
        promoted |= settle_run(journal, &changes, at).await?;
        offered.extend(hand_on(journal, &changes, at).await?);
        rest = &rest[run..];
    }
    offered.sort();
    offered.dedup();
    let known_after_ms = unsubscribes::known(&journal.base, &told, at).await?;
    Ok(Wrote::Settled { promoted, offered, known_after_ms })
}

/// Events whose consent the destination knows from these settlements on, and not before.
async fn told_now(
    base: &Base,
    changes: &[Change<'_>],
    destination: DestinationId,
) -> Result<Vec<i64>, Fault> {
    let tells = |change: &&Change| {
        change.row.flags & ANSWERS_CONSENT != 0 && tells_consent(change.row.lane.class, change.settlement)
    };
    let events: Vec<i64> = changes.iter().filter(tells).map(|change| change.row.event.0).collect();
    let knew = unsubscribes::knew(base, &events, destination.0).await?;
    Ok(events.into_iter().filter(|event| !knew.contains(&Seq(*event))).collect())
}

/// Deliveries of the same event and route, to where notices go instead; the leases of those destinations are
/// locked with the others of the group. A pending delivery keeps its event, so that needs no lock.
async fn hand_on(
    journal: &mut Journal,
    changes: &[Change<'_>],
    at: Millis,
) -> Result<Vec<DestinationId>, Fault> {
    let news: Vec<New> = changes
        .iter()
        .filter_map(|change| {
            let (row, elsewhere) = (change.row, change.settlement.hand_on?);
            let lane = Lane {
                person: row.lane.person,
                destination: elsewhere.destination.0,
                class: elsewhere.class,
            };
            Some(New {
                event: row.event,
                route: row.route,
                tenant: row.tenant,
                lane,
                cause: Cause::Live,
                flags: row.flags & ANSWERS_CONSENT,
                at,
                ordered: true,
                failed: None,
            })
        })
        .collect();
    if news.is_empty() { Ok(vec![]) } else { lanes::make(journal, &news).await }
}

/// What the row says before the settlement.
struct Before {
    event: Seq,
    route: i64,
    tenant: i64,
    lane: Lane,
    due: Option<i64>,
    queue: i64,
    flags: i64,
    reason_code: Option<String>,
    reason: Option<String>,
    carried_by: Option<i64>,
}

struct Change<'a> {
    row: &'a Before,
    settlement: &'a Settlement,
    attempt: Option<i64>,
    at: Millis,
}

async fn pending(
    base: &Base,
    settlements: &[Settlement],
    destination: DestinationId,
) -> Result<HashMap<DeliveryId, Before>, Fault> {
    let ids: Vec<i64> = settlements.iter().map(|settlement| settlement.delivery.0).collect();
    let rows = base
        .rows(
            "SELECT id, event, person, class, due, queue, flags, reason_code, reason, carried_by, destination, state, route,
                tenant
             FROM deliveries WHERE id = ANY($1) ORDER BY id FOR UPDATE",
            &[&ids],
        )
        .await?;
    let mut pending = HashMap::new();
    for row in &rows {
        if get::<i64, _>(row, 10)? != destination.0 || get::<i64, _>(row, 11)? != State::Pending as i64 {
            continue;
        }
        let class = Class::from_number(get(row, 3)?).unwrap_or(Class::Activity);
        let before = Before {
            event: Seq(get(row, 1)?),
            lane: Lane { person: get(row, 2)?, destination: destination.0, class },
            due: get(row, 4)?,
            queue: get(row, 5)?,
            flags: get(row, 6)?,
            reason_code: get(row, 7)?,
            reason: get(row, 8)?,
            carried_by: get(row, 9)?,
            route: get(row, 12)?,
            tenant: get(row, 13)?,
        };
        pending.insert(DeliveryId(get(row, 0)?), before);
    }
    Ok(pending)
}

/// So many settlements, at least one, touch each lane once.
fn run_length(settlements: &[Settlement], rows: &HashMap<DeliveryId, Before>) -> usize {
    let mut touched = HashSet::new();
    let mut seen = HashSet::new();
    let mut length = 0;
    for settlement in settlements {
        if !seen.insert(settlement.delivery) {
            break;
        }
        let touches = |row: &&Before| row.due.is_some() || !leaves(&settlement.outcome);
        if let Some(row) = rows.get(&settlement.delivery).filter(touches) {
            let target = match settlement.outcome {
                Outcome::Again { class, .. } => Lane { class, ..row.lane },
                _ => row.lane,
            };
            let is_free = !touched.contains(&row.lane) && !touched.contains(&target);
            if length > 0 && !is_free {
                break;
            }
            touched.extend([row.lane, target]);
        }
        length += 1;
    }
    length
}

/// It ends, and is pending no more.
fn leaves(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Ended { .. } | Outcome::CarriedBy { .. })
}

/// The row after the settlement.
struct After<'a> {
    state: State,
    class: Class,
    due: Option<i64>,
    queue: i64,
    reason_code: Option<&'a str>,
    reason: Option<&'a str>,
    carried_by: Option<i64>,
    progress: Option<String>,
}

/// True when a lane's next delivery became its head.
async fn settle_run(journal: &mut Journal, changes: &[Change<'_>], at: Millis) -> Result<bool, Fault> {
    if changes.is_empty() {
        return Ok(false);
    }
    let base = &journal.base;
    let targets: Vec<Lane> = changes.iter().filter_map(moves_to).collect();
    let busy = lanes::busy(base, &targets).await?;
    let mut after = vec![];
    for change in changes {
        after.push(after_of(change, &busy)?);
    }
    link_attempts(base, changes).await?;
    write(base, changes, &after, at).await?;
    for (change, after) in changes.iter().zip(&after) {
        journal.counts.moved(change.row.lane.destination, State::Pending, after.state);
        answer(base, change, after).await?;
    }
    let left: Vec<Lane> = changes
        .iter()
        .zip(&after)
        .filter(|(change, after)| {
            let leaves = after.state != State::Pending || moves_to(change).is_some();
            change.row.due.is_some() && leaves
        })
        .map(|(change, _)| change.row.lane)
        .collect();
    lanes::promote(base, &left, at).await
}

/// Another lane, where the class is lowered.
fn moves_to(change: &Change) -> Option<Lane> {
    match change.settlement.outcome {
        Outcome::Again { class, .. } if class != change.row.lane.class => {
            Some(Lane { class, ..change.row.lane })
        }
        _ => None,
    }
}

fn after_of<'a>(change: &'a Change, busy: &HashSet<Lane>) -> Result<After<'a>, Fault> {
    let Change { row, settlement, .. } = change;
    let progress = || packed(&settlement.progress).map_err(|fault| Fault::Trouble(fault.trouble()));
    let code = |reason: Option<&'a Reason>| reason.map(|reason| reason.code.as_str());
    let text = |reason: Option<&'a Reason>| reason.map(|reason| reason.text.as_str());
    let (class, queue) = (row.lane.class, row.queue);
    let ended = |state, reason, carried_by| -> Result<After<'a>, Fault> {
        let progress = if keeps_progress(settlement, state) { progress()? } else { None };
        let (reason_code, reason) = (code(reason), text(reason));
        Ok(After { state, class, due: None, queue, reason_code, reason, carried_by, progress })
    };
    match &settlement.outcome {
        Outcome::Ended { state, reason } => ended(*state, reason.as_ref(), None),
        Outcome::CarriedBy { delivery } => ended(State::Coalesced, None, Some(delivery.0)),
        Outcome::Again { due, queue, class, reason } => {
            // In its own lane it stays what it was; in another it is the head only where nothing is pending.
            let is_head = moves_to(change).map_or(row.due.is_some(), |lane| !busy.contains(&lane));
            let reason = reason.as_ref();
            Ok(After {
                state: State::Pending,
                class: *class,
                due: is_head.then_some(due.0),
                queue: *queue as i64,
                reason_code: code(reason),
                reason: text(reason),
                carried_by: None,
                progress: progress()?,
            })
        }
        Outcome::Progressed => Ok(After {
            state: State::Pending,
            class,
            due: row.due,
            queue,
            reason_code: row.reason_code.as_deref(),
            reason: row.reason.as_deref(),
            carried_by: row.carried_by,
            progress: progress()?,
        }),
    }
}

async fn write(base: &Base, changes: &[Change<'_>], after: &[After<'_>], at: Millis) -> Result<(), Fault> {
    let of = |value: fn(&After) -> i64| after.iter().map(value).collect::<Vec<i64>>();
    let of_settlement = |value: fn(&Settlement) -> i64| {
        changes.iter().map(|change| value(change.settlement)).collect::<Vec<i64>>()
    };
    let dues: Vec<Option<i64>> = after.iter().map(|after| after.due).collect();
    let carried: Vec<Option<i64>> = after.iter().map(|after| after.carried_by).collect();
    let codes: Vec<_> = after.iter().map(|after| after.reason_code.map(clean)).collect();
    let texts: Vec<_> = after.iter().map(|after| after.reason.map(clean)).collect();
    let progress: Vec<Option<&[u8]>> =
        after.iter().map(|after| after.progress.as_ref().map(String::as_bytes)).collect();
    let attempts: Vec<Option<i64>> = changes.iter().map(|change| change.attempt).collect();
    base.execute(
        "UPDATE deliveries d SET state = a.state, class = a.class, due = a.due, queue = a.queue,
            attempts = a.attempts, crashes = a.crashes, reason_code = a.code, reason = a.text,
            carried_by = a.carried, progress = a.progress, changed_at = $13,
            last_attempt = coalesce(a.attempt, d.last_attempt)
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
            $8::text[], $9::text[], $10::bigint[], $11::bytea[], $12::bigint[])
            AS a (id, state, class, due, queue, attempts, crashes, code, text, carried, progress, attempt)
         WHERE d.id = a.id",
        &[
            &of_settlement(|settlement| settlement.delivery.0),
            &of(|after| after.state as i64),
            &of(|after| after.class as i64),
            &dues,
            &of(|after| after.queue),
            &of_settlement(|settlement| i64::from(settlement.attempts)),
            &of_settlement(|settlement| i64::from(settlement.crashes)),
            &codes,
            &texts,
            &carried,
            &progress,
            &attempts,
            &at.0,
        ],
    )
    .await?;
    Ok(())
}

/// What the end, or the lowering of its class, says to the ledger.
async fn answer(base: &Base, change: &Change<'_>, after: &After<'_>) -> Result<(), Fault> {
    let Change { row, settlement, at, .. } = change;
    if row.flags & ANSWERS_CONSENT == 0 {
        return Ok(());
    }
    let was_consent = row.lane.class == Class::Consent;
    let said = match &settlement.outcome {
        Outcome::Ended { state, reason } => verdict(*state, reason.as_ref()),
        Outcome::CarriedBy { .. } => verdict(after.state, None),
        // The consent itself is done: the lower class that remains must not hide that.
        Outcome::Again { .. } if was_consent && moves_to(change).is_some() => {
            consent_verdict(&settlement.progress)
        }
        Outcome::Again { .. } | Outcome::Progressed => return Ok(()),
    };
    ledger::answer(base, row.event, row.lane.destination, &said, *at, was_consent).await
}

/// What ends well at its first attempt is found by `last_attempt`; all else is linked to each attempt.
async fn link_attempts(base: &Base, changes: &[Change<'_>]) -> Result<(), Fault> {
    let (mut deliveries, mut attempts) = (vec![], vec![]);
    for change in changes {
        let Some(attempt) = change.attempt else { continue };
        if !ends_well(&change.settlement.outcome) || change.settlement.attempts > 1 {
            deliveries.push(change.settlement.delivery.0);
            attempts.push(attempt);
        }
    }
    if deliveries.is_empty() {
        return Ok(());
    }
    base.execute(
        "INSERT INTO tries (delivery, attempt) SELECT * FROM unnest($1::bigint[], $2::bigint[]) ON CONFLICT DO NOTHING",
        &[&deliveries, &attempts],
    )
    .await?;
    Ok(())
}

/// Their numbers, in order.
async fn keep_attempts(
    base: &Base,
    destination: DestinationId,
    attempts: &[Attempt],
) -> Result<Vec<i64>, Fault> {
    let ids = base.numbers("attempts_id", attempts.len()).await?;
    if attempts.is_empty() {
        return Ok(ids);
    }
    let of = |value: fn(&Attempt) -> i64| attempts.iter().map(value).collect::<Vec<i64>>();
    let requests: Vec<Option<Vec<u8>>> =
        attempts.iter().map(|attempt| attempt.request.as_deref().map(crate::pack::squeeze)).collect();
    let answers: Vec<_> = attempts.iter().map(|attempt| attempt.answer.as_deref().map(clean)).collect();
    let newest = attempts.iter().map(|attempt| quarter(attempt.at)).max().unwrap_or(0);
    base.execute(
        "WITH counted AS (INSERT INTO spent (destination, quarter, n)
            SELECT $2, t.at / 900000, count(*) FROM unnest($3::bigint[]) AS t (at) GROUP BY 2
            ON CONFLICT (destination, quarter) DO UPDATE SET n = spent.n + excluded.n),
         gone AS (DELETE FROM spent WHERE destination = $2 AND quarter < $9)
         INSERT INTO attempts (id, destination, at, ms, items, status, request, answer)
         SELECT a.id, $2, a.at, a.ms, a.items, a.status, a.request, a.answer
         FROM unnest($1::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bytea[], $8::text[])
            AS a (id, at, ms, items, status, request, answer)",
        &[
            &ids,
            &destination.0,
            &of(|attempt| attempt.at.0),
            &of(|attempt| i64::from(attempt.took_ms)),
            &of(|attempt| i64::from(attempt.items)),
            &of(|attempt| i64::from(attempt.status)),
            &requests,
            &answers,
            &(newest - QUARTERS_KEPT),
        ],
    )
    .await?;
    Ok(ids)
}
