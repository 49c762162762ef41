//! The key under which identities are hashed, and how it is kept: in `meta`, sealed under the operator's store key
//! (AES-256-GCM), so that who has a copy of the database alone cannot try addresses against its hashes.
//!
//! A store that was never given a store key has it bare: 32 bytes. The sealed form is a version, the length of the
//! store key's name, that name, a nonce and the sealed bytes. The name of the row is the same, so that a move takes
//! it along as it is.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;

use crate::OpenError;
use crate::prepare::first_16;

const VERSION: u8 = 1;
const BARE_BYTES: usize = 32;
/// What the sealed bytes are about: those of another row do not open.
const ABOUT: &[u8] = b"identity_key";

/// A key of the operator with the name by which what it sealed knows it.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreKey {
    /// At most 255 bytes; tells nothing of the key.
    pub id: String,
    pub key: [u8; 32],
}

/// Without the key.
impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoreKey").field(&self.id).finish()
    }
}

/// The operator's keys: the first seals, every one opens; none: nothing is sealed. Asked for once, when the store
/// is this process's; with true one may be made where there is none, as nothing is sealed yet. An error is a
/// sentence that says what to do.
#[derive(Clone)]
pub struct StoreKeys(pub Arc<dyn Fn(bool) -> Result<Vec<StoreKey>, String> + Send + Sync>);

impl StoreKeys {
    pub fn none() -> StoreKeys {
        StoreKeys::of(Vec::new())
    }

    pub fn of(keys: Vec<StoreKey>) -> StoreKeys {
        StoreKeys(Arc::new(move |_| Ok(keys.clone())))
    }
}

impl fmt::Debug for StoreKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKeys")
    }
}

/// Hashes what identifies a person, so that no index holds an address.
#[derive(Clone)]
pub(crate) struct IdentityKey {
    key: hmac::Key,
    secret: Arc<[u8]>,
}

impl IdentityKey {
    pub(crate) fn new(secret: &[u8]) -> IdentityKey {
        IdentityKey { key: hmac::Key::new(hmac::HMAC_SHA256, secret), secret: secret.into() }
    }

    /// A key for one purpose; nothing of it tells of another's.
    pub(crate) fn derive(&self, purpose: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"derive\0");
        context.update(purpose.as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(context.sign().as_ref());
        key
    }

    /// The first 16 bytes of an HMAC-SHA256 over kind and value.
    pub(crate) fn hash(&self, kind: &[u8], value: &[u8]) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(kind);
        context.update(b"\0");
        context.update(value);
        first_16(context.sign().as_ref())
    }

    /// As it is to be kept under a store key. The nonce comes of key and content, which are the same whenever it is
    /// sealed: two nodes that do so at once write the same.
    pub(crate) fn sealed(&self, under: &StoreKey) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&self.hash(b"sealed", &under.key)[..NONCE_LEN]);
        let id = &under.id.as_bytes()[..under.id.len().min(255)];
        let mut text = self.secret.to_vec();
        let aead = aead(under);
        aead.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(ABOUT), &mut text)
            .expect("it fails beyond 64 GiB alone");
        [&[VERSION, id.len() as u8][..], id, &nonce, &text].concat()
    }
}

fn aead(key: &StoreKey) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key.key).expect("a key of AES-256 has 32 bytes"))
}

/// An identity key as it was read.
pub(crate) struct Kept {
    pub key: IdentityKey,
    /// It stood there bare though there is a store key: to be written in its place.
    pub seal: Option<Vec<u8>>,
}

/// `place` is shown where it cannot be opened.
pub(crate) fn read(value: &[u8], keys: &StoreKeys, place: &str) -> Result<Kept, OpenError> {
    let refuse = |text: String| OpenError::StoreKey { place: place.to_owned(), text };
    let is_bare = value.len() == BARE_BYTES;
    let keys = keys.0(is_bare).map_err(refuse)?;
    if is_bare {
        let key = IdentityKey::new(value);
        return Ok(Kept { seal: keys.first().map(|first| key.sealed(first)), key });
    }
    let damaged =
        || refuse("the key of its address hashes is damaged; restore a copy of the database".to_owned());
    let (id, sealed) = parts(value).ok_or_else(damaged)?;
    let Some(under) = keys.iter().find(|key| key.id.as_bytes() == id) else {
        return Err(refuse(format!(
            "the key of its address hashes is sealed under another store key than those that are set (the one that was named {}); put that one into [storage] key or old_keys: it belongs to every back-up, and is in FILE.key beside a SQLite file that was served without `key`",
            mailspan_core::clip(&String::from_utf8_lossy(id), 40)
        )));
    };
    let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(damaged)?;
    let mut text = text.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let plain = aead(under).open_in_place(nonce, Aad::from(ABOUT), &mut text).map_err(|_| damaged())?;
    Ok(Kept { key: IdentityKey::new(plain), seal: None })
}

/// The name of the store key, and what it sealed.
fn parts(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let [version, length, rest @ ..] = value else { return None };
    (*version == VERSION).then(|| rest.split_at_checked(usize::from(*length))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, byte: u8) -> StoreKey {
        StoreKey { id: id.to_owned(), key: [byte; 32] }
    }

    fn keys(list: &[StoreKey]) -> StoreKeys {
        StoreKeys::of(list.to_vec())
    }

    fn refused(value: &[u8], keys: &StoreKeys, part: &str) {
        let said = read(value, keys, "hub.db").err().unwrap().to_string();
        assert!(said.contains("hub.db") && said.contains(part), "{said}");
    }

    #[test]
    fn a_bare_key_is_sealed_under_the_first_and_opened_by_each() {
        let (one, two) = (key("one", 1), key("two", 2));
        let bare = [7; 32];
        let kept = read(&bare, &StoreKeys::none(), "hub.db").unwrap();
        assert!(kept.seal.is_none());
        let sealed = read(&bare, &keys(&[one.clone(), two.clone()]), "hub.db").unwrap().seal.unwrap();
        assert!(!sealed.windows(8).any(|part| part == [7; 8]));
        for list in [vec![one.clone()], vec![two.clone(), one.clone()]] {
            let again = read(&sealed, &keys(&list), "hub.db").unwrap();
            assert_eq!((again.key.derive("x"), again.seal), (kept.key.derive("x"), None));
        }
        let resealed = kept.key.sealed(&two);
        assert_eq!(read(&resealed, &keys(&[two]), "hub.db").unwrap().key.derive("x"), kept.key.derive("x"));
        assert_eq!(kept.key.sealed(&one), sealed, "two nodes write the same");
    }

    #[test]
    fn another_key_and_damage_are_refused_with_a_sentence() {
        let one = key("one", 1);
        let sealed = IdentityKey::new(&[7; 32]).sealed(&one);
        refused(&sealed, &StoreKeys::none(), "[storage] key or old_keys");
        refused(&sealed, &keys(&[key("two", 2)]), "named one");
        refused(&sealed, &keys(&[key("one", 9)]), "damaged");
        let no_file = StoreKeys(Arc::new(|_| Err("hub.db.key cannot be made".to_owned())));
        refused(&sealed, &no_file, "hub.db.key cannot be made");
        for end in (0..sealed.len()).filter(|end| *end != BARE_BYTES) {
            assert!(read(&sealed[..end], &keys(std::slice::from_ref(&one)), "hub.db").is_err(), "{end}");
        }
        let shown = format!("{one:?} {:?}", keys(std::slice::from_ref(&one)));
        assert_eq!(shown, "StoreKey(\"one\") StoreKeys");
    }
}
