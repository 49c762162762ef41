//! A declarative scheme: which header holds the MAC, how it is written, what was signed.

use mailspan_core::limits::SIGNATURES_MAX;
use mailspan_core::{Millis, Named, RawRequest, Span, clip};

use super::{Algorithm, Encoding, explain, live, names, refuse, same};
use crate::contract::Refusal;

/// How a sender signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheme {
    /// In lower case.
    pub header: String,
    /// Stands before the MAC: `sha256=`, `v1=`.
    pub prefix: String,
    /// A MAC without the prefix counts too.
    pub prefix_optional: bool,
    /// The header is a list with this between its parts; each part with the prefix is a MAC.
    pub separator: Option<String>,
    pub encoding: Encoding,
    pub algorithm: Algorithm,
    pub signed: Vec<Piece>,
    pub timestamp: Option<Stamp>,
    /// The header that `{id}` stands for, in lower case.
    pub id: Option<String>,
    /// How far the timestamp may be from our clock, either way, in milliseconds.
    pub tolerance_ms: u64,
}

/// A piece of the signed text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// As the sender wrote it.
    Timestamp,
    Id,
    Body,
    Method,
    /// The public URL. Tried as received, then with the escapes decoded that HubSpot decodes.
    Url,
    Secret,
}

/// Where the sender's time stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    pub place: Place,
    pub unit: Unit,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A header, in lower case.
    Header(String),
    /// A part of the signature header with this prefix: `t=`.
    Part(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Seconds since 1970.
    S,
    /// Milliseconds since 1970.
    Ms,
    /// `2026-05-08T03:14:15Z`.
    Rfc3339,
}

const NAMES: &str = "{body}, {timestamp}, {id}, {method}, {url}, {secret}";

/// Reads a recipe such as `v0:{timestamp}:{body}`.
pub fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        if open > 0 {
            pieces.push(Piece::Text(rest[..open].to_owned()));
        }
        let close =
            rest[open..].find('}').ok_or_else(|| format!("a {{ is not closed: write {NAMES}"))? + open;
        pieces.push(match &rest[open + 1..close] {
            "timestamp" => Piece::Timestamp,
            "id" => Piece::Id,
            "body" => Piece::Body,
            "method" => Piece::Method,
            "url" => Piece::Url,
            "secret" => Piece::Secret,
            other => return Err(format!("`{{{}}}` is not known: write {NAMES}", clip(other, 40))),
        });
        rest = &rest[close + 1..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// What the request says about its signature.
struct Offered<'a> {
    /// Texts of MACs, prefix cut.
    texts: Vec<&'a str>,
    timestamp: Option<&'a str>,
    id: &'a str,
}

/// The name of the secret that matches, or which check failed.
pub fn verify(
    scheme: &Scheme,
    request: &RawRequest,
    secrets: &[Named],
    now: Millis,
    explain: bool,
) -> Result<String, Refusal> {
    let secrets = live(secrets)?;
    let hinted = |offered: Option<&Offered>, refusal: Refusal| match explain {
        true => hinted(scheme, request, &secrets, offered, refusal),
        false => refusal,
    };
    let offered = match offered(scheme, request) {
        Ok(offered) => offered,
        Err(refusal) => return Err(hinted(None, refusal)),
    };
    let macs: Vec<Vec<u8>> = offered
        .texts
        .iter()
        .filter_map(|text| scheme.encoding.read(text))
        .filter(|mac| mac.len() == scheme.algorithm.size())
        .collect();
    if macs.is_empty() {
        let refusal = refuse("malformed_signature", malformed(scheme, &offered.texts));
        return Err(hinted(Some(&offered), refusal));
    }
    match secrets.iter().find(|named| matches(scheme, request, named, &offered, &macs)) {
        Some(named) => in_window(scheme, &offered, now).map(|()| named.name.clone()),
        None => {
            let text = format!(
                "header `{}` matches none of the secrets {}: another secret signed it, or the body was changed",
                scheme.header,
                names(&secrets)
            );
            Err(hinted(Some(&offered), refuse("mismatch", text)))
        }
    }
}

fn matches(
    scheme: &Scheme,
    request: &RawRequest,
    named: &Named,
    offered: &Offered,
    macs: &[Vec<u8>],
) -> bool {
    let key = named.secret.expose().as_bytes();
    urls(scheme, request).iter().any(|url| {
        let wanted = compute(scheme, request, url, offered, key, &request.body);
        macs.iter().any(|mac| same(mac, &wanted))
    })
}

fn compute(
    scheme: &Scheme,
    request: &RawRequest,
    url: &str,
    offered: &Offered,
    key: &[u8],
    body: &[u8],
) -> Vec<u8> {
    let pieces: Vec<&[u8]> = scheme
        .signed
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => text.as_bytes(),
            Piece::Timestamp => offered.timestamp.unwrap_or_default().as_bytes(),
            Piece::Id => offered.id.as_bytes(),
            Piece::Body => body,
            Piece::Method => request.method.as_bytes(),
            Piece::Url => url.as_bytes(),
            Piece::Secret => key,
        })
        .collect();
    super::mac(scheme.algorithm, key, &pieces)
}

