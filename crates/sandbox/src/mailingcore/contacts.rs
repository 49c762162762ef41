//! Contacts: upsert by external id, else by address; bulk; patch; erasure.

use std::collections::BTreeMap;

use mailspan_core::Millis;
use mailspan_core::limits::SANDBOX_OBJECTS_MAX;
use serde_json::{Map, Value, json};

use super::book::Book;
use super::input::{self, Input};
use super::list;
use super::problem::Problem;
use super::{hooks, suppressions};
use crate::wire::Reply;

const BULK_MAX: usize = 1_000;

/// A contact as the account knows it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Contact {
    pub id: String,
    /// In lower case.
    pub email: String,
    pub external_id: Option<String>,
    pub locale: Option<String>,
    pub opt_in: bool,
    pub attributes: Map<String, Value>,
    pub consent_version: Option<String>,
    pub source: Option<String>,
    pub project_id: Option<String>,
    pub suppressed_at: Option<Millis>,
    pub unsubscribed_at: Option<Millis>,
    pub created_at: Millis,
    pub updated_at: Millis,
}

impl Contact {
    pub(crate) fn json(&self, tenant: &str) -> Value {
        json!({
            "id": self.id, "tenantId": tenant, "email": self.email, "externalId": self.external_id,
            "locale": self.locale, "optIn": self.opt_in, "attributes": self.attributes,
            "consentVersion": self.consent_version, "source": self.source, "projectId": self.project_id,
            "suppressedAt": self.suppressed_at.map(Millis::rfc3339),
            "unsubscribedAt": self.unsubscribed_at.map(Millis::rfc3339),
            "createdAt": self.created_at.rfc3339(), "updatedAt": self.updated_at.rfc3339(),
        })
    }
}

type Answered = Option<Result<Reply, Problem>>;

pub(crate) fn act(
    book: &mut Book,
    method: &str,
    path: &[&str],
    query: &BTreeMap<String, String>,
    body: &Value,
    now: Millis,
) -> Answered {
    Some(match (method, path) {
        ("GET", []) => list::contacts(book, query),
        ("PUT", []) => put(book, body, now),
        ("POST", ["bulk"]) => bulk(book, body, now),
        ("GET", [id]) => find(book, id).map(|id| Reply::json(200, &book.contacts[&id].json(&book.tenant))),
        ("PATCH", [id]) => patch(book, id, body, now),
        ("DELETE", [id]) => erase(book, id, now),
        _ => return None,
    })
}

/// By internal id, else by external id.
fn find(book: &Book, id: &str) -> Result<String, Problem> {
    let known = book.contacts.contains_key(id).then(|| id.to_owned());
    known
        .or_else(|| book.by_external_id.get(id).cloned())
        .ok_or_else(|| Problem::new(404, "Contact not found"))
}

fn put(book: &mut Book, body: &Value, now: Millis) -> Result<Reply, Problem> {
    let read = input::contact(body, "").map_err(Problem::invalid)?;
    let (contact, _) = upsert(book, read, now)?;
    Ok(Reply::json(200, &contact.json(&book.tenant)))
}

fn patch(book: &mut Book, id: &str, body: &Value, now: Millis) -> Result<Reply, Problem> {
    let id = find(book, id)?;
    let read = input::contact(body, "").map_err(Problem::invalid)?;
    let contact = write(book, &id, read, now)?;
    Ok(Reply::json(200, &contact.json(&book.tenant)))
}

fn bulk(book: &mut Book, body: &Value, now: Millis) -> Result<Reply, Problem> {
    let rows = body.get("contacts").and_then(Value::as_array);
    let rows = rows.ok_or_else(|| Problem::new(400, "contacts must be an array"))?;
    if rows.is_empty() || rows.len() > BULK_MAX {
        return Err(Problem::new(400, format!("contacts must contain 1 to {BULK_MAX} elements")));
    }
    let (mut read, mut wrong) = (Vec::with_capacity(rows.len()), Vec::new());
    for (index, row) in rows.iter().enumerate() {
        match input::contact(row, &format!("contacts.{index}.")) {
            Ok(input) if input.email.is_none() => {
                wrong.push(format!("contacts.{index}.email must be an email"))
            }
            Ok(input) => read.push(input),
            Err(all) => wrong.extend(all),
        }
    }
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong));
    }
    if book.gate.random.chance(book.gate.faults.empty_results) {
        return Ok(Reply::json(200, &json!({})));
    }
    let (mut created, mut updated, mut errors) = (0, 0, Vec::new());
    for (index, input) in read.into_iter().enumerate() {
        let named = json!({"index": index, "email": input.email, "externalId": input.external_id});
        let written = match row_fault(book) {
            Some(problem) => Err(problem),
            None => upsert(book, input, now),
        };
        match written {
            Ok((_, true)) => created += 1,
            Ok((_, false)) => updated += 1,
            Err(problem) => {
                let mut row = named;
                (row["statusCode"], row["message"]) = (json!(problem.status), json!(problem.message()));
                errors.push(row);
            }
        }
    }
    let total = rows.len();
    let body = json!({"created": created, "updated": updated, "failed": errors.len(), "total": total, "errors": errors});
    Ok(Reply::json(200, &body))
}

