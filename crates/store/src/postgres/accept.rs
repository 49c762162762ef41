//! The door: all requests of a group in one statement a table. Dedupe, events, quarantine, raw requests,
//! consent, idempotency.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use mailspan_core::{Event, EventId, consent_of};

use super::answers::{self, Asked, Claim};
use super::base::{Base, Fault, clean};
use super::journal::Journal;
use super::leases::Locked;
use super::names::TYPE;
use super::persons::{self, Who};
use super::segments::DedupeKey;
use super::{crowd, ledger, rounds};
use crate::NameKind;
use crate::prepare::{Arrival, Identities};
use crate::rounds::{Tally, count};
use crate::sqlite::accept::{REQUEST_PROVES, VOID, flags};
use crate::sqlite::counts::Place;
use crate::sqlite::envelope;
use crate::sqlite::route::UNMATCHED;
use crate::write::{Accepted, Receipt, Trouble, Wrote};

/// A receipt on its way.
pub(crate) struct Door<'a> {
    pub receipt: &'a Receipt,
    arrivals: &'a [Arrival],
    pub tenant: i64,
    source: i64,
    /// 0: nothing of it is kept.
    request: i64,
    pub accepted: Accepted,
    /// The request itself is not kept: it names who is erased.
    pub hides_request: bool,
    asked: Option<Asked>,
    /// A fact of consent comes with it: its raw request is the proof.
    pub proves: bool,
    /// Of a page of a poll.
    pub tally: Tally,
    /// Answered without being looked into.
    pub ended: Option<Result<Wrote, Trouble>>,
}

/// An event that is kept.
pub(crate) struct Kept<'a> {
    pub door: usize,
    /// Its position among those that arrived.
    pub place: usize,
    pub seq: i64,
    pub event: Cow<'a, Event>,
    pub packed: Cow<'a, [u8]>,
    pub part: u32,
    pub flags: i64,
    key: Option<DedupeKey>,
    /// Only where it states consent and comes without a contact.
    identities: Option<Identities>,
}

impl<'a> Kept<'a> {
    /// One that follows from another, under a number of its own.
    pub(crate) fn beside(&self, seq: i64, event: &'a Event) -> Kept<'a> {
        Kept {
            seq,
            event: Cow::Borrowed(event),
            packed: Cow::Owned(envelope::pack(event)),
            flags: flags(event, false),
            key: None,
            identities: None,
            ..*self
        }
    }
}

/// One answer for each receipt, in order. A fault is about the whole transaction.
pub(crate) async fn accept(
    journal: &mut Journal,
    receipts: &[(&Receipt, &[Arrival])],
) -> Result<Vec<Result<Wrote, Trouble>>, Fault> {
    let mut doors = vec![];
    for (receipt, arrivals) in receipts {
        doors.push(door(&journal.base, &journal.leases, receipt, arrivals).await?);
    }
    let repeats = first_answers(&journal.base, &mut doors).await?;
    journal.segments.hold(&journal.base).await?;
    let kept = new_events(journal, &mut doors).await?;
    let kept = crowd::keep(journal, &mut doors, kept).await?;
    for one in &kept {
        let door = &mut doors[one.door];
        door.accepted.ids.push(one.event.id);
        door.proves |= one.identities.is_some() && consent_of(&one.event.event_type).is_some();
    }
    number_requests(&journal.base, &mut doors).await?;
    let base = &journal.base;
    // Sent together: none of them needs the answer of another.
    let (events, waiting, requests, unreadable) = tokio::join!(
        keep_events(base, &doors, &kept),
        keep_unrouted(base, &kept),
        keep_requests(base, &doors),
        keep_unreadable(base, &doors),
    );
    cause([events, waiting, requests, unreadable])?;
    keep_consent(base, &doors, &kept).await?;
    let mut given = vec![];
    for door in doors.iter_mut().filter(|door| door.ended.is_none()) {
        if let Some(asked) = door.asked {
            given.push(answers::give(base, asked, door.receipt, &mut door.accepted).await?);
        }
    }
    answers::keep(base, &given).await?;
    for (_, door) in open(&doors) {
        if let Some(mark) = &door.receipt.round {
            rounds::keep(base, mark, &door.tally).await?;
        }
    }
    for (_, door) in open(&doors) {
        journal.counts.raise(door.source, Place::Accepted, door.accepted.ids.len() as i64);
        journal.counts.raise(door.source, Place::Duplicate, door.accepted.duplicates as i64);
        journal.counts.raise(door.source, Place::Quarantined, door.accepted.quarantined as i64);
    }
    Ok(told(doors, &repeats))
}

/// Of statements that were sent together: the fault that ended the transaction, not those that found it ended.
fn cause(results: [Result<(), Fault>; 4]) -> Result<(), Fault> {
    let mut faults: Vec<Fault> = results.into_iter().filter_map(Result::err).collect();
    faults.sort_by_key(Fault::is_consequence);
    faults.into_iter().next().map_or(Ok(()), Err)
}

fn open<'a, 'b>(doors: &'a [Door<'b>]) -> impl Iterator<Item = (usize, &'a Door<'b>)> {
    doors.iter().enumerate().filter(|(_, door)| door.ended.is_none())
}

