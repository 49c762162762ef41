//! `[sources.NAME]`.

use std::collections::HashMap;
use std::sync::Arc;

use mailspan_connectors::contract::{Kind, SourceKind};
use mailspan_core::{Named, clip};
use mailspan_egress::Allowance;
use mailspan_maps::{Program, Purpose};

use super::access::access;
use super::asked;
use super::kinds::{self, Side};
use super::programs::program;
use super::reader::Reader;
use super::secrets;
use super::settings::{SOURCE, names};
use super::tree::{Entry, Table};
use crate::hub::{Access, Source};

/// Where kind `api` listens.
const API_PATH: &str = "/v1/events";
const PATH_BYTES_MAX: usize = 200;
/// Paths that are the hub's own.
const OWN_PATHS: &[&str] = &[
    "/v1",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/contacts",
    "/suppressions",
    "/webhooks/contacts",
    "/webhooks/endpoints",
    "/doi",
    "/u",
    "/track",
];

/// Each section that holds; the others are reported.
pub fn sources(reader: &Reader, table: &Table, allow: &[Allowance]) -> Vec<Arc<Source>> {
    let mut sources: Vec<Arc<Source>> = Vec::with_capacity(table.entries.len());
    let mut api: Option<&str> = None;
    let mut paths = Paths::default();
    for entry in &table.entries {
        let mut seat = None;
        let source = source(reader, entry, allow, &mut seat);
        // Whatever else is wrong with one of them: every problem is told at once.
        if let Some(seat) = seat {
            if let Some(other) = paths.taken(&seat) {
                let message = format!(
                    "`sources.{other}` and `sources.{}` would both get requests to `{}`",
                    seat.source, seat.path
                );
                reader.problem(path_place(entry), message, "write another `path` for one of them");
                continue;
            }
            paths.take(seat);
        }
        let Some(source) = source else { continue };
        if source.path == API_PATH {
            if let Some(first) = api {
                let message = format!("`sources.{}` is a second source of kind `api`", entry.key);
                reader.problem(
                    &entry.key_at,
                    message,
                    format!("`sources.{first}` has {API_PATH}: one is enough for all keys"),
                );
                continue;
            }
            api = Some(&entry.key);
        }
        sources.push(Arc::new(source));
    }
    sources
}

/// The path that a source asks for.
struct Seat {
    source: String,
    path: String,
    /// Its last segment is a secret: all paths right below it are the source's.
    is_open: bool,
}

/// The paths that sources have, each with its source's name.
#[derive(Default)]
struct Paths {
    exact: HashMap<String, String>,
    /// Of those, the open ones.
    open: HashMap<String, String>,
    /// What is one segment above a path that is taken.
    above: HashMap<String, String>,
}

impl Paths {
    /// Who has the same path, or one below or above it where the last segment is a secret.
    fn taken(&self, seat: &Seat) -> Option<&String> {
        let same = self.exact.get(&seat.path);
        let below = || self.open.get(parent(&seat.path));
        let above = || self.above.get(&seat.path).filter(|_| seat.is_open);
        same.or_else(below).or_else(above)
    }

