//! Records: batches, single ones, lists, erasure.

use std::collections::BTreeMap;

use mailspan_core::Millis;
use serde_json::{Value, json};

use super::book::Book;
use super::input::{self, Input};
use super::model::{Kind, Object};
use super::problem::{ItemProblem, Problem};
use super::routes::{Answered, Query};
use crate::wire::Reply;

/// `POST …/batch/{verb}`; nothing where there is no such verb.
pub(crate) fn batch(book: &mut Book, kind: Kind, verb: &str, body: &Value, now: Millis) -> Option<Answered> {
    match verb {
        "read" => Some(read_many(book, kind, body, now)),
        "archive" => Some(archive_many(book, kind, body)),
        "create" | "update" | "upsert" => Some(write_many(book, kind, verb, body, now)),
        _ => None,
    }
}

fn write_many(book: &mut Book, kind: Kind, verb: &str, body: &Value, now: Millis) -> Answered {
    let inputs = input::writes(book, kind, verb, body)?;
    if book.empty_fault() {
        return Ok(book.batch(200, Vec::new(), Vec::new(), now));
    }
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for input in &inputs {
        let outcome = match book.item_fault() {
            Some(problem) => Err(problem),
            None => write_item(book, kind, verb, input, now),
        };
        match outcome {
            Ok(result) => done.push(result),
            Err(problem) => failed.push((input.trace.clone(), problem)),
        }
    }
    Ok(book.batch(if verb == "create" { 201 } else { 200 }, done, failed, now))
}

fn write_item(
    book: &mut Book,
    kind: Kind,
    verb: &str,
    input: &Input,
    now: Millis,
) -> Result<Value, ItemProblem> {
    let id = input.id.as_deref().unwrap_or("");
    let target = match verb {
        "create" => None,
        _ => book.table(kind).find(id, input.id_property.as_deref()),
    };
    let mut properties = input.properties.clone();
    match (verb, target, &input.id_property) {
        ("upsert", None, Some(property)) if property != "hs_object_id" => {
            properties.entry(property.clone()).or_insert_with(|| id.to_owned());
            required_item(kind, &properties)?;
        }
        ("update" | "upsert", None, _) => return Err(unknown(kind, id)),
        _ => {}
    }
    let associations = targets(book, &input.associations)?;
    let (record, new) = write(book, kind, target, &properties, now)?;
    for (to, to_id) in associations {
        book.link(kind, record, to, to_id);
    }
    let mut result = shown(kind, &book.table(kind).objects[&record], None);
    if verb == "upsert" {
        result["new"] = json!(new);
    }
    if let Some(trace) = &input.trace {
        result["objectWriteTraceId"] = json!(trace);
    }
    Ok(result)
}

/// A record that an upsert would create lacks what a new one needs.
fn required_item(kind: Kind, properties: &BTreeMap<String, String>) -> Result<(), ItemProblem> {
    input::required(kind, properties).map_err(|problem| ItemProblem::new(problem.category, problem.message))
}

fn unknown(kind: Kind, id: &str) -> ItemProblem {
    ItemProblem::new(
        "OBJECT_NOT_FOUND",
        format!("Could not get some {} objects, they may be deleted or not exist", kind.name()),
    )
    .about("ids", id)
}

/// The targets of associations, all of them there.
fn targets(book: &Book, wanted: &[(Kind, String)]) -> Result<Vec<(Kind, u64)>, ItemProblem> {
    let find = |(kind, id): &(Kind, String)| {
        book.tables[kind].find(id, None).map(|found| (*kind, found)).ok_or_else(|| unknown(*kind, id))
    };
    wanted.iter().map(find).collect()
}

/// Writes a record, a new one where there is no target. True: it is new.
pub(crate) fn write(
    book: &mut Book,
    kind: Kind,
    target: Option<u64>,
    properties: &BTreeMap<String, String>,
    now: Millis,
) -> Result<(u64, bool), ItemProblem> {
    if let Some((property, holder)) = book.table(kind).taken(properties, target) {
        let message = match kind {
            Kind::Contacts if property == "email" => format!("Contact already exists. Existing ID: {holder}"),
            _ => format!("another record has this `{property}`. Existing ID: {holder}"),
        };
        return Err(ItemProblem::new("CONFLICT", message).about("propertyName", &property));
    }
    let id = match target {
        Some(id) => id,
        None => book.new_id()?,
    };
    book.table(kind).set(id, properties, now);
    Ok((id, target.is_none()))
}

fn read_many(book: &mut Book, kind: Kind, body: &Value, now: Millis) -> Answered {
    let property = input::text(body, "idProperty")?;
    input::unique(book.table(kind), property.as_deref())?;
    let wanted = names(body);
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for item in input::inputs(body)? {
        let Some(id) = input::text(item, "id")? else {
            return Err(Problem::invalid("Some required fields were not set: [id]"));
        };
        let table = book.table(kind);
        match table.find(&id, property.as_deref()) {
            Some(found) => done.push(shown(kind, &table.objects[&found], wanted.as_deref())),
            None => failed.push((None, unknown(kind, &id))),
        }
    }
    Ok(book.batch(200, done, failed, now))
}

