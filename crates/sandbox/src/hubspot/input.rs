//! Reading the inputs of a batch, strictly: what one item has wrong refuses the whole call.

use std::collections::{BTreeMap, BTreeSet};

use mailspan_core::{Address, Millis};
use serde_json::Value;

use super::book::Book;
use super::model::{Kind, Table, compared};
use super::problem::Problem;

/// Inputs of one call, at most.
pub(crate) const INPUTS_MAX: usize = 100;
/// Characters of a note's or task's text, at most.
const TEXT_CHARS_MAX: usize = 65_536;

/// One item of a batch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Input {
    pub id: Option<String>,
    pub id_property: Option<String>,
    pub trace: Option<String>,
    pub properties: BTreeMap<String, String>,
    /// Type of record and id of each target; not looked up yet.
    pub associations: Vec<(Kind, String)>,
}

/// The list of inputs, between one and a hundred.
pub(crate) fn inputs(body: &Value) -> Result<&[Value], Problem> {
    let Some(inputs) = body.get("inputs").and_then(Value::as_array) else {
        return Err(Problem::invalid("Some required fields were not set: [inputs]"));
    };
    if inputs.is_empty() {
        return Err(Problem::invalid("inputs may not be empty"));
    }
    if inputs.len() > INPUTS_MAX {
        let message = format!("{} inputs are more than the batch limit of {INPUTS_MAX}", inputs.len());
        return Err(Problem::invalid(message));
    }
    Ok(inputs)
}

/// Text of a member; a member of another type is an error.
pub(crate) fn text(value: &Value, name: &str) -> Result<Option<String>, Problem> {
    match value.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Problem::invalid(format!("Invalid input JSON: `{name}` must be a string"))),
    }
}

/// Reads the inputs of create, update and upsert.
pub(crate) fn writes(book: &Book, kind: Kind, verb: &str, body: &Value) -> Result<Vec<Input>, Problem> {
    let inputs =
        inputs(body)?.iter().map(|item| write(book, kind, verb, item)).collect::<Result<Vec<_>, _>>()?;
    if verb != "create" {
        no_duplicates(&inputs)?;
    }
    Ok(inputs)
}

fn write(book: &Book, kind: Kind, verb: &str, item: &Value) -> Result<Input, Problem> {
    let table = &book.tables[&kind];
    let input = Input {
        id: text(item, "id")?,
        id_property: text(item, "idProperty")?,
        trace: text(item, "objectWriteTraceId")?,
        properties: properties(book, table, item)?,
        associations: associations(kind, item)?,
    };
    let listed = item.get("associations").is_some_and(Value::is_array);
    match verb {
        "create" => {
            if !listed && kind != Kind::Contacts {
                return Err(Problem::invalid("Some required fields were not set: [associations]"));
            }
            required(kind, &input.properties)?;
        }
        _ => {
            if !input.associations.is_empty() {
                return Err(Problem::invalid(format!("`associations` is not a field of batch/{verb}")));
            }
            if input.id.as_deref().unwrap_or("").is_empty() {
                return Err(Problem::invalid("Some required fields were not set: [id]"));
            }
            unique(table, input.id_property.as_deref())?;
        }
    }
    Ok(input)
}

/// What a new record needs.
pub(crate) fn required(kind: Kind, properties: &BTreeMap<String, String>) -> Result<(), Problem> {
    for name in kind.required() {
        if properties.get(*name).is_none_or(String::is_empty) {
            return Err(Problem::property(
                name,
                "REQUIRED_PROPERTY",
                format!("Property \"{name}\" is required"),
            ));
        }
    }
    Ok(())
}

/// Only a unique property can name a record.
pub(crate) fn unique(table: &Table, property: Option<&str>) -> Result<(), Problem> {
    match property {
        Some(name) if name != "hs_object_id" && !table.is_unique(name) => Err(Problem::invalid(format!(
            "`{name}` is not a property with unique values: it cannot be idProperty"
        ))),
        _ => Ok(()),
    }
}

fn no_duplicates(inputs: &[Input]) -> Result<(), Problem> {
    let mut seen = BTreeSet::new();
    for input in inputs {
        let property = input.id_property.as_deref().unwrap_or("");
        let id = input.id.as_deref().unwrap_or("");
        if !seen.insert(compared(property, id)) {
            return Err(Problem::invalid(format!("Duplicate ids in batch input: {id}")));
        }
    }
    Ok(())
}

