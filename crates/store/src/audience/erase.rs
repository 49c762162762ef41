//! An erasure: what identifies the person goes; that it was there, and that it must not be mailed, stays.

use super::{Audience, PersonRow};

impl Audience {
    /// The contact, and all identities of the person and of those merged into it.
    pub(super) fn erase(&mut self, person: i64) {
        if let Some(contact) = self.contacts.get(&person) {
            let uid = contact.uid.clone();
            self.uids.remove(&uid);
        }
        self.contacts.remove(person);
        for one in self.all_of(person) {
            let known: Vec<_> =
                self.identities.now.iter().filter(|(_, p)| **p == one).map(|(hash, _)| *hash).collect();
            for hash in known {
                self.identities.remove(hash);
            }
            let row = self.persons.get(&one).cloned().unwrap_or_default();
            let row = PersonRow { address: None, external_id: None, erased: true, ..row };
            self.persons.set(one, row);
            self.erased.insert(one);
        }
    }

    /// The person and those merged into it.
    pub(super) fn all_of(&self, person: i64) -> Vec<i64> {
        let merged = self.merged.get(&person).into_iter().flatten().copied();
        [person].into_iter().chain(merged).collect()
    }
}
