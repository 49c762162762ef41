//! Definitions of properties: list, read, create.

use mailspan_core::Millis;
use serde_json::{Value, json};

use super::book::Book;
use super::input;
use super::model::{Kind, Property, Table};
use super::problem::{ItemProblem, Problem};
use super::routes::Answered;
use crate::wire::Reply;

/// Definitions of one type of record, at most: HubSpot's own limit for custom ones.
const PROPERTIES_MAX: usize = 1_000;

pub(crate) fn act(
    book: &mut Book,
    method: &str,
    kind: Kind,
    path: &[&str],
    body: &Value,
    now: Millis,
) -> Option<Answered> {
    match (method, path) {
        ("GET", []) => {
            let results: Vec<Value> = book.table(kind).properties.values().map(shown).collect();
            Some(Ok(Reply::json(200, &json!({"results": results}))))
        }
        ("POST", []) => Some(create_one(book, kind, body)),
        ("GET", [name]) => {
            let found = book.table(kind).properties.get(*name).map(shown);
            let missing = || Problem::not_found(format!("Property {name} does not exist"));
            Some(found.map(|property| Reply::json(200, &property)).ok_or_else(missing))
        }
        ("POST", ["batch", "read"]) => Some(read_many(book, kind, body, now)),
        ("POST", ["batch", "create"]) => Some(create_many(book, kind, body, now)),
        _ => None,
    }
}

fn shown(property: &Property) -> Value {
    let mut shown = json!(property);
    if property.value_type == "owner" {
        shown["type"] = json!("enumeration");
    }
    shown["archived"] = json!(false);
    shown["modificationMetadata"] = json!({"readOnlyValue": property.read_only});
    shown
}

fn create_one(book: &mut Book, kind: Kind, body: &Value) -> Answered {
    let property = definition(body)?;
    let answer = shown(&property);
    add(book.table(kind), property).map_err(|problem| {
        let status = if problem.category == "CONFLICT" { 409 } else { 400 };
        Problem::new(status, problem.category, problem.message)
    })?;
    Ok(Reply::json(201, &answer))
}

fn add(table: &mut Table, property: Property) -> Result<(), ItemProblem> {
    if table.properties.contains_key(&property.name) {
        let message = format!("A property named '{}' already exists.", property.name);
        return Err(ItemProblem::new("CONFLICT", message).about("name", &property.name));
    }
    if table.properties.len() >= PROPERTIES_MAX {
        return Err(ItemProblem::new("LIMIT_EXCEEDED", "the account has its thousand properties"));
    }
    table.properties.insert(property.name.clone(), property);
    Ok(())
}

/// Reads a definition: `name`, `label`, `groupName`, `type` and `fieldType` are required.
fn definition(body: &Value) -> Result<Property, Problem> {
    let need = |name: &str| match input::text(body, name)? {
        Some(text) if !text.is_empty() => Ok(text),
        _ => Err(Problem::invalid(format!("Some required fields were not set: [{name}]"))),
    };
    let name = need("name")?;
    let spelled = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if !name.bytes().all(spelled) || !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.len() > 100 {
        return Err(Problem::invalid(format!("`{name}` is no name: lower-case letters, digits and _ only")));
    }
    let value_type = need("type")?;
    let field_type = need("fieldType")?;
    let fields: &[&str] = match value_type.as_str() {
        "string" => &["text", "textarea", "html", "phonenumber", "file"],
        "number" => &["number", "text"],
        "date" | "datetime" => &["date"],
        "bool" => &["booleancheckbox"],
        "enumeration" => &["select", "radio", "checkbox", "booleancheckbox"],
        other => return Err(Problem::invalid(format!("`{other}` is no property type"))),
    };
    if !fields.contains(&field_type.as_str()) {
        return Err(Problem::invalid(format!("fieldType `{field_type}` does not fit type `{value_type}`")));
    }
    let has_unique_value = body.get("hasUniqueValue").and_then(Value::as_bool).unwrap_or(false);
    if has_unique_value && !matches!(value_type.as_str(), "string" | "number") {
        return Err(Problem::invalid("only text and number properties can have unique values"));
    }
    Ok(Property {
        name,
        label: need("label")?,
        description: input::text(body, "description")?.unwrap_or_default(),
        group_name: need("groupName")?,
        value_type,
        field_type,
        has_unique_value,
        hubspot_defined: false,
        read_only: false,
        options: body.get("options").and_then(Value::as_array).cloned().unwrap_or_default(),
    })
}

fn create_many(book: &mut Book, kind: Kind, body: &Value, now: Millis) -> Answered {
    let properties = input::inputs(body)?.iter().map(definition).collect::<Result<Vec<_>, _>>()?;
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for property in properties {
        let answer = shown(&property);
        match add(book.table(kind), property) {
            Ok(()) => done.push(answer),
            Err(problem) => failed.push((None, problem)),
        }
    }
    Ok(book.batch(201, done, failed, now))
}

fn read_many(book: &mut Book, kind: Kind, body: &Value, now: Millis) -> Answered {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for item in input::inputs(body)? {
        let name = input::text(item, "name")?.unwrap_or_default();
        match book.table(kind).properties.get(&name) {
            Some(property) => done.push(shown(property)),
            None => {
                let message = format!("Property {name} does not exist");
                failed.push((None, ItemProblem::new("OBJECT_NOT_FOUND", message).about("name", &name)));
            }
        }
    }
    Ok(book.batch(200, done, failed, now))
}