fn names(body: &Value) -> Option<Vec<String>> {
    let names = body.get("properties")?.as_array()?;
    Some(names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

fn archive_many(book: &mut Book, kind: Kind, body: &Value) -> Answered {
    for item in input::inputs(body)? {
        let id = input::text(item, "id")?.unwrap_or_default();
        if let Some(found) = book.table(kind).find(&id, None) {
            remove(book, kind, found);
        }
    }
    Ok(Reply::empty(204))
}

/// `GET …/{type}?limit&after&properties`.
pub(crate) fn list(book: &mut Book, kind: Kind, query: &Query) -> Answered {
    let limit = match query.get("limit").map(|limit| limit.parse::<usize>()) {
        None => 10,
        Some(Ok(limit)) if (1..=100).contains(&limit) => limit,
        Some(_) => return Err(Problem::invalid("limit must be between 1 and 100")),
    };
    let after: u64 = query.get("after").and_then(|after| after.parse().ok()).unwrap_or(0);
    let wanted = listed(query);
    let page: Vec<&Object> =
        book.tables[&kind].objects.range(after..).map(|(_, object)| object).take(limit + 1).collect();
    let results: Vec<Value> =
        page.iter().take(limit).map(|object| shown(kind, object, wanted.as_deref())).collect();
    let mut body = json!({"results": results});
    if let Some(next) = page.get(limit) {
        body["paging"] = json!({"next": {"after": next.id.to_string()}});
    }
    Ok(Reply::json(200, &body))
}

fn listed(query: &Query) -> Option<Vec<String>> {
    query.get("properties").map(|names| names.split(',').map(str::to_owned).collect())
}

pub(crate) fn read_one(book: &mut Book, kind: Kind, id: &str, query: &Query) -> Answered {
    let found = find_one(book, kind, id, query)?;
    Ok(Reply::json(200, &shown(kind, &book.table(kind).objects[&found], listed(query).as_deref())))
}

fn find_one(book: &mut Book, kind: Kind, id: &str, query: &Query) -> Result<u64, Problem> {
    let property = query.get("idProperty").map(String::as_str);
    input::unique(book.table(kind), property)?;
    book.table(kind).find(id, property).ok_or_else(|| Problem::not_found("resource not found"))
}

pub(crate) fn create_one(book: &mut Book, kind: Kind, body: &Value, now: Millis) -> Answered {
    let properties = input::properties(book, &book.tables[&kind], body)?;
    input::required(kind, &properties)?;
    let associations = targets(book, &input::associations(kind, body)?).map_err(whole)?;
    let (id, _) = write(book, kind, None, &properties, now).map_err(whole)?;
    for (to, to_id) in associations {
        book.link(kind, id, to, to_id);
    }
    Ok(Reply::json(201, &shown(kind, &book.table(kind).objects[&id], None)))
}

pub(crate) fn update_one(
    book: &mut Book,
    kind: Kind,
    id: &str,
    query: &Query,
    body: &Value,
    now: Millis,
) -> Answered {
    let properties = input::properties(book, &book.tables[&kind], body)?;
    let found = find_one(book, kind, id, query)?;
    write(book, kind, Some(found), &properties, now).map_err(whole)?;
    Ok(Reply::json(200, &shown(kind, &book.table(kind).objects[&found], None)))
}

pub(crate) fn archive_one(book: &mut Book, kind: Kind, id: &str) -> Answered {
    if let Some(found) = book.table(kind).find(id, None) {
        remove(book, kind, found);
    }
    Ok(Reply::empty(204))
}

/// The problem of an item where it is the whole call.
fn whole(problem: ItemProblem) -> Problem {
    let status = match problem.category {
        "CONFLICT" => 409,
        "OBJECT_NOT_FOUND" => 404,
        _ => 400,
    };
    Problem { context: problem.context, ..Problem::new(status, problem.category, problem.message) }
}

fn remove(book: &mut Book, kind: Kind, id: u64) {
    book.table(kind).remove(id);
    for to in Kind::ALL {
        for to_id in book.linked(kind, id, to) {
            book.links.remove(&(kind, id, to, to_id));
            book.links.remove(&(to, to_id, kind, id));
        }
    }
}

/// `contacts/gdpr-delete`: 204 whether or not the contact is known; by address it also forgets the
/// subscriptions.
pub(crate) fn erase(book: &mut Book, body: &Value) -> Answered {
    let Some(id) = input::text(body, "objectId")? else {
        return Err(Problem::invalid("Some required fields were not set: [objectId]"));
    };
    let property = input::text(body, "idProperty")?;
    input::unique(book.table(Kind::Contacts), property.as_deref())?;
    let found = book.table(Kind::Contacts).find(&id, property.as_deref());
    let address =
        match found.and_then(|id| book.table(Kind::Contacts).objects[&id].properties.get("email").cloned()) {
            Some(address) => address,
            None => id,
        };
    if let Some(found) = found {
        remove(book, Kind::Contacts, found);
    }
    book.consents.forget(&address);
    Ok(Reply::empty(204))
}

/// A record as it is answered, with the wanted properties (all where none are named).
fn shown(kind: Kind, object: &Object, wanted: Option<&[String]>) -> Value {
    let modified = if kind == Kind::Contacts { "lastmodifieddate" } else { "hs_lastmodifieddate" };
    let mut properties = serde_json::Map::new();
    for (name, value) in &object.properties {
        if wanted.is_none_or(|wanted| wanted.contains(name)) {
            properties.insert(name.clone(), json!(value));
        }
    }
    for name in wanted.unwrap_or(&[]) {
        properties.entry(name.clone()).or_insert(Value::Null);
    }
    properties.insert("hs_object_id".to_owned(), json!(object.id.to_string()));
    properties.insert("createdate".to_owned(), json!(object.created_at.rfc3339()));
    properties.insert(modified.to_owned(), json!(object.updated_at.rfc3339()));
    json!({
        "id": object.id.to_string(),
        "properties": properties,
        "createdAt": object.created_at.rfc3339(),
        "updatedAt": object.updated_at.rfc3339(),
        "archived": false,
    })
}
