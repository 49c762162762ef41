//! `[destinations.NAME]`, and the destinations that `notify` makes.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use mailspan_connectors::contract::{Kind, Policy, Sink};
use mailspan_connectors::registry;
use mailspan_core::limits::ROUND_MS_MAX;
use mailspan_core::{Name, Secret, Span};
use mailspan_egress::{Allowance, Target};
use mailspan_engine::Limits;
use serde_json::{Map, Value};

use super::access::auth;
use super::echo::{Echoes, echo_of};
use super::endpoint;
use super::kinds::{self, Side};
use super::limits::{defaults, limits, timeout};
use super::reader::{Reader, suggestion};
use super::settings::{DESTINATION, RESYNC, names};
use super::sign::sign;
use super::tree::{Entry, Node, Table};
use crate::hub::{Auth, Destination, Sign};

/// Each section that holds; the others are reported.
pub fn destinations(
    reader: &Reader,
    table: &Table,
    sources: &Table,
    allow: &[Allowance],
) -> Vec<Arc<Destination>> {
    let echoes = Echoes::of(sources);
    let read = |entry| destination(reader, entry, &echoes, allow);
    table.entries.iter().filter_map(read).map(Arc::new).collect()
}

fn destination(reader: &Reader, entry: &Entry, echoes: &Echoes, allow: &[Allowance]) -> Option<Destination> {
    let before = reader.count();
    let place = format!("destinations.{}", entry.key);
    let table = reader.table(&entry.node, "write [destinations.NAME] with kind = \"…\" below it")?;
    let name = reader.name(&entry.key_at, &entry.key);
    let tenant = reader.tenant(table);
    let proof = proof(reader, table, &place);
    let tls = tls(reader, table, &place);
    let kind = kinds::kind(reader, table, &entry.key_at, &place, Side::Destination);
    // Of a kind that nobody knows, what every kind has is read all the same.
    let of = kind.or_else(|| registry::kind("http"))?.sink.as_ref()?;
    let limits = limits(reader, table, &place, of.defaults);
    let timeout_ms = timeout(reader, table, of.defaults);
    let ordered = ordered(reader, table);
    let echo_of = echo_of(reader, table, echoes);
    let kind = kind?;
    let base_url = endpoint::base_url(reader, table, &entry.key_at, &place, kind, of, allow);
    let known = reader.count();
    let mut own = kinds::own(reader, table, &place, &names(DESTINATION), &(of.schema)());
    always_batches(kind, table, &mut own);
    let sink = kinds::build(reader, entry, own.clone(), reader.count() == known, of.build);
    let resync = resync(reader, table, &place, kind);
    credentials(reader, entry, table, kind, &proof);
    if reader.count() > before {
        return None;
    }
    let (name, limits) = (name?, limits?);
    let digest = digest(&name, &entry.node, &proof, &tls);
    let target = target(&name, base_url?, &limits, timeout_ms?, tls);
    let Proof { auth, sign, headers } = proof;
    Some(Destination {
        name,
        tenant: tenant?,
        kind,
        target,
        auth,
        sign,
        headers,
        limits,
        sink: sink?,
        ordered,
        echo_of,
        resync,
        own,
        digest,
        endpoint: false,
    })
}

/// `resync = { every = "24h" }`.
fn resync(reader: &Reader, table: &Table, place: &str, kind: &Kind) -> Option<Span> {
    let entry = table.entry("resync")?;
    if !kind.sink.as_ref().is_some_and(|sink| sink.audience) {
        let message = format!("`resync` means nothing for kind `{}`", kind.name);
        reader.problem(
            &entry.key_at,
            message,
            "leave it out: only systems that keep contacts are told again",
        );
        return None;
    }
    let example = "resync = { every = \"24h\" }";
    let given = reader.table(&entry.node, &format!("write {example}"))?;
    let place = format!("{place}.resync");
    reader.known(given, &place, &names(RESYNC));
    let every = reader.required(given, &entry.key_at, "every", &place, example)?;
    reader.span(every, 60_000, ROUND_MS_MAX)
}

/// Who asks for batches gets the same form always: one event alone is a batch of one.
fn always_batches(kind: &Kind, table: &Table, own: &mut serde_json::Value) {
    if kind.name == "http" && table.has("batch") && own.get("batch_format").is_none() {
        own["batch_format"] = "array".into();
    }
}

/// What is added to a request after `plan`.
struct Proof {
    auth: Option<Auth>,
    sign: Option<Sign>,
    headers: Vec<(String, Secret)>,
}

fn proof(reader: &Reader, table: &Table, place: &str) -> Proof {
    Proof {
        auth: table.get("auth").and_then(|node| auth(reader, node, &format!("{place}.auth"))),
        sign: table.get("sign").and_then(|node| sign(reader, node, &format!("{place}.sign"))),
        headers: table
            .get("headers")
            .map_or_else(Vec::new, |node| endpoint::headers(reader, node, &format!("{place}.headers"))),
    }
}

#[derive(Default)]
struct Tls {
    ca: Option<Vec<u8>>,
    client_certificate: Option<(Vec<u8>, Secret)>,
    title_case_headers: bool,
}

