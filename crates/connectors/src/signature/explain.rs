//! Why a signature does not match: tries what proxies, parsers and people usually do to a request,
//! and names the first change under which it would have matched. The operator sees it, the caller
//! never does. No hint shows a secret or a MAC that was computed.

use mailspan_core::limits::{
    EXPLAIN_BODY_BYTES_MAX, EXPLAIN_SECRETS_MAX, EXPLAIN_WORDS_MAX, HEADERS_MAX, SIGNATURES_MAX,
};
use mailspan_core::{Named, RawRequest};

use super::{Encoding, rewrite, same, unbase64, unhex};

/// A secret's text to its key; nothing where it is none.
pub type KeyOf = dyn Fn(&str) -> Option<Vec<u8>>;
/// Key and body to a MAC.
pub type MacOf<'a> = dyn Fn(&[u8], &[u8]) -> Vec<u8> + 'a;
/// Key to a MAC of the body alone.
pub type BareOf<'a> = dyn Fn(&[u8]) -> Vec<u8> + 'a;

/// A refused request, and how its scheme computes.
pub struct Case<'a> {
    pub request: &'a RawRequest,
    /// Where the signature should stand, in lower case.
    pub header: &'a str,
    /// The MACs that it holds, prefix cut; empty where it is missing.
    pub texts: &'a [&'a str],
    pub encoding: Encoding,
    /// Bytes of a MAC.
    pub length: usize,
    pub secrets: &'a [&'a Named],
    /// The key that the scheme makes of a secret's text.
    pub key: &'a KeyOf,
    /// The MAC for a key and a body.
    pub mac: &'a MacOf<'a>,
    /// The MAC for a key over the body alone, where the scheme signs more than that.
    pub bare: Option<&'a BareOf<'a>>,
}

/// The first usual change that explains the refusal. At most 4 secrets, 64 KiB of body, 16 MACs and
/// 100 headers are looked at.
pub fn hint(case: &Case) -> Option<String> {
    if case.request.body.len() > EXPLAIN_BODY_BYTES_MAX {
        return header_hint(case, &[]);
    }
    let readings = readings(case);
    let keys: Vec<(&Named, Vec<u8>)> = case
        .secrets
        .iter()
        .take(EXPLAIN_SECRETS_MAX)
        .filter_map(|named| Some((*named, (case.key)(named.secret.expose())?)))
        .collect();
    let wanted: Vec<(&Named, Vec<u8>)> =
        keys.iter().map(|(named, key)| (*named, (case.mac)(key, &case.request.body))).collect();
    spelling(case, &readings, &wanted)
        .or_else(|| cut_short(case, &wanted))
        .or_else(|| other_key(case, &readings))
        .or_else(|| other_body(case, &readings, &keys))
        .or_else(|| body_alone(case, &readings, &keys))
        .or_else(|| header_hint(case, &wanted))
        .or_else(|| other_algorithm(case))
}

/// «7 minutes», for a length in milliseconds.
pub fn span(ms: u64) -> String {
    let seconds = ms / 1_000;
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => ((seconds + 30) / 60, "minute"),
        7_200..172_800 => ((seconds + 1_800) / 3_600, "hour"),
        _ => ((seconds + 43_200) / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// A MAC that was offered, and how its text was read.
struct Reading {
    encoding: Encoding,
    bytes: Vec<u8>,
    twice: bool,
}

fn readings(case: &Case) -> Vec<Reading> {
    let mut readings = Vec::new();
    for text in case.texts.iter().take(SIGNATURES_MAX).filter(|text| text.len() <= 512) {
        if let Some(bytes) = unhex(text) {
            readings.push(Reading { encoding: Encoding::Hex, bytes, twice: false });
        }
        let Some(bytes) = unbase64(text) else { continue };
        if let Some(inner) = std::str::from_utf8(&bytes).ok().and_then(unhex) {
            readings.push(Reading { encoding: Encoding::Base64, bytes: inner, twice: true });
        }
        readings.push(Reading { encoding: Encoding::Base64, bytes, twice: false });
    }
    readings.retain(|reading| reading.bytes.len() == case.length);
    readings
}

fn hit<'r>(readings: &'r [Reading], mac: &[u8]) -> Option<&'r Reading> {
    readings.iter().find(|reading| same(&reading.bytes, mac))
}

