//! Who is erased, as the erasure's row keeps it until the end, and how far the walk got.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use mailspan_core::{Address, Subject};
use serde::{Deserialize, Serialize};

use super::tables::TABLES;
use super::words::Words;
use super::{ErasureStage, hex};
use crate::identity::IdentityKey;

/// What the person was known by. In the row (`sealed`) from the first transaction until the certificate is
/// written, and nowhere after.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub v: u8,
    pub addresses: BTreeSet<String>,
    pub external_ids: BTreeSet<String>,
    /// The contact's own id.
    #[serde(default)]
    pub uids: BTreeSet<String>,
    /// Whom the erasure was asked for.
    pub person: i64,
    /// With those merged into it.
    pub persons: BTreeSet<i64>,
    /// When the hub learned of it: what arrives later is not theirs to erase.
    pub learned_at: i64,
    #[serde(default)]
    pub by: Option<String>,
}

impl Identity {
    pub(crate) fn see(&mut self, subject: &Subject) {
        self.addresses.extend(subject.address.as_ref().map(|address| address.as_str().to_owned()));
        self.external_ids.extend(subject.external_id.clone());
    }

    /// Under a key of the store, so that a copy of the row alone tells nothing. Layout: nonce (12 bytes), then
    /// AES-256-GCM of the JSON. The nonce comes of the content: two contents never share one.
    pub(crate) fn sealed(&self, key: &IdentityKey) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&key.hash(b"erasure", &text)[..NONCE_LEN]);
        let mut sealed = nonce.to_vec();
        // It fails beyond 64 GiB alone.
        if let Some(aead) = aead(key)
            && aead
                .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)
                .is_ok()
        {
            sealed.extend_from_slice(&text);
        }
        sealed
    }

    pub(crate) fn unsealed(key: &IdentityKey, sealed: &[u8]) -> Option<Identity> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = aead(key)?.open_in_place(nonce, Aad::empty(), &mut text).ok()?;
        serde_json::from_slice(plain).ok()
    }
}

fn aead(key: &IdentityKey) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, &key.derive("erasures")).ok().map(LessSafeKey::new)
}

/// How far it got, in the same transaction as the work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub v: u8,
    pub stage: ErasureStage,
    /// The place in [`super::TABLES`], and the last key looked at.
    pub table: usize,
    pub after: i64,
    pub removed: BTreeMap<String, u64>,
    pub unread: u64,
    #[serde(default)]
    pub by: Option<String>,
    /// Keyed hashes of what the person was known by.
    #[serde(default)]
    pub hashes: BTreeSet<String>,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            v: 1,
            stage: ErasureStage::Removing,
            table: 0,
            after: 0,
            removed: BTreeMap::new(),
            unread: 0,
            by: None,
            hashes: BTreeSet::new(),
        }
    }
}

impl Progress {
    /// Of an erasure that was asked for now; `hashes` of what the person was known by.
    pub(crate) fn begun<'a>(identity: &Identity, hashes: impl IntoIterator<Item = &'a [u8; 16]>) -> Progress {
        let hashes = hashes.into_iter().map(|hash| hex(hash)).collect();
        Progress { by: identity.by.clone(), hashes, ..Progress::default() }
    }

    /// All destinations have answered: the last walk begins.
    pub(crate) fn answered(self) -> Progress {
        Progress { stage: ErasureStage::Checking, table: 0, after: 0, ..self }
    }

    pub(crate) fn read(text: Option<&str>) -> Progress {
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(crate) fn count(&mut self, table: &str) {
        *self.removed.entry(table.to_owned()).or_default() += 1;
    }

    pub(crate) fn is_at_start(&self) -> bool {
        (self.table, self.after) == (0, 0)
    }

    pub(crate) fn place(&self) -> (ErasureStage, usize, i64) {
        (self.stage, self.table, self.after)
    }
}

/// The first walk leaves what a pending delivery needs; the last one leaves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    First,
    Last,
}

/// Of erasures that are walked, oldest first, those that stand where the oldest stands: they share a page.
pub(crate) fn together(mut targets: Vec<Target>) -> Vec<Target> {
    if let Some(place) = targets.first().map(|first| first.progress.place()) {
        targets.retain(|target| target.progress.place() == place);
    }
    targets
}

/// An erasure at work.
pub(crate) struct Target {
    pub id: i64,
    pub tenant: i64,
    /// `seq` of the event that tells the destinations.
    pub event: i64,
    pub identity: Identity,
    pub words: Words,
    /// Addresses as they are compared.
    keys: BTreeSet<String>,
    pub progress: Progress,
    /// The person was learned to have had more identities than were known.
    pub has_learned: bool,
}

impl Target {
    pub(crate) fn new(id: i64, tenant: i64, event: i64, identity: Identity, progress: Progress) -> Target {
        let (words, keys) = (Words::default(), BTreeSet::new());
        let mut target = Target { id, tenant, event, identity, words, keys, progress, has_learned: false };
        target.prepare();
        target
    }

    /// For what is of one subject by itself, outside a walk.
    pub(crate) fn named(tenant: i64, subject: &Subject) -> Target {
        let mut identity = Identity::default();
        identity.see(subject);
        Target::new(0, tenant, 0, identity, Progress::default())
    }

    fn prepare(&mut self) {
        let ids = self.identity.external_ids.iter().chain(&self.identity.uids);
        self.words = Words::new(&self.identity.addresses, ids);
        let keys = self.identity.addresses.iter().filter_map(|text| Address::parse(text).ok());
        self.keys = keys.map(|address| address.key()).collect();
    }

    /// What an event of the person calls it by.
    pub(crate) fn learn(&mut self, subject: &Subject) {
        let before = (self.identity.addresses.len(), self.identity.external_ids.len());
        self.identity.see(subject);
        if before != (self.identity.addresses.len(), self.identity.external_ids.len()) {
            self.has_learned = true;
            self.prepare();
        }
    }

    /// By address where there is one, else by external id.
    pub(crate) fn is(&self, subject: &Subject) -> bool {
        match (&subject.address, &subject.external_id) {
            (Some(address), _) => self.keys.contains(&address.key()),
            (None, Some(id)) => self.identity.external_ids.contains(id),
            (None, None) => false,
        }
    }

    /// After a page: `last`, the last key that was looked at; `is_end`, the table has no further rows. A walk that is
    /// over ends its stage.
    pub(crate) fn advance(&mut self, last: Option<i64>, is_end: bool) {
        let progress = &mut self.progress;
        match last.filter(|_| !is_end) {
            Some(last) => progress.after = last,
            None => (progress.table, progress.after) = (progress.table + 1, 0),
        }
        if progress.table >= TABLES.len() {
            let is_first = progress.stage == ErasureStage::Removing;
            progress.stage = if is_first { ErasureStage::Asking } else { ErasureStage::Certifying };
        }
    }

    pub(crate) fn pass(&self) -> Pass {
        if self.progress.stage == ErasureStage::Checking { Pass::Last } else { Pass::First }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stores find erasures by these letters.
    #[test]
    fn a_stage_is_found_in_what_is_stored_of_it_and_nowhere_else() {
        use ErasureStage::{Asking, Certifying, Checking, Done, Removing};
        let by = Some(r#""stage":"asking""#.to_owned());
        for stage in [Removing, Asking, Checking, Certifying, Done] {
            let text = Progress { stage, by: by.clone(), ..Progress::default() }.json();
            for other in [Removing, Asking, Checking, Certifying, Done] {
                assert_eq!(text.contains(&other.mark()), other == stage, "{other:?} in {text}");
            }
        }
    }
}
