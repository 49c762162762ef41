//! Standard Webhooks (standard-webhooks.com, spec 1.0.0): `v1` is HMAC-SHA256, `v1a` ed25519, both
//! over `id.timestamp.body`.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use mailspan_core::limits::SIGNATURES_MAX;
use mailspan_core::{Millis, Named, RawRequest, clip};

use super::recipe::window;
use super::{explain, live, names, refuse, same};
use crate::contract::Refusal;

/// A secret as it is written: `whsec_…` (or bare base64) signs and verifies, `whsk_…` (an ed25519
/// seed, or seed and public key) signs and verifies, `whpk_…` only verifies.
pub enum Key {
    Hmac(Vec<u8>),
    Pair(Box<Ed25519KeyPair>),
    Public(Vec<u8>),
}

impl Key {
    /// Reads a secret; the error never shows it.
    pub fn read(text: &str) -> Result<Key, String> {
        let text = text.trim();
        if let Some(text) = text.strip_prefix("whsk_") {
            return pair(text).map(|pair| Key::Pair(Box::new(pair)));
        }
        if let Some(text) = text.strip_prefix("whpk_") {
            let bytes = super::unbase64(text).filter(|bytes| bytes.len() == 32);
            return bytes
                .map(Key::Public)
                .ok_or_else(|| "after `whpk_` must stand base64 of 32 bytes".to_owned());
        }
        key(text).map(Key::Hmac)
    }

    fn matches(&self, offer: &Offer, content: &[u8]) -> bool {
        match self {
            Key::Hmac(key) => !offer.asymmetric && same(&super::hmac_sha256(key, content), &offer.bytes),
            Key::Pair(pair) => offer.asymmetric && proves(pair.public_key().as_ref(), offer, content),
            Key::Public(public) => offer.asymmetric && proves(public, offer, content),
        }
    }
}

fn proves(public: &[u8], offer: &Offer, content: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(content, &offer.bytes).is_ok()
}

fn pair(text: &str) -> Result<Ed25519KeyPair, String> {
    let bytes = super::unbase64(text).unwrap_or_default();
    let pair = match bytes.len() {
        32 => Ed25519KeyPair::from_seed_unchecked(&bytes),
        64 => Ed25519KeyPair::from_seed_and_public_key(&bytes[..32], &bytes[32..]),
        _ => return Err("after `whsk_` must stand base64 of 32 or 64 bytes".to_owned()),
    };
    pair.map_err(|_| "the key after `whsk_` is no ed25519 key".to_owned())
}

/// The bytes of a symmetric secret: `whsec_` is cut, the rest is base64. An empty key is an error,
/// as it would verify what anybody signs.
pub fn key(text: &str) -> Result<Vec<u8>, String> {
    let text = text.trim();
    let text = text.strip_prefix("whsec_").unwrap_or(text);
    let help = "`mailspan keys secret` makes one like whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    match super::unbase64(text) {
        None => Err(format!("a Standard Webhooks secret is base64, with or without `whsec_`; {help}")),
        Some(bytes) if bytes.is_empty() => {
            Err(format!("the secret is empty: a key of nothing would let everyone in; {help}"))
        }
        Some(bytes) => Ok(bytes),
    }
}

/// The value of `webhook-signature`: one part a secret, separated by spaces; `whsk_` keys make `v1a,`.
/// Secrets that cannot sign (`whpk_`, unreadable ones) are left out: configuration refuses them before.
pub fn sign(secrets: &[Named], id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let content = content(id, &timestamp_s.to_string(), body);
    let one = |named: &Named| match Key::read(named.secret.expose()).ok()? {
        Key::Hmac(key) => Some(format!("v1,{}", super::base64(&super::hmac_sha256(&key, &content)))),
        Key::Pair(pair) => Some(format!("v1a,{}", super::base64(pair.sign(&content).as_ref()))),
        Key::Public(_) => None,
    };
    secrets.iter().filter_map(one).collect::<Vec<_>>().join(" ")
}

struct Offer {
    asymmetric: bool,
    bytes: Vec<u8>,
}

/// The names of the three headers: the standard's, or those that Svix had before it.
pub const HEADERS: [[&str; 3]; 2] = [
    ["webhook-id", "webhook-timestamp", "webhook-signature"],
    ["svix-id", "svix-timestamp", "svix-signature"],
];

/// The headers that this request uses.
pub fn headers_of(request: &RawRequest) -> [&'static str; 3] {
    let there = |names: &[&str; 3]| names.iter().any(|name| request.header(name).is_some());
    HEADERS.into_iter().find(there).unwrap_or(HEADERS[0])
}

