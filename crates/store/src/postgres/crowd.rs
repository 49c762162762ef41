//! The contacts that a group of receipts speaks of: read, written and kept together, tenant by tenant.

use std::borrow::Cow;
use std::collections::BTreeMap;

use mailspan_core::contact::ContactWrite;
use mailspan_core::{EventId, Millis, Seq};

use super::accept::{Door, Kept};
use super::base::Fault;
use super::journal::Journal;
use super::{contacts, persons};
use crate::audience::{Audience, HeldBack, Known, NewFact};
use crate::decided::{decided, erases, facts_of, held_back};
use crate::prepare::decides;
use crate::rounds::key;
use crate::sqlite::accept::{ERASES, STATES_CONSENT, VOID, flags};
use crate::sqlite::envelope;

/// A tenant's part of the group.
struct Crowd {
    audience: Audience,
    facts: Vec<NewFact>,
    /// With the event, and when it was asked for.
    erasures: Vec<(Known, i64, Millis)>,
}

/// Applies what new events say of contacts, and gives the events that are kept.
pub(crate) async fn keep<'a>(
    journal: &mut Journal,
    doors: &mut [Door<'a>],
    kept: Vec<Kept<'a>>,
) -> Result<Vec<Kept<'a>>, Fault> {
    let mut writes: BTreeMap<i64, Vec<&ContactWrite>> = BTreeMap::new();
    let mut asks = 0;
    for door in doors.iter().filter(|door| door.ended.is_none()) {
        for write in door.receipt.arrivals.iter().filter_map(|arrived| arrived.contact.as_deref()) {
            writes.entry(door.tenant).or_default().push(write);
            asks += usize::from(write.ask.is_some());
        }
    }
    if writes.is_empty() {
        return Ok(kept);
    }
    let base = &journal.base;
    // Whoever changes contacts does so alone: what is read here stands until the commit.
    base.batch(persons::LOCK).await?;
    let mut crowds = BTreeMap::new();
    for (tenant, writes) in &writes {
        let audience = contacts::open(base, *tenant, writes).await?;
        crowds.insert(*tenant, Crowd { audience, facts: vec![], erasures: vec![] });
    }
    let at = doors.iter().map(|door| door.receipt.received_at).max().unwrap_or(Millis(0));
    let mut seqs = base.numbers("events_seq", asks).await?;
    seqs.reverse();
    let kept = walk(doors, kept, &mut crowds, &mut seqs)?;
    for (tenant, crowd) in &crowds {
        // Before the identities go.
        contacts::keep_erasures(base, *tenant, &crowd.erasures).await?;
        contacts::keep(base, &mut journal.counts, *tenant, &crowd.audience, at).await?;
        contacts::keep_facts(base, *tenant, &crowd.facts).await?;
    }
    Ok(kept)
}

/// In the order of arrival.
fn walk<'a>(
    doors: &mut [Door<'a>],
    kept: Vec<Kept<'a>>,
    crowds: &mut BTreeMap<i64, Crowd>,
    seqs: &mut Vec<i64>,
) -> Result<Vec<Kept<'a>>, Fault> {
    let mut kept = kept.into_iter().peekable();
    let mut after = vec![];
    for (number, door) in doors.iter_mut().enumerate().filter(|(_, door)| door.ended.is_none()) {
        let receipt = door.receipt;
        for (place, arrived) in receipt.arrivals.iter().enumerate() {
            let one = kept.next_if(|one| (one.door, one.place) == (number, place));
            let (Some(write), Some(crowd)) = (arrived.contact.as_deref(), crowds.get_mut(&door.tenant))
            else {
                after.extend(one);
                continue;
            };
            let Some(one) = one else {
                door.accepted.contacts.push(crowd.audience.as_it_is(write));
                continue;
            };
            arrive(door, one, write, crowd, seqs, &mut after)?;
        }
    }
    Ok(after)
}

fn arrive<'a>(
    door: &mut Door<'a>,
    mut one: Kept<'a>,
    write: &'a ContactWrite,
    crowd: &mut Crowd,
    seqs: &mut Vec<i64>,
    after: &mut Vec<Kept<'a>>,
) -> Result<(), Fault> {
    let receipt = door.receipt;
    let mut done = crowd.audience.write(write, receipt.received_at, decides(receipt));
    if let Some(why) = done.held_back {
        // It says whom it is about.
        door.hides_request =
            why == HeldBack::Erased && receipt.arrivals.len() + receipt.unreadable.len() == 1;
        if write.found {
            unchanged(door, &one);
        } else {
            let event = held_back(&one.event, why);
            one.flags = flags(&event, false) | if why == HeldBack::Erased { VOID } else { 0 };
            one.packed = Cow::Owned(envelope::pack(&event));
            one.event = Cow::Owned(event);
            after.push(one);
        }
        door.accepted.contacts.push(done.outcome);
        return Ok(());
    }
    let (arrived, learned) = (one.event.id, one.event.received_at);
    let ask = write.ask.as_ref().filter(|_| done.outcome.asked);
    let ask = ask.and_then(|ask| Some(one.beside(seqs.pop()?, &ask.event)));
    one.flags |= if done.erased { ERASES } else { 0 };
    one.flags |= if done.facts.is_empty() { 0 } else { STATES_CONSENT };
    door.proves |= !done.facts.is_empty();
    let mut events = vec![];
    if done.is_known_already(write) {
        unchanged(door, &one);
    } else if !decides(receipt) {
        if let Some(event) = erases(&one.event, &done, write) {
            one.packed = Cow::Owned(envelope::pack(&event));
            one.event = Cow::Owned(event);
        }
        events.push(one);
    } else if let Some(event) = decided(&one.event, &mut done) {
        one.packed = Cow::Owned(envelope::pack(&event));
        one.event = Cow::Owned(event);
        events.push(one);
    }
    events.extend(ask);
    let (seq, id): (i64, EventId) = events.first().map_or((0, arrived), |one| (one.seq, one.event.id));
    if let Some(person) = done.person.filter(|_| done.erased) {
        let known = crowd.audience.take_known(person, &done, write, receipt.received_at);
        crowd.erasures.push((known, seq, write.at.min(receipt.received_at)));
    }
    crowd.facts.extend(facts_of(&done, write, learned, Seq(seq), id, receipt.digest));
    after.extend(events);
    door.accepted.contacts.push(done.outcome);
    Ok(())
}

/// Found by asking, and no news.
fn unchanged(door: &mut Door, one: &Kept) {
    door.accepted.unchanged += 1;
    if let Some(sums) = door.tally.get_mut(&key(&one.event)) {
        sums.1 += 1;
    }
}