fn spelling(case: &Case, readings: &[Reading], wanted: &[(&Named, Vec<u8>)]) -> Option<String> {
    let (named, reading) = wanted.iter().find_map(|(named, mac)| Some((named, hit(readings, mac)?)))?;
    let word = |encoding| if encoding == Encoding::Hex { "hex" } else { "base64" };
    let found = if reading.twice { "base64 of hex" } else { word(reading.encoding) };
    Some(format!(
        "it matches secret `{}` but is written as {found}, where {} is expected: set `encoding`, or mend the sender",
        named.name,
        word(case.encoding)
    ))
}

/// The beginning of the right MAC, at least 16 characters of it.
fn cut_short(case: &Case, wanted: &[(&Named, Vec<u8>)]) -> Option<String> {
    let begins = |mac: &[u8]| {
        let whole = case.encoding.write(mac);
        let mut texts = case.texts.iter().filter(|text| (16..whole.len()).contains(&text.len()));
        texts.any(|text| whole.as_bytes().get(..text.len()).is_some_and(|begin| same(begin, text.as_bytes())))
    };
    let (named, _) = wanted.iter().find(|(_, mac)| begins(mac))?;
    Some(format!(
        "it is the beginning of the right signature under secret `{}`: a proxy cut the header short",
        named.name
    ))
}

fn other_key(case: &Case, readings: &[Reading]) -> Option<String> {
    if readings.is_empty() {
        return None;
    }
    for named in case.secrets.iter().take(EXPLAIN_SECRETS_MAX) {
        for (how, key) in keys(named.secret.expose()) {
            if !key.is_empty() && hit(readings, &(case.mac)(&key, &case.request.body)).is_some() {
                return Some(format!("secret `{}` would match {how}", named.name));
            }
        }
    }
    None
}

/// What people do to a secret on its way from one settings page to another.
fn keys(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bare = text.trim();
    let cut = bare.strip_prefix("whsec_").unwrap_or(bare);
    let mut keys = Vec::new();
    if bare != text {
        keys.push((
            "without the blank or line end around it: our copy has one too many",
            bare.as_bytes().to_vec(),
        ));
    }
    keys.extend([
        (
            "with a line end (\\n) after it: the sender's copy has one too many",
            format!("{text}\n").into_bytes(),
        ),
        (
            "with a line end (\\r\\n) after it: the sender's copy has one too many",
            format!("{text}\r\n").into_bytes(),
        ),
        ("with a blank after it: the sender's copy has one too many", format!("{text} ").into_bytes()),
        ("as plain text, `whsec_` included: the sender does not decode it", bare.as_bytes().to_vec()),
        ("as plain text without `whsec_`: the sender does not decode it", cut.as_bytes().to_vec()),
        (
            "with `whsec_` before it: the sender takes the prefix as a part",
            format!("whsec_{bare}").into_bytes(),
        ),
    ]);
    if let Some(bytes) = unbase64(cut) {
        keys.push(("decoded from base64: the sender decodes it", bytes));
    }
    if let Some(bytes) = unhex(bare) {
        keys.push(("decoded from hex: the sender decodes it", bytes));
    }
    keys
}

fn other_body(case: &Case, readings: &[Reading], keys: &[(&Named, Vec<u8>)]) -> Option<String> {
    if readings.is_empty() {
        return None;
    }
    for (how, body) in rewrite::bodies(&case.request.body) {
        for (named, key) in keys {
            if hit(readings, &(case.mac)(key, &body)).is_some() {
                return Some(format!(
                    "secret `{}` would match {how}: a proxy or parser changed the body on its way; hand the bytes on untouched",
                    named.name
                ));
            }
        }
    }
    None
}

fn body_alone(case: &Case, readings: &[Reading], keys: &[(&Named, Vec<u8>)]) -> Option<String> {
    let bare = case.bare?;
    let (named, _) = keys.iter().find(|(_, key)| hit(readings, &bare(key)).is_some())?;
    Some(format!(
        "secret `{}` would match the body alone: the sender does not sign what this scheme wants signed with it",
        named.name
    ))
}

