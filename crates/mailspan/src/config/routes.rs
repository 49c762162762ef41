//! `[[routes]]`: from which sources, by which condition and map, to which destinations.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mailspan_connectors::registry::kind;
use mailspan_core::{EventType, Name, clip};
use mailspan_egress::Allowance;
use mailspan_maps::Purpose;
use serde_json::json;

use super::destinations::notify;
use super::endpoint::{http_url, judge};
use super::programs::program;
use super::reader::{Reader, suggestion};
use super::report::Place;
use super::settings::{ROUTE, names};
use super::tree::{Node, Table};
use crate::hub::{Destination, Map, Route};

/// What a route can name: all sections of the file, also those that are wrong, with their tenants.
pub struct Ends<'t> {
    pub sources: &'t Table,
    pub destinations: &'t Table,
}

/// The routes that hold, and the destinations that their `notify` makes.
pub fn routes(
    reader: &Reader,
    list: &[Node],
    ends: &Ends,
    allow: &[Allowance],
) -> (Vec<Arc<Route>>, Vec<Arc<Destination>>) {
    let mut seen: HashMap<&str, &Place> = HashMap::with_capacity(list.len());
    let (mut routes, mut made) = (Vec::with_capacity(list.len()), Vec::new());
    for node in list {
        let Some(table) = reader.table(node, "write [[routes]] with name = \"…\" below it") else {
            continue;
        };
        if let Some((name, at)) = name_of(table) {
            match seen.get(name) {
                Some(first) => again(reader, at, name, first),
                None => drop(seen.insert(name, at)),
            }
        }
        let Some((route, destination)) = route(reader, node, table, ends, allow) else { continue };
        routes.push(Arc::new(route));
        made.extend(destination.map(Arc::new));
    }
    (routes, made)
}

fn name_of(table: &Table) -> Option<(&str, &Place)> {
    let node = table.get("name")?;
    match &node.data {
        super::tree::Data::Text(text) => Some((text, &node.at)),
        _ => None,
    }
}

fn again(reader: &Reader, at: &Place, name: &str, first: &Place) {
    let line = reader.line(first);
    let help =
        format!("line {line} has it: its name is part of every idempotency key, so it must be its own");
    reader.problem(at, format!("a second route `{}`", clip(name, 60)), help);
}

fn route(
    reader: &Reader,
    node: &Node,
    table: &Table,
    ends: &Ends,
    allow: &[Allowance],
) -> Option<(Route, Option<Destination>)> {
    let before = reader.count();
    reader.known(table, "[routes]", &names(ROUTE));
    let name = reader.required(table, &node.at, "name", "route", "name = \"engagement\"");
    let name = name.and_then(|node| reader.name(&node.at, reader.text(node, "write name = \"engagement\"")?));
    let tenant = reader.tenant(table);
    let from = table.get("from").map(|node| ends_of(reader, node, "source", ends.sources, tenant.as_ref()));
    let to =
        table.get("to").map(|node| ends_of(reader, node, "destination", ends.destinations, tenant.as_ref()));
    let events = table.get("events").map_or_else(Vec::new, |node| events(reader, node));
    let when = table.get("when").map(|node| program(reader, node, Purpose::Condition));
    let map = table.get("map").map_or(Some(Map::Default), |node| map(reader, node));
    let create = table.get("create_contacts").and_then(|node| reader.flag(node)).unwrap_or(false);
    let url = table.get("notify").and_then(|node| {
        let url = http_url(reader, node)?;
        judge(reader, &node.at, &url, allow);
        Some(url)
    });
    if to.is_none() && !table.has("notify") {
        reader.problem(
            &node.at,
            "the route has no `to`: its events would go nowhere",
            "write to = [\"NAME\"] with a destination",
        );
    }
    if reader.count() > before {
        return None;
    }
    let (name, tenant) = (name?, tenant?);
    let made = match (&url, table.entry("notify")) {
        (Some(url), Some(entry)) => Some(notified(reader, &name, &tenant, url.as_str(), &entry.node, ends)?),
        _ => None,
    };
    let route = Route {
        name,
        tenant,
        from: from.unwrap_or_default(),
        events,
        when: when.flatten(),
        map: map?,
        to: to.unwrap_or_default(),
        create_contacts: create,
        notify: made.as_ref().map(|destination| destination.name.clone()),
    };
    Some((route, made))
}

fn notified(
    reader: &Reader,
    route: &Name,
    tenant: &Name,
    url: &str,
    node: &Node,
    ends: &Ends,
) -> Option<Destination> {
    let name = Name::new(&format!("{route}.notify"));
    if let Some(entry) = ends.destinations.entry(name.as_str()) {
        let help =
            format!("`notify` of the route `{route}` makes a destination of this name: write another one");
        reader.problem(&entry.key_at, format!("the name `{name}` is taken"), help);
        return None;
    }
    let kind = kind("http")?;
    let of = kind.sink.as_ref()?;
    match (of.build)(&json!({})) {
        Ok(sink) => Some(notify(kind, sink, of.defaults, name, tenant.clone(), url)),
        Err(bad) => {
            reader.problem(&node.at, bad.text, "");
            None
        }
    }
}

