//! How much of each person a desk holds.

use std::collections::BTreeMap;

use mailspan_core::{Operation, Part, PersonId};

use crate::desk::Desk;
use crate::held::Held;

pub(crate) type Persons = BTreeMap<PersonId, Of>;

/// Deliveries of one person.
#[derive(Debug, Default)]
pub(crate) struct Of {
    pub(crate) all: u32,
    /// Those that write a whole contact.
    pub(crate) whole: u32,
}

/// A whole contact is written.
pub(crate) fn is_whole(parts: &[Part]) -> bool {
    parts.iter().any(|part| matches!(part.operation, Operation::UpsertContact { .. }))
}

impl Desk {
    pub(crate) fn hold(&mut self, held: Held) {
        if let Some(person) = held.person_id() {
            let of = self.persons.entry(person).or_default();
            of.all += 1;
            of.whole += u32::from(is_whole(&held.parts));
        }
        self.held.insert(held.delivery, held);
    }

    /// Of what is held no longer.
    pub(crate) fn leave(&mut self, held: &Held) {
        let Some(person) = held.person_id() else { return };
        let Some(of) = self.persons.get_mut(&person) else { return };
        of.all = of.all.saturating_sub(1);
        of.whole = of.whole.saturating_sub(u32::from(is_whole(&held.parts)));
        if of.all == 0 {
            self.persons.remove(&person);
        }
    }
}
