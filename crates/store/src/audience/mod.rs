//! A tenant's audience while one transaction changes it. A back end reads what the writes speak of, the writes
//! are applied here one after the other, and the back end writes what has changed: so both match and merge by
//! the same code, and neither asks the database once a write.

mod echo;
mod erase;
mod find;
mod turn;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash as KeyHash;
use std::sync::Arc;

use mailspan_core::contact::{
    Contact, ContactKey, ContactWrite, Evidence, Fact, Permission, Stated, Suppressed,
};
use mailspan_core::{Address, Millis};

use crate::identity::IdentityKey;

pub(crate) use erase::Known;
pub(crate) use find::fill;
pub(crate) use turn::{Done, HeldBack, NewFact};

/// A keyed hash of an identity.
pub(crate) type Hash = [u8; 16];
/// SHA-256 of a token in a confirmation link.
pub(crate) type Token = [u8; 32];

/// Rows by their key, and which of them are to be written (or dropped).
pub(crate) struct Rows<K, V> {
    now: HashMap<K, V>,
    changed: BTreeSet<K>,
}

impl<K: Ord + KeyHash + Copy, V> Rows<K, V> {
    fn new() -> Rows<K, V> {
        Rows::for_so_many(0)
    }

    /// With room for them: a table that grows is copied each time.
    fn for_so_many(rows: usize) -> Rows<K, V> {
        Rows { now: HashMap::with_capacity(rows), changed: BTreeSet::new() }
    }

    /// As the database has it.
    pub(crate) fn read(&mut self, key: K, value: V) {
        self.now.insert(key, value);
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.now.get(key)
    }

    fn set(&mut self, key: K, value: V) {
        self.now.insert(key, value);
        self.changed.insert(key);
    }

    fn remove(&mut self, key: K) {
        if self.now.remove(&key).is_some() {
            self.changed.insert(key);
        }
    }

    /// In the order of their keys.
    pub(crate) fn written(&self) -> impl Iterator<Item = (&K, &V)> {
        self.changed.iter().filter_map(|key| Some((key, self.now.get(key)?)))
    }

    pub(crate) fn dropped(&self) -> impl Iterator<Item = &K> {
        self.changed.iter().filter(|key| !self.now.contains_key(*key))
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct PersonRow {
    pub address: Option<String>,
    pub external_id: Option<String>,
    pub same_as: Option<i64>,
    pub erased: bool,
    pub opted_in_at: Option<Millis>,
    pub opted_out_at: Option<Millis>,
}

#[derive(Debug, Clone)]
pub(crate) struct Suppression {
    pub address: Option<String>,
    pub reason: Suppressed,
    pub source: Option<String>,
    pub at: Millis,
}

#[derive(Debug, Clone)]
pub(crate) struct Confirmation {
    pub person: i64,
    pub asked_at: Millis,
    pub expires_at: Millis,
    pub used_at: Option<Millis>,
    pub gives: Permission,
    pub mailing: Option<String>,
    pub source: Option<String>,
    pub page: Option<String>,
}

/// What a back end reads first.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub hashes: BTreeSet<Hash>,
    /// Those of them that are of addresses.
    pub addresses: BTreeSet<Hash>,
    pub uids: BTreeSet<String>,
    pub tokens: BTreeSet<Token>,
}

pub(crate) struct Audience {
    key: IdentityKey,
    /// Hashes of what the writes speak of, by address and by external id: each is asked for a dozen times.
    hashed: (HashMap<String, Hash>, HashMap<String, Hash>),
    pub identities: Rows<Hash, i64>,
    pub persons: Rows<i64, PersonRow>,
    pub contacts: Rows<i64, Arc<Contact>>,
    pub suppressions: Rows<Hash, Suppression>,
    pub confirmations: Rows<Token, Confirmation>,
    uids: HashMap<String, i64>,
    /// Of each person alone.
    facts: HashMap<i64, Vec<Fact>>,
    /// Of each person alone: the newest fact that agrees, and what proves it.
    agreed: HashMap<i64, (Millis, Evidence)>,
    /// Who is `same_as` a person.
    merged: HashMap<i64, Vec<i64>>,
    /// Persons erased in this transaction: all their identities and deliveries go.
    pub erased: BTreeSet<i64>,
    /// What the persons of each erasure were known by, under the person that was asked for.
    pub known: BTreeMap<i64, Known>,
    /// Persons made in this transaction.
    pub made: HashSet<i64>,
    /// Persons whose contact the database has.
    pub with_contact: HashSet<i64>,
    /// Numbers for new persons, the next one last.
    free: Vec<i64>,
    /// The latest `updated_at` of the tenant: none is earlier than one before it.
    floor: Millis,
    /// When whoever was known by a hash was erased: what happened before is about nobody.
    pub gone: HashMap<Hash, Millis>,
    /// Addresses that persons had before, as far as nobody else has them now; read where somebody is erased.
    pub former: HashMap<i64, Vec<Hash>>,
    /// What the hub wrote to accounts that tell of their changes, by person; read where one tells.
    pub written: HashMap<i64, Vec<Written>>,
    /// Of the same persons.
    pub confirmed: HashMap<i64, Vec<Confirmed>>,
    /// Persons whose address changed in this transaction: links that were mailed before confirm nothing.
    pub moved: BTreeSet<i64>,
}

/// An opt-in or opt-out of the hub and its way to a destination.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    /// Its row in the ledger.
    pub fact: i64,
    pub destination: i64,
    pub opts_in: bool,
    /// When the hub learned of it: it was not written before.
    pub from: Millis,
    /// When it was settled there; nothing while it is on its way.
    pub until: Option<Millis>,
}