/// The signature under another name, or nothing that looks like one. `wanted` are the MACs that
/// would match, one a secret.
fn header_hint(case: &Case, wanted: &[(&Named, Vec<u8>)]) -> Option<String> {
    let others = || case.request.headers.iter().take(HEADERS_MAX).filter(|(name, _)| name != case.header);
    for (name, value) in others() {
        let macs = macs_in(value, case.length);
        let found = wanted.iter().find(|(_, mac)| macs.iter().any(|other| same(other, mac)));
        if let Some((named, _)) = found {
            return Some(format!(
                "header `{name}` holds the signature, and it matches secret `{}`: a proxy renamed `{}`",
                named.name, case.header
            ));
        }
    }
    let own = case.request.headers.iter().find(|(name, _)| name == case.header);
    if let Some((_, value)) = own.filter(|(_, value)| !value.trim_ascii().is_empty()) {
        let macs = macs_in(value, case.length);
        let (named, _) = wanted.iter().find(|(_, mac)| macs.iter().any(|other| same(other, mac)))?;
        return Some(format!(
            "it holds a signature that matches secret `{}`, but not as expected: look at `prefix`, `separator` and `encoding`",
            named.name
        ));
    }
    if let Some(name) = renamed(case.request, case.header) {
        return Some(format!("header `{name}` is there: a proxy renamed `{}`?", case.header));
    }
    if let Some((name, _)) = others().find(|(_, value)| !macs_in(value, case.length).is_empty()) {
        return Some(format!("header `{name}` holds something like a signature: is it the one to name?"));
    }
    Some(
        "no header looks like a signature: the sender does not sign, or a proxy stripped the header"
            .to_owned(),
    )
}

/// Another header with the name that proxies and gateways make of a name.
pub fn renamed<'r>(request: &'r RawRequest, name: &str) -> Option<&'r str> {
    let mut names = request.headers.iter().take(HEADERS_MAX).map(|(other, _)| other.as_str());
    names.find(|other| *other != name && plain(other) == plain(name))
}

/// What to say of a header that a scheme needs beside the signature and that is missing.
pub fn missing(request: &RawRequest, name: &str) -> String {
    match renamed(request, name) {
        Some(other) => format!("header `{other}` is there: a proxy renamed `{name}`?"),
        None => "the sender does not send it, or a proxy stripped it".to_owned(),
    }
}

/// A header's name without what proxies and gateways put before it or do to its dashes.
fn plain(name: &str) -> String {
    let mut name = name.to_ascii_lowercase().replace('_', "-");
    for prefix in ["http-", "x-forwarded-", "x-original-", "x-"] {
        if let Some(rest) = name.strip_prefix(prefix) {
            name = rest.to_owned();
        }
    }
    name
}

fn macs_in(value: &[u8], length: usize) -> Vec<Vec<u8>> {
    let Some(text) = std::str::from_utf8(value).ok().filter(|text| text.len() <= 512) else {
        return Vec::new();
    };
    let words = text.split([',', ' ', ';']).filter(|word| !word.is_empty()).take(EXPLAIN_WORDS_MAX);
    let spellings = words.flat_map(|word| [Some(word), word.split_once('=').map(|(_, rest)| rest)]).flatten();
    spellings
        .flat_map(|word| [unhex(word), unbase64(word)])
        .flatten()
        .filter(|bytes| bytes.len() == length)
        .collect()
}

fn other_algorithm(case: &Case) -> Option<String> {
    let lengths = [(20, "SHA-1"), (32, "SHA-256"), (48, "SHA-384"), (64, "SHA-512")];
    let length = case.texts.iter().find_map(|text| unhex(text)).map(|bytes| bytes.len())?;
    let (_, name) = lengths.into_iter().find(|(bytes, _)| *bytes == length && length != case.length)?;
    Some(format!("it has the length of {name}: the sender uses another algorithm"))
}

#[cfg(test)]
mod tests {
    use mailspan_core::{Millis, Secret};

    use super::*;
    use crate::signature::{base64, hex, hmac_sha256};

    fn request(headers: &[(&str, &str)], body: &str) -> RawRequest {
        RawRequest {
            method: "POST".to_owned(),
            url: "https://hub.example.com/in/x".to_owned(),
            path: "/in/x".to_owned(),
            query: String::new(),
            headers: headers.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect(),
            body: body.as_bytes().to_vec().into(),
            received_at: Millis(0),
        }
    }

    /// What the hint says for a header of that name and value, over that body, with secret `ours`.
    fn check(ours: &str, header: &str, value: &str, body: &str, expected: &str) {
        let request = request(&[("x-other", "1"), (header, value)], body);
        let named = Named { name: "S".to_owned(), secret: Secret::new(ours.to_owned()) };
        let texts: Vec<&str> = if header == "x-sig" { vec![value] } else { Vec::new() };
        let case = Case {
            request: &request,
            header: "x-sig",
            texts: &texts,
            encoding: Encoding::Hex,
            length: 32,
            secrets: &[&named],
            key: &|text| Some(text.as_bytes().to_vec()),
            mac: &|key, body| hmac_sha256(key, body).to_vec(),
            bare: None,
        };
        let hint = hint(&case).unwrap_or_default();
        assert!(hint.contains(expected), "hint `{hint}` should say `{expected}`");
        assert!(ours.is_empty() || !hint.contains(ours), "a hint never shows the secret");
    }

