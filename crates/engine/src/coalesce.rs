//! Updates of one person's profile that wait in one lane: the newest of them carries the others.
//!
//! What is sent says what all of them would have said one after another, so the destination ends in the
//! same state. Anything but a success takes the load apart again: nothing of it is lost with its carrier.

use std::collections::BTreeSet;

use mailspan_core::{
    Behind, Class, DeliveryId, Key, Operation, Outcome, Part, Reason, Settlement, State, Verdict,
};

use crate::held::Held;

/// What the head of a lane is sent with.
#[derive(Debug)]
pub(crate) struct Load {
    /// Fields of all of them, those of later ones over those of earlier ones.
    pub(crate) operation: Operation,
    pub(crate) key: Key,
    /// Between the head and the carrier, in the order of the lane.
    carried: Vec<Waiting>,
    /// The newest: it names the request.
    carrier: Waiting,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    delivery: DeliveryId,
    attempts: u32,
    crashes: u32,
}

/// What goes together with the head: the unbroken run of those behind it that update the same record by
/// the same operation. `None` where that is nobody.
pub(crate) fn load(head: &Held, behind: &[Behind], alone: &BTreeSet<DeliveryId>) -> Option<Load> {
    if head.class != Class::Profile || head.crashes > 0 || alone.contains(&head.delivery) {
        return None;
    }
    let first = update(&head.parts)?;
    let mut operation = first.operation.clone();
    let mut keys: Vec<&Key> = vec![&first.key];
    let mut run: Vec<Waiting> = Vec::new();
    for next in behind {
        let Behind { delivery, attempts, crashes, ref parts } = *next;
        let Some(part) = update(parts).filter(|_| crashes == 0 && !alone.contains(&delivery)) else { break };
        if !lay_over(&mut operation, &part.operation) {
            break;
        }
        keys.push(&part.key);
        run.push(Waiting { delivery, attempts, crashes });
    }
    let carrier = run.pop()?;
    let key = keys.pop()?.carrying(keys.into_iter());
    Some(Load { operation, key, carried: run, carrier })
}

/// The one part of a delivery that is nothing but an update, and has not begun.
fn update(parts: &[Part]) -> Option<&Part> {
    let [part] = parts else { return None };
    // An opt-in that travels with a contact is consent, and carried by nobody.
    let updates = part.operation.class() == Class::Profile;
    (updates && part.is_open() && part.step.is_none()).then_some(part)
}

/// Puts the fields of the later one over those of the earlier one; false where they are about different
/// things.
fn lay_over(earlier: &mut Operation, later: &Operation) -> bool {
    use Operation::{SetFields, UpsertContact};
    let (fields, newer) = match (earlier, later) {
        (UpsertContact { fields }, UpsertContact { fields: newer }) => (fields, newer),
        (SetFields { fields, record }, SetFields { fields: newer, record: of }) if record == of => {
            (fields, newer)
        }
        _ => return false,
    };
    fields.extend(newer.iter().map(|(name, value)| (name.clone(), value.clone())));
    true
}

impl Load {
    /// All but the head, in the order of the lane.
    fn others(&self) -> impl Iterator<Item = &Waiting> {
        self.carried.iter().chain([&self.carrier])
    }

    /// Deliveries, the head among them.
    pub(crate) fn len(&self) -> usize {
        self.carried.len() + 2
    }
}

impl Held {
    /// Those that must go one by one from here on.
    pub(crate) fn take_apart(&mut self) -> Vec<DeliveryId> {
        let load = self.load.take();
        let others = load.iter().flat_map(Load::others).map(|waiting| waiting.delivery);
        others.chain([self.delivery]).collect()
    }

    /// The load was done or skipped: the end of its carrier, and all others name it. The head is last: the
    /// next of the lane takes its place when the others have left.
    pub(crate) fn settle_load(&mut self, verdict: &Verdict, attempt: Option<usize>) -> Vec<Settlement> {
        let Some(load) = self.load.take() else { return Vec::new() };
        let settle = |waiting: Waiting, outcome: Outcome| Settlement {
            delivery: waiting.delivery,
            outcome,
            attempts: waiting.attempts.saturating_add(u32::from(self.exchanged)),
            crashes: waiting.crashes,
            progress: Vec::new(),
            attempt,
            // Notices are of another class, and never carried.
            hand_on: None,
        };
        let delivery = load.carrier.delivery;
        let mut settlements = vec![settle(load.carrier, ended(verdict))];
        let head = Waiting { delivery: self.delivery, attempts: self.attempts, crashes: self.crashes };
        let carried = load.carried.iter().copied().chain([head]);
        settlements.extend(carried.map(|waiting| settle(waiting, Outcome::CarriedBy { delivery })));
        settlements
    }
}

fn ended(verdict: &Verdict) -> Outcome {
    let (state, reason): (State, Option<Reason>) = match verdict {
        Verdict::Skipped { reason } => (State::Skipped, Some(reason.clone())),
        Verdict::Reject { reason } => (State::Dead, Some(reason.clone())),
        _ => (State::Delivered, None),
    };
    Outcome::Ended { state, reason }
}

#[cfg(test)]
mod tests;
