//! What a request with an `Idempotency-Key` was answered, where the answer names people.
//!
//! It is kept sealed (AES-256-GCM) under a key that comes of the store's key of identities and of the
//! `Idempotency-Key` itself, which is not kept: nobody reads it who cannot send that key again, and an erasure need
//! not look into it. Beside it stand keyed hashes of those whom it names: where one of them was erased since, the
//! answer is given no more.

use std::fmt;

use mailspan_core::contact::ContactOutcome;
use mailspan_core::{Address, Millis, Subject};
use serde::{Deserialize, Serialize};

use crate::SuppressionRow;
use crate::audience::Hash;
use crate::bytes_io::{Fields, put};
use crate::erase::{from_hex, hex};
use crate::identity::IdentityKey;
use crate::pack::{squeeze, unsqueeze};
use crate::prepare::identities;
use crate::veil;
use crate::write::{Accepted, Idempotency};

/// An answer as it was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// Of HTTP.
    pub status: u16,
    /// JSON.
    pub body: String,
    /// Whom it names; empty where it was read back.
    pub about: Vec<Subject>,
}

type Body = dyn Fn(&[ContactOutcome], Option<&SuppressionRow>) -> Option<Answered> + Send + Sync;

/// Makes the answer of what became of the writes, in their transaction: it is kept with them, or with none of them.
/// Nothing where there is no answer to be kept: a refusal changed nothing, and is judged anew.
pub struct Tell {
    /// Whose suppression the answer shows: read after the writes.
    pub suppression: Option<Address>,
    pub body: Box<Body>,
}

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tell")
    }
}

/// As it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sealed {
    v: u8,
    /// When the request was received.
    pub at: i64,
    /// Of those whom it names, hexadecimal.
    hashes: Vec<String>,
    /// Nonce and sealed bytes, hexadecimal.
    text: String,
}

impl Sealed {
    /// Layout under the seal: status (2 bytes, little endian), then the body, packed as rows are.
    pub(crate) fn new(key: &IdentityKey, asked: &Idempotency, answered: &Answered, at: Millis) -> Sealed {
        let mut plain = Vec::with_capacity(answered.body.len() + 16);
        put(&mut plain, &answered.status.to_le_bytes());
        put(&mut plain, answered.body.as_bytes());
        let text = veil::seal(key, &purpose(asked), &squeeze(&plain));
        let hashes = answered.about.iter().map(|subject| identities(subject, key));
        let hashes = hashes.flat_map(|one| [one.address, one.external_id]).flatten();
        Sealed { v: 1, at: at.0, hashes: hashes.map(|hash| hex(&hash)).collect(), text: hex(&text) }
    }

    pub(crate) fn hashes(&self) -> Vec<Hash> {
        self.hashes.iter().filter_map(|hash| from_hex(hash)).collect()
    }

    /// Nothing where it is damaged, or was sealed under another key.
    pub(crate) fn open(&self, key: &IdentityKey, asked: &Idempotency) -> Option<Answered> {
        let plain = unsqueeze(&veil::open(key, &purpose(asked), &veil::bytes(&self.text)?)?)?;
        let mut fields = Fields(&plain);
        let status = u16::from_le_bytes(fields.next()?.try_into().ok()?);
        Some(Answered { status, body: fields.text()?, about: vec![] })
    }
}

/// The key that it is sealed under comes of the key that was sent.
fn purpose(asked: &Idempotency) -> String {
    format!("answer\0{}", asked.key)
}

/// The column `answer` of `answers`: [`Accepted`], with what is sealed beside its members. Older versions pass over
/// it.
pub(crate) fn answer_text(accepted: &Accepted, sealed: Option<&Sealed>) -> serde_json::Result<String> {
    let mut answer = serde_json::to_value(accepted)?;
    if let Some(sealed) = sealed {
        answer["sealed"] = serde_json::to_value(sealed)?;
    }
    Ok(answer.to_string())
}

pub(crate) fn read_answer(text: &str) -> Option<(Accepted, Option<Sealed>)> {
    #[derive(Deserialize)]
    struct Beside {
        #[serde(default)]
        sealed: Option<Sealed>,
    }
    let accepted = serde_json::from_str(text).ok()?;
    let Beside { sealed } = serde_json::from_str(text).ok()?;
    Some((accepted, sealed))
}

/// Code and text of what is said where the answer names somebody who was erased since.
pub(crate) const ERASED_SINCE: (&str, &str) = (
    "answer_erased",
    "what was answered to this Idempotency-Key named a person who was erased since: send a new key",
);

#[cfg(test)]
mod tests {
    use mailspan_core::Digest;

    use super::*;

    fn asked(key: &str) -> Idempotency {
        Idempotency { api_key: 1, key: key.to_owned(), body: Digest([0; 16]), tell: None }
    }

    #[test]
    fn an_answer_is_opened_by_its_own_key_alone_and_tells_nobody_else() {
        let key = IdentityKey::new(&[7; 32]);
        let about = Subject::read("Ana.Perez7@example.org");
        let body = r#"{"email":"ana.perez7@example.org"}"#.to_owned();
        let given = Answered { status: 201, body, about: vec![about.clone()] };
        let sealed = Sealed::new(&key, &asked("k1"), &given, Millis(5));
        let accepted = Accepted {
            ids: vec![],
            duplicates: 0,
            quarantined: 0,
            unchanged: 0,
            contacts: vec![],
            told: Some(given.clone()),
        };
        let text = answer_text(&accepted, Some(&sealed)).unwrap();
        assert!(!text.contains("perez"), "{text}");
        let (read, kept) = read_answer(&text).unwrap();
        assert_eq!(read, Accepted { told: None, ..accepted });
        let kept = kept.unwrap();
        assert_eq!(kept.hashes(), identities(&about, &key).address.into_iter().collect::<Vec<_>>());
        assert_eq!(kept.open(&key, &asked("k1")).unwrap(), Answered { about: vec![], ..given });
        assert!(kept.open(&key, &asked("k2")).is_none(), "another Idempotency-Key opened it");
        assert!(kept.open(&IdentityKey::new(&[8; 32]), &asked("k1")).is_none(), "another store opened it");
        for end in 0..kept.text.len() {
            let cut = Sealed { text: kept.text[..end].to_owned(), ..kept.clone() };
            assert!(cut.open(&key, &asked("k1")).is_none());
        }
    }

    #[test]
    fn what_older_versions_wrote_is_read() {
        let (accepted, sealed) = read_answer(r#"{"ids":[],"duplicates":1,"quarantined":0}"#).unwrap();
        assert!((accepted.duplicates, sealed.is_none()) == (1, true));
    }
}