    fn take(&mut self, seat: Seat) {
        self.above.entry(parent(&seat.path).to_owned()).or_insert_with(|| seat.source.clone());
        if seat.is_open {
            self.open.insert(seat.path.clone(), seat.source.clone());
        }
        self.exact.insert(seat.path, seat.source);
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn path_place(entry: &Entry) -> &super::report::Place {
    match &entry.node.data {
        super::tree::Data::Table(table) => table.get("path").map_or(&entry.key_at, |node| &node.at),
        _ => &entry.key_at,
    }
}

/// `seat`: what it asks for, also where the section does not hold; nothing for kind `api`, which has its own path.
fn source(reader: &Reader, entry: &Entry, allow: &[Allowance], seat: &mut Option<Seat>) -> Option<Source> {
    let before = reader.count();
    let place = format!("sources.{}", entry.key);
    let table = reader.table(&entry.node, "write [sources.NAME] with kind = \"…\" below it")?;
    let name = reader.name(&entry.key_at, &entry.key);
    if crate::hub::OWN_SOURCES.contains(&entry.key.as_str()) {
        let help = format!("write another name: routes take the hub's own events from `{}`", entry.key);
        reader.problem(&entry.key_at, format!("the name `{}` is the hub's own source", entry.key), help);
    }
    let tenant = reader.tenant(table);
    let given = table.get("secrets").map(|node| secrets::list(reader, node, &format!("{place}.secrets")));
    let access = table.get("access").map(|node| access(reader, node, &format!("{place}.access")));
    let path = path(reader, table, &entry.key);
    // Destinations look for it; here only its shape is judged.
    let _ = table.get("account").and_then(|node| reader.text(node, "write account = \"mailingcore\""));
    let parse = table.get("parse").map(|node| program(reader, node, Purpose::Parse));
    let kind = kinds::kind(reader, table, &entry.key_at, &place, Side::Source)?;
    if kind.name != "api" {
        let is_open = matches!(access, Some(Some(Access::Path { .. })));
        *seat = path.clone().map(|path| Seat { source: entry.key.clone(), path, is_open });
    }
    let of = kind.source.as_ref()?;
    if let (Some(node), Some(Some(secrets))) = (table.get("secrets"), &given) {
        secrets::readable(reader, &node.at, kind.name, secrets);
    }
    let known = reader.count();
    let own = kinds::own(reader, table, &place, &names(SOURCE), &(of.schema)());
    let own_of = own.clone();
    let logic = kinds::build(reader, entry, own, reader.count() == known, of.build);
    let asked = asked::asked(reader, entry, kind, own_of, allow);
    proof(
        reader,
        entry,
        kind,
        of,
        given.as_ref().map(Option::as_deref),
        access.is_some() || table.has("auth"),
    );
    if of.needs_parse && parse.is_none() {
        let help = "write parse = '''…''' with a VRL program that makes an event of { body, headers, query }";
        reader.problem(
            &entry.key_at,
            format!("`{place}` has no `parse`: kind `{}` cannot know what its senders say", kind.name),
            help,
        );
    }
    if reader.count() > before {
        return None;
    }
    let path = if kind.name == "api" { API_PATH.to_owned() } else { path? };
    let parse: Option<Program> = parse.flatten();
    let (secrets, access) = (given.flatten().unwrap_or_default(), access.flatten());
    Some(Source { name: name?, tenant: tenant?, kind, path, secrets, access, logic: logic?, parse, asked })
}

/// No secret, no source: something must prove who sends. `given` is the outer `None` where the
/// file has no `secrets`, the inner one where they are wrong and were reported.
fn proof(
    reader: &Reader,
    entry: &Entry,
    kind: &Kind,
    of: &SourceKind,
    given: Option<Option<&[Named]>>,
    access: bool,
) {
    let super::tree::Data::Table(table) = &entry.node.data else { return };
    let place = format!("sources.{}", entry.key);
    if !of.needs_secret {
        for key in ["secrets", "access", "path", "parse"] {
            let unused = kind.name == "api" && table.has(key);
            if let Some(found) = table.entry(key).filter(|_| unused) {
                let help = format!(
                    "leave it out: callers of {API_PATH} show a key of scope events:write (`mailspan keys create`)"
                );
                reader.problem(
                    &found.key_at,
                    format!("`{key}` means nothing for kind `{}`", kind.name),
                    help,
                );
            }
        }
        return;
    }
    let help = secrets::example(&format!("{place}.secret"))
        .replacen("write ", "write secrets = [", 1)
        .replacen(" and set", "] and set", 1);
    match given {
        None if !access => reader.problem(
            &entry.key_at,
            format!("`{place}` has no `secrets`: anyone could post to it"),
            help,
        ),
        Some(Some([])) if !access => {
            let at = table.get("secrets").map_or(&entry.key_at, |node| &node.at);
            reader.problem(at, format!("`secrets` of `{place}` is empty: anyone could post to it"), help);
        }
        _ => {}
    }
}

fn path(reader: &Reader, table: &Table, name: &str) -> Option<String> {
    let Some(node) = table.get("path") else { return Some(format!("/in/{name}")) };
    let help =
        "write an absolute path of letters, digits, `_`, `-`, `.` and `/`, like \"/webhooks/mailtarget\"";
    let text = reader.text(node, help)?;
    let fits = |segment: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '~');
        !segment.is_empty() && segment != "." && segment != ".." && segment.chars().all(plain)
    };
    let segments = text.strip_prefix('/').filter(|rest| rest.split('/').all(fits));
    if segments.is_none() || text.len() > PATH_BYTES_MAX {
        reader.problem(&node.at, format!("`{}` is no path", clip(text, 80)), help);
        return None;
    }
    let taken =
        |own: &&&str| text.strip_prefix(**own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if let Some(own) = OWN_PATHS.iter().find(taken) {
        reader.problem(
            &node.at,
            format!("`{own}` belongs to the hub itself"),
            "write another path, like \"/webhooks/mailtarget\"",
        );
        return None;
    }
    Some(text.to_owned())
}
