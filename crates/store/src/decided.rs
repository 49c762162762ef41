//! What is appended for a contact that was written: the hub's own event, and the facts.

use std::sync::Arc;

use mailspan_core::contact::{ContactKey, ContactWrite, formerly_erased, formerly_json};
use mailspan_core::{Digest, Event, EventId, EventType, Millis, RawValue, Seq, Subject};

use crate::audience::{Done, HeldBack, NewFact};

/// The types that the store decides on.
pub(crate) const DECIDED: [&str; 7] = [
    "contact.created",
    "contact.updated",
    "contact.subscribed",
    "contact.confirmed",
    "contact.unsubscribed",
    "contact.erased",
    "contact.suppression_changed",
];

/// The types under which it keeps what other sources tell and does not count.
pub(crate) const HELD_BACK: [&str; 2] = [mailspan_core::ECHOED, mailspan_core::OUTLIVED];

/// The event as the store decides it; nothing where nothing is to be said.
pub(crate) fn decided(event: &Event, done: &mut Done) -> Option<Event> {
    let (event_type, data) = done.event.take()?;
    let known = done.subject.address.is_some() || done.subject.external_id.is_some();
    let subject = if known { done.subject.clone() } else { event.subject.clone() };
    let event_type = EventType::known(event_type);
    Some(Event { event_type, subject, data: Arc::from(data), ..event.clone() })
}

/// An event of another source that says nothing that counts, under the type that says so.
pub(crate) fn held_back(event: &Event, why: HeldBack) -> Event {
    match why {
        HeldBack::Echo => Event { event_type: EventType::known(mailspan_core::ECHOED), ..event.clone() },
        HeldBack::Erased => Event {
            event_type: EventType::known(mailspan_core::OUTLIVED),
            subject: Subject::nobody(),
            transmission: None,
            extensions: None,
            data: Arc::from(RawValue::NULL.to_owned()),
            ..event.clone()
        },
    }
}

/// An erasure that somebody else asked for, by all that the erased person was known by: destinations find whom to
/// erase by one or the other. Nothing where the event itself stays as it came.
pub(crate) fn erases(event: &Event, done: &Done, write: &ContactWrite) -> Option<Event> {
    let (given, known) = (&event.subject, &done.subject);
    let (address, external_id) = match &write.key {
        ContactKey::Subject { address, external_id } => (address.clone(), external_id.clone()),
        _ => (given.address.clone(), given.external_id.clone()),
    };
    let address = address.or_else(|| known.address.clone());
    let external_id = external_id.or_else(|| known.external_id.clone());
    let subject = Subject { address, external_id };
    let data = with_formerly(event, done, &subject);
    let differs = subject != *given || data.is_some();
    let data = data.unwrap_or_else(|| event.data.clone());
    (write.erase && differs).then(|| Event { subject, data, ..event.clone() })
}

/// What the sender said, to the letter, and last of all what the hub knows the person by beside the subject. Nothing
/// where there is no more.
fn with_formerly(event: &Event, done: &Done, subject: &Subject) -> Option<Arc<RawValue>> {
    let (_, own) = done.event.as_ref()?;
    let mut before = formerly_erased(own.get(), event.time);
    let now = done.subject.address.clone().filter(|address| Some(address) != subject.address.as_ref());
    before.addresses.extend(now.map(|address| (address, event.time)));
    let now = done.subject.external_id.clone().filter(|id| Some(id) != subject.external_id.as_ref());
    before.external_ids.extend(now.map(|id| (id, event.time)));
    let names = formerly_json(&before)?;
    let said = event.data.get().trim();
    let open = said.strip_prefix('{')?.strip_suffix('}')?;
    let comma = if open.trim().is_empty() { "" } else { "," };
    RawValue::from_string(format!("{{{open}{comma}\"formerly\":{names}}}")).ok().map(Arc::from)
}

/// `seq`: of the event that tells of them.
pub(crate) fn facts_of(
    done: &Done,
    write: &ContactWrite,
    learned: Millis,
    seq: Seq,
    event_id: EventId,
    digest: Digest,
) -> Vec<NewFact> {
    let fact = |&what| NewFact {
        person: done.person,
        what,
        at: write.at,
        learned,
        seq: seq.0,
        event_id,
        digest,
        evidence: done.evidence(what, &write.evidence),
    };
    done.facts.iter().map(fact).collect()
}
