//! What the hub says of itself about a write, and keeps with it.

use mailspan_core::contact::{CONTACTS, Lifted};
use mailspan_core::{Event, EventId, EventType, Name, RawValue, State};

use crate::identity::IdentityKey;
use crate::prepare::{Arrival, Prepared, What, first_16, prepare};
use crate::write::{Accepted, Arrived, Receipt, Say, Write};
use crate::{DeliveryRow, JobRow, Routed};

/// An event ready to be accepted; nothing is a duplicate of it.
pub(crate) fn receipt(event: &Event, key: &IdentityKey) -> Option<(Box<Receipt>, Vec<Arrival>)> {
    let data = event.data.get().as_bytes();
    let digest = first_16(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data).as_ref());
    let receipt = Receipt {
        tenant: event.tenant.clone(),
        source: event.source.clone(),
        credential: event.source.to_string(),
        received_at: event.received_at,
        digest: mailspan_core::Digest(digest),
        packed: None,
        arrivals: vec![Arrived { event: event.clone(), part: 0, dedupe: None, contact: None }],
        unreadable: Vec::new(),
        idempotency: None,
        round: None,
        say: Vec::new(),
    };
    match prepare(Write::Accept(Box::new(receipt)), key).what {
        What::Accept { receipt, arrivals } => Some((receipt, arrivals)),
        _ => None,
    }
}

/// What is said of a delivery, where it is a dead letter.
pub(crate) fn of_dead(say: &Say<DeliveryRow>, row: &DeliveryRow) -> Option<Event> {
    if row.state == State::Dead { filled(say, row) } else { None }
}

/// What is said of a job, where it has ended.
pub(crate) fn of_job(say: &Say<JobRow>, row: &JobRow) -> Option<Event> {
    if row.state.has_ended() { filled(say, row) } else { None }
}

/// What is said of the events that a receipt left, and of the suppressions that they lifted.
pub(crate) fn of_accepted(receipt: &Receipt, accepted: &Accepted, key: &IdentityKey) -> Vec<Event> {
    let said =
        receipt.say.iter().filter(|(of, _)| accepted.ids.contains(of)).map(|(_, event)| (**event).clone());
    let of_contacts = receipt.arrivals.iter().filter(|arrived| arrived.contact.is_some());
    let lifted = of_contacts.zip(&accepted.contacts).filter_map(|(arrived, outcome)| {
        Some(of_lifted(receipt, &arrived.event, outcome.lifted.as_deref()?, key))
    });
    said.chain(lifted).collect()
}

/// The types of [`of_lifted`], of the hub's own source of contacts.
pub(crate) const LIFTED: [&str; 2] = ["contact.updated", "contact.suppression_changed"];

/// The id comes of the event that lifted it: this is written in its transaction, and once.
fn of_lifted(receipt: &Receipt, by: &Event, lifted: &Lifted, key: &IdentityKey) -> Event {
    let id = key.hash(b"lifted", &by.id.0.to_be_bytes());
    let data = RawValue::from_string(lifted.data.clone()).unwrap_or_else(|_| RawValue::NULL.to_owned());
    Event {
        seq: None,
        id: EventId::v7(by.received_at, u128::from_be_bytes(id)),
        tenant: receipt.tenant.clone(),
        source: Name::new(CONTACTS),
        event_type: EventType::known(lifted.event_type),
        subject: lifted.subject.clone(),
        time: lifted.time,
        transmission: None,
        recipient_role: None,
        extensions: None,
        data: data.into(),
        ..by.clone()
    }
}

fn filled<Row>(say: &Say<Row>, row: &Row) -> Option<Event> {
    let data = RawValue::from_string((say.data)(row)?).ok()?;
    Some(Event { data: data.into(), ..(*say.event).clone() })
}

/// All that a write may say.
pub(crate) fn events(write: &Prepared) -> Vec<&Event> {
    match &write.what {
        What::Write(Write::Settle { say, .. }) => say.iter().map(|(_, say)| &*say.event).collect(),
        What::Accept { receipt, .. } => receipt.say.iter().map(|(_, event)| &**event).collect(),
        What::Write(Write::Stand { say: Some(event), .. } | Write::Degrade { say: Some(event), .. }) => {
            vec![event]
        }
        What::Write(Write::Round(mark)) => mark.say.iter().map(|event| &**event).collect(),
        What::Write(Write::JobStand { say: Some(say), .. }) => vec![&say.event],
        What::Write(Write::Page(page)) => page.say.iter().map(|say| &*say.event).collect(),
        What::Route { routed, .. } => {
            let towards = routed.iter().flat_map(|one: &Routed| &one.to);
            towards.filter_map(|towards| Some(&*towards.say.as_ref()?.event)).collect()
        }
        _ => Vec::new(),
    }
}
