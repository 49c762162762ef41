//! One transaction of the router: persons, counts and deliveries appear while `unrouted` rows go.

use mailspan_core::{Cause, Class, DestinationId, Event, LastTimes, Seq, counted_time};
use mailspan_engine::Fence;
use rusqlite::{OptionalExtension, params};

use super::base::Fault;
use super::group::Group;
use super::held::Held;
use super::lanes::{self, ANSWERS_CONSENT, Lane, Made, New};
use super::persons::{self, Found};
use super::{leases, outlived, said};
use crate::NameKind;
use crate::prepare::{Identities, first_16, states_consent};
use crate::write::{Routed, Towards, Trouble, Wrote};

/// Places of `without_delivery`, as stored.
pub(crate) const UNMATCHED: i64 = 1;
pub(crate) const TEST: i64 = 2;

pub(crate) fn route(
    group: &mut Group,
    fence: Fence,
    routed: &[Routed],
    identities: &[Identities],
) -> Result<Wrote, Fault> {
    leases::check(&group.base, leases::ROUTER, fence)?;
    take(&group.base, routed)?;
    let mut destinations = vec![];
    for (one, hashes) in routed.iter().zip(identities) {
        route_one(group, one, hashes, &mut destinations)?;
    }
    destinations.sort();
    destinations.dedup();
    Ok(Wrote::Offered { destinations })
}

/// They wait no more. Those whose numbers follow one another go in one statement.
fn take(base: &Held, routed: &[Routed]) -> Result<(), Fault> {
    let mut rest = routed;
    while let Some(first) = rest.first() {
        let seq = seq_of(first)?.0;
        let run = rest.iter().zip(seq..).take_while(|(one, seq)| one.event.seq == Some(Seq(*seq))).count();
        let taken = base
            .sql("DELETE FROM unrouted WHERE seq >= ?1 AND seq < ?2")?
            .execute([seq, seq.saturating_add(run as i64)])?;
        if taken != run {
            return Err(Fault::Trouble(Trouble::FenceLost));
        }
        rest = &rest[run..];
    }
    Ok(())
}

fn seq_of(routed: &Routed) -> Result<Seq, Fault> {
    let no_seq = || Fault::refused("no_seq", "an event without a place in the journal cannot be routed");
    routed.event.seq.ok_or_else(no_seq)
}

fn route_one(
    group: &mut Group,
    routed: &Routed,
    hashes: &Identities,
    destinations: &mut Vec<DestinationId>,
) -> Result<(), Fault> {
    let (event, seq) = (&routed.event, seq_of(routed)?);
    let base = &group.base;
    let tenant = base.tenant_or_new(event.tenant.as_str())?;
    let found = match is_erasure(event) {
        true => erased_person(base, seq)?.map_or(Found::Nobody, Found::Person),
        false => {
            let of = Some((seq, counted_time(event)));
            persons::find_or_make_at(base, tenant, &event.subject, hashes, of)?
        }
    };
    if found == Found::Outlived {
        outlived::keep(base, tenant, seq, event)?;
        return keep_without_delivery(base, seq, event.test);
    }
    let (person, is_erased) = (found.person(), matches!(found, Found::Erased(_)));
    if let Some(person) = person {
        keep_person(base, seq, person, routed)?;
        keep_transmission(base, tenant, person, event)?;
    }
    // Of who was erased meanwhile nothing but consent goes out.
    let goes = |towards: &&Towards| !is_erased || towards.class == Class::Consent;
    if event.test || !routed.to.iter().any(|towards| goes(&towards)) {
        return keep_without_delivery(base, seq, event.test);
    }
    for towards in routed.to.iter().filter(goes) {
        let new = New {
            event: seq,
            route: towards.route.0,
            tenant,
            lane: Lane {
                person: person.unwrap_or(lanes::nobody(seq)),
                destination: towards.destination.0,
                class: towards.class,
            },
            cause: Cause::Live,
            flags: if states_consent(event) { ANSWERS_CONSENT } else { 0 },
            at: event.received_at,
            ordered: towards.ordered,
            failed: towards.failed.as_ref(),
        };
        match (lanes::make(group, &new)?, &towards.say) {
            (Made::Head, _) => destinations.push(towards.destination),
            (Made::Dead, Some(say)) => {
                said::say_dead(group, mailspan_core::DeliveryId(group.marks.delivery), say)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Who is erased is not made again.
pub(crate) fn is_erasure(event: &Event) -> bool {
    event.event_type.as_str() == "contact.erased"
}

fn erased_person(base: &Held, seq: Seq) -> Result<Option<i64>, Fault> {
    let mut statement = base.sql("SELECT person FROM erasures WHERE event = ?1")?;
    Ok(statement.query_row([seq.0], |row| row.get(0)).optional()?)
}

fn keep_person(base: &Held, seq: Seq, person: i64, routed: &Routed) -> Result<(), Fault> {
    base.sql("INSERT OR IGNORE INTO person_events (bucket, person, seq) VALUES (?1, ?2, ?3)")?
        .execute(params![seq.0 >> persons::BUCKET_BITS, person, seq.0])?;
    let times = routed.times;
    if routed.opens > 0 || routed.clicks > 0 || times != LastTimes::default() {
        // `max` of two is nothing where one is nothing.
        base.sql(
            "UPDATE persons SET opens = opens + ?2, clicks = clicks + ?3,
                delivered_at = coalesce(max(delivered_at, ?4), delivered_at, ?4),
                opened_at = coalesce(max(opened_at, ?5), opened_at, ?5),
                clicked_at = coalesce(max(clicked_at, ?6), clicked_at, ?6),
                bounced_at = coalesce(max(bounced_at, ?7), bounced_at, ?7)
             WHERE id = ?1",
        )?
        .execute(params![
            person,
            routed.opens,
            routed.clicks,
            times.delivered_at.map(|at| at.0),
            times.opened_at.map(|at| at.0),
            times.clicked_at.map(|at| at.0),
            times.bounced_at.map(|at| at.0),
        ])?;
    }
    Ok(())
}

/// Remembers whom a send went to; a second recipient makes it one for several.
fn keep_transmission(base: &Held, tenant: i64, person: i64, event: &Event) -> Result<(), Fault> {
    let Some(transmission) = &event.transmission else { return Ok(()) };
    let source = base.number_or_new(tenant, NameKind::Source as u8, event.source.as_str())?;
    base.sql(
            "INSERT INTO transmissions (source, hash, tenant, recipient, several, seen_at)
             VALUES (?1, ?2, ?3, ?4, 0, ?5)
             ON CONFLICT (source, hash) DO UPDATE SET several = 1 WHERE recipient <> excluded.recipient AND several = 0",
        )?
        .execute(params![source, transmission_hash(transmission), tenant, person, event.received_at.0])?;
    Ok(())
}

pub(crate) fn transmission_hash(transmission: &str) -> [u8; 16] {
    first_16(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, transmission.as_bytes()).as_ref())
}

fn keep_without_delivery(base: &Held, seq: Seq, test: bool) -> Result<(), Fault> {
    // An offer may have come before the router.
    let has_some = base.sql("SELECT 1 FROM deliveries WHERE event = ?1 LIMIT 1")?.exists([seq.0])?;
    if !has_some {
        base.sql("INSERT INTO without_delivery (seq, place) VALUES (?1, ?2)")?
            .execute(params![seq.0, if test { TEST } else { UNMATCHED }])?;
    }
    Ok(())
}
