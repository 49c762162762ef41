//! One transaction of the door: dedupe, events, quarantine, raw request, consent, idempotency.

use mailspan_core::contact::ContactWrite;
use mailspan_core::limits::IDEMPOTENCY_MS;
use mailspan_core::{Digest, Event, Seq, consent_of};
use rusqlite::{OptionalExtension, params};

use super::base::Fault;
use super::counts::Place;
use super::group::Group;
use super::held::Held;
use super::names::TYPE;
use super::route::UNMATCHED;
use super::{contact_rows, contacts, envelope, ledger, persons, rounds};
use crate::NameKind;
use crate::audience::{Audience, HeldBack, NewFact};
use crate::decided::{decided, erases, facts_of, held_back};
use crate::prepare::{Arrival, decides, first_16};
use crate::rounds::{Tally, count};
use crate::told::{ERASED_SINCE, Sealed, answer_text, read_answer};
use crate::write::{Accepted, Arrived, Idempotency, Receipt, Wrote};

/// Flags of an event, as stored.
pub(crate) const TEST: i64 = 1;
pub(crate) const STATES_CONSENT: i64 = 2;
/// The subject is the person to be erased: to be sealed or scrubbed when all destinations have answered.
pub(crate) const ERASES: i64 = 8;
/// It is older than the erasure of whoever it is about, and goes nowhere.
pub(crate) const VOID: i64 = 16;

/// Flags of a raw request, as stored in `redacted`: something was taken out of it; a fact of consent came with it.
pub(crate) const REQUEST_REDACTED: i64 = 1;
pub(crate) const REQUEST_PROVES: i64 = 2;

const ANSWER_VERSION: i64 = 1;

pub(crate) fn accept(group: &mut Group, receipt: &Receipt, arrivals: &[Arrival]) -> Result<Wrote, Fault> {
    if let Some(mark) = &receipt.round {
        rounds::check(&group.base, mark)?;
    }
    let tenant = group.base.tenant_or_new(receipt.tenant.as_str())?;
    if let Some(asked) = &receipt.idempotency
        && let Some(accepted) = first_answer(&group.base, tenant, asked, receipt)?
    {
        return Ok(Wrote::Accepted { accepted, again: true });
    }
    let source = group.base.number_or_new(tenant, NameKind::Source as u8, receipt.source.as_str())?;
    group.segments.roll(&group.base, group.marks, receipt.received_at)?;
    let request = group.marks.request + 1;
    let kept_request = receipt.packed.as_ref().map(|_| request);
    let alone = receipt.arrivals.len() + receipt.unreadable.len() == 1;
    let mut door = Door { tenant, source, request, kept_request, alone };

    let quarantined = receipt.unreadable.len() as u64;
    let mut accepted =
        Accepted { ids: vec![], duplicates: 0, quarantined, unchanged: 0, contacts: vec![], told: None };
    let mut tally = Tally::new();
    let writes: Vec<&ContactWrite> = receipt.arrivals.iter().filter_map(|a| a.contact.as_deref()).collect();
    let mut crowd = match writes.is_empty() {
        true => None,
        false => Some(Crowd { audience: contacts::open(&group.base, tenant, &writes)?, facts: vec![] }),
    };
    let mut stated = vec![];
    for (arrived, arrival) in receipt.arrivals.iter().zip(arrivals) {
        let is_new = is_new(group, arrival)?;
        if !is_new {
            accepted.duplicates += 1;
        }
        let unchanged = accepted.unchanged;
        match (&arrived.contact, &mut crowd) {
            (Some(write), Some(crowd)) if !is_new => accepted.contacts.push(crowd.audience.as_it_is(write)),
            (Some(write), Some(crowd)) => {
                let one = Arriving { arrived, packed: &arrival.packed, write };
                keep_contact(group, &mut door, receipt, &one, crowd, &mut accepted)?;
            }
            _ if is_new => {
                let flags = flags(&arrived.event, arrival.identities.is_some());
                let seq = keep_event(group, &door, &arrived.event, arrived.part, &arrival.packed, flags)?;
                accepted.ids.push(arrived.event.id);
                stated
                    .extend(arrival.identities.as_ref().map(|identities| (&arrived.event, identities, seq)));
            }
            _ => {}
        }
        if is_new && receipt.round.as_ref().is_some_and(|mark| mark.lists) {
            count(&mut tally, &arrived.event, accepted.unchanged > unchanged);
        }
    }
    let proves = !stated.is_empty() || crowd.as_ref().is_some_and(|crowd| !crowd.facts.is_empty());
    if let Some(crowd) = &crowd {
        contacts::keep(
            &group.base,
            group.counts,
            tenant,
            &crowd.audience,
            &crowd.facts,
            receipt.received_at,
        )?;
    }
    for (event, identities, seq) in stated {
        let Some(consent) = consent_of(&event.event_type) else { continue };
        let person = persons::find_or_make(&group.base, tenant, &event.subject, identities)?;
        ledger::append(&group.base, tenant, person, consent, event, seq, receipt.digest)?;
    }
    keep_unreadable(&group.base, &door, receipt)?;
    if let Some(mark) = &receipt.round {
        rounds::keep(&group.base, mark, &tally)?;
    }
    if !accepted.ids.is_empty() || accepted.quarantined > 0 || proves {
        group.marks.request = door.request;
        keep_request(&group.base, &door, receipt, proves)?;
    }
    if let Some(asked) = &receipt.idempotency {
        keep_answer(&group.base, tenant, asked, receipt, &mut accepted)?;
    }
    group.counts.raise(source, Place::Accepted, accepted.ids.len() as i64);
    group.counts.raise(source, Place::Duplicate, accepted.duplicates as i64);
    group.counts.raise(source, Place::Quarantined, accepted.quarantined as i64);
    Ok(Wrote::Accepted { accepted, again: false })
}