/// The spellings of the URL that are tried (`vendors` sheet, 2.7: the documentation decodes, the
/// vendor's own client does not).
fn urls(scheme: &Scheme, request: &RawRequest) -> Vec<String> {
    if !scheme.signed.contains(&Piece::Url) {
        return vec![String::new()];
    }
    let escapes = [
        ("%3A", ":"),
        ("%2F", "/"),
        ("%3F", "?"),
        ("%40", "@"),
        ("%21", "!"),
        ("%24", "$"),
        ("%27", "'"),
        ("%28", "("),
        ("%29", ")"),
        ("%2A", "*"),
        ("%2C", ","),
        ("%3B", ";"),
    ];
    let mut urls = vec![request.url.clone()];
    if request.url.contains('%') {
        let decode = |url: String, (escape, plain): &(&str, &str)| {
            url.replace(escape, plain).replace(&escape.to_ascii_lowercase(), plain)
        };
        urls.push(escapes.iter().fold(request.url.clone(), decode));
    }
    urls
}

fn offered<'a>(scheme: &Scheme, request: &'a RawRequest) -> Result<Offered<'a>, Refusal> {
    let header = &scheme.header;
    let values: Vec<&[u8]> = request
        .headers
        .iter()
        .filter(|(name, _)| name == header)
        .map(|(_, value)| value.as_slice())
        .collect();
    if values.is_empty() {
        return Err(refuse("no_signature", format!("header `{header}` is not there")));
    }
    let mut parts = Vec::new();
    for value in values {
        let text = std::str::from_utf8(value)
            .map_err(|_| refuse("malformed_signature", format!("header `{header}` is not text in UTF-8")))?;
        match &scheme.separator {
            Some(separator) => parts.extend(text.split(separator.as_str()).map(str::trim)),
            None => parts.push(text.trim()),
        }
    }
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() {
        return Err(refuse("no_signature", format!("header `{header}` is empty")));
    }
    let texts: Vec<&str> =
        parts.iter().filter_map(|part| unprefixed(scheme, part)).take(SIGNATURES_MAX).collect();
    if texts.is_empty() {
        let text = format!("header `{header}` has no part that begins with `{}`", scheme.prefix);
        return Err(refuse("malformed_signature", text));
    }
    let timestamp = scheme.timestamp.as_ref().map(|stamp| timestamp(stamp, request, &parts)).transpose()?;
    let id = match &scheme.id {
        None => "",
        Some(name) => {
            request.header(name).filter(|id| !id.is_empty()).ok_or_else(|| missing("no_id", request, name))?
        }
    };
    Ok(Offered { texts, timestamp, id })
}

fn unprefixed<'a>(scheme: &Scheme, part: &'a str) -> Option<&'a str> {
    match part.strip_prefix(scheme.prefix.as_str()) {
        Some(rest) => Some(rest.trim()),
        None if scheme.prefix_optional => Some(part),
        None => None,
    }
}

