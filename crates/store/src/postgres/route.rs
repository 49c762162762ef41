//! One transaction of the router: persons, counts and deliveries appear while `unrouted` rows go.

use std::collections::HashMap;

use mailspan_core::{Cause, Class, LastTimes, Millis, Seq, Subject, counted_time};
use mailspan_engine::Fence;

use super::base::{Base, Fault, get};
use super::journal::Journal;
use super::lanes::{self, Lane, New};
use super::persons::{self, Who};
use super::{leases, outlived, said};
use crate::NameKind;
use crate::prepare::{Identities, states_consent};
use crate::sqlite::lanes::{ANSWERS_CONSENT, nobody};
use crate::sqlite::leases::ROUTER;
use crate::sqlite::persons::{BUCKET_BITS, Found};
use crate::sqlite::route::{TEST, UNMATCHED, is_erasure, transmission_hash};
use crate::write::{Routed, Towards, Trouble, Wrote};

/// An event with its number, its tenant's and its person's.
struct Placed<'a> {
    routed: &'a Routed,
    seq: Seq,
    tenant: i64,
    person: Option<i64>,
    /// The person was erased after the event came: nothing but consent goes out.
    is_erased: bool,
    /// The person was erased before the event came, and after it happened: nothing goes out.
    outlived: bool,
}

impl Placed<'_> {
    fn towards(&self) -> impl Iterator<Item = &Towards> {
        let goes = |towards: &&Towards| !self.is_erased || towards.class == Class::Consent;
        self.routed.to.iter().filter(|_| !self.outlived).filter(goes)
    }
}

pub(crate) async fn route(
    journal: &mut Journal,
    fence: Fence,
    routed: &[Routed],
    identities: &[Identities],
) -> Result<Wrote, Fault> {
    leases::check(&journal.leases, ROUTER, fence)?;
    let placed = place(&journal.base, routed, identities).await?;
    let base = &journal.base;
    keep_persons(base, &placed).await?;
    keep_transmissions(base, &placed).await?;
    keep_without_delivery(base, &placed).await?;
    for one in placed.iter().filter(|one| one.outlived) {
        outlived::keep(base, one.tenant, one.seq, &one.routed.event).await?;
    }
    let mut news = vec![];
    for one in placed.iter().filter(|one| !one.routed.event.test) {
        news.extend(one.towards().map(|towards| New {
            event: one.seq,
            route: towards.route.0,
            tenant: one.tenant,
            lane: Lane {
                person: one.person.unwrap_or(nobody(one.seq)),
                destination: towards.destination.0,
                class: towards.class,
            },
            cause: Cause::Live,
            flags: if states_consent(&one.routed.event) { ANSWERS_CONSENT } else { 0 },
            at: one.routed.event.received_at,
            ordered: towards.ordered,
            failed: towards.failed.as_ref(),
        }));
    }
    let mut sayings = vec![];
    for one in placed.iter().filter(|one| !one.routed.event.test) {
        for towards in one.towards() {
            let Some(say) = &towards.say else { continue };
            let of = (one.seq.0, towards.route.0, towards.destination.0);
            if said::delivery(base, of.0, of.1, of.2).await?.is_none() {
                sayings.push((of, say));
            }
        }
    }
    let mut destinations = lanes::make(journal, &news).await?;
    for ((event, route, destination), say) in sayings {
        if let Some(delivery) = said::delivery(&journal.base, event, route, destination).await? {
            said::say_dead(journal, delivery, say).await?;
        }
    }
    destinations.sort();
    destinations.dedup();
    Ok(Wrote::Offered { destinations })
}

/// Takes the events out of `unrouted`: all of them, or the router was not the only one.
async fn place<'a>(
    base: &Base,
    routed: &'a [Routed],
    identities: &[Identities],
) -> Result<Vec<Placed<'a>>, Fault> {
    let mut seqs = vec![];
    for one in routed {
        let no_seq = || Fault::refused("no_seq", "an event without a place in the journal cannot be routed");
        seqs.push(one.event.seq.ok_or_else(no_seq)?);
    }
    let numbers: Vec<i64> = seqs.iter().map(|seq| seq.0).collect();
    let taken = base.execute("DELETE FROM unrouted WHERE seq = ANY($1)", &[&numbers]).await?;
    if taken != seqs.len() as u64 {
        return Err(Fault::Trouble(Trouble::FenceLost));
    }
    let nobody = Subject::nobody();
    let mut whos = vec![];
    for (one, hashes) in routed.iter().zip(identities) {
        let tenant = base.made_tenant(one.event.tenant.as_str()).await?;
        let event = one.event.seq.map(|seq| (seq, counted_time(&one.event)));
        let who = Who { tenant, subject: &one.event.subject, hashes: *hashes, event };
        // Who is erased is not made again.
        let nobody = Who { tenant, subject: &nobody, hashes: Identities::default(), event: None };
        whos.push(if is_erasure(&one.event) { nobody } else { who });
    }
    let mut persons = persons::find_or_make(base, &whos).await?;
    let tenants: Vec<i64> = whos.iter().map(|who| who.tenant).collect();
    for ((one, seq), person) in routed.iter().zip(&seqs).zip(&mut persons) {
        if is_erasure(&one.event) {
            *person = erased_person(base, *seq).await?.map_or(Found::Nobody, Found::Person);
        }
    }
    let placed = routed.iter().zip(seqs).zip(tenants).zip(persons);
    let placed = placed.map(|(((routed, seq), tenant), found)| {
        let (is_erased, outlived) = (matches!(found, Found::Erased(_)), found == Found::Outlived);
        Placed { routed, seq, tenant, person: found.person(), is_erased, outlived }
    });
    Ok(placed.collect())
}

