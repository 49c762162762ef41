//! The suppression list, and what happens to mail.

use std::collections::BTreeMap;

use mailspan_core::{Address, Millis};
use serde_json::{Value, json};

use super::book::Book;
use super::problem::Problem;
use super::{contacts, hooks};
use crate::wire::Reply;

#[derive(Debug, Clone)]
pub(crate) struct Suppression {
    pub id: String,
    pub reason: String,
    pub at: Millis,
}

const REASONS: [&str; 4] = ["bounce", "complaint", "unsubscribe", "manual"];

pub(crate) fn act(
    book: &mut Book,
    method: &str,
    path: &[&str],
    query: &BTreeMap<String, String>,
    body: &Value,
    now: Millis,
) -> Option<Result<Reply, Problem>> {
    Some(match (method, path) {
        ("GET", []) => Ok(list(book, query)),
        ("POST", []) => add(book, body, now),
        ("DELETE", [email]) => lift(book, email, now),
        _ => return None,
    })
}

fn list(book: &Book, query: &BTreeMap<String, String>) -> Reply {
    let limit = query.get("limit").and_then(|text| text.parse().ok()).unwrap_or(20_usize).clamp(1, 100);
    let after = query.get("cursor").filter(|cursor| !cursor.is_empty());
    let rest = book.suppressions.iter().filter(|(email, _)| after.is_none_or(|after| *email > after));
    let found: Vec<(&String, &Suppression)> = rest.take(limit + 1).collect();
    let next =
        (found.len() > limit).then(|| found.get(limit - 1)).flatten().map(|(email, _)| (*email).clone());
    let data: Vec<Value> = found.iter().take(limit).map(|(email, one)| shown(email, one)).collect();
    Reply::json(200, &json!({"data": data, "meta": {"limit": limit, "nextCursor": next}}))
}

fn shown(email: &str, one: &Suppression) -> Value {
    json!({"id": one.id, "email": email, "reason": one.reason, "source": null, "createdAt": one.at.rfc3339()})
}

fn add(book: &mut Book, body: &Value, now: Millis) -> Result<Reply, Problem> {
    let email = body.get("email").and_then(Value::as_str).filter(|text| Address::parse(text).is_ok());
    let email = email.ok_or_else(|| Problem::new(400, "email must be an email"))?.trim().to_lowercase();
    let reason = body.get("reason").and_then(Value::as_str).unwrap_or("manual");
    if !REASONS.contains(&reason) {
        return Err(Problem::new(400, "reason must be one of bounce, complaint, unsubscribe, manual"));
    }
    let status = if book.suppressions.contains_key(&email) { 200 } else { 201 };
    suppress(book, &email, reason, now);
    if reason == "unsubscribe" {
        opt_out(book, &email, "api", now);
    }
    Ok(Reply::json(status, &shown(&email, &book.suppressions[&email])))
}

fn lift(book: &mut Book, email: &str, now: Millis) -> Result<Reply, Problem> {
    let email = email.trim().to_lowercase();
    book.suppressions.remove(&email).ok_or_else(|| Problem::new(404, "Suppression not found"))?;
    mark(book, &email, None, now);
    Ok(Reply::json(200, &json!({"removed": true})))
}

/// The first reason is kept.
pub(crate) fn suppress(book: &mut Book, email: &str, reason: &str, now: Millis) {
    let id = book.new_id("cl");
    let one = Suppression { id, reason: reason.to_owned(), at: now };
    book.suppressions.entry(email.to_owned()).or_insert(one);
    mark(book, email, Some(now), now);
}

fn mark(book: &mut Book, email: &str, at: Option<Millis>, now: Millis) {
    let Some(before) = book.by_email.get(email).and_then(|id| book.contacts.get(id)).cloned() else { return };
    let at = at.map(|at| before.suppressed_at.unwrap_or(at));
    let after = contacts::Contact { suppressed_at: at, ..before.clone() };
    contacts::store(book, &before, after, now);
}

/// True where an opted-in contact was opted out, and the endpoints were told.
fn opt_out(book: &mut Book, email: &str, source: &str, now: Millis) -> bool {
    let Some(before) = book.by_email.get(email).and_then(|id| book.contacts.get(id)).cloned() else {
        return false;
    };
    if before.opt_in {
        let after = contacts::Contact { opt_in: false, unsubscribed_at: Some(now), ..before.clone() };
        contacts::store(book, &before, after, now);
        hooks::unsubscribed(book, &before.id, source, now);
    }
    true
}

/// The hosted page.
pub(crate) fn unsubscribe(book: &mut Book, email: &str, source: &str, now: Millis) -> bool {
    let email = email.to_lowercase();
    let known = opt_out(book, &email, source, now);
    if known {
        suppress(book, &email, "unsubscribe", now);
    }
    known
}

/// What happens to a mail: a hard bounce and a complaint suppress.
pub(crate) fn happen(book: &mut Book, event_type: &str, email: &str, more: &Value, now: Millis) {
    let hard =
        more.get("bounceType").and_then(Value::as_str).is_some_and(|kind| kind.eq_ignore_ascii_case("hard"));
    match event_type {
        "email.bounced" if hard => suppress(book, &email.to_lowercase(), "bounce", now),
        "email.complained" => suppress(book, &email.to_lowercase(), "complaint", now),
        _ => {}
    }
    hooks::of_mail(book, event_type, email, more, now);
}