/// A confirmation: it lifts an unsubscription that happened before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Confirmed {
    pub fact: i64,
    pub at: Millis,
    /// The address was suppressed until then, whenever the person confirmed.
    pub learned: Millis,
}

impl Audience {
    /// `free`: as many numbers as there are writes; `floor`: the latest `updated_at` of the tenant.
    pub(crate) fn new(key: IdentityKey, mut free: Vec<i64>, floor: Millis) -> Audience {
        free.reverse();
        let writes = free.len();
        Audience {
            key,
            hashed: (HashMap::with_capacity(writes), HashMap::with_capacity(writes)),
            identities: Rows::for_so_many(2 * writes),
            persons: Rows::for_so_many(writes),
            contacts: Rows::for_so_many(writes),
            suppressions: Rows::new(),
            confirmations: Rows::new(),
            uids: HashMap::with_capacity(writes),
            facts: HashMap::with_capacity(writes),
            agreed: HashMap::with_capacity(writes),
            merged: HashMap::new(),
            erased: BTreeSet::new(),
            known: BTreeMap::new(),
            made: HashSet::new(),
            with_contact: HashSet::new(),
            free,
            floor,
            gone: HashMap::new(),
            former: HashMap::new(),
            written: HashMap::new(),
            confirmed: HashMap::new(),
            moved: BTreeSet::new(),
        }
    }

    /// Persons that were read.
    pub(crate) fn read_persons(&self) -> Vec<i64> {
        self.persons.now.keys().copied().collect()
    }

    /// The identities, ids and tokens that these writes speak of.
    pub(crate) fn asked(&mut self, writes: &[&ContactWrite]) -> Asked {
        let mut asked = Asked::default();
        for write in writes {
            let (address, external_id) = find::parts(&write.key);
            let ids = external_id.into_iter().chain(find::set_id(write));
            let addresses = address.into_iter().chain(write.address.as_ref());
            for id in ids {
                let hash = self.hash_of_id(id);
                if asked.hashes.insert(hash) {
                    self.hashed.1.insert(id.to_owned(), hash);
                }
            }
            for address in addresses {
                let hash = self.hash_of(address);
                // Another spelling of it has the same hash.
                if asked.addresses.insert(hash) || !self.hashed.0.contains_key(address.as_str()) {
                    self.hashed.0.insert(address.as_str().to_owned(), hash);
                }
            }
            match &write.key {
                ContactKey::Id(id) => drop(asked.uids.insert(id.clone())),
                ContactKey::Token(token) => drop(asked.tokens.insert(*token)),
                _ => {}
            }
        }
        asked.hashes.extend(&asked.addresses);
        asked
    }