/// The one timestamp; a second one in a list is refused, as nobody could say which was signed.
fn timestamp<'a>(stamp: &Stamp, request: &'a RawRequest, parts: &[&'a str]) -> Result<&'a str, Refusal> {
    match &stamp.place {
        Place::Header(name) => request.header(name).ok_or_else(|| missing("no_timestamp", request, name)),
        Place::Part(prefix) => {
            let mut found = parts.iter().filter_map(|part| part.strip_prefix(prefix.as_str()));
            let first = found.next().ok_or_else(|| {
                refuse("no_timestamp", format!("part `{prefix}` of the signature is not there"))
            })?;
            match found.next() {
                None => Ok(first),
                Some(_) => Err(refuse(
                    "malformed_timestamp",
                    format!("part `{prefix}` stands twice in the signature"),
                )),
            }
        }
    }
}

/// A header that the scheme needs beside the signature is not there.
fn missing(check: &'static str, request: &RawRequest, name: &str) -> Refusal {
    let text = format!("header `{name}` is not there or empty");
    Refusal { check, text, hint: Some(explain::missing(request, name)) }
}

fn malformed(scheme: &Scheme, texts: &[&str]) -> String {
    let length = scheme.algorithm.size();
    let wanted = match scheme.encoding {
        Encoding::Hex => format!("{} hex digits", length * 2),
        Encoding::Base64 => format!("base64 of {length} bytes"),
    };
    let found = texts.first().map_or(0, |text| text.chars().count());
    format!("header `{}` should hold {wanted}, found {found} characters that are not that", scheme.header)
}

fn in_window(scheme: &Scheme, offered: &Offered, now: Millis) -> Result<(), Refusal> {
    let (Some(stamp), Some(text)) = (&scheme.timestamp, offered.timestamp) else { return Ok(()) };
    let number = || text.parse::<u64>().ok().and_then(|number| i64::try_from(number).ok());
    let at = match stamp.unit {
        Unit::S => number().and_then(|seconds| seconds.checked_mul(1_000)).map(Millis),
        Unit::Ms => number().map(Millis),
        Unit::Rfc3339 => Millis::parse_rfc3339(text),
    };
    let at = at.ok_or_else(|| {
        refuse("malformed_timestamp", format!("the timestamp `{}` cannot be read", clip(text, 40)))
    })?;
    window(at, now, scheme.tolerance_ms)
}

/// Refuses a time that is further from our clock than the tolerance, either way; the signature is
/// known to be right by then, so the hint is the clock.
pub(super) fn window(at: Millis, now: Millis, tolerance_ms: u64) -> Result<(), Refusal> {
    let off = now.0.abs_diff(at.0);
    if off <= tolerance_ms {
        return Ok(());
    }
    let late = at < now;
    let side = if late { "behind" } else { "ahead of" };
    let text = format!(
        "the signature is right, but its timestamp is {} {side} our clock; allowed are {}",
        explain::span(off),
        Span { ms: tolerance_ms }
    );
    let near = |ms: i64| now.0.abs_diff(ms) < 86_400_000;
    let hint = if near(at.0 / 1_000) {
        "the timestamp is a thousand times too large: milliseconds where seconds are expected".to_owned()
    } else if near(at.0.saturating_mul(1_000)) {
        "the timestamp is a thousand times too small: seconds where milliseconds are expected".to_owned()
    } else {
        let again = if late { ", or an old request sent again" } else { "" };
        format!("clock off by {} (ours or the sender's){again}", explain::span(off))
    };
    Err(Refusal { check: "timestamp_out_of_window", text, hint: Some(hint) })
}

fn hinted(
    scheme: &Scheme,
    request: &RawRequest,
    secrets: &[&Named],
    offered: Option<&Offered>,
    mut refusal: Refusal,
) -> Refusal {
    if refusal.hint.is_some() {
        return refusal;
    }
    let nothing = Offered {
        texts: Vec::new(),
        timestamp: scheme.timestamp.as_ref().and_then(|stamp| stray_timestamp(scheme, stamp, request)),
        id: scheme.id.as_deref().and_then(|name| request.header(name)).unwrap_or_default(),
    };
    let offered = offered.unwrap_or(&nothing);
    let mac = |key: &[u8], body: &[u8]| compute(scheme, request, &request.url, offered, key, body);
    let bare = |key: &[u8]| super::mac(scheme.algorithm, key, &[&request.body]);
    let case = explain::Case {
        request,
        header: &scheme.header,
        texts: &offered.texts,
        encoding: scheme.encoding,
        length: scheme.algorithm.size(),
        secrets,
        key: &|text| Some(text.as_bytes().to_vec()),
        mac: &mac,
        bare: if scheme.signed == [Piece::Body] { None } else { Some(&bare) },
    };
    refusal.hint = explain::hint(&case);
    refusal
}

/// The timestamp of a request whose signature could not be found.
fn stray_timestamp<'a>(scheme: &Scheme, stamp: &Stamp, request: &'a RawRequest) -> Option<&'a str> {
    match &stamp.place {
        Place::Header(name) => request.header(name),
        Place::Part(prefix) => {
            let parts = request.header(&scheme.header)?.split(scheme.separator.as_deref()?);
            parts.map(str::trim).find_map(|part| part.strip_prefix(prefix.as_str()))
        }
    }
}

/// Signs as the sender would: the headers to add.
pub fn sign(scheme: &Scheme, request: &RawRequest, secret: &Named, now: Millis) -> Vec<(String, String)> {
    let stamp = scheme.timestamp.as_ref().map(|stamp| match stamp.unit {
        Unit::S => now.0.div_euclid(1_000).to_string(),
        Unit::Ms => now.0.to_string(),
        Unit::Rfc3339 => now.rfc3339(),
    });
    let id = scheme.id.as_ref().map(|_| fresh_id(request, now)).unwrap_or_default();
    let offered = Offered { texts: Vec::new(), timestamp: stamp.as_deref(), id: &id };
    let key = secret.secret.expose().as_bytes();
    let mac = compute(scheme, request, &request.url, &offered, key, &request.body);
    let mut value = format!("{}{}", scheme.prefix, scheme.encoding.write(&mac));
    let mut headers = Vec::new();
    match (&scheme.timestamp, stamp) {
        (Some(Stamp { place: Place::Header(name), .. }), Some(stamp)) => headers.push((name.clone(), stamp)),
        (Some(Stamp { place: Place::Part(prefix), .. }), Some(stamp)) => {
            let separator = scheme.separator.as_deref().unwrap_or(",");
            value = format!("{prefix}{stamp}{separator}{value}");
        }
        _ => {}
    }
    if let Some(name) = &scheme.id {
        headers.push((name.clone(), id));
    }
    headers.push((scheme.header.clone(), value));
    headers
}

/// An id for a sample: differs by body and by time.
pub(crate) fn fresh_id(request: &RawRequest, now: Millis) -> String {
    let mut text = now.0.to_string().into_bytes();
    text.extend_from_slice(&request.body);
    format!("msg_{}", super::digest(&text))
}