async fn erased_person(base: &Base, seq: Seq) -> Result<Option<i64>, Fault> {
    let row = base.row("SELECT person FROM erasures WHERE event = $1", &[&seq.0]).await?;
    row.map(|row| get(&row, 0)).transpose()
}

async fn keep_persons(base: &Base, placed: &[Placed<'_>]) -> Result<(), Fault> {
    let (mut buckets, mut ids, mut seqs) = (vec![], vec![], vec![]);
    let mut raised: HashMap<i64, Raised> = HashMap::new();
    for one in placed {
        let Some(person) = one.person else { continue };
        buckets.push(one.seq.0 >> BUCKET_BITS);
        ids.push(person);
        seqs.push(one.seq.0);
        let routed = one.routed;
        if routed.opens > 0 || routed.clicks > 0 || routed.times != LastTimes::default() {
            raised.entry(person).or_default().add(routed);
        }
    }
    base.execute(
        "INSERT INTO person_events (bucket, person, seq)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) ON CONFLICT DO NOTHING",
        &[&buckets, &ids, &seqs],
    )
    .await?;
    raise_persons(base, &raised).await
}

/// What the events of one batch say of a person.
#[derive(Default)]
struct Raised {
    opens: i64,
    clicks: i64,
    times: LastTimes,
}

impl Raised {
    fn add(&mut self, routed: &Routed) {
        self.opens += i64::from(routed.opens);
        self.clicks += i64::from(routed.clicks);
        let (own, new) = (&mut self.times, routed.times);
        own.delivered_at = own.delivered_at.max(new.delivered_at);
        own.opened_at = own.opened_at.max(new.opened_at);
        own.clicked_at = own.clicked_at.max(new.clicked_at);
        own.bounced_at = own.bounced_at.max(new.bounced_at);
    }
}

async fn raise_persons(base: &Base, raised: &HashMap<i64, Raised>) -> Result<(), Fault> {
    if raised.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = raised.keys().copied().collect();
    let of = |value: fn(&Raised) -> i64| raised.values().map(value).collect::<Vec<i64>>();
    let at = |value: fn(&LastTimes) -> Option<Millis>| {
        raised.values().map(|one| value(&one.times).map(|at| at.0)).collect::<Vec<Option<i64>>>()
    };
    persons::lock_rows(base, &ids).await?;
    // `greatest` passes over what is null.
    base.execute(
        "UPDATE persons p SET opens = p.opens + v.opens, clicks = p.clicks + v.clicks,
            delivered_at = greatest(p.delivered_at, v.delivered_at), opened_at = greatest(p.opened_at, v.opened_at),
            clicked_at = greatest(p.clicked_at, v.clicked_at), bounced_at = greatest(p.bounced_at, v.bounced_at)
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
            AS v (id, opens, clicks, delivered_at, opened_at, clicked_at, bounced_at) WHERE p.id = v.id",
        &[
            &ids,
            &of(|one| one.opens),
            &of(|one| one.clicks),
            &at(|times| times.delivered_at),
            &at(|times| times.opened_at),
            &at(|times| times.clicked_at),
            &at(|times| times.bounced_at),
        ],
    )
    .await?;
    Ok(())
}

/// Whom a send was first seen with, and whether another was seen with it.
struct Send {
    tenant: i64,
    recipient: i64,
    several: bool,
    at: i64,
}

/// Remembers whom a send went to; a second recipient makes it one for several.
async fn keep_transmissions(base: &Base, placed: &[Placed<'_>]) -> Result<(), Fault> {
    let mut sends: HashMap<(i64, [u8; 16]), Send> = HashMap::new();
    for one in placed {
        let event = &one.routed.event;
        let (Some(person), Some(transmission)) = (one.person, &event.transmission) else { continue };
        let source = base.made_number(one.tenant, NameKind::Source as u8, event.source.as_str()).await?;
        let first = Send { tenant: one.tenant, recipient: person, several: false, at: event.received_at.0 };
        let send = sends.entry((source, transmission_hash(transmission))).or_insert(first);
        send.several |= send.recipient != person;
    }
    if sends.is_empty() {
        return Ok(());
    }
    let sources: Vec<i64> = sends.keys().map(|key| key.0).collect();
    let hashes: Vec<&[u8]> = sends.keys().map(|key| &key.1[..]).collect();
    let of = |value: fn(&Send) -> i64| sends.values().map(value).collect::<Vec<i64>>();
    base.execute(
        "INSERT INTO transmissions (source, hash, tenant, recipient, several, seen_at)
         SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
         ON CONFLICT (source, hash) DO UPDATE SET several = 1 WHERE transmissions.several = 0
            AND (excluded.several = 1 OR transmissions.recipient <> excluded.recipient)",
        &[
            &sources,
            &hashes,
            &of(|send| send.tenant),
            &of(|send| send.recipient),
            &of(|send| i64::from(send.several)),
            &of(|send| send.at),
        ],
    )
    .await?;
    Ok(())
}

async fn keep_without_delivery(base: &Base, placed: &[Placed<'_>]) -> Result<(), Fault> {
    let (mut seqs, mut places) = (vec![], vec![]);
    for one in placed.iter().filter(|one| one.routed.event.test || one.towards().next().is_none()) {
        seqs.push(one.seq.0);
        places.push(if one.routed.event.test { TEST } else { UNMATCHED });
    }
    if seqs.is_empty() {
        return Ok(());
    }
    // An offer may have come before the router.
    base.execute(
        "INSERT INTO without_delivery (seq, place)
         SELECT w.seq, w.place FROM unnest($1::bigint[], $2::bigint[]) AS w (seq, place)
         WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event = w.seq)",
        &[&seqs, &places],
    )
    .await?;
    Ok(())
}
