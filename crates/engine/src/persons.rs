//! How much of each person a desk holds, and what it passed over for that.

use std::collections::{BTreeMap, BTreeSet};

use mailspan_core::{DeliveryId, Parcel, PersonId};

use crate::desk::Desk;
use crate::held::Held;

#[derive(Debug, Default)]
pub(crate) struct Persons {
    holding: BTreeMap<PersonId, Holding>,
    /// Not taken, as other things of their persons are held: of each person at most the head of each class, and of
    /// none of whom nothing is held.
    passed_over: BTreeMap<PersonId, BTreeSet<DeliveryId>>,
}

/// Deliveries of one person.
#[derive(Debug, Default)]
struct Holding {
    all: u32,
    /// Those that write a whole contact.
    whole: u32,
}

impl Persons {
    /// A whole contact goes when no other of that person is held here, in whatever lane: it was mapped from what
    /// was known when it was claimed, and the one that is mapped last must arrive last. So does an erasure when
    /// nothing at all of the person is held: what is in flight would bring back who was erased.
    pub(crate) fn must_wait(&self, parcel: &Parcel) -> bool {
        let Some(person) = &parcel.person else { return false };
        self.holding.get(&person.id).is_some_and(|held| person.erased || parcel.whole && held.whole > 0)
    }

    /// True where it was not known before.
    pub(crate) fn pass_over(&mut self, parcel: &Parcel) -> bool {
        let Some(person) = &parcel.person else { return false };
        self.passed_over.entry(person.id).or_default().insert(parcel.delivery)
    }

    pub(crate) fn passed_over(&self) -> impl Iterator<Item = DeliveryId> {
        self.passed_over.values().flatten().copied()
    }

    /// Of what is held no longer. True where something of that person was passed over, which may go now.
    pub(crate) fn leave(&mut self, held: &Held) -> bool {
        let Some(person) = held.person_id() else { return false };
        if let Some(of) = self.holding.get_mut(&person) {
            of.all = of.all.saturating_sub(1);
            of.whole = of.whole.saturating_sub(u32::from(held.whole));
            if of.all == 0 {
                self.holding.remove(&person);
            }
        }
        self.passed_over.remove(&person).is_some()
    }
}

impl Desk {
    pub(crate) fn hold(&mut self, held: Held) {
        if let Some(person) = held.person_id() {
            let of = self.persons.holding.entry(person).or_default();
            of.all += 1;
            of.whole += u32::from(held.whole);
        }
        self.held.insert(held.delivery, held);
    }
}