/// The fault that a row meets before it is written.
fn row_fault(book: &mut Book) -> Option<Problem> {
    if book.gate.random.chance(book.gate.faults.partial) {
        return Some(Problem::new(500, "Internal server error"));
    }
    book.gate
        .random
        .chance(book.gate.faults.reject)
        .then(|| Problem::new(422, "Refused by a rule of the account"))
}

/// The contact, and whether it is new.
pub(crate) fn upsert(book: &mut Book, input: Input, now: Millis) -> Result<(Contact, bool), Problem> {
    let Some(email) = input.email.clone() else { return Err(Problem::new(400, "email must be an email")) };
    let external_id = input.external_id.clone().flatten();
    let by_id = external_id.as_ref().and_then(|id| book.by_external_id.get(id)).cloned();
    let by_email = book.by_email.get(&email).cloned();
    let conflict = |what: &str| Err(Problem::new(409, format!("{what} conflict with another contact")));
    let found = match (by_id, by_email) {
        (Some(one), Some(other)) if one != other => return conflict("email"),
        (Some(one), _) => Some(one),
        (None, Some(other)) => {
            let has = book.contacts.get(&other).and_then(|contact| contact.external_id.clone());
            if external_id.is_some() && has.is_some() {
                return conflict("externalId");
            }
            Some(other)
        }
        (None, None) => None,
    };
    if let Some(id) = found {
        return write(book, &id, input, now).map(|contact| (contact, false));
    }
    if book.contacts.len() >= SANDBOX_OBJECTS_MAX {
        return Err(Problem::new(422, "the sandbox keeps no more contacts: start it anew"));
    }
    let id = book.new_id("cl");
    let blank = Contact {
        id: id.clone(),
        email: email.clone(),
        external_id: None,
        locale: None,
        opt_in: false,
        attributes: Map::new(),
        consent_version: None,
        source: None,
        project_id: None,
        suppressed_at: book.suppressions.get(&email).map(|one| one.at),
        unsubscribed_at: None,
        created_at: now,
        updated_at: now,
    };
    book.by_email.insert(email, id.clone());
    book.changes.insert((now.0, id.clone()));
    book.contacts.insert(id.clone(), blank);
    write(book, &id, input, now).map(|contact| (contact, true))
}

/// Writes what is said over what is there; `updatedAt` moves on a change only.
fn write(book: &mut Book, id: &str, input: Input, now: Millis) -> Result<Contact, Problem> {
    let Some(before) = book.contacts.get(id).cloned() else {
        return Err(Problem::new(404, "Contact not found"));
    };
    let taken = |map: &BTreeMap<String, String>, key: &str| map.get(key).is_some_and(|other| other != id);
    if input.email.as_ref().is_some_and(|email| taken(&book.by_email, email)) {
        return Err(Problem::new(409, "email conflict with another contact"));
    }
    if input.external_id.iter().flatten().any(|external| taken(&book.by_external_id, external)) {
        return Err(Problem::new(409, "externalId conflict with another contact"));
    }
    let mut after = before.clone();
    if let Some(email) = input.email {
        after.suppressed_at = book.suppressions.get(&email).map(|one| one.at);
        after.email = email;
    }
    after.external_id = input.external_id.unwrap_or(after.external_id);
    after.locale = input.locale.unwrap_or(after.locale);
    after.opt_in = input.opt_in.unwrap_or(after.opt_in);
    after.attributes = input.attributes.unwrap_or(after.attributes);
    after.consent_version = input.consent_version.unwrap_or(after.consent_version);
    after.source = input.source.unwrap_or(after.source);
    after.project_id = input.project_id.unwrap_or(after.project_id);
    if before.opt_in != after.opt_in {
        after.unsubscribed_at = (!after.opt_in).then_some(now);
    }
    let out = before.opt_in && !after.opt_in;
    store(book, &before, after.clone(), now);
    if out {
        hooks::unsubscribed(book, id, "api", now);
    }
    Ok(book.contacts.get(id).cloned().unwrap_or(after))
}

/// Puts a changed contact in its places.
pub(crate) fn store(book: &mut Book, before: &Contact, mut after: Contact, now: Millis) {
    if *before == after {
        return;
    }
    after.updated_at = now;
    book.changes.remove(&(before.updated_at.0, before.id.clone()));
    book.changes.insert((now.0, after.id.clone()));
    book.by_email.remove(&before.email);
    book.by_email.insert(after.email.clone(), after.id.clone());
    if let Some(external) = &before.external_id {
        book.by_external_id.remove(external);
    }
    if let Some(external) = &after.external_id {
        book.by_external_id.insert(external.clone(), after.id.clone());
    }
    book.contacts.insert(after.id.clone(), after);
}

fn erase(book: &mut Book, id: &str, now: Millis) -> Result<Reply, Problem> {
    let id = find(book, id)?;
    let Some(gone) = book.contacts.remove(&id) else { return Err(Problem::new(404, "Contact not found")) };
    book.changes.remove(&(gone.updated_at.0, id));
    book.by_email.remove(&gone.email);
    if let Some(external) = &gone.external_id {
        book.by_external_id.remove(external);
    }
    suppressions::suppress(book, &gone.email, "erasure", now);
    // The public SDK reads every success as JSON.
    Ok(Reply::json(200, &json!({"deleted": true, "externalId": gone.external_id, "suppressed": true})))
}