    pub(crate) fn read_uid(&mut self, uid: &str, person: i64) {
        self.uids.insert(uid.to_owned(), person);
    }

    pub(crate) fn read_person(&mut self, person: i64, row: PersonRow) {
        if let Some(into) = row.same_as {
            self.merged.entry(into).or_default().push(person);
        }
        self.persons.read(person, row);
    }

    pub(crate) fn read_contact(&mut self, person: i64, contact: Contact) {
        self.uids.insert(contact.uid.clone(), person);
        self.with_contact.insert(person);
        self.contacts.read(person, Arc::new(contact));
    }

    /// `evidence`: JSON, as stored.
    pub(crate) fn read_fact(&mut self, person: i64, fact: Fact, evidence: Option<&str>) {
        self.facts.entry(person).or_default().push(fact);
        if fact.what.agrees() && self.agreed.get(&person).is_none_or(|(at, _)| *at < fact.at) {
            let evidence = crate::sqlite::contact_rows::evidence(evidence).unwrap_or_default();
            self.agreed.insert(person, (fact.at, evidence));
        }
    }

    /// A fact of what was written, which may be a confirmation; when it happened and when it was learned of.
    pub(crate) fn read_confirmed(
        &mut self,
        person: i64,
        fact: i64,
        stated: Option<Stated>,
        (happened, learned): (Millis, Millis),
    ) {
        let is_double = matches!(stated, Some(Stated::OptIn(Some(level))) if level.is_double());
        if is_double {
            let one = Confirmed { fact, at: happened.min(learned), learned };
            self.confirmed.entry(person).or_default().push(one);
        }
    }

    /// Persons that are spoken of and not read yet; empty after two rounds.
    pub(crate) fn unread_persons(&self) -> BTreeSet<i64> {
        let named = self.identities.now.values().chain(self.uids.values()).copied();
        let asked = self.confirmations.now.values().map(|row| row.person);
        let into = self.persons.now.values().filter_map(|row| row.same_as);
        named.chain(asked).chain(into).filter(|person| self.persons.get(person).is_none()).collect()
    }

    /// Of what contacts have that were read, and no write speaks of: it may have to go.
    pub(crate) fn unread_hashes(&self, asked: &Asked) -> BTreeSet<Hash> {
        let contacts = self.contacts.now.values();
        let own = contacts.flat_map(|contact| {
            let id = contact.external_id.as_deref().map(|id| self.hash_of_id(id));
            let address = contact.address.as_ref().map(|address| self.hash_of(address));
            [address, id].into_iter().flatten().chain(self.left_by(contact))
        });
        own.filter(|hash| !asked.hashes.contains(hash)).collect()
    }

    /// What the contact was called before.
    fn left_by(&self, contact: &Contact) -> Vec<Hash> {
        let before = mailspan_core::contact::formerly(contact);
        let addresses = before.addresses.iter().map(|(address, _)| self.hash_of(address));
        addresses.chain(before.external_ids.iter().map(|(id, _)| self.hash_of_id(id))).collect()
    }

    /// Hashes whose suppression counts: of the writes, and of the contacts that were read.
    pub(crate) fn addressed(&self, asked: &Asked) -> BTreeSet<Hash> {
        let own = self.contacts.now.values().filter_map(|contact| contact.address.as_ref());
        own.map(|address| self.hash_of(address)).chain(asked.addresses.iter().copied()).collect()
    }

    /// Contacts to be written, in the order of `rev`.
    pub(crate) fn written_contacts(&self) -> Vec<(i64, &Contact)> {
        let mut contacts: Vec<_> = self.contacts.written().map(|(person, row)| (*person, &**row)).collect();
        contacts.sort_by_key(|(_, contact)| contact.updated_at);
        contacts
    }

    pub(crate) fn hash_of(&self, address: &Address) -> Hash {
        let known = self.hashed.0.get(address.as_str()).copied();
        known.unwrap_or_else(|| self.key.hash(b"address", address.key().as_bytes()))
    }

    fn hash_of_id(&self, external_id: &str) -> Hash {
        let known = self.hashed.1.get(external_id).copied();
        known.unwrap_or_else(|| self.key.hash(b"external_id", external_id.as_bytes()))
    }
}
