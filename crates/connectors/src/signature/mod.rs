//! Digests, MACs and how they are written. No function here panics, whatever it is given.

pub mod explain;
pub mod presets;
pub mod recipe;
mod rewrite;
pub mod standard;

use aws_lc_rs::{digest as hash, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_PAD_INDIFFERENT};
use mailspan_core::{Digest, Named};
use subtle::ConstantTimeEq as _;

use crate::contract::{Refusal, Verified};

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// HMAC-SHA1: only where a sender has nothing better (Intercom).
    Sha1,
    /// HMAC-SHA256.
    Sha256,
    /// SHA-256 without a key; the recipe carries `{secret}` itself (HubSpot v1 and v2).
    Sha256Plain,
}

impl Algorithm {
    /// Bytes of a MAC.
    pub fn size(self) -> usize {
        if self == Algorithm::Sha1 { 20 } else { 32 }
    }
}

/// How a MAC is written into a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    Hex,
    Base64,
}

impl Encoding {
    pub fn write(self, bytes: &[u8]) -> String {
        match self {
            Encoding::Hex => hex(bytes),
            Encoding::Base64 => base64(bytes),
        }
    }

    pub fn read(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Encoding::Hex => unhex(text),
            Encoding::Base64 => unbase64(text),
        }
    }
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(hash::digest(&hash::SHA256, bytes).as_ref());
    out
}

/// First 16 bytes of the SHA-256: dedupe keys and request digests.
pub fn digest(bytes: &[u8]) -> Digest {
    let mut out = [0; 16];
    out.copy_from_slice(&sha256(bytes)[..16]);
    Digest(out)
}

pub fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref());
    out
}

pub fn hmac_sha1(key: &[u8], message: &[u8]) -> [u8; 20] {
    let mut out = [0; 20];
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
    out.copy_from_slice(hmac::sign(&key, message).as_ref());
    out
}

/// The MAC of a message given in pieces: bodies are not copied.
pub fn mac(algorithm: Algorithm, key: &[u8], pieces: &[&[u8]]) -> Vec<u8> {
    let family = match algorithm {
        Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Algorithm::Sha256 => hmac::HMAC_SHA256,
        Algorithm::Sha256Plain => {
            let mut context = hash::Context::new(&hash::SHA256);
            pieces.iter().for_each(|piece| context.update(piece));
            return context.finish().as_ref().to_vec();
        }
    };
    let mut context = hmac::Context::with_key(&hmac::Key::new(family, key));
    pieces.iter().for_each(|piece| context.update(piece));
    context.sign().as_ref().to_vec()
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// Hex in either case.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    digits.chunks_exact(2).map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?)).collect()
}

pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Base64 of the standard alphabet (RFC 4648, 4), with or without its padding.
pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    STANDARD_PAD_INDIFFERENT.decode(text).ok()
}

/// Compares in a time that depends on the lengths alone.
pub fn same(one: &[u8], other: &[u8]) -> bool {
    bool::from(one.ct_eq(other))
}

/// What configuration asks about each secret of a source or a `sign` setting: a key of nothing
/// verifies nothing, and a Standard Webhooks secret must be readable. `kind` is the name of the kind.
pub fn check_secret(kind: &str, text: &str) -> Result<(), String> {
    if kind == "standard_webhooks" {
        return standard::Key::read(text).map(|_| ());
    }
    if is_blank(text) {
        return Err(
            "the secret is empty: a key of nothing would let everyone in; `mailspan keys secret` makes a long random one"
                .to_owned(),
        );
    }
    Ok(())
}

/// True for a secret that verifies nothing.
pub(crate) fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// The secrets that can verify something, or the refusal where there is none.
pub(crate) fn live(secrets: &[Named]) -> Result<Vec<&Named>, Refusal> {
    let live: Vec<&Named> = secrets.iter().filter(|named| !is_blank(named.secret.expose())).collect();
    if live.is_empty() {
        return Err(refuse("no_secret", "the source has no secret that is not empty, so nothing is let in"));
    }
    Ok(live)
}

pub(crate) fn refuse(check: &'static str, text: impl Into<String>) -> Refusal {
    Refusal { check, text: text.into(), hint: None }
}

pub(crate) fn verdict(judged: Result<String, Refusal>) -> Verified {
    match judged {
        Ok(credential) => Verified::By { credential },
        Err(refusal) => Verified::Refused(refusal),
    }
}

/// The names of secrets for a message: `A`, `B`.
pub(crate) fn names(secrets: &[&Named]) -> String {
    secrets.iter().map(|named| format!("`{}`", named.name)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_and_base64_are_read_in_every_usual_spelling() {
        assert_eq!(unhex("00fFA0"), Some(vec![0, 255, 160]));
        assert_eq!(hex(&[0, 255, 160]), "00ffa0");
        for bad in ["0", "0g", "é0", "💥", "+1", " 00"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
        assert_eq!(unbase64("aGk="), Some(b"hi".to_vec()));
        assert_eq!(unbase64("aGk"), Some(b"hi".to_vec()));
        for bad in ["a", "aG k", "é", "aGk=="] {
            assert_eq!(unbase64(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_mac_in_pieces_is_the_mac_of_the_whole() {
        let key = b"key";
        assert_eq!(mac(Algorithm::Sha256, key, &[b"a", b"", b"bc"]), hmac_sha256(key, b"abc"));
        assert_eq!(mac(Algorithm::Sha1, key, &[b"ab", b"c"]), hmac_sha1(key, b"abc"));
        assert_eq!(mac(Algorithm::Sha256Plain, key, &[b"ab", b"c"]), sha256(b"abc"));
        assert_eq!(digest(b"abc").to_string(), "ba7816bf8f01cfea414140de5dae2223");
        assert!(same(b"abc", b"abc") && !same(b"abc", b"abd") && !same(b"abc", b"ab"));
    }

    #[test]
    fn a_secret_of_nothing_is_an_error_of_configuration() {
        for kind in ["mailtarget", "hmac", "standard_webhooks"] {
            assert!(check_secret(kind, "").is_err());
            assert!(check_secret(kind, " \n").is_err());
        }
        assert!(check_secret("hmac", "whsec_").is_ok());
        for bad in ["whsec_", "whsec_%%%", "plain text!", "whpk_AAAA", "whsk_AAAA"] {
            assert!(check_secret("standard_webhooks", bad).is_err(), "{bad}");
        }
        assert!(check_secret("standard_webhooks", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").is_ok());
    }
}