/// Where what is accepted belongs.
struct Door {
    tenant: i64,
    source: i64,
    request: i64,
    /// Nothing where the request itself is not kept.
    kept_request: Option<i64>,
    /// Of one event.
    alone: bool,
}

/// The contacts that a receipt speaks of.
struct Crowd {
    audience: Audience,
    facts: Vec<NewFact>,
}

/// An event that says something of a contact.
struct Arriving<'a> {
    arrived: &'a Arrived,
    packed: &'a [u8],
    write: &'a ContactWrite,
}

/// False for a duplicate.
fn is_new(group: &mut Group, arrival: &Arrival) -> Result<bool, Fault> {
    let seq = Seq(group.marks.seq + 1);
    let Some(key) = &arrival.key else { return Ok(true) };
    group.segments.is_new(&group.base, key, seq)
}

/// Applies what the event says of a contact, and keeps the events and facts that come of it.
fn keep_contact(
    group: &mut Group,
    door: &mut Door,
    receipt: &Receipt,
    one: &Arriving,
    crowd: &mut Crowd,
    accepted: &mut Accepted,
) -> Result<(), Fault> {
    let Arriving { arrived, packed, write } = one;
    let decides = decides(receipt);
    let mut done = crowd.audience.write(write, receipt.received_at, decides);
    if let Some(why) = done.held_back {
        if door.alone && why == HeldBack::Erased {
            // It says whom it is about.
            door.kept_request = None;
        }
        if write.found {
            accepted.unchanged += 1;
        } else {
            let event = held_back(&arrived.event, why);
            let flags = flags(&event, false) | if why == HeldBack::Erased { VOID } else { 0 };
            keep_event(group, door, &event, arrived.part, &envelope::pack(&event), flags)?;
            accepted.ids.push(event.id);
        }
        accepted.contacts.push(done.outcome);
        return Ok(());
    }
    let mut flags = flags(&arrived.event, !done.facts.is_empty());
    flags |= if done.erased { ERASES } else { 0 };
    let mut told = None;
    if done.is_known_already(write) {
        accepted.unchanged += 1;
    } else if let Some(event) = erases(&arrived.event, &done, write).filter(|_| !decides) {
        let seq = keep_event(group, door, &event, arrived.part, &envelope::pack(&event), flags)?;
        told = Some((seq, event.id));
    } else if !decides {
        let seq = keep_event(group, door, &arrived.event, arrived.part, packed, flags)?;
        told = Some((seq, arrived.event.id));
    } else if let Some(event) = decided(&arrived.event, &mut done) {
        let seq = keep_event(group, door, &event, arrived.part, &envelope::pack(&event), flags)?;
        told = Some((seq, event.id));
    }
    accepted.ids.extend(told.map(|(_, id)| id));
    if let (Some(ask), true) = (&write.ask, done.outcome.asked) {
        let flags = if ask.event.test { TEST } else { 0 };
        let seq = keep_event(group, door, &ask.event, arrived.part, &envelope::pack(&ask.event), flags)?;
        accepted.ids.push(ask.event.id);
        told = told.or(Some((seq, ask.event.id)));
    }
    let (seq, id) = told.unwrap_or((Seq(0), arrived.event.id));
    if let Some(person) = done.person.filter(|_| done.erased) {
        let known = crowd.audience.take_known(person, &done, write, receipt.received_at);
        let at = write.at.min(receipt.received_at);
        contacts::keep_erasure(&group.base, door.tenant, seq.0, at, known)?;
    }
    crowd.facts.extend(facts_of(&done, write, arrived.event.received_at, seq, id, receipt.digest));
    accepted.contacts.push(done.outcome);
    Ok(())
}

pub(crate) fn flags(event: &Event, states_consent: bool) -> i64 {
    let test = if event.test { TEST } else { 0 };
    test | if states_consent { STATES_CONSENT } else { 0 }
}

