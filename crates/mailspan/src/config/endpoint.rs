//! Where a destination is: its URL, its extra headers, and what TLS needs.

use std::net::{IpAddr, Ipv4Addr};

use http::HeaderValue;
use mailspan_connectors::contract::{Kind, SinkKind};
use mailspan_core::{Secret, clip, limits};
use mailspan_egress::{Allowance, OWN_HEADERS, may_reach};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use url::{Host, Url};

use super::choice::header_name;
use super::mask::sounds_secret;
use super::reader::Reader;
use super::report::Place;
use super::secrets;
use super::settings::{CLIENT_CERTIFICATE, names};
use super::tree::{Data, Node, Table};

const URL_HELP: &str = "write an http or https URL, like \"https://crm.example.com/hook\"";

/// `url` of kind `http`, `base_url` of the others, else the vendor's.
pub fn base_url(
    reader: &Reader,
    table: &Table,
    at: &Place,
    place: &str,
    kind: &Kind,
    sink: &SinkKind,
    allow: &[Allowance],
) -> Option<String> {
    let (key, other) = if kind.name == "http" { ("url", "base_url") } else { ("base_url", "url") };
    if let Some(entry) = table.entry(other) {
        let message = format!("`{other}` means nothing for kind `{}`", kind.name);
        reader.problem(&entry.key_at, message, format!("write `{key}`"));
        return None;
    }
    let Some(node) = table.get(key) else {
        if sink.base_url.is_empty() {
            reader.problem(
                at,
                format!("`{place}` has no `{key}`"),
                format!("write {key} = \"https://crm.example.com/hook\""),
            );
            return None;
        }
        return Some(sink.base_url.trim_end_matches('/').to_owned());
    };
    let url = http_url(reader, node)?;
    if key == "base_url" && url.query().is_some() {
        reader.problem(
            &node.at,
            "`base_url` has a query",
            "write scheme, host, port and path: the kind appends its own",
        );
        return None;
    }
    judge(reader, &node.at, &url, allow);
    let text = url.as_str();
    Some(if key == "base_url" { text.trim_end_matches('/').to_owned() } else { text.to_owned() })
}

/// An http or https URL without a credential in it.
pub fn http_url(reader: &Reader, node: &Node) -> Option<Url> {
    let text = reader.text(node, URL_HELP)?;
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(url) = url else {
        if text.contains('@') {
            reader.hide(&node.at);
            reader.problem(&node.at, "not an http or https URL", URL_HELP);
        } else {
            reader.problem(&node.at, format!("`{}` is not an http or https URL", clip(text, 80)), URL_HELP);
        }
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        reader.hide(&node.at);
        let help = "write auth = { kind = \"basic\", user = \"…\", password = { env = \"NAME\" } }";
        reader.problem(&node.at, "the URL holds a user name or password", help);
        return None;
    }
    if url.fragment().is_some() {
        reader.problem(&node.at, "the part after `#` is never sent", "leave it out");
        return None;
    }
    Some(url)
}

/// What would fail or leak only when the first delivery goes out.
pub fn judge(reader: &Reader, at: &Place, url: &Url, allow: &[Allowance]) {
    let port = url.port_or_known_default().unwrap_or(443);
    let ip = match url.host() {
        Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip).to_canonical()),
        Some(Host::Domain("localhost")) => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => None,
    };
    let Some(ip) = ip else {
        if url.scheme() == "http" {
            reader.warn(
                at,
                "http:// sends people's data and credentials in clear: use https:// where there is one",
            );
        }
        return;
    };
    if may_reach(ip, port, allow).is_err() {
        let shown = if ip.is_ipv6() { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
        reader.warn(at, format_args!("nothing will be sent there: private addresses are refused unless [egress] names them, like allow = [\"{shown}\"]"));
    }
}

