//! An erasure: what identifies the person goes; that it was there, and that it must not be mailed, stays.

use std::collections::BTreeMap;

use mailspan_core::contact::{ContactWrite, Suppressed, formerly};
use mailspan_core::limits::FORMER_NAMES_MAX;
use mailspan_core::{Address, Formerly, Millis, Subject};

use super::{Audience, Done, Hash, PersonRow, Suppression, find};
use crate::erase::Identity;

/// What a person was known by before the erasure.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub identity: Identity,
    /// Keyed hashes, with the person that each led to.
    pub hashes: BTreeMap<Hash, i64>,
}

impl Audience {
    /// The contact, and all identities of the person and of those merged into it; `at`: when it was asked for.
    /// Addresses that the person had before must not be mailed either, whoever names them later.
    pub(super) fn erase(&mut self, person: i64, at: Millis, source: &str) {
        let mut known = self.known.remove(&person).unwrap_or_default();
        known.identity.v = 1;
        if let Some(contact) = self.contacts.get(&person) {
            let uid = contact.uid.clone();
            self.uids.remove(&uid);
            known
                .identity
                .addresses
                .extend(contact.address.as_ref().map(|address| address.as_str().to_owned()));
            known.identity.external_ids.extend(contact.external_id.clone());
            known.identity.uids.insert(uid);
        }
        let formerly = self.formerly(person);
        let addresses = formerly.addresses.iter().map(|(address, _)| address.as_str().to_owned());
        known.identity.addresses.extend(addresses);
        for (id, _) in formerly.external_ids {
            known.hashes.insert(self.hash_of_id(&id), person);
            known.identity.external_ids.insert(id);
        }
        self.contacts.remove(person);
        for one in self.all_of(person) {
            let hashes: Vec<_> =
                self.identities.now.iter().filter(|(_, p)| **p == one).map(|(hash, _)| *hash).collect();
            for hash in hashes {
                self.identities.remove(hash);
                known.hashes.insert(hash, one);
            }
            let row = self.persons.get(&one).cloned().unwrap_or_default();
            known.identity.addresses.extend(row.address.clone());
            known.identity.external_ids.extend(row.external_id.clone());
            known.identity.persons.insert(one);
            for former in self.former.get(&one).cloned().unwrap_or_default() {
                if known.hashes.insert(former, one).is_none() {
                    let (reason, source) = (Suppressed::Erasure, Some(source.to_owned()));
                    self.suppressions.set(former, Suppression { address: None, reason, source, at });
                }
            }
            let row = PersonRow { address: None, external_id: None, erased: true, ..row };
            self.persons.set(one, row);
            self.erased.insert(one);
        }
        self.known.insert(person, known);
    }

    /// Somebody whom the hub does not know: destinations may, and what names them here goes too. A person without a
    /// name, so that the erasure is followed to its end like any other.
    pub(super) fn stranger(&mut self, write: &ContactWrite) -> Option<i64> {
        let (address, external_id) = find::parts(&write.key);
        let hashes =
            [address.map(|address| self.hash_of(address)), external_id.map(|id| self.hash_of_id(id))];
        hashes.iter().flatten().next()?;
        let person = self.make()?;
        let mut known = Known::default();
        known
            .identity
            .see(&Subject { address: address.cloned(), external_id: external_id.map(str::to_owned) });
        known.hashes.extend(hashes.into_iter().flatten().map(|hash| (hash, person)));
        self.known.insert(person, known);
        Some(person)
    }

    /// What the erasure of a person has to look for, with what the write itself calls it by.
    pub(crate) fn take_known(
        &mut self,
        person: i64,
        done: &Done,
        write: &ContactWrite,
        learned: Millis,
    ) -> Known {
        let mut known = self.known.remove(&person).unwrap_or_default();
        known.identity.v = 1;
        known.identity.person = person;
        known.identity.persons.insert(person);
        known.identity.learned_at = learned.0;
        known.identity.by = write.evidence.actor.clone().or_else(|| Some(write.evidence.origin.clone()));
        known.identity.see(&done.subject);
        let hash = done.subject.address.as_ref().map(|address| self.hash_of(address));
        known.hashes.extend(hash.map(|hash| (hash, person)));
        known
    }

    /// What destinations may know the person by beside what its contact is called now: what the contact has left and
    /// no other contact has, and what those were called who were merged into it.
    pub(super) fn formerly(&self, person: i64) -> Formerly {
        let contact = self.contacts.get(&person);
        let mut found = contact.map(|contact| formerly(contact)).unwrap_or_default();
        let own = |hash: Hash| {
            let holder = self.person(hash).filter(|holder| *holder != person);
            holder.is_none_or(|holder| !self.has_contact(holder))
        };
        found.addresses.retain(|(address, _)| own(self.hash_of(address)));
        found.external_ids.retain(|(id, _)| own(self.hash_of_id(id)));
        let address = contact.and_then(|contact| contact.address.as_ref()).map(Address::key);
        let id = contact.and_then(|contact| contact.external_id.clone());
        for one in self.all_of(person).into_iter().take(FORMER_NAMES_MAX) {
            let Some(row) = self.persons.get(&one) else { continue };
            let known = row.address.as_deref().and_then(|text| Address::parse(text).ok());
            if let Some(known) = known
                && Some(known.key()) != address
                && found.addresses.iter().all(|(other, _)| other.key() != known.key())
                && own(self.hash_of(&known))
            {
                found.addresses.push((known, Millis(0)));
            }
            if let Some(known) = row.external_id.clone()
                && Some(&known) != id.as_ref()
                && found.external_ids.iter().all(|(other, _)| *other != known)
                && own(self.hash_of_id(&known))
            {
                found.external_ids.push((known, Millis(0)));
            }
        }
        found
    }

    /// The person and those merged into it.
    pub(super) fn all_of(&self, person: i64) -> Vec<i64> {
        let merged = self.merged.get(&person).into_iter().flatten().copied();
        [person].into_iter().chain(merged).collect()
    }
}