async fn door<'a>(
    base: &Base,
    locked: &Locked,
    receipt: &'a Receipt,
    arrivals: &'a [Arrival],
) -> Result<Door<'a>, Fault> {
    let tenant = base.made_tenant(receipt.tenant.as_str()).await?;
    let source = base.made_number(tenant, NameKind::Source as u8, receipt.source.as_str()).await?;
    let quarantined = receipt.unreadable.len() as u64;
    let accepted =
        Accepted { ids: vec![], duplicates: 0, quarantined, unchanged: 0, contacts: vec![], told: None };
    let too_many = receipt.unreadable.len() > 8_192;
    let ended = too_many.then(|| {
        let text = "a request has at most 8,192 elements: send smaller batches";
        Err(Fault::refused("too_many_elements", text).trouble())
    });
    let lost = receipt.round.as_ref().and_then(|mark| rounds::check(locked, mark).err());
    let ended = lost.map(|fault| Err(fault.trouble())).or(ended);
    let (asked, tally) = (None, Tally::new());
    let (hides_request, proves, request) = (false, false, 0);
    Ok(Door {
        receipt,
        arrivals,
        tenant,
        source,
        request,
        accepted,
        hides_request,
        asked,
        proves,
        tally,
        ended,
    })
}

/// Ends those whose key was answered before. Gives, for each that repeats another of this group, the other.
async fn first_answers(base: &Base, doors: &mut [Door<'_>]) -> Result<HashMap<usize, usize>, Fault> {
    let (mut firsts, mut repeats, mut claims) = (HashMap::new(), HashMap::new(), vec![]);
    for (place, door) in doors.iter().enumerate() {
        let Some(idempotency) = &door.receipt.idempotency else { continue };
        let asked = answers::asked(door.tenant, idempotency);
        if let Some(first) = firsts.get(&asked) {
            repeats.insert(place, *first);
        } else if door.ended.is_none() {
            firsts.insert(asked, place);
            let received_at = door.receipt.received_at.0;
            claims.push(Claim { asked, body: idempotency.body, received_at });
        }
    }
    let mut known = answers::claim(base, claims).await?;
    for (asked, place) in firsts {
        let door = &mut doors[place];
        let Some(idempotency) = &door.receipt.idempotency else { continue };
        match known.remove(&asked) {
            Some(None) => door.asked = Some(asked),
            Some(Some(known)) => {
                door.ended = Some(answers::again(base, door.tenant, &known, idempotency).await?);
            }
            // It went between two statements: retention took it.
            None => door.ended = Some(Err(Trouble::Busy)),
        }
    }
    for place in repeats.keys() {
        // What it is told follows from the first; nothing of it is kept.
        doors[*place].ended = Some(Err(Trouble::Busy));
    }
    Ok(repeats)
}

/// Looks every key up, gives each new event its number, and says to each receipt what was a duplicate.
async fn new_events<'a>(journal: &mut Journal, doors: &mut [Door<'a>]) -> Result<Vec<Kept<'a>>, Fault> {
    let mut keys = HashSet::new();
    let mut candidates = vec![];
    for (door, opened) in open(doors) {
        for (place, (arrived, arrival)) in opened.receipt.arrivals.iter().zip(opened.arrivals).enumerate() {
            let is_first = arrival.key.is_none_or(|key| keys.insert(key));
            let one = Kept {
                door,
                place,
                seq: 0,
                event: Cow::Borrowed(&arrived.event),
                packed: Cow::Borrowed(&arrival.packed),
                part: arrived.part,
                flags: flags(&arrived.event, arrival.identities.is_some()),
                key: arrival.key,
                identities: arrival.identities,
            };
            candidates.push((one, is_first));
        }
    }
    let keys: Vec<DedupeKey> = keys.into_iter().collect();
    let base = &journal.base;
    let old = journal.segments.closed_with(base, &keys).await?;
    let is_candidate = |one: &Kept, is_first: bool| is_first && one.key.is_none_or(|key| !old.contains(&key));
    let wanted = candidates.iter().filter(|(one, is_first)| is_candidate(one, *is_first)).count();
    let mut seqs = base.numbers("events_seq", wanted).await?.into_iter();
    let mut kept = vec![];
    for (one, is_first) in candidates {
        match seqs.as_slice().first() {
            Some(seq) if is_candidate(&one, is_first) => {
                kept.push(Kept { seq: *seq, ..one });
                seqs.next();
            }
            _ => doors[one.door].accepted.duplicates += 1,
        }
    }
    // In order of the key: two nodes never wait for each other.
    let mut new: Vec<(DedupeKey, i64)> = kept.iter().filter_map(|one| Some((one.key?, one.seq))).collect();
    new.sort_unstable();
    let new = if new.is_empty() { HashSet::new() } else { journal.segments.keep(base, &new).await? };
    kept.retain(|one| {
        let is_new = one.key.is_none_or(|key| new.contains(&key));
        if !is_new {
            doors[one.door].accepted.duplicates += 1;
        }
        is_new
    });
    for one in &kept {
        let door = &mut doors[one.door];
        if door.receipt.round.as_ref().is_some_and(|mark| mark.lists) {
            count(&mut door.tally, &one.event, false);
        }
    }
    journal.segments.saw(kept.last().map_or(0, |one| one.seq));
    Ok(kept)
}

