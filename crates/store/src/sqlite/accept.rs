//! One transaction of the door: dedupe, events, quarantine, raw request, consent, idempotency.

use mailspan_core::limits::IDEMPOTENCY_MS;
use mailspan_core::{Digest, Seq, consent_of};
use rusqlite::{OptionalExtension, params};

use super::base::{Base, Fault};
use super::counts::Place;
use super::journal::Journal;
use super::names::TYPE;
use super::{ledger, persons};
use crate::NameKind;
use crate::prepare::{Arrival, first_16};
use crate::write::{Accepted, Arrived, Idempotency, Receipt, Wrote};

/// Flags of an event, as stored.
pub(crate) const TEST: i64 = 1;
pub(crate) const STATES_CONSENT: i64 = 2;

const ANSWER_VERSION: i64 = 1;

pub(crate) fn accept(journal: &mut Journal, receipt: &Receipt, arrivals: &[Arrival]) -> Result<Wrote, Fault> {
    let tenant = journal.base.tenant_or_new(receipt.tenant.as_str())?;
    if let Some(asked) = &receipt.idempotency
        && let Some(accepted) = first_answer(&journal.base, tenant, asked, receipt)?
    {
        return Ok(Wrote::Accepted { accepted, again: true });
    }
    let source = journal.base.number_or_new(tenant, NameKind::Source as u8, receipt.source.as_str())?;
    journal.segments.roll(&journal.base, &journal.marks, receipt.received_at)?;
    let door = Door { tenant, source, request: journal.marks.request + 1 };

    let mut accepted = Accepted { ids: vec![], duplicates: 0, quarantined: receipt.unreadable.len() as u64 };
    for (arrived, arrival) in receipt.arrivals.iter().zip(arrivals) {
        if keep_event(journal, &door, receipt, arrived, arrival)? {
            accepted.ids.push(arrived.event.id);
        } else {
            accepted.duplicates += 1;
        }
    }
    keep_unreadable(&journal.base, &door, receipt)?;
    if !accepted.ids.is_empty() || accepted.quarantined > 0 {
        journal.marks.request = door.request;
        keep_request(&journal.base, &door, receipt)?;
    }
    if let Some(asked) = &receipt.idempotency {
        keep_answer(&journal.base, tenant, asked, receipt, &accepted)?;
    }
    journal.counts.raise(source, Place::Accepted, accepted.ids.len() as i64);
    journal.counts.raise(source, Place::Duplicate, accepted.duplicates as i64);
    journal.counts.raise(source, Place::Quarantined, accepted.quarantined as i64);
    Ok(Wrote::Accepted { accepted, again: false })
}

/// Where what is accepted belongs.
struct Door {
    tenant: i64,
    source: i64,
    request: i64,
}

/// False for a duplicate.
fn keep_event(
    journal: &mut Journal,
    door: &Door,
    receipt: &Receipt,
    arrived: &Arrived,
    arrival: &Arrival,
) -> Result<bool, Fault> {
    let seq = Seq(journal.marks.seq + 1);
    let base = &journal.base;
    if let Some(key) = &arrival.key
        && !journal.segments.is_new(base, key, seq)?
    {
        return Ok(false);
    }
    journal.marks.seq = seq.0;
    let event = &arrived.event;
    let event_type = base.number_or_new(door.tenant, TYPE, event.event_type.as_str())?;
    let request = receipt.packed.as_ref().map(|_| door.request);
    let mut flags = if event.test { TEST } else { 0 };
    if arrival.identities.is_some() {
        flags |= STATES_CONSENT;
    }
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
            request,
            arrived.part,
            event.time.0,
            event.received_at.0,
            flags,
            arrival.packed,
        ]);
    if let Err(error) = kept {
        return Err(id_conflict(error, event.id));
    }
    base.sql("INSERT INTO unrouted (seq) VALUES (?1)")?.execute([seq.0])?;
    if let (Some(identities), Some(consent)) = (&arrival.identities, consent_of(&event.event_type)) {
        let person = persons::find_or_make(base, door.tenant, &event.subject, identities)?;
        ledger::append(base, door.tenant, person, consent, event, seq, receipt.digest)?;
    }
    journal.accepted.push(mailspan_core::Event { seq: Some(seq), ..event.clone() });
    Ok(true)
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

fn keep_unreadable(base: &Base, door: &Door, receipt: &Receipt) -> Result<(), Fault> {
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

fn keep_request(base: &Base, door: &Door, receipt: &Receipt) -> Result<(), Fault> {
    let Some(packed) = &receipt.packed else { return Ok(()) };
    base.sql(
        "INSERT INTO requests (id, tenant, source, received_at, digest, credential, packed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        door.request,
        door.tenant,
        door.source,
        receipt.received_at.0,
        receipt.digest.0,
        receipt.credential,
        packed,
    ])?;
    Ok(())
}

/// What was answered to this key, if it still counts; another body is refused.
fn first_answer(
    base: &Base,
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
    serde_json::from_str(&answer).map(Some).map_err(|_| Fault::unreadable("answer of API key", asked.api_key))
}

fn keep_answer(
    base: &Base,
    tenant: i64,
    asked: &Idempotency,
    receipt: &Receipt,
    accepted: &Accepted,
) -> Result<(), Fault> {
    let answer = serde_json::to_string(accepted)
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
