//! What the hub says of itself about a write, and keeps with it.

use mailspan_core::{Event, RawValue, State};

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

/// What is said of the events that a receipt left.
pub(crate) fn of_accepted<'a>(
    receipt: &'a Receipt,
    accepted: &'a Accepted,
) -> impl Iterator<Item = &'a Event> {
    receipt.say.iter().filter(|(of, _)| accepted.ids.contains(of)).map(|(_, event)| &**event)
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
