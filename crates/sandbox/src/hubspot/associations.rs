//! Associations between records.

use mailspan_core::Millis;
use serde_json::{Value, json};

use super::book::Book;
use super::input;
use super::model::Kind;
use super::problem::{ItemProblem, Problem};
use super::routes::Answered;
use crate::wire::Reply;

/// `POST /associations/{from}/{to}/batch/…`; nothing where there is no such verb.
pub(crate) fn act(
    book: &mut Book,
    from: Kind,
    to: Kind,
    verb: &[&str],
    body: &Value,
    now: Millis,
) -> Option<Answered> {
    match verb {
        ["create"] => Some(create(book, from, to, body, now, false)),
        ["associate", "default"] => Some(create(book, from, to, body, now, true)),
        ["read"] => Some(read(book, from, to, body, now)),
        _ => None,
    }
}

/// 201 with the types named, 200 with the default type; repeating either is harmless.
fn create(book: &mut Book, from: Kind, to: Kind, body: &Value, now: Millis, default: bool) -> Answered {
    let type_id = type_between(from, to)?;
    let mut pairs = Vec::new();
    for item in input::inputs(body)? {
        if !default {
            check_types(from, to, item)?;
        }
        pairs.push((end(item, "from")?, end(item, "to")?));
    }
    if book.empty_fault() {
        return Ok(book.batch(200, Vec::new(), Vec::new(), now));
    }
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (from_id, to_id) in &pairs {
        let outcome = match book.item_fault() {
            Some(problem) => Err(problem),
            None => join(book, (from, from_id), (to, to_id)),
        };
        match outcome {
            Ok(_) if default => done.push(json!({
                "from": {"id": from_id}, "to": {"id": to_id},
                "associationSpec": {"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": type_id},
            })),
            Ok(_) => done.push(json!({
                "fromObjectTypeId": from.type_id(), "fromObjectId": from_id,
                "toObjectTypeId": to.type_id(), "toObjectId": to_id, "labels": [],
            })),
            Err(problem) => {
                failed.push((None, problem.about("fromObjectId", from_id).about("toObjectId", to_id)));
            }
        }
    }
    Ok(book.batch(if default { 200 } else { 201 }, done, failed, now))
}

fn type_between(from: Kind, to: Kind) -> Result<u64, Problem> {
    from.association(to).ok_or_else(|| {
        Problem::invalid(format!("no association type leads from {} to {}", from.name(), to.name()))
    })
}

fn check_types(from: Kind, to: Kind, item: &Value) -> Result<(), Problem> {
    let types = item.get("types").and_then(Value::as_array).filter(|types| !types.is_empty());
    let Some(types) = types else {
        return Err(Problem::invalid("Some required fields were not set: [types]"));
    };
    for association_type in types {
        if input::by_type(from, association_type)? != to {
            let message =
                format!("INVALID_ASSOCIATION_TYPE: {association_type} does not lead to {}", to.name());
            return Err(Problem::invalid(message));
        }
    }
    Ok(())
}

fn end(item: &Value, name: &str) -> Result<String, Problem> {
    let id = item.get(name).map_or(Ok(None), |end| input::text(end, "id"))?;
    id.ok_or_else(|| Problem::invalid(format!("Some required fields were not set: [{name}.id]")))
}

fn join(book: &mut Book, from: (Kind, &str), to: (Kind, &str)) -> Result<(), ItemProblem> {
    let find = |(kind, id): (Kind, &str)| {
        let missing = || ItemProblem::new("OBJECT_NOT_FOUND", format!("{} {id} does not exist", kind.name()));
        book.tables[&kind].find(id, None).ok_or_else(missing)
    };
    let (from_id, to_id) = (find(from)?, find(to)?);
    book.link(from.0, from_id, to.0, to_id);
    Ok(())
}

/// `PUT /objects/{from}/{id}/associations/default/{to}/{id}`.
pub(crate) fn put(book: &mut Book, from: (Kind, &str), to: (Kind, &str)) -> Answered {
    let type_id = type_between(from.0, to.0)?;
    join(book, from, to).map_err(|problem| Problem::not_found(problem.message))?;
    let result = json!({
        "from": {"id": from.1}, "to": {"id": to.1},
        "associationSpec": {"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": type_id},
    });
    Ok(Reply::json(200, &json!({"status": "COMPLETE", "results": [result]})))
}

fn read(book: &mut Book, from: Kind, to: Kind, body: &Value, now: Millis) -> Answered {
    let type_id = type_between(from, to)?;
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for item in input::inputs(body)? {
        let Some(id) = input::text(item, "id")? else {
            return Err(Problem::invalid("Some required fields were not set: [id]"));
        };
        let linked = id.parse().map_or_else(|_| Vec::new(), |id| book.linked(from, id, to));
        if linked.is_empty() {
            let message = format!("No {} is associated with {} {id}.", to.name(), from.name());
            failed.push((None, ItemProblem::new("OBJECT_NOT_FOUND", message).about("fromObjectId", &id)));
            continue;
        }
        let types = json!([{"category": "HUBSPOT_DEFINED", "typeId": type_id, "label": null}]);
        let targets: Vec<Value> = linked
            .iter()
            .map(|id| json!({"toObjectId": id.to_string(), "associationTypes": types}))
            .collect();
        done.push(json!({"from": {"id": id}, "to": targets}));
    }
    Ok(book.batch(200, done, failed, now))
}
