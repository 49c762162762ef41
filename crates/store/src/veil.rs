//! Texts that are kept unreadable: AES-256-GCM under a key that is derived from the key of identities, which lies
//! under the operator's store key. Who has a copy of the database alone reads nothing of them, and no search of its
//! files finds a word in them.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::erase::hex;
use crate::identity::IdentityKey;

/// Begins a veiled text; JSON never does.
const MARK: &str = "veiled1:";

/// Nonce (12 bytes), then the sealed bytes. The nonce comes of purpose and content: two contents never share one.
pub(crate) fn seal(key: &IdentityKey, purpose: &str, plain: &[u8]) -> Vec<u8> {
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&key.hash(purpose.as_bytes(), plain)[..NONCE_LEN]);
    let mut text = plain.to_vec();
    aead(key, purpose)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)
        .expect("it fails beyond 64 GiB alone");
    [&nonce[..], &text].concat()
}

/// Nothing where it is damaged, or was sealed by another key or for another purpose.
pub(crate) fn open(key: &IdentityKey, purpose: &str, sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut text = text.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    aead(key, purpose).open_in_place(nonce, Aad::empty(), &mut text).ok().map(|plain| plain.to_vec())
}

/// For a column of text.
pub(crate) fn veiled(key: &IdentityKey, purpose: &str, text: &str) -> String {
    format!("{MARK}{}", hex(&seal(key, purpose, text.as_bytes())))
}

/// A text that was never veiled is as it stands.
pub(crate) fn unveiled(key: &IdentityKey, purpose: &str, stored: String) -> Option<String> {
    let Some(digits) = stored.strip_prefix(MARK) else { return Some(stored) };
    String::from_utf8(open(key, purpose, &bytes(digits)?)?).ok()
}

/// From hexadecimal.
pub(crate) fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn aead(key: &IdentityKey, purpose: &str) -> LessSafeKey {
    let derived = key.derive(purpose);
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derived).expect("a key of AES-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_comes_back_for_its_purpose_and_by_its_key_alone() {
        let (key, other) = (IdentityKey::new(&[7; 32]), IdentityKey::new(&[8; 32]));
        let text = r#"{"url":"https://x.org/ana.perez7"}"#;
        let stored = veiled(&key, "endpoints", text);
        assert!(!stored.contains("perez"), "{stored}");
        assert_eq!(unveiled(&key, "endpoints", stored.clone()).as_deref(), Some(text));
        assert_eq!(unveiled(&key, "another", stored.clone()), None);
        assert_eq!(unveiled(&other, "endpoints", stored.clone()), None);
        for end in MARK.len()..stored.len() {
            assert_eq!(unveiled(&key, "endpoints", stored[..end].to_owned()), None, "{end} bytes");
        }
        assert_eq!(unveiled(&key, "endpoints", text.to_owned()).as_deref(), Some(text), "an older row");
    }
}