    fn mac(secret: &str, body: &str) -> String {
        hex(&hmac_sha256(secret.as_bytes(), body.as_bytes()))
    }

    #[test]
    fn a_body_that_was_written_anew_is_recognised() {
        let spaced = r#"{"a": [1, 2.50], "é": "x/y"}"#;
        for (signed, expected) in [
            (r#"{"a":[1,2.50],"é":"x/y"}"#, "as compact JSON:"),
            (r#"{"a":[1,2.50],"\u00e9":"x/y"}"#, "compact JSON in ASCII"),
            (r#"{"a": [1, 2.50], "\u00e9": "x/y"}"#, "as Python writes it"),
            (r#"{"a":[1,2.50],"\u00e9":"x\/y"}"#, "as PHP writes it"),
            ("{\n  \"a\": [\n    1,\n    2.50\n  ],\n  \"é\": \"x/y\"\n}", "two blanks a level"),
            ("{\"a\": [1, 2.50], \"é\": \"x/y\"}\n", "line end (\\n) after the body"),
        ] {
            check("secret-one", "x-sig", &mac("secret-one", signed), spaced, expected);
        }
        check(
            "secret-one",
            "x-sig",
            &mac("secret-one", spaced),
            r#"{"a":[1,2.50],"é":"x/y"}"#,
            "with blanks:",
        );
        check("secret-one", "x-sig", &mac("secret-one", "{}"), "{}\n", "without the white space");
        check("secret-one", "x-sig", &mac("secret-one", "a\r\nb"), "a\nb", "\\r\\n for \\n");
        check("secret-one", "x-sig", &mac("secret-one", "a\nb"), "a\r\nb", "\\n for \\r\\n");
        check(
            "secret-one",
            "x-sig",
            &mac("secret-one", r#"{"a":1,"b":2}"#),
            r#"{"b":2,"a":1}"#,
            "sorted keys",
        );
        let latin = hex(&hmac_sha256(b"secret-one", b"caf\xe9"));
        check("secret-one", "x-sig", &latin, "café", "Latin-1");
    }

    #[test]
    fn a_secret_that_was_copied_wrongly_is_recognised() {
        check("secret-one\n", "x-sig", &mac("secret-one", "{}"), "{}", "our copy has one too many");
        check("secret-one", "x-sig", &mac("secret-one\n", "{}"), "{}", "line end (\\n) after it");
        check("secret-one", "x-sig", &mac("secret-one ", "{}"), "{}", "a blank after it");
        check("whsec_c2VjcmV0", "x-sig", &mac("secret", "{}"), "{}", "decoded from base64");
        check("whsec_c2VjcmV0", "x-sig", &mac("c2VjcmV0", "{}"), "{}", "without `whsec_`");
        check("736563726574", "x-sig", &mac("secret", "{}"), "{}", "decoded from hex");
    }

    #[test]
    fn another_spelling_and_another_header_are_recognised() {
        let bytes = hmac_sha256(b"secret-one", b"{}");
        check("secret-one", "x-sig", &base64(&bytes), "{}", "written as base64");
        check("secret-one", "x-sig", &base64(hex(&bytes).as_bytes()), "{}", "base64 of hex");
        for renamed in ["sig", "x-forwarded-x-sig", "x_sig", "x-original-sig", "authorization"] {
            check("secret-one", renamed, &format!("v1={}", hex(&bytes)), "{}", "renamed `x-sig`");
        }
        check("secret-one", "x_sig", "gone", "{}", "a proxy renamed `x-sig`?");
        check("secret-one", "x-mac", &mac("other", "{}"), "{}", "something like a signature");
        check("secret-one", "x-mac", "hello", "{}", "stripped the header");
        check("secret-one", "x-sig", &"ab".repeat(20), "{}", "the length of SHA-1");
        check("secret-one", "x-sig", &mac("other", "{}"), "{}", "");
        check("secret-one", "x-sig", &mac("secret-one", "{}")[..40], "{}", "cut the header short");
    }

    #[test]
    fn spans_are_written_as_people_say_them() {
        for (ms, text) in
            [(1_000, "1 second"), (420_000, "7 minutes"), (7_200_000, "2 hours"), (172_800_000, "2 days")]
        {
            assert_eq!(span(ms), text);
        }
    }
}
