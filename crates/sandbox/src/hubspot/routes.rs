//! Which path does what. Dated, numbered and unknown versions; the scope that each path needs.

use std::collections::BTreeMap;

use mailspan_core::Millis;
use serde_json::Value;

use super::book::Book;
use super::model::Kind;
use super::problem::Problem;
use super::{associations, consent, objects, owners, properties};
use crate::wire::Reply;

pub(crate) type Query = BTreeMap<String, String>;
pub(crate) type Answered = Result<Reply, Problem>;

/// The path without `crm` and its version: `/crm/objects/2026-03/notes`, `/crm/v3/objects/notes` →
/// `objects notes`; `/communication-preferences/2026-03/statuses/…` → `preferences statuses …`.
/// Nothing where there is no such version.
pub(crate) fn unversioned(path: &[String]) -> Option<Vec<String>> {
    match path {
        [first, version, rest @ ..] if first == "communication-preferences" && is_version(version) => {
            Some(std::iter::once("preferences".to_owned()).chain(rest.iter().cloned()).collect())
        }
        [first, version, rest @ ..] if first == "crm" && is_version(version) => Some(rest.to_vec()),
        [first, area, version, rest @ ..] if first == "crm" && is_version(version) => {
            Some(std::iter::once(area.clone()).chain(rest.iter().cloned()).collect())
        }
        _ => None,
    }
}

/// `v3`, `v4`, or a date version of March or September since 2025-09.
fn is_version(text: &str) -> bool {
    matches!(text, "v3" | "v4")
        || text.split_once('-').is_some_and(|(year, month)| {
            year.len() == 4
                && year.parse::<u16>().is_ok()
                && matches!(month, "03" | "09")
                && text >= "2025-09"
        })
}

/// The scope that a request needs.
pub(crate) fn scope(method: &str, path: &[&str]) -> &'static str {
    let reads = method == "GET" || path.contains(&"read");
    match (path, reads) {
        (["preferences", ..], _) if path.contains(&"batch") => {
            "communication_preferences.statuses.batch.write"
        }
        (["preferences", ..], _) => "communication_preferences.read_write",
        (["owners", ..], _) => "crm.objects.owners.read",
        (["properties", ..], true) => "crm.schemas.contacts.read",
        (["properties", ..], false) => "crm.schemas.contacts.write",
        (["objects", "deals", ..], true) => "crm.objects.deals.read",
        (["objects", "deals", ..], false) => "crm.objects.deals.write",
        (_, true) => "crm.objects.contacts.read",
        (_, false) => "crm.objects.contacts.write",
    }
}

/// Does what a path says; nothing where no path fits.
pub(crate) fn act(
    book: &mut Book,
    method: &str,
    path: &[&str],
    query: &Query,
    body: &Value,
    now: Millis,
) -> Option<Answered> {
    match path {
        ["objects", "contacts", "gdpr-delete"] if method == "POST" => Some(objects::erase(book, body)),
        ["objects", kind, rest @ ..] => of_objects(book, method, Kind::parse(kind)?, rest, query, body, now),
        ["associations", from, to, "batch", verb @ ..] if method == "POST" => {
            let (from, to) = (Kind::parse(from)?, Kind::parse(to)?);
            associations::act(book, from, to, verb, body, now)
        }
        ["owners", rest @ ..] if method == "GET" => owners::act(book, rest, query),
        ["properties", kind, rest @ ..] => properties::act(book, method, Kind::parse(kind)?, rest, body, now),
        ["preferences", rest @ ..] => consent::act(book, method, rest, query, body, now),
        _ => None,
    }
}

fn of_objects(
    book: &mut Book,
    method: &str,
    kind: Kind,
    path: &[&str],
    query: &Query,
    body: &Value,
    now: Millis,
) -> Option<Answered> {
    match (method, path) {
        ("POST", ["batch", verb]) => objects::batch(book, kind, verb, body, now),
        ("GET", []) => Some(objects::list(book, kind, query)),
        ("POST", []) => Some(objects::create_one(book, kind, body, now)),
        ("GET", [id]) => Some(objects::read_one(book, kind, id, query)),
        ("PATCH", [id]) => Some(objects::update_one(book, kind, id, query, body, now)),
        ("DELETE", [id]) => Some(objects::archive_one(book, kind, id)),
        ("PUT", [id, "associations", "default", to, to_id]) => {
            Some(associations::put(book, (kind, id), (Kind::parse(to)?, to_id)))
        }
        _ => None,
    }
}