/// Properties: text to text, known, writable, of the right form.
pub(crate) fn properties(
    book: &Book,
    table: &Table,
    item: &Value,
) -> Result<BTreeMap<String, String>, Problem> {
    let Some(members) = item.get("properties").and_then(Value::as_object) else {
        return Err(Problem::invalid("Some required fields were not set: [properties]"));
    };
    let mut read = BTreeMap::new();
    for (name, value) in members {
        let Value::String(value) = value else {
            return Err(Problem::property(
                name,
                "INVALID_JSON",
                format!("the value of \"{name}\" must be a string"),
            ));
        };
        let Some(property) = table.properties.get(name) else {
            let message = format!("Property \"{name}\" does not exist");
            return Err(Problem::property(name, "PROPERTY_DOESNT_EXIST", message));
        };
        if property.read_only {
            return Err(Problem::property(
                name,
                "READ_ONLY_VALUE",
                format!("\"{name}\" is a read only property"),
            ));
        }
        if let Err((code, what)) = form(book, &property.value_type, name, value) {
            return Err(Problem::property(name, code, format!("{value} was not {what}")));
        }
        read.insert(name.clone(), value.clone());
    }
    Ok(read)
}

/// Whether a value has the form of its property; an empty one clears and always has.
fn form(book: &Book, value_type: &str, name: &str, value: &str) -> Result<(), (&'static str, &'static str)> {
    let is = |ok: bool, code: &'static str, what: &'static str| if ok { Ok(()) } else { Err((code, what)) };
    if value.is_empty() {
        return Ok(());
    }
    match value_type {
        "number" => is(value.parse::<f64>().is_ok_and(f64::is_finite), "INVALID_DOUBLE", "a valid number"),
        "bool" => is(
            matches!(value, "true" | "false"),
            "INVALID_OPTION",
            "one of the allowed options: [true, false]",
        ),
        "datetime" => is(instant(value).is_some(), "INVALID_DATE", "a valid timestamp"),
        "date" => is(day(value), "INVALID_DATE", "a valid date: midnight UTC or YYYY-MM-DD"),
        "owner" => {
            let known = value.parse().is_ok_and(|id| book.owners.contains_key(&id));
            is(known, "INVALID_OWNER_ID", "a valid owner")
        }
        _ if name == "email" => is(is_address(value), "INVALID_EMAIL", "a valid email address"),
        _ => is(value.chars().count() <= TEXT_CHARS_MAX, "PROPERTY_VALUE_TOO_LONG", "short enough"),
    }
}

/// Milliseconds, or RFC 3339.
fn instant(value: &str) -> Option<Millis> {
    value.parse::<i64>().ok().map(Millis).or_else(|| Millis::parse_rfc3339(value))
}

fn day(value: &str) -> bool {
    match value.parse::<i64>() {
        Ok(ms) => ms.rem_euclid(86_400_000) == 0,
        Err(_) => value.len() == 10 && Millis::parse_rfc3339(&format!("{value}T00:00:00Z")).is_some(),
    }
}

/// `associations` of a create: each with a target and one of HubSpot's own types.
pub(crate) fn associations(kind: Kind, item: &Value) -> Result<Vec<(Kind, String)>, Problem> {
    let mut targets = Vec::new();
    for association in item.get("associations").and_then(Value::as_array).into_iter().flatten() {
        let to = association.get("to").map_or(Ok(None), |to| text(to, "id"))?;
        let Some(to) = to else { return Err(Problem::invalid("an association needs `to.id`")) };
        let types = association.get("types").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let [association_type] = types else {
            return Err(Problem::invalid("an association needs one of `types`"));
        };
        targets.push((by_type(kind, association_type)?, to));
    }
    Ok(targets)
}

/// The type of record that `{associationCategory, associationTypeId}` leads to.
pub(crate) fn by_type(from: Kind, association_type: &Value) -> Result<Kind, Problem> {
    let category = association_type.get("associationCategory").and_then(Value::as_str);
    let id = association_type.get("associationTypeId").and_then(Value::as_u64);
    let kind = id.filter(|_| category == Some("HUBSPOT_DEFINED")).and_then(|id| from.associated_by(id));
    kind.ok_or_else(|| {
        Problem::invalid(format!(
            "INVALID_ASSOCIATION_TYPE: {association_type} is no type from {}",
            from.name()
        ))
    })
}

/// A bare address: no display name.
pub(crate) fn is_address(text: &str) -> bool {
    !text.contains('<') && Address::parse(text).is_ok()
}