/// The name of the secret that matches, or which check failed. The tolerance holds both ways.
pub fn verify(
    request: &RawRequest,
    secrets: &[Named],
    now: Millis,
    tolerance_ms: u64,
    explain: bool,
) -> Result<String, Refusal> {
    let live = live(secrets)?;
    let keys: Vec<(&Named, Key)> =
        live.iter().filter_map(|named| Some((*named, Key::read(named.secret.expose()).ok()?))).collect();
    if keys.is_empty() {
        let text = format!("none of the secrets {} can be read: {}", names(&live), unread(&live));
        return Err(refuse("no_secret", text));
    }
    let [id_header, stamp_header, header] = headers_of(request);
    let there = |name: &'static str, check| {
        let value = request.header(name).map(str::trim).filter(|value| !value.is_empty());
        value.ok_or_else(|| Refusal {
            check,
            text: format!("header `{name}` is not there or empty"),
            hint: Some(explain::missing(request, name)),
        })
    };
    let (id, stamp) = (there(id_header, "no_id")?, there(stamp_header, "no_timestamp")?);
    let case = Hints { request, header, id, stamp, secrets: &live, explain };
    let texts = there(header, "no_signature").map_err(|refusal| case.add(refusal, &[]))?;
    let offers = offers(texts);
    let shown: Vec<&str> = texts.split_ascii_whitespace().filter_map(|t| t.strip_prefix("v1,")).collect();
    if offers.is_empty() {
        let text = format!("header `{header}` holds no `v1,` or `v1a,` with base64: {}", clip(texts, 40));
        return Err(case.add(refuse("malformed_signature", text), &shown));
    }
    let content = content(id, stamp, &request.body);
    let matching = keys.iter().find(|(_, key)| offers.iter().any(|offer| key.matches(offer, &content)));
    let Some((named, _)) = matching else {
        let text = format!(
            "header `{header}` matches none of the secrets {}: another secret signed it, or id, time or body was changed",
            names(&live)
        );
        return Err(case.add(refuse("mismatch", text), &shown));
    };
    in_window(stamp, now, tolerance_ms).map(|()| named.name.clone())
}

fn unread(secrets: &[&Named]) -> String {
    secrets.iter().find_map(|named| Key::read(named.secret.expose()).err()).unwrap_or_default()
}

fn in_window(stamp: &str, now: Millis, tolerance_ms: u64) -> Result<(), Refusal> {
    let seconds = stamp.parse::<u64>().ok().and_then(|number| i64::try_from(number).ok());
    let at = seconds.and_then(|seconds| seconds.checked_mul(1_000)).map(Millis).ok_or_else(|| {
        refuse(
            "malformed_timestamp",
            format!("the timestamp `{}` is not a count of seconds", clip(stamp, 40)),
        )
    })?;
    window(at, now, tolerance_ms)
}

fn offers(text: &str) -> Vec<Offer> {
    let read = |part: &str| {
        let (version, mac) = part.split_once(',')?;
        let asymmetric = match version {
            "v1" => false,
            "v1a" => true,
            _ => return None,
        };
        let bytes = super::unbase64(mac)?;
        (bytes.len() == if asymmetric { 64 } else { 32 }).then_some(Offer { asymmetric, bytes })
    };
    text.split_ascii_whitespace().take(SIGNATURES_MAX).filter_map(read).collect()
}

fn content(id: &str, stamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", stamp.as_bytes(), b".", body].concat()
}

struct Hints<'a> {
    request: &'a RawRequest,
    header: &'a str,
    id: &'a str,
    stamp: &'a str,
    secrets: &'a [&'a Named],
    explain: bool,
}

impl Hints<'_> {
    fn add(&self, mut refusal: Refusal, texts: &[&str]) -> Refusal {
        if !self.explain {
            return refusal;
        }
        let mac = |key: &[u8], body: &[u8]| {
            let pieces: [&[u8]; 5] = [self.id.as_bytes(), b".", self.stamp.as_bytes(), b".", body];
            super::mac(super::Algorithm::Sha256, key, &pieces)
        };
        let bare = |key: &[u8]| super::hmac_sha256(key, &self.request.body).to_vec();
        let case = explain::Case {
            request: self.request,
            header: self.header,
            texts,
            encoding: super::Encoding::Base64,
            length: 32,
            secrets: self.secrets,
            key: &|text| key(text).ok(),
            mac: &mac,
            bare: Some(&bare),
        };
        refusal.hint = explain::hint(&case);
        refusal
    }
}