/// `headers = { "X-Team" = "crm", "X-Api-Key" = { env = "CRM_KEY" } }`, names in lower case.
pub fn headers(reader: &Reader, node: &Node, place: &str) -> Vec<(String, Secret)> {
    let help = "write headers = { \"X-Api-Key\" = { env = \"CRM_KEY\" } }";
    let Some(table) = reader.table(node, help) else { return Vec::new() };
    if table.entries.len() > limits::HEADERS_MAX {
        reader.problem(&node.at, "too many headers", format!("write at most {}", limits::HEADERS_MAX));
        return Vec::new();
    }
    let mut headers: Vec<(String, Secret)> = Vec::with_capacity(table.entries.len());
    for entry in &table.entries {
        let key = Node { at: entry.key_at.clone(), data: Data::Text(entry.key.clone()) };
        let name = header_name(reader, &key, &entry.key);
        let value = header_value(reader, &entry.key, &entry.node, &format!("{place}.{}", entry.key));
        let (Some(name), Some(value)) = (name, value) else { continue };
        if OWN_HEADERS.contains(&name.as_str()) || name == "idempotency-key" {
            reader.problem(
                &entry.key_at,
                format!("the header `{name}` is set by the hub itself"),
                "leave it out",
            );
        } else if headers.iter().any(|(other, _)| *other == name) {
            reader.problem(
                &entry.key_at,
                format!("the header `{name}` is here twice"),
                "header names have no case: write one of them",
            );
        } else {
            headers.push((name, value));
        }
    }
    headers
}

fn header_value(reader: &Reader, name: &str, node: &Node, place: &str) -> Option<Secret> {
    let value = match &node.data {
        Data::Text(text) if !sounds_secret(name) => Secret::new(text.clone()),
        Data::Text(_) | Data::Table(_) => secrets::resolve(reader, node, place)?.secret,
        _ => {
            let help = "write text in quotes, or { env = \"NAME\" } where it is a secret";
            reader.problem(&node.at, format!("expected text, found {}", node.shape()), help);
            return None;
        }
    };
    if HeaderValue::from_str(value.expose()).is_err() {
        reader.hide(&node.at);
        reader.problem(
            &node.at,
            format!("the value of `{}` cannot stand in a header", clip(name, 60)),
            "write visible ASCII on one line",
        );
        return None;
    }
    Some(value)
}

/// `ca = { file = "ca.pem" }`: PEM of certificate authorities.
pub fn ca(reader: &Reader, node: &Node, place: &str) -> Option<Vec<u8>> {
    certificates(reader, node, place).map(String::into_bytes)
}

fn certificates(reader: &Reader, node: &Node, place: &str) -> Option<String> {
    let named = pem(reader, node, place)?;
    let text = named.expose();
    let mut found = CertificateDer::pem_slice_iter(text.as_bytes()).peekable();
    if found.peek().is_none() || found.any(|certificate| certificate.is_err()) {
        reader.problem(
            &node.at,
            format!("`{place}` holds no certificate that can be read"),
            "it must be PEM: -----BEGIN CERTIFICATE-----",
        );
        return None;
    }
    Some(text.to_owned())
}

/// Text in this place is a path more often than a certificate.
pub fn pem(reader: &Reader, node: &Node, place: &str) -> Option<Secret> {
    if let Data::Text(_) = node.data {
        let key = place.rsplit('.').next().unwrap_or(place);
        reader.hide(&node.at);
        reader.problem(
            &node.at,
            format!("`{key}` is text, not a reference"),
            format!("write {key} = {{ file = \"{key}.pem\" }}"),
        );
        return None;
    }
    secrets::resolve(reader, node, place).map(|named| named.secret)
}

/// `client_certificate = { cert = { file = "…" }, key = { file = "…" } }`.
pub fn client_certificate(reader: &Reader, node: &Node, place: &str) -> Option<(Vec<u8>, Secret)> {
    let help =
        "write client_certificate = { cert = { file = \"client.pem\" }, key = { file = \"client.key\" } }";
    let table = reader.table(node, help)?;
    reader.known(table, place, &names(CLIENT_CERTIFICATE));
    let cert = reader.required(table, &node.at, "cert", place, "cert = { file = \"client.pem\" }");
    let cert = cert.and_then(|node| certificates(reader, node, &format!("{place}.cert")));
    let key_node = reader.required(table, &node.at, "key", place, "key = { file = \"client.key\" }")?;
    let key = pem(reader, key_node, &format!("{place}.key"))?;
    if PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).is_err() {
        let message = format!("`{place}.key` holds no private key that can be read");
        reader.problem(
            &key_node.at,
            message,
            "it must be PEM without a passphrase: -----BEGIN PRIVATE KEY-----",
        );
        return None;
    }
    Some((cert?.into_bytes(), key))
}
