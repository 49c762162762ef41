//! API keys that were looked up, in memory until one of them changes: a request need not wait for a reader to learn
//! who sends it. One process serves a file, so all that changes a key passes its writer.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mailspan_core::limits::KNOWN_KEYS_MAX;

use crate::KeyRow;
use crate::prepare::{Prepared, What};
use crate::write::Write;

#[derive(Default)]
pub(crate) struct KnownKeys(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// Grows whenever keys changed.
    state: u64,
    keys: HashMap<[u8; 32], KeyRow>,
}

impl KnownKeys {
    /// The key; or the state to give back to [`KnownKeys::keep`] with what the file says.
    pub(crate) fn get(&self, hash: &[u8; 32]) -> Result<KeyRow, u64> {
        let kept = self.kept();
        kept.keys.get(hash).cloned().ok_or(kept.state)
    }

    /// Takes a key as it was read after that state was; nothing where keys changed meanwhile. What no key has is
    /// not kept: whoever guesses must not fill this.
    pub(crate) fn keep(&self, state: u64, hash: [u8; 32], key: &KeyRow) {
        let mut kept = self.kept();
        if kept.state != state {
            return;
        }
        if kept.keys.len() >= KNOWN_KEYS_MAX {
            kept.keys.clear();
        }
        kept.keys.insert(hash, key.clone());
    }

    /// After a commit, before anybody is told of it.
    pub(crate) fn committed(&self, writes: &[Prepared]) {
        let changes = |write: &Prepared| {
            let What::Write(write) = &write.what else { return false };
            // An erasure cuts names out of notes.
            matches!(write, Write::Key(_) | Write::RevokeKey { .. } | Write::KeyUsed { .. } | Write::Erase)
        };
        if writes.iter().any(changes) {
            let mut kept = self.kept();
            kept.state += 1;
            kept.keys.clear();
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use mailspan_core::{Millis, Name};

    use super::*;
    use crate::identity::IdentityKey;
    use crate::prepare::prepare;

    fn key(id: i64) -> KeyRow {
        KeyRow {
            id,
            tenant: Name::default_tenant(),
            shown: "mk_…".to_owned(),
            scopes: vec![],
            note: String::new(),
            created_at: Millis(0),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        }
    }

    fn committed(keys: &KnownKeys, write: Write) {
        keys.committed(&[prepare(write, &IdentityKey::new(&[0; 32]))]);
    }

    #[test]
    fn a_key_is_known_until_one_changes_and_what_was_read_before_that_is_not_taken() {
        let keys = KnownKeys::default();
        let state = keys.get(&[1; 32]).unwrap_err();
        keys.keep(state, [1; 32], &key(1));
        assert_eq!(keys.get(&[1; 32]).unwrap().id, 1);
        committed(&keys, Write::Release { name: String::new(), owner: 0 });
        assert!(keys.get(&[1; 32]).is_ok(), "a write of something else forgot it");
        let before = keys.get(&[2; 32]).unwrap_err();
        committed(&keys, Write::RevokeKey { id: 1, at: Millis(0) });
        assert!(keys.get(&[1; 32]).is_err(), "a revoked key is still known");
        keys.keep(before, [2; 32], &key(2));
        assert!(keys.get(&[2; 32]).is_err(), "what was read before the change was taken");
    }

    #[test]
    fn there_are_never_more_than_the_bound() {
        let keys = KnownKeys::default();
        for n in 0..KNOWN_KEYS_MAX + 1 {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_le_bytes());
            keys.keep(0, hash, &key(n as i64));
        }
        assert_eq!(keys.kept().keys.len(), 1);
    }
}