async fn number_requests(base: &Base, doors: &mut [Door<'_>]) -> Result<(), Fault> {
    let is_kept = |door: &Door| {
        door.ended.is_none()
            && (!door.accepted.ids.is_empty() || door.accepted.quarantined > 0 || door.proves)
    };
    let wanted = doors.iter().filter(|door| is_kept(door)).count();
    let numbers = base.numbers("requests_id", wanted).await?;
    for (door, number) in doors.iter_mut().filter(|door| is_kept(door)).zip(numbers) {
        door.request = number;
    }
    Ok(())
}

async fn keep_events(base: &Base, doors: &[Door<'_>], kept: &[Kept<'_>]) -> Result<(), Fault> {
    if kept.is_empty() {
        return Ok(());
    }
    let mut types = vec![];
    for one in kept {
        let written = one.event.event_type.as_str();
        types.push(base.made_number(doors[one.door].tenant, TYPE, written).await?);
    }
    let of = |value: &dyn Fn(&Kept) -> i64| kept.iter().map(value).collect::<Vec<i64>>();
    let ids: Vec<Vec<u8>> = kept.iter().map(|one| one.event.id.0.to_be_bytes().to_vec()).collect();
    let request = |one: &Kept| {
        let door = &doors[one.door];
        door.receipt.packed.as_ref().filter(|_| !door.hides_request).map(|_| door.request)
    };
    let requests: Vec<Option<i64>> = kept.iter().map(request).collect();
    let packed: Vec<&[u8]> = kept.iter().map(|one| &*one.packed).collect();
    let seqs = of(&|one| one.seq);
    let written = base
        .execute(
            "INSERT INTO events (seq, id, tenant, source, type, request, part, happened_at, received_at, flags, packed)
             SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bytea[])",
            &[
                &seqs,
                &ids,
                &of(&|one| doors[one.door].tenant),
                &of(&|one| doors[one.door].source),
                &types,
                &requests,
                &of(&|one| i64::from(one.part)),
                &of(&|one| one.event.time.0),
                &of(&|one| one.event.received_at.0),
                &of(&|one| one.flags),
                &packed,
            ],
        )
        .await;
    if let Err(fault) = written {
        return Err(id_conflict(fault, doors.len(), kept[0].event.id));
    }
    Ok(())
}

