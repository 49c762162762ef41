//! The settings that a kind adds of its own: from the tree to the connector, its refusal back to the tree.

use mailspan_connectors::contract::{BadSetting, Kind};
use mailspan_connectors::registry::KINDS;
use mailspan_core::clip;
use serde_json::{Map, Value};

use super::reader::{Reader, suggestion};
use super::report::Place;
use super::tree::{Data, Entry, Node, Table};

/// Which half of a kind is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

/// The kind that a section names.
pub fn kind(reader: &Reader, table: &Table, at: &Place, place: &str, side: Side) -> Option<&'static Kind> {
    let known = known(side);
    let example = format!("kind = \"…\" with one of {}", known.join(", "));
    let node = reader.required(table, at, "kind", place, &example)?;
    let word = reader.text(node, &format!("write {example}"))?;
    if let Some(kind) = KINDS.iter().find(|kind| kind.name == word && fits(kind, side)) {
        return Some(kind);
    }
    let (wanted, other) = match side {
        Side::Source => ("source", "destination"),
        Side::Destination => ("destination", "source"),
    };
    let message = match KINDS.iter().any(|kind| kind.name == word) {
        true => format!("`{word}` is a kind of {other}, not of {wanted}"),
        false => format!("unknown kind of {wanted} `{}`", clip(word, 60)),
    };
    reader.problem(&node.at, message, suggestion(word, &known));
    None
}

fn known(side: Side) -> Vec<&'static str> {
    KINDS.iter().filter(|kind| fits(kind, side)).map(|kind| kind.name).collect()
}

pub fn fits(kind: &Kind, side: Side) -> bool {
    match side {
        Side::Source => kind.source.is_some(),
        Side::Destination => kind.sink.is_some(),
    }
}

/// The kind's own part of a section: what is not `common`, and what its schema asks for by name.
/// Keys that neither knows are reported and left out, so `build` judges the rest.
pub fn own(reader: &Reader, table: &Table, place: &str, common: &[&str], schema: &Value) -> Value {
    let mut properties = Map::new();
    let closed = collect(schema, schema, &mut properties, 0);
    let mut known: Vec<&str> = common.to_vec();
    known.extend(properties.keys().map(String::as_str).filter(|key| !common.contains(key)));
    let mut own = Map::new();
    for entry in &table.entries {
        let key = entry.key.as_str();
        match properties.get(key) {
            Some(of) => drop(own.insert(
                entry.key.clone(),
                stripped(reader, &entry.node, &format!("{place}.{key}"), of, schema, 0),
            )),
            None if common.contains(&key) => {}
            None if closed => reader.unknown(entry, place, &known),
            None => drop(own.insert(entry.key.clone(), entry.node.json())),
        }
    }
    Value::Object(own)
}

/// Schemas are the connectors' own; deeper ones than this are not looked into.
const DEPTH_MAX: usize = 8;

/// The properties of a schema over all its branches; false where it takes any key.
fn collect(schema: &Value, root: &Value, into: &mut Map<String, Value>, depth: usize) -> bool {
    if depth > DEPTH_MAX {
        return false;
    }
    if let Some(target) = target(schema, root) {
        return collect(target, root, into, depth + 1);
    }
    let mut closed = schema.get("additionalProperties").is_none_or(|more| more == &Value::Bool(false));
    let properties = schema.get("properties").and_then(Value::as_object);
    for (key, of) in properties.into_iter().flatten() {
        into.insert(key.clone(), of.clone());
    }
    for branch in ["allOf", "anyOf", "oneOf"].iter().filter_map(|word| schema.get(word)?.as_array()).flatten()
    {
        // `null` and plain values stand beside a table where a setting is optional or has two shapes.
        if branch.get("type").is_none_or(|of| of == "object") {
            closed &= collect(branch, root, into, depth + 1);
        }
    }
    closed
}

fn target<'s>(schema: &Value, root: &'s Value) -> Option<&'s Value> {
    let path = schema.get("$ref")?.as_str()?.strip_prefix('#')?;
    root.pointer(path)
}

/// JSON of a node without the keys that its schema does not know.
fn stripped(reader: &Reader, node: &Node, place: &str, schema: &Value, root: &Value, depth: usize) -> Value {
    let mut properties = Map::new();
    match &node.data {
        Data::Table(table) if collect(schema, root, &mut properties, 0) && !properties.is_empty() => {
            let known: Vec<&str> = properties.keys().map(String::as_str).collect();
            let mut kept = Map::new();
            for entry in &table.entries {
                match properties.get(&entry.key) {
                    Some(of) if depth < DEPTH_MAX => {
                        let place = format!("{place}.{}", entry.key);
                        kept.insert(
                            entry.key.clone(),
                            stripped(reader, &entry.node, &place, of, root, depth + 1),
                        );
                    }
                    Some(_) => drop(kept.insert(entry.key.clone(), entry.node.json())),
                    None => reader.unknown(entry, place, &known),
                }
            }
            Value::Object(kept)
        }
        _ => node.json(),
    }
}

