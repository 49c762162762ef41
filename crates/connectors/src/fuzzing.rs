//! Entry points for mutated input: any bytes give a value or a reason, never a panic. The seeded
//! test and the libFuzzer targets call the same functions.

use std::sync::LazyLock;

use mailspan_core::{Millis, Named, RawRequest, Secret};
use serde_json::json;

use crate::contract::{Source, Verified};
pub use crate::fuzzing_sinks::judge;
use crate::{registry, signature};

/// A time near which every fixture is signed: 2026-05-08T03:14:20Z.
pub const NOW: Millis = Millis(1_778_210_060_000);

/// A source with the secrets that it is driven with.
pub struct Target {
    /// The kind, and the preset where there is one.
    pub label: String,
    pub source: Box<dyn Source>,
    pub secrets: Vec<Named>,
}

/// No header has this name.
const QUERY: &str = "?";

/// Every source kind, and `hmac` in every preset and in two schemes of its own.
pub fn targets() -> &'static [Target] {
    static TARGETS: LazyLock<Vec<Target>> = LazyLock::new(build);
    &TARGETS
}

fn build() -> Vec<Target> {
    let public = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    let standard = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", public];
    let plain = ["mt-secret-one", "whsec_c2VjcmV0"];
    let mut targets = vec![
        target("mailtarget", json!({"max_age": "30d"}), &plain),
        target("standard_webhooks", json!({}), &standard),
        target("api", json!({}), &[]),
        target(
            "hmac",
            json!({"header": "x-sig", "signed": "{id}|{method}|{url}|{body}", "id": {"header": "x-id"}}),
            &plain,
        ),
        target(
            "hmac",
            json!({"header": "x-sig", "dedupe": {"fields": ["a", "b.c"]}, "algorithm": "sha1"}),
            &plain,
        ),
    ];
    targets.push(target("mailingcore", json!({"tenant_id": "clx1"}), &plain));
    targets.push(target("mailingcore", json!({}), &plain));
    targets.push(target("maileon", json!({}), &[]));
    targets.push(target("maileon", json!({"event": "contact_field_change"}), &[]));
    let presets = signature::presets::PRESETS.iter();
    targets.extend(presets.map(|preset| target("hmac", json!({"preset": preset.name}), &plain)));
    targets.into_iter().flatten().collect()
}

fn target(kind: &str, settings: serde_json::Value, secrets: &[&str]) -> Option<Target> {
    let source = (registry::kind(kind)?.source.as_ref()?.build)(&settings).ok()?;
    let named = |(at, text): (usize, &&str)| Named {
        name: format!("secret_{at}"),
        secret: Secret::new((*text).to_owned()),
    };
    Some(Target {
        label: format!("{kind} {settings}"),
        source,
        secrets: secrets.iter().enumerate().map(named).collect(),
    })
}

/// Reads a target and a request from bytes: one byte for the target, then lines `name: value` up to
/// an empty line, then the body. A line `?` has the query. [`write`] makes such bytes.
pub fn read(data: &[u8]) -> Option<(&'static Target, RawRequest)> {
    let (first, rest) = data.split_first()?;
    let target = targets().get(usize::from(*first) % targets().len().max(1))?;
    let mut headers = Vec::new();
    let mut rest = rest;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let name = String::from_utf8_lossy(&line[..colon]).trim().to_ascii_lowercase();
        let value = line.get(colon + 1..).unwrap_or_default().trim_ascii().to_vec();
        headers.push((name, value));
    }
    let mut request = request(headers, rest);
    if let Some(at) = request.headers.iter().position(|(name, _)| name == QUERY) {
        request.query = String::from_utf8_lossy(&request.headers.remove(at).1).into_owned();
    }
    Some((target, request))
}

/// A request as the sender of a fixture makes it, at [`NOW`].
pub fn request(headers: Vec<(String, Vec<u8>)>, body: &[u8]) -> RawRequest {
    RawRequest {
        method: "POST".to_owned(),
        url: "https://hub.example.com/in/x?a=%3A%2Fb".to_owned(),
        path: "/in/x".to_owned(),
        query: "a=%3A%2Fb".to_owned(),
        headers,
        body: body.to_vec().into(),
        received_at: NOW,
    }
}

/// The bytes that [`read`] reads; a corpus starts with these.
pub fn write(target: u8, request: &RawRequest) -> Vec<u8> {
    let mut data = vec![target];
    let query = (QUERY.to_owned(), request.query.clone().into_bytes());
    for (name, value) in std::iter::once(&query).chain(&request.headers) {
        data.extend_from_slice(name.as_bytes());
        data.extend_from_slice(b": ");
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    data.push(b'\n');
    data.extend_from_slice(&request.body);
    data
}

/// Drives a verifier. True where it let the request in.
pub fn verify(data: &[u8]) -> bool {
    let Some((target, request)) = read(data) else { return false };
    let verified = target.source.verify(&request, &target.secrets, NOW, true);
    let _ = target.source.request_id(&request);
    matches!(verified, Verified::By { .. })
}

/// Drives a parser. The number of events that it read.
pub fn parse(data: &[u8]) -> usize {
    let Some((target, request)) = read(data) else { return 0 };
    target.source.parse(&request).map_or(0, |parsed| parsed.arrivals.len())
}