async fn keep_unrouted(base: &Base, kept: &[Kept<'_>]) -> Result<(), Fault> {
    if kept.is_empty() {
        return Ok(());
    }
    let (void, seqs): (Vec<&Kept>, Vec<&Kept>) = kept.iter().partition(|one| one.flags & VOID != 0);
    let [void, seqs] = [void, seqs].map(|all| all.into_iter().map(|one| one.seq).collect::<Vec<i64>>());
    base.execute("INSERT INTO unrouted (seq) SELECT * FROM unnest($1::bigint[])", &[&seqs]).await?;
    if !void.is_empty() {
        let sql = "INSERT INTO without_delivery (seq, place) SELECT s, $2 FROM unnest($1::bigint[]) AS s";
        base.execute(sql, &[&void, &UNMATCHED]).await?;
    }
    Ok(())
}

/// Ids are made from the clock and 74 random bits: one that exists was given, not made. Told where the receipt
/// is alone; a group is run again one by one.
fn id_conflict(fault: Fault, receipts: usize, first: EventId) -> Fault {
    let Some(detail) = fault.conflict("events_id").filter(|_| receipts == 1) else { return fault };
    let hex = detail.split_once("(\\x").and_then(|(_, rest)| rest.get(..32));
    let id = hex.and_then(|hex| u128::from_str_radix(hex, 16).ok()).map_or(first, EventId);
    Fault::refused("event_id_exists", format!("event {id} exists already: give it a new id"))
}

async fn keep_unreadable(base: &Base, doors: &[Door<'_>]) -> Result<(), Fault> {
    let mut elements = vec![];
    for (_, door) in open(doors) {
        for (position, element) in door.receipt.unreadable.iter().enumerate() {
            elements.push((door.request << 13 | position as i64, door, element));
        }
    }
    if elements.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = elements.iter().map(|one| one.0).collect();
    let tenants: Vec<i64> = elements.iter().map(|one| one.1.tenant).collect();
    let sources: Vec<i64> = elements.iter().map(|one| one.1.source).collect();
    let parts: Vec<i64> = elements.iter().map(|one| i64::from(one.2.part)).collect();
    let times: Vec<i64> = elements.iter().map(|one| one.1.receipt.received_at.0).collect();
    let codes: Vec<_> = elements.iter().map(|one| clean(&one.2.reason.code)).collect();
    let reasons: Vec<_> = elements.iter().map(|one| clean(&one.2.reason.text)).collect();
    let raws: Vec<Vec<u8>> = elements.iter().map(|one| crate::pack::squeeze(one.2.raw.as_bytes())).collect();
    base.execute(
        "INSERT INTO unreadable (id, tenant, source, part, received_at, reason_code, reason, raw)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[],
            $7::text[], $8::bytea[])",
        &[&ids, &tenants, &sources, &parts, &times, &codes, &reasons, &raws],
    )
    .await?;
    Ok(())
}

async fn keep_requests(base: &Base, doors: &[Door<'_>]) -> Result<(), Fault> {
    let kept: Vec<(&Door, &[u8])> = open(doors)
        .filter(|(_, door)| door.request > 0 && !door.hides_request)
        .filter_map(|(_, door)| Some((door, door.receipt.packed.as_deref()?)))
        .collect();
    if kept.is_empty() {
        return Ok(());
    }
    let of = |value: fn(&Door) -> i64| kept.iter().map(|(door, _)| value(door)).collect::<Vec<i64>>();
    let digests: Vec<&[u8]> = kept.iter().map(|(door, _)| &door.receipt.digest.0[..]).collect();
    let credentials: Vec<_> = kept.iter().map(|(door, _)| clean(&door.receipt.credential)).collect();
    let packed: Vec<&[u8]> = kept.iter().map(|(_, packed)| *packed).collect();
    base.execute(
        "INSERT INTO requests (id, tenant, source, received_at, digest, credential, packed, redacted)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[], $6::text[], $7::bytea[],
            $8::bigint[])",
        &[
            &of(|door| door.request),
            &of(|door| door.tenant),
            &of(|door| door.source),
            &of(|door| door.receipt.received_at.0),
            &digests,
            &credentials,
            &packed,
            &of(|door| if door.proves { REQUEST_PROVES } else { 0 }),
        ],
    )
    .await?;
    Ok(())
}

async fn keep_consent(base: &Base, doors: &[Door<'_>], kept: &[Kept<'_>]) -> Result<(), Fault> {
    let (mut whos, mut facts) = (vec![], vec![]);
    for one in kept {
        let event = &*one.event;
        let (Some(hashes), Some(what)) = (one.identities, consent_of(&event.event_type)) else {
            continue;
        };
        let door = &doors[one.door];
        whos.push(Who { tenant: door.tenant, subject: &event.subject, hashes, event: None });
        let (tenant, seq, digest) = (door.tenant, one.seq, door.receipt.digest);
        facts.push(ledger::New { tenant, person: None, what, event, seq, digest });
    }
    let persons = persons::find_or_make(base, &whos).await?;
    for (fact, person) in facts.iter_mut().zip(persons) {
        fact.person = person.person();
    }
    ledger::append(base, &facts).await
}

/// In the order of the receipts; one that repeats another of the group is told what that one was told.
fn told(doors: Vec<Door>, repeats: &HashMap<usize, usize>) -> Vec<Result<Wrote, Trouble>> {
    let idempotency: Vec<_> = doors.iter().map(|door| door.receipt.idempotency.as_ref()).collect();
    let mut told: Vec<Result<Wrote, Trouble>> = doors
        .into_iter()
        .map(|door| {
            let accepted = door.accepted;
            door.ended.unwrap_or(Ok(Wrote::Accepted { accepted, again: false }))
        })
        .collect();
    for (place, first) in repeats {
        let (Some(own), Some(of_first)) = (idempotency[*place], idempotency[*first]) else { continue };
        told[*place] = match &told[*first] {
            Ok(Wrote::Accepted { accepted, .. }) => answers::same(of_first.body, accepted.clone(), own),
            // The first was refused for another body: this one may be the body that was answered.
            _ => Err(Trouble::Busy),
        };
    }
    told
}
