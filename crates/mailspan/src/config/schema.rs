//! The JSON Schema of the file, for editors that complete and check TOML.

use mailspan_connectors::contract::Kind;
use mailspan_connectors::registry::KINDS;
use serde_json::{Map, Value, json};

use super::kinds::{Side, fits};
use super::settings::{
    DESTINATION, EGRESS, HORIZON, LIMITS, RETENTION, RETRY, ROUTE, SERVER, SOURCE, STORAGE, Setting, Shape,
};

/// Draft 2020-12. Sources and destinations have their kind's own settings by `if` and `then`.
pub fn json_schema() -> Value {
    let mut defs = Map::new();
    let secret = json!({
        "type": "object",
        "properties": { "env": { "type": "string" }, "file": { "type": "string" } },
        "minProperties": 1, "maxProperties": 1, "additionalProperties": false,
    });
    defs.insert("secret".to_owned(), secret);
    let source = section(Side::Source, &mut defs);
    let destination = section(Side::Destination, &mut defs);
    let mut route = table(ROUTE);
    route["required"] = json!(["name"]);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Mailspan configuration",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "server": table(SERVER),
            "storage": table(STORAGE),
            "egress": table(EGRESS),
            "limits": table(LIMITS),
            "retention": table(RETENTION),
            "sources": { "type": "object", "additionalProperties": source },
            "destinations": { "type": "object", "additionalProperties": destination },
            "routes": { "type": "array", "items": route },
        },
        "$defs": defs,
    })
}

fn table(settings: &[Setting]) -> Value {
    json!({ "type": "object", "properties": properties(settings), "additionalProperties": false })
}

fn properties(settings: &[Setting]) -> Map<String, Value> {
    let one = |setting: &Setting| {
        let mut value = shape(setting.shape);
        value["description"] = json!(setting.about);
        (setting.name.to_owned(), value)
    };
    settings.iter().map(one).collect()
}

fn shape(shape: Shape) -> Value {
    let span = json!({ "type": "string", "pattern": "^[0-9]+ ?(ms|s|m|h|d)$" });
    let secret = json!({ "$ref": "#/$defs/secret" });
    match shape {
        Shape::Text => json!({ "type": "string" }),
        Shape::Span => span,
        Shape::Rate => json!({ "type": "string", "pattern": "^[0-9]+ ?/ ?[0-9]*(ms|s|m|h|d)$" }),
        Shape::Size => json!({ "type": "string", "pattern": "^[0-9]+ ?(B|KB|MB|KiB|MiB)$" }),
        Shape::Number => json!({ "type": "integer", "minimum": 1 }),
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Shape::Secret => json!({ "anyOf": [secret] }),
        Shape::TextOrSecret => json!({ "anyOf": [{ "type": "string" }, secret] }),
        Shape::Secrets => json!({ "type": "array", "items": secret }),
        Shape::Headers => {
            json!({ "type": "object", "additionalProperties": { "anyOf": [{ "type": "string" }, secret] } })
        }
        Shape::Retry => json!({ "anyOf": [{ "type": "array", "items": span, "minItems": 1 }, table(RETRY)] }),
        Shape::Horizon => json!({ "anyOf": [span, table(HORIZON)] }),
        Shape::OneOf(words) => json!({ "enum": words }),
        Shape::Table(settings) => table(settings),
    }
}

/// Sources or destinations: the common settings, and for each kind these and its own.
fn section(side: Side, defs: &mut Map<String, Value>) -> Value {
    let common = properties(if side == Side::Source { SOURCE } else { DESTINATION });
    let mut names = Vec::new();
    let mut branches = Vec::new();
    for kind in KINDS.iter().filter(|kind| fits(kind, side)) {
        names.push(kind.name);
        branches.push(json!({
            "if": { "properties": { "kind": { "const": kind.name } }, "required": ["kind"] },
            "then": of_kind(kind, side, &common, defs),
        }));
    }
    let mut section = json!({
        "type": "object",
        "required": ["kind"],
        "properties": { "kind": { "enum": names } },
    });
    if !branches.is_empty() {
        section["allOf"] = Value::from(branches);
    }
    section
}

fn of_kind(kind: &Kind, side: Side, common: &Map<String, Value>, defs: &mut Map<String, Value>) -> Value {
    let (own, word) = match side {
        Side::Source => (kind.source.as_ref().map(|of| (of.schema)()), "source"),
        Side::Destination => (kind.sink.as_ref().map(|of| (of.schema)()), "destination"),
    };
    let prefix = format!("{word}.{}.", kind.name);
    let mut own = own.unwrap_or_else(|| json!({}));
    renamed(&mut own, &prefix);
    if let Some(Value::Object(theirs)) = own.get_mut("$defs").map(Value::take) {
        defs.extend(theirs.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)));
    }
    let mut properties = common.clone();
    for (key, value) in own.get("properties").and_then(Value::as_object).into_iter().flatten() {
        properties.insert(key.clone(), value.clone());
    }
    let mut schema = json!({ "title": kind.title, "description": kind.about, "properties": properties });
    let branches = ["oneOf", "anyOf", "allOf"].into_iter().filter(|word| own.get(*word).is_some());
    for word in branches {
        schema[word] = own[word].clone();
    }
    if schema.get("oneOf").or(schema.get("anyOf")).or(schema.get("allOf")).is_none() {
        schema["additionalProperties"] = json!(false);
    }
    if let Some(required) = own.get("required") {
        schema["required"] = required.clone();
    }
    schema
}

/// Definitions of all kinds share one place: each reference gets its kind's prefix.
fn renamed(value: &mut Value, prefix: &str) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get_mut("$ref")
                && let Some(name) = target.strip_prefix("#/$defs/")
            {
                *target = format!("#/$defs/{prefix}{name}");
            }
            map.values_mut().for_each(|value| renamed(value, prefix));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| renamed(value, prefix)),
        _ => {}
    }
}