/// The names of a route's sources or destinations; each must be there, once, and of the route's tenant.
fn ends_of(reader: &Reader, node: &Node, what: &str, sections: &Table, tenant: Option<&Name>) -> Vec<Name> {
    let first = sections.entries.first().map_or("crm", |entry| entry.key.as_str());
    let example = format!("write a list of names, like [\"{}\"]", clip(first, 60));
    let Some(texts) = reader.texts(node, &example) else { return Vec::new() };
    if is_empty(node) {
        let help = match what {
            "source" => "leave `from` out to take from every source of the tenant",
            _ => "write at least one destination",
        };
        reader.problem(&node.at, format!("the list names no {what}"), help);
    }
    let mut found: Vec<Name> = Vec::with_capacity(texts.len());
    let mut seen: HashSet<&str> = HashSet::with_capacity(texts.len());
    for (item, text) in texts {
        if what == "source" && crate::hub::OWN_SOURCES.contains(&text) {
            found.push(Name::new(text));
            continue;
        }
        let Some(entry) = sections.entry(text) else {
            let mut help = reader.suggestion(text, sections.entries.iter().map(|entry| entry.key.as_str()));
            if !help.starts_with("did you mean") {
                help = format!("{help}; write [{what}s.{}] or another name", clip(text, 60));
            }
            reader.problem(&item.at, format!("no {what} is named `{}`", clip(text, 60)), help);
            continue;
        };
        if !seen.insert(text) {
            reader.problem(&item.at, format!("the {what} `{text}` is here twice"), "leave one out");
            continue;
        }
        let theirs = tenant_of(&entry.node);
        if tenant.is_some_and(|tenant| tenant.as_str() != theirs) {
            let help = format!(
                "routes stay inside a tenant: write tenant = \"{theirs}\" at the route, or name another {what}"
            );
            reader.problem(&item.at, format!("the {what} `{text}` belongs to the tenant `{theirs}`"), help);
            continue;
        }
        found.push(Name::new(text));
    }
    found
}

fn is_empty(list: &Node) -> bool {
    matches!(&list.data, super::tree::Data::List(list) if list.is_empty())
}

fn tenant_of(node: &Node) -> &str {
    let super::tree::Data::Table(table) = &node.data else { return "default" };
    match table.get("tenant").map(|node| &node.data) {
        Some(super::tree::Data::Text(tenant)) => tenant,
        _ => "default",
    }
}

/// Types that the hub's own parsers make; others are warned about only where the family is one of these.
const TYPES: &[&str] = &[
    "email.sent",
    "email.delivered",
    "email.deferred",
    "email.opened",
    "email.clicked",
    "email.bounced",
    "email.complained",
    "email.failed",
    "email.unknown",
    "contact.created",
    "contact.updated",
    "contact.subscribed",
    "contact.confirmed",
    "contact.unsubscribed",
    "contact.erased",
    "contact.unknown",
];

fn events(reader: &Reader, node: &Node) -> Vec<String> {
    let help = "write a list of types, like [\"email.clicked\", \"contact.*\"]";
    let Some(texts) = reader.texts(node, help) else { return Vec::new() };
    if is_empty(node) {
        reader.problem(&node.at, "the list names no event type", "leave `events` out to take every type");
    }
    let mut patterns = Vec::with_capacity(texts.len());
    for (item, text) in texts {
        let plain = text.strip_suffix('*').unwrap_or(text);
        if text != "*" && EventType::parse(plain).is_err() {
            let help = "write letters, digits and `.`, `_`, `-`, `/`, `:`: a type like \"email.clicked\", or a family like \"email.*\"";
            reader.problem(&item.at, format!("`{}` is no event type", clip(text, 60)), help);
            continue;
        }
        // An application may call its events as it likes; the hub's own all have a family.
        let family = TYPES.iter().find(|ours| ours.split_once('.').is_some_and(|(_, verb)| verb == text));
        if let Some(ours) = family {
            let words = "is what an application may send; the hub's own parsers make";
            reader.warn(&item.at, format_args!("`{text}` {words} `{ours}`"));
        }
        let ours = ["email.", "contact."].iter().any(|family| plain.starts_with(family));
        if ours && text == plain && !TYPES.contains(&text) {
            reader.warn(
                &item.at,
                format_args!("no parser of the hub makes `{text}`: {}", suggestion(text, TYPES)),
            );
        }
        patterns.push(text.to_owned());
    }
    patterns
}

/// `"crm"`, `"audience"`, or a program.
fn map(reader: &Reader, node: &Node) -> Option<Map> {
    let text = reader.text(node, "write map = \"crm\" or a VRL program between ''' and '''")?;
    match text {
        "crm" => return Some(Map::Crm),
        "audience" => return Some(Map::Audience),
        _ => {}
    }
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !text.is_empty()
        && text.chars().all(word)
        && !matches!(text, "true" | "false" | "null")
        && text.parse::<f64>().is_err()
    {
        let help = "write \"crm\" or \"audience\", the built-in maps, or a VRL program between ''' and '''";
        reader.problem(&node.at, format!("no built-in map is named `{}`", clip(text, 60)), help);
        return None;
    }
    program(reader, node, Purpose::Map).map(Map::Program)
}
