//! How a source is asked for what it did not tell: `auth`, `base_url` and the kind's `poll`.

use aws_lc_rs::digest::{SHA256, digest};
use mailspan_connectors::contract::Kind;
use mailspan_egress::{Allowance, Target};
use serde_json::Value;

use super::access::auth;
use super::endpoint::{http_url, judge};
use super::reader::Reader;
use super::tree::{Data, Entry, Table};
use crate::hub::Asked;

/// Nothing where the section has no `auth`, or what it has is reported.
pub fn asked(
    reader: &Reader,
    entry: &Entry,
    kind: &'static Kind,
    own: Value,
    allow: &[Allowance],
) -> Option<Asked> {
    let Data::Table(table) = &entry.node.data else { return None };
    let place = format!("sources.{}", entry.key);
    let Some(of) = &kind.ask else {
        for found in ["auth", "base_url"].iter().filter_map(|key| table.entry(key)) {
            let message = format!("`{}` means nothing for kind `{}`", found.key, kind.name);
            reader.problem(&found.key_at, message, "leave it out: sources of this kind are only listened to");
        }
        return None;
    };
    let Some(node) = table.get("auth") else {
        for found in ["base_url", "poll"].iter().filter_map(|key| table.entry(key)) {
            let message = format!("`{place}` has `{}` and no `auth`", found.key);
            let help =
                "write auth = { kind = \"bearer\", token = { env = \"CORE_KEY\" } }: nobody answers without";
            reader.problem(&found.key_at, message, help);
        }
        return None;
    };
    let auth = auth(reader, node, &format!("{place}.auth"));
    let base_url = base_url(reader, table, of.base_url, allow)?;
    // What the settings are wrong in, the source itself has reported.
    let poll = of.poll.map(|build| build(&own)).transpose().ok()?;
    let log = of.log.map(|build| build());
    let (requests, per_ms) = of.rate;
    let target = Target {
        key: format!("source-{}-{}", entry.key, number(&base_url)),
        base_url,
        concurrency: 1,
        timeout_ms: of.timeout_ms,
        ca: None,
        client_certificate: None,
        title_case_headers: false,
    };
    Some(Asked { target, auth: auth?, poll, log, pause_ms: per_ms / u64::from(requests.max(1)) })
}

/// Without a slash at its end.
fn base_url(reader: &Reader, table: &Table, usual: &str, allow: &[Allowance]) -> Option<String> {
    let Some(node) = table.get("base_url") else { return Some(usual.to_owned()) };
    let url = http_url(reader, node)?;
    if url.query().is_some() {
        let help = "write scheme, host, port and path: the kind appends its own";
        reader.problem(&node.at, "`base_url` has a query", help);
        return None;
    }
    judge(reader, &node.at, &url, allow);
    Some(url.as_str().trim_end_matches('/').to_owned())
}

/// Connections are kept by it: another address, another number.
fn number(url: &str) -> String {
    digest(&SHA256, url.as_bytes()).as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