fn tls(reader: &Reader, table: &Table, place: &str) -> Tls {
    let certificate =
        |node| endpoint::client_certificate(reader, node, &format!("{place}.client_certificate"));
    Tls {
        ca: table.get("ca").and_then(|node| endpoint::ca(reader, node, &format!("{place}.ca"))),
        client_certificate: table.get("client_certificate").and_then(certificate),
        title_case_headers: table
            .get("title_case_headers")
            .and_then(|node| reader.flag(node))
            .unwrap_or(false),
    }
}

fn ordered(reader: &Reader, table: &Table) -> bool {
    let Some(node) = table.get("order") else { return true };
    match reader.text(node, "write order = \"person\" or \"none\"") {
        Some("none") => false,
        Some("person") | None => true,
        Some(other) => {
            reader.problem(&node.at, "unknown order", suggestion(other, &["person", "none"]));
            true
        }
    }
}

/// One credential for one place; a vendor's API takes nothing without one.
fn credentials(reader: &Reader, entry: &Entry, table: &Table, kind: &Kind, proof: &Proof) {
    if let Some(sign) = table.entry("sign").filter(|_| kind.name != "http") {
        let message = format!("`sign` means nothing for kind `{}`", kind.name);
        reader.problem(&sign.key_at, message, "leave it out: only kind `http` signs its requests");
    }
    let header = match &proof.auth {
        Some(Auth::Bearer { .. } | Auth::Basic { .. } | Auth::Key { .. }) => Some("authorization"),
        Some(Auth::Header { name, .. }) => Some(name.as_str()),
        None => None,
    };
    if let (Some(header), Some(at)) = (header, table.entry("headers"))
        && proof.headers.iter().any(|(name, _)| name == header)
    {
        reader.problem(&at.key_at, format!("both `headers` and `auth` set `{header}`"), "write one of them");
    }
    if kind.name != "http" && !table.has("auth") && proof.headers.is_empty() {
        reader.warn(
            &entry.key_at,
            format_args!("`destinations.{}` has no `auth`: its requests carry no credential", entry.key),
        );
    }
}

fn target(name: &Name, base_url: String, limits: &Limits, timeout_ms: u64, tls: Tls) -> Target {
    let mut target = Target {
        key: String::new(),
        base_url,
        concurrency: limits.concurrency,
        timeout_ms,
        ca: tls.ca,
        client_certificate: tls.client_certificate,
        title_case_headers: tls.title_case_headers,
    };
    let numbers = format!("{} {} {}", target.concurrency, target.timeout_ms, target.title_case_headers);
    let certificate = target.client_certificate.as_ref();
    let number = hash(&[
        target.base_url.as_bytes(),
        numbers.as_bytes(),
        target.ca.as_deref().unwrap_or_default(),
        certificate.map_or(&[], |(chain, _)| chain),
        certificate.map_or("", |(_, key)| key.expose()).as_bytes(),
    ]);
    target.key = format!("{name}-{number:016x}");
    target
}

/// Changes with anything of the section, and with each secret that it refers to.
fn digest(name: &Name, node: &Node, proof: &Proof, tls: &Tls) -> u64 {
    let mut secrets: Vec<&Secret> = proof.headers.iter().map(|(_, value)| value).collect();
    match &proof.auth {
        Some(
            Auth::Bearer { token: named }
            | Auth::Basic { password: named, .. }
            | Auth::Header { value: named, .. }
            | Auth::Key { key: named },
        ) => {
            secrets.push(&named.secret);
        }
        None => {}
    }
    match &proof.sign {
        Some(Sign::StandardWebhooks { secrets: several }) => {
            secrets.extend(several.iter().map(|named| &named.secret))
        }
        Some(Sign::Hmac { secret, .. } | Sign::MailingCore { secret, .. }) => secrets.push(&secret.secret),
        None | Some(Sign::Lost(_)) => {}
    }
    let section = node.json().to_string();
    let mut parts: Vec<&[u8]> =
        vec![name.as_str().as_bytes(), section.as_bytes(), tls.ca.as_deref().unwrap_or_default()];
    if let Some((chain, key)) = &tls.client_certificate {
        parts.push(chain);
        secrets.push(key);
    }
    parts.extend(secrets.iter().map(|secret| secret.expose().as_bytes()));
    hash(&parts)
}

/// The first 64 bits of a SHA-256 over the parts with their lengths.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let digest = context.finish();
    digest.as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The `http` destination of a route's `notify` URL: its name, its defaults, no credential.
pub fn notify(
    kind: &'static Kind,
    sink: Arc<dyn Sink>,
    of: Policy,
    name: Name,
    tenant: Name,
    url: &str,
) -> Destination {
    let limits = defaults(of);
    let target = target(&name, url.to_owned(), &limits, of.timeout_ms, Tls::default());
    let digest = hash(&[name.as_str().as_bytes(), tenant.as_str().as_bytes(), url.as_bytes()]);
    let (auth, sign, headers, ordered) = (None, None, Vec::new(), true);
    let (own, echo_of, resync) = (Value::Object(Map::new()), Vec::new(), None);
    Destination {
        name,
        tenant,
        kind,
        target,
        auth,
        sign,
        headers,
        limits,
        sink,
        ordered,
        echo_of,
        resync,
        own,
        digest,
        endpoint: false,
    }
}