fn keep_event(
    group: &mut Group,
    door: &Door,
    event: &Event,
    part: u32,
    packed: &[u8],
    flags: i64,
) -> Result<Seq, Fault> {
    group.marks.seq += 1;
    let seq = Seq(group.marks.seq);
    let base = &group.base;
    let event_type = base.number_or_new(door.tenant, TYPE, event.event_type.as_str())?;
    let kept = base.sql(
            "INSERT INTO events (seq, id, tenant, source, type, request, part, happened_at, received_at, flags, packed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            seq.0,
            event.id.0.to_be_bytes(),
            door.tenant,
            door.source,
            event_type,
            door.kept_request,
            part,
            event.time.0,
            event.received_at.0,
            flags,
            packed,
        ]);
    if let Err(error) = kept {
        return Err(id_conflict(error, event.id));
    }
    if flags & VOID != 0 {
        base.sql("INSERT INTO without_delivery (seq, place) VALUES (?1, ?2)")?
            .execute(params![seq.0, UNMATCHED])?;
        return Ok(seq);
    }
    base.sql("INSERT INTO unrouted (seq) VALUES (?1)")?.execute([seq.0])?;
    group.accepted.push(Event { seq: Some(seq), ..event.clone() });
    Ok(seq)
}

/// Ids are made from the clock and 74 random bits: one that exists was given, not made.
fn id_conflict(error: rusqlite::Error, id: mailspan_core::EventId) -> Fault {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation) => {
            Fault::refused("event_id_exists", format!("event {id} exists already: give it a new id"))
        }
        _ => Fault::Sql(error),
    }
}

fn keep_unreadable(base: &Held, door: &Door, receipt: &Receipt) -> Result<(), Fault> {
    for (position, element) in receipt.unreadable.iter().enumerate() {
        base.sql(
            "INSERT INTO unreadable (id, tenant, source, part, received_at, reason_code, reason, raw)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            super::refused::unreadable_id(door.request, position)?,
            door.tenant,
            door.source,
            element.part,
            receipt.received_at.0,
            element.reason.code,
            element.reason.text,
            crate::pack::squeeze(element.raw.as_bytes()),
        ])?;
    }
    Ok(())
}

fn keep_request(base: &Held, door: &Door, receipt: &Receipt, proves: bool) -> Result<(), Fault> {
    let (Some(packed), Some(_)) = (&receipt.packed, door.kept_request) else { return Ok(()) };
    base.sql(
        "INSERT INTO requests (id, tenant, source, received_at, digest, credential, packed, redacted)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        door.request,
        door.tenant,
        door.source,
        receipt.received_at.0,
        receipt.digest.0,
        receipt.credential,
        packed,
        if proves { REQUEST_PROVES } else { 0 },
    ])?;
    Ok(())
}

/// What was answered to this key, if it still counts; another body is refused.
fn first_answer(
    base: &Held,
    tenant: i64,
    asked: &Idempotency,
    receipt: &Receipt,
) -> Result<Option<Accepted>, Fault> {
    let found: Option<([u8; 16], String)> = base.sql(
            "SELECT body_digest, answer FROM answers WHERE tenant = ?1 AND api_key = ?2 AND key = ?3 AND until > ?4",
        )?
        .query_row(params![tenant, asked.api_key, key_digest(asked), receipt.received_at.0], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let Some((digest, answer)) = found else { return Ok(None) };
    if Digest(digest) != asked.body {
        return Err(Fault::refused(
            "idempotency_conflict",
            "this Idempotency-Key was used with another body in the last 24 hours: send a new key with a new body",
        ));
    }
    let unreadable = || Fault::unreadable("answer of API key", asked.api_key);
    let (mut accepted, sealed) = read_answer(&answer).ok_or_else(unreadable)?;
    if let Some(sealed) = sealed {
        for hash in sealed.hashes() {
            if base.sql(ERASED_SINCE_SQL)?.exists(params![tenant, hash, sealed.at])? {
                return Err(Fault::refused(ERASED_SINCE.0, ERASED_SINCE.1));
            }
        }
        accepted.told = Some(sealed.open(&base.key, asked).ok_or_else(unreadable)?);
    }
    Ok(Some(accepted))
}

const ERASED_SINCE_SQL: &str = "SELECT 1 FROM erased WHERE tenant = ?1 AND hash = ?2 AND at >= ?3";

fn keep_answer(
    base: &Held,
    tenant: i64,
    asked: &Idempotency,
    receipt: &Receipt,
    accepted: &mut Accepted,
) -> Result<(), Fault> {
    let mut sealed = None;
    if let Some(tell) = &asked.tell {
        let row = match &tell.suppression {
            Some(address) => contact_rows::suppression_of(base, &receipt.tenant, address)?,
            None => None,
        };
        accepted.told = (tell.body)(&accepted.contacts, row.as_ref());
        let Some(told) = &accepted.told else { return Ok(()) };
        sealed = Some(Sealed::new(&base.key, asked, told, receipt.received_at));
    }
    let answer = answer_text(accepted, sealed.as_ref())
        .map_err(|error| Fault::refused("unwritable_answer", error.to_string()))?;
    base.sql(
        "INSERT OR REPLACE INTO answers (tenant, api_key, key, body_digest, until, v, answer)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        tenant,
        asked.api_key,
        key_digest(asked),
        asked.body.0,
        receipt.received_at.0.saturating_add(IDEMPOTENCY_MS),
        ANSWER_VERSION,
        answer,
    ])?;
    Ok(())
}

fn key_digest(asked: &Idempotency) -> [u8; 16] {
    first_16(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, asked.key.as_bytes()).as_ref())
}
