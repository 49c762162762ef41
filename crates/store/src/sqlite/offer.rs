//! Replay and backfill: what exists is opened again, what does not is made; and giving up.

use mailspan_core::{
    Cause, Class, DeliveryId, DestinationId, Millis, Offer, Progress, Queue, Reason, State, Verdict,
};
use rusqlite::{OptionalExtension, params};

use super::base::{Base, Fault};
use super::events;
use super::group::Group;
use super::lanes::{self, ANSWERS_CONSENT, Lane, Made, New};
use super::persons;
use crate::PageItem;
use crate::prepare::{identities, states_consent};
use crate::write::Wrote;

/// A pending delivery is left as it is; there is never a second row for (event, route, destination).
pub(crate) fn offer(group: &mut Group, offers: &[Offer], again: bool, at: Millis) -> Result<Wrote, Fault> {
    let mut destinations = vec![];
    for one in offers {
        let has_head = match existing(&group.base, one)? {
            Some(row) => reopen(group, one, &row, again, at)? == Some(true),
            None => make(group, one, at)?,
        };
        if has_head {
            destinations.push(one.destination);
        }
    }
    destinations.sort();
    destinations.dedup();
    Ok(Wrote::Offered { destinations })
}

/// A page of a job: what still is in the state that it was found in is opened again, nothing is made.
/// How many were opened, and the destinations that now have a head.
pub(crate) fn reopen_page(
    group: &mut Group,
    items: &[PageItem],
    again: bool,
    at: Millis,
) -> Result<(u64, Vec<DestinationId>), Fault> {
    let (mut opened, mut destinations) = (0, vec![]);
    for item in items {
        let Some(row) = existing(&group.base, &item.offer)? else { continue };
        if row.state != item.state {
            continue;
        }
        match reopen(group, &item.offer, &row, again, at)? {
            None => continue,
            Some(true) => destinations.push(item.offer.destination),
            Some(false) => {}
        }
        opened += 1;
    }
    destinations.sort();
    destinations.dedup();
    Ok((opened, destinations))
}

pub(crate) struct Existing {
    pub id: i64,
    pub person: i64,
    pub state: State,
    pub progress: Vec<Progress>,
}

fn existing(base: &Base, offer: &Offer) -> Result<Option<Existing>, Fault> {
    let mut statement = base.sql(
        "SELECT id, person, state, progress FROM deliveries WHERE event = ?1 AND route = ?2 AND destination = ?3",
    )?;
    let found: Option<(i64, i64, i64, Option<Vec<u8>>)> = statement
        .query_row(params![offer.event.0, offer.route.0, offer.destination.0], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .optional()?;
    let Some((id, person, state, progress)) = found else { return Ok(None) };
    let unreadable = || Fault::unreadable("delivery", id);
    let state = State::from_number(state).ok_or_else(unreadable)?;
    let progress = match progress {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|_| unreadable())?,
        None => vec![],
    };
    Ok(Some(Existing { id, person, state, progress }))
}

/// Nothing where it was left as it is; true when it became the head of its lane.
fn reopen(
    group: &mut Group,
    offer: &Offer,
    row: &Existing,
    again: bool,
    at: Millis,
) -> Result<Option<bool>, Fault> {
    if row.state == State::Pending || (!again && all_is_done(row)) {
        return Ok(None);
    }
    let base = &group.base;
    let lane = Lane { person: row.person, destination: offer.destination.0, class: offer.class };
    let is_head = !offer.ordered || !lanes::is_busy(base, lane)?;
    let kept = if again { None } else { done_kept(&row.progress, row.id)? };
    // What ended well at its first attempt is linked to it only here; the next attempt takes its place.
    base.sql(
        "INSERT OR IGNORE INTO tries (delivery, attempt)
         SELECT id, last_attempt FROM deliveries WHERE id = ?1 AND last_attempt IS NOT NULL",
    )?
    .execute([row.id])?;
    base.sql(
            "UPDATE deliveries SET state = 0, class = ?2, cause = ?3, due = ?4, queue = ?5, attempts = 0, crashes = 0,
                since = ?6, changed_at = ?6, reason_code = NULL, reason = NULL, carried_by = NULL, progress = ?7
             WHERE id = ?1",
        )?
        .execute(params![
            row.id,
            offer.class as i64,
            offer.cause as i64,
            is_head.then_some(at.0),
            Queue::of(offer.class, offer.cause, 0) as i64,
            at.0,
            kept.as_ref().map(String::as_bytes),
        ])?;
    group.counts.moved(offer.destination.0, row.state, State::Pending);
    Ok(Some(is_head))
}