/// How many refusals of one section are looked for: each takes the refused value away and asks again.
const TRIES_MAX: usize = 100;

/// Builds the connector; what it refuses is reported where it stands. `whole` is false where keys
/// were left out because nobody knows them: then, as after a first refusal, only complaints about
/// a value itself are reported, since what is missing was perhaps misspelled or taken away.
pub fn build<T>(
    reader: &Reader,
    entry: &Entry,
    own: Value,
    whole: bool,
    build: impl Fn(&Value) -> Result<T, BadSetting>,
) -> Option<T> {
    let mut left = own;
    let mut sure = whole;
    let mut gone: Vec<Vec<String>> = Vec::new();
    for tries in 0..TRIES_MAX {
        let bad = match build(&left) {
            Ok(built) if tries == 0 => return Some(built),
            Ok(_) => return None,
            Err(bad) => bad,
        };
        let path = match sure || of_the_value(&left, &bad) {
            true => {
                let path = as_written(&bad.path, &gone);
                report(reader, entry, &BadSetting { path, text: bad.text });
                bad.path
            }
            // Perhaps only since something is gone: what has this setting's other faults in it goes too.
            false => vec![bad.path.into_iter().next()?],
        };
        remove(&mut left, &path)?;
        gone.push(path);
        sure = false;
    }
    None
}

/// Complaints that no other key can be the reason of: in the words of serde and of spans and rates, about one value
/// inside a setting, or about a text that they quote.
fn of_the_value(left: &Value, bad: &BadSetting) -> bool {
    let words =
        ["invalid type", "invalid value", "unknown variant", "is not a length of time", "is not a rate"];
    let found = bad.path.iter().try_fold(left, |value, step| child(value, step));
    words.iter().any(|words| bad.text.contains(words))
        || found.is_some() && bad.path.len() > 1
        || found.and_then(Value::as_str).is_some_and(|text| quotes(&bad.text, text))
}

fn quotes(complaint: &str, text: &str) -> bool {
    let begins: String = text.chars().take(QUOTED_CHARS).collect();
    !begins.is_empty() && complaint.contains(&format!("`{begins}"))
}

/// As much of a text as every complaint quotes.
const QUOTED_CHARS: usize = 20;

fn child<'v>(value: &'v Value, step: &str) -> Option<&'v Value> {
    match value {
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        other => other.get(step),
    }
}

fn remove(from: &mut Value, path: &[String]) -> Option<()> {
    let (last, above) = path.split_last()?;
    let parent = above.iter().try_fold(from, |value, step| match value {
        Value::Array(items) => items.get_mut(step.parse::<usize>().ok()?),
        other => other.get_mut(step),
    })?;
    match parent {
        Value::Array(items) => {
            let index = last.parse::<usize>().ok().filter(|index| *index < items.len())?;
            items.remove(index);
        }
        other => drop(other.as_object_mut()?.remove(last)?),
    }
    Some(())
}

/// The path in the file of what stands at a path after elements of lists were taken away.
fn as_written(path: &[String], gone: &[Vec<String>]) -> Vec<String> {
    let mut path = path.to_vec();
    for gone in gone.iter().rev() {
        let Some((index, list)) = gone.split_last() else { continue };
        let Ok(index) = index.parse::<usize>() else { continue };
        if path.len() > list.len()
            && path.starts_with(list)
            && let Ok(here) = path[list.len()].parse::<usize>()
            && here >= index
        {
            path[list.len()] = (here + 1).to_string();
        }
    }
    path
}

fn report(reader: &Reader, entry: &Entry, bad: &BadSetting) {
    let found = entry.node.find(&bad.path);
    let at = if std::ptr::eq(found, &entry.node) { &entry.key_at } else { &found.at };
    let (message, help) = match bad.text.split_once(", expected ") {
        // serde names the type of the program where a table is wanted.
        Some((message, expected)) if expected.starts_with("struct ") => {
            (message, "expected a table".to_owned())
        }
        Some((message, expected)) => (message, format!("expected {expected}")),
        None => {
            let (message, help) = bad.text.split_once(": ").unwrap_or((&bad.text, ""));
            (message, help.to_owned())
        }
    };
    let setting = bad.path.iter().rfind(|step| step.parse::<usize>().is_err());
    let message = match setting {
        Some(setting) if !message.contains(setting.as_str()) => format!("`{setting}`: {message}"),
        _ => message.to_owned(),
    };
    reader.problem(at, message, help);
}
