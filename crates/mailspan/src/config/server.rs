//! `[server]`, `[egress]`, `[limits]` and `[retention]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use mailspan_core::{Span, clip, limits};
use mailspan_egress::Allowance;
use url::Url;

use super::certificate;
use super::reader::Reader;
use super::settings::{EGRESS, LIMITS, RETENTION, SERVER, names};
use super::tree::{Node, Table};
use crate::hub::{Retention, Role, Server};

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Senders repeat what was not acknowledged for up to three days (Stripe, Mailtarget).
const DEDUPE_SHORT_MS: u64 = 3 * DAY_MS;
const RETENTION_MAX_MS: u64 = 3_660 * DAY_MS;

pub fn server(reader: &Reader, table: &Table) -> Option<Server> {
    reader.known(table, "server", &names(SERVER));
    let before = reader.count();
    let role = table.get("role").map_or(Some(Role::All), |node| role(reader, node));
    let listen = table.get("listen").map_or(Some(LISTEN), |node| address(reader, node));
    let operator_listen = table.get("operator_listen").and_then(|node| operator(reader, node, listen));
    let tls = table.get("tls").and_then(|node| certificate::own(reader, node));
    let scheme = if tls.is_some() { "https" } else { "http" };
    let public_url = match table.get("public_url") {
        Some(node) => public_url(reader, node),
        None => listen.map(|listen| format!("{scheme}://{listen}")),
    };
    let trusted_proxies = table.get("trusted_proxies").map_or_else(Vec::new, |node| proxies(reader, node));
    let body = table.get("body_max").map_or(Some(limits::BODY_BYTES_MAX), |node| size(reader, node));
    let share = limits::CONNECTIONS_PER_ADDRESS;
    let share = table.get("connections_per_address").map_or(Some(share), |node| connections(reader, node));
    if reader.count() > before {
        return None;
    }
    Some(Server {
        role: role?,
        listen: listen?,
        operator_listen,
        tls,
        public_url: public_url?,
        trusted_proxies,
        body_bytes_max: body?,
        connections_per_address: share?,
    })
}

fn role(reader: &Reader, node: &Node) -> Option<Role> {
    let help = "write role = \"all\", \"intake\" or \"delivery\"";
    let text = reader.text(node, help)?;
    let role = Role::ALL.into_iter().find(|role| role.name() == text);
    if role.is_none() {
        reader.problem(&node.at, format!("`{}` is no role", clip(text, 40)), help);
    }
    role
}

fn address(reader: &Reader, node: &Node) -> Option<SocketAddr> {
    let text = reader.text(node, "write address and port, like \"127.0.0.1:8080\"")?;
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric.parse().ok().or_else(|| {
        reader.problem(
            &node.at,
            format!("`{}` is no address to listen at", clip(text, 80)),
            "write an IP address and a port, like \"127.0.0.1:8080\", \"0.0.0.0:8080\" or \"[::]:8080\"",
        );
        None
    })
}

fn operator(reader: &Reader, node: &Node, listen: Option<SocketAddr>) -> Option<SocketAddr> {
    let own = address(reader, node)?;
    if Some(own) != listen || own.port() == 0 {
        return Some(own);
    }
    let help = "write another port, or leave operator_listen out to have all paths at one address";
    reader.problem(&node.at, "`operator_listen` is the same as `listen`", help);
    None
}

fn public_url(reader: &Reader, node: &Node) -> Option<String> {
    let help = "write how senders reach the hub, like \"https://hub.example.com\"";
    let text = reader.text(node, help)?;
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(url) = url else {
        reader.problem(&node.at, format!("`{}` is not an http or https URL", clip(text, 80)), help);
        return None;
    };
    if url.query().is_some()
        || url.fragment().is_some()
        || !url.username().is_empty()
        || url.password().is_some()
    {
        reader.hide(&node.at);
        reader.problem(&node.at, "`public_url` has more than scheme, host, port and path", help);
        return None;
    }
    Some(text.trim_end_matches('/').to_owned())
}

fn proxies(reader: &Reader, node: &Node) -> Vec<IpNet> {
    let help = "write addresses or CIDR blocks, like [\"10.0.0.0/8\"]";
    let texts = reader.texts(node, help).unwrap_or_default();
    let mut proxies = Vec::with_capacity(texts.len());
    for (item, text) in texts {
        match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(net) => proxies.push(net),
            Err(_) => reader.problem(
                &item.at,
                format!("`{}` is neither an address nor a CIDR block", clip(text, 60)),
                help,
            ),
        }
    }
    proxies
}

fn connections(reader: &Reader, node: &Node) -> Option<usize> {
    reader.number(node, 1, limits::CONNECTIONS_MAX as u32).map(|number| number as usize)
}

/// `"5MiB"`, `"500KB"`, `"65536B"`.
fn size(reader: &Reader, node: &Node) -> Option<usize> {
    let help = "write a whole number and B, KB, MB, KiB or MiB, like \"5MiB\"";
    let text = reader.text(node, help)?;
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[digits..].trim() {
        "B" => Some(1),
        "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        _ => None,
    };
    let bytes = unit.and_then(|unit| text[..digits].parse::<usize>().ok()?.checked_mul(unit));
    match bytes {
        Some(bytes) if (1 << 10..=limits::BODY_BYTES_CEILING).contains(&bytes) => return Some(bytes),
        Some(_) => reader.problem(&node.at, "out of range", "write 1KiB to 64MiB"),
        None => reader.problem(&node.at, format!("`{}` is not a size", clip(text, 40)), help),
    }
    None
}

/// The private addresses that the operator named.
pub fn egress(reader: &Reader, table: &Table) -> Vec<Allowance> {
    reader.known(table, "egress", &names(EGRESS));
    let help = "write [\"ADDRESS:PORT\"], like [\"10.1.2.3:443\", \"127.0.0.1:19100-19199\"]";
    let texts = table.get("allow").and_then(|node| reader.texts(node, help)).unwrap_or_default();
    texts.into_iter().filter_map(|(node, text)| reader.parsed(node, Allowance::parse(text))).collect()
}

/// How many requests may wait to be stored.
pub fn limits(reader: &Reader, table: &Table) -> Option<usize> {
    reader.known(table, "limits", &names(LIMITS));
    let most = u32::try_from(limits::CONNECTIONS_MAX).unwrap_or(u32::MAX);
    match table.get("intake_queue") {
        Some(node) => reader.number(node, 1, most).map(|number| number as usize),
        None => Some(limits::INTAKE_QUEUE_MAX),
    }
}

pub fn retention(reader: &Reader, table: &Table) -> Option<Retention> {
    reader.known(table, "retention", &names(RETENTION));
    let span = |key: &str, days: u64| match table.get(key) {
        Some(node) => reader.span(node, HOUR_MS, RETENTION_MAX_MS),
        None => Some(Span { ms: days * DAY_MS }),
    };
    let (requests, events, dedupe) = (span("requests", 30), span("events", 90), span("dedupe", 30));
    let kept = Retention { requests: requests?, events: events?, dedupe: dedupe? };
    if let Some(node) = table.get("dedupe").filter(|_| kept.dedupe.ms < DEDUPE_SHORT_MS) {
        reader.warn(
            &node.at,
            "senders repeat for up to three days: a copy that comes later than this counts as new",
        );
    }
    Some(kept)
}