/// A delivered one without progress was done at once, whole.
pub(crate) fn all_is_done(row: &Existing) -> bool {
    row.state == State::Delivered && row.progress.iter().all(stays)
}

/// Done here, or told elsewhere.
fn stays(part: &Progress) -> bool {
    part.verdict.as_ref().is_some_and(|verdict| *verdict == Verdict::Done || verdict.is_handed_on())
}

/// What is done stays done, with the step it reached; the rest is open again.
pub(crate) fn done_kept(progress: &[Progress], id: i64) -> Result<Option<String>, Fault> {
    if !progress.iter().any(stays) {
        return Ok(None);
    }
    let kept: Vec<Progress> = progress
        .iter()
        .map(|part| match stays(part) {
            true => part.clone(),
            false => Progress { map: part.map, ..Progress::default() },
        })
        .collect();
    serde_json::to_string(&kept).map(Some).map_err(|_| Fault::unreadable("delivery", id))
}

fn make(group: &mut Group, offer: &Offer, at: Millis) -> Result<bool, Fault> {
    let base = &group.base;
    let Some(event) = events::by_seq(base, offer.event)? else {
        return Err(Fault::refused(
            "event_gone",
            format!("event {} is no longer kept: retention has dropped it", offer.event.0),
        ));
    };
    if event.test {
        return Ok(false);
    }
    let tenant = base.tenant_or_new(event.tenant.as_str())?;
    let hashes = identities(&event.subject, &base.key);
    let person = persons::find_or_make(base, tenant, &event.subject, &hashes)?;
    base.sql("DELETE FROM without_delivery WHERE seq = ?1")?.execute([offer.event.0])?;
    let new = New {
        event: offer.event,
        route: offer.route.0,
        tenant,
        lane: Lane {
            person: person.unwrap_or(lanes::nobody(offer.event)),
            destination: offer.destination.0,
            class: offer.class,
        },
        cause: offer.cause,
        flags: if states_consent(&event) { ANSWERS_CONSENT } else { 0 },
        at,
        ordered: offer.ordered,
        failed: None,
    };
    Ok(lanes::make(group, &new)? == Made::Head)
}

/// Gives a dead letter up, or what is pending for `unserved`. Anything else is refused: what is pending goes on, what
/// is done is done.
pub(crate) fn discard(
    group: &mut Group,
    id: DeliveryId,
    unserved: Option<DestinationId>,
    note: &str,
    at: Millis,
) -> Result<Wrote, Fault> {
    let base = &group.base;
    let found: Option<(i64, i64, i64, Option<i64>, i64, i64)> = base
        .sql("SELECT state, destination, tenant, due, person, class FROM deliveries WHERE id = ?1")?
        .query_row([id.0], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
        })
        .optional()?;
    let Some((state, destination, tenant, due, person, class)) = found else {
        return Err(Fault::refused("not_found", format!("there is no delivery {}", id.0)));
    };
    let before = discardable(id, state, unserved == Some(DestinationId(destination)))?;
    let reason = Reason::new("discarded", note);
    base.sql(
        "UPDATE deliveries SET state = ?2, due = NULL, reason_code = ?3, reason = ?4, changed_at = ?5,
            progress = NULL
         WHERE id = ?1",
    )?
    .execute(params![id.0, State::Discarded as i64, reason.code, reason.text, at.0])?;
    if due.is_some() {
        let class = Class::from_number(class).unwrap_or(Class::Activity);
        lanes::promote(base, Lane { person, destination, class }, at)?;
    }
    super::standing::log(base, tenant, at, "discard", id.0, note)?;
    group.counts.moved(destination, before, State::Discarded);
    Ok(Wrote::Done)
}

/// Its state, where it can be given up.
pub(crate) fn discardable(id: DeliveryId, state: i64, is_unserved: bool) -> Result<State, Fault> {
    let state = State::from_number(state).ok_or_else(|| Fault::unreadable("delivery", id.0))?;
    match state {
        State::Dead => Ok(state),
        State::Pending if is_unserved => Ok(state),
        _ => Err(Fault::refused(
            "not_dead",
            format!(
                "delivery {} is {}: only a dead letter can be discarded, or what waits for a destination that is not \
                 in the configuration any more",
                id.0,
                state.name()
            ),
        )),
    }
}

/// What a replay of a row offers: in the class of its event, as when it was routed first. In order,
/// unless the caller knows better: the configuration is not the store's.
pub(crate) fn of_row(event: mailspan_core::Seq, route: i64, destination: i64, class: Class) -> Offer {
    Offer {
        event,
        route: mailspan_core::RouteId(route),
        destination: DestinationId(destination),
        class,
        cause: Cause::Replay,
        ordered: true,
    }
}
