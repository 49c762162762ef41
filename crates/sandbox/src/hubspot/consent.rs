//! Subscriptions of addresses: `/communication-preferences/{version}/…`.

use std::collections::BTreeMap;

use mailspan_core::Millis;
use serde::Serialize;
use serde_json::{Value, json};

use super::book::Book;
use super::input;
use super::model::Kind;
use super::problem::{ItemProblem, Problem};
use super::routes::{Answered, Query};
use crate::wire::Reply;

/// The account's subscription types.
pub(crate) const SUBSCRIPTIONS: [(u64, &str); 2] = [(1_001, "Marketing Information"), (1_002, "One to One")];

/// What an address is subscribed to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Status {
    pub unsubscribed_all: bool,
    /// Subscription type → `SUBSCRIBED` or `UNSUBSCRIBED`; what is not there is `NOT_SPECIFIED`.
    pub types: BTreeMap<u64, String>,
    pub changed_at: Option<Millis>,
}

/// Statuses by address in lower case; an address needs no contact.
#[derive(Debug, Default)]
pub(crate) struct Consents(pub BTreeMap<String, Status>);

impl Consents {
    pub fn forget(&mut self, address: &str) {
        self.0.remove(&address.trim().to_lowercase());
    }

    fn of(&mut self, address: &str) -> &mut Status {
        self.0.entry(address.trim().to_lowercase()).or_default()
    }
}

pub(crate) fn act(
    book: &mut Book,
    method: &str,
    path: &[&str],
    query: &Query,
    body: &Value,
    now: Millis,
) -> Option<Answered> {
    match (method, path) {
        ("GET", ["definitions"]) => Some(Ok(definitions())),
        ("POST", ["statuses", "batch", "unsubscribe-all"]) => Some(unsubscribe_many(book, query, body, now)),
        ("POST", ["statuses", "batch", "unsubscribe-all", "read"]) => {
            Some(read_all_many(book, query, body, now))
        }
        ("POST", ["statuses", "batch", "write"]) => Some(write_many(book, body, now)),
        ("POST", ["statuses", "batch", "read"]) => Some(read_many(book, query, body, now)),
        ("GET", ["statuses", address]) => Some(read_one(book, address, query, now)),
        ("POST", ["statuses", address]) => Some(write_one(book, address, body, now)),
        ("GET", ["statuses", address, "unsubscribe-all"]) => Some(read_all(book, address, query)),
        ("POST", ["statuses", address, "unsubscribe-all"]) => {
            Some(unsubscribe_one(book, address, query, now))
        }
        _ => None,
    }
}

fn definitions() -> Reply {
    let results: Vec<Value> = SUBSCRIPTIONS
        .iter()
        .map(|(id, name)| json!({"id": id.to_string(), "name": name, "isActive": true, "communicationMethod": "Email"}))
        .collect();
    Reply::json(200, &json!({"status": "COMPLETE", "results": results}))
}

fn channel(query: &Query) -> Result<(), Problem> {
    match query.get("channel").map(String::as_str) {
        Some("EMAIL") => Ok(()),
        Some(other) => Err(Problem::invalid(format!("`{other}` is no channel: EMAIL"))),
        None => Err(Problem::invalid("the query parameter `channel` is required")),
    }
}

/// The inputs of a batch of addresses: plain text.
fn addresses(body: &Value) -> Result<Vec<String>, Problem> {
    let read = |item: &Value| {
        item.as_str().map(str::to_owned).ok_or_else(|| Problem::invalid("each of `inputs` must be a string"))
    };
    input::inputs(body)?.iter().map(read).collect()
}

fn check_address(address: &str) -> Result<(), ItemProblem> {
    if input::is_address(address) {
        return Ok(());
    }
    Err(ItemProblem::new("VALIDATION_ERROR", format!("{address} is not a valid email address")))
}

fn unsubscribe_many(book: &mut Book, query: &Query, body: &Value, now: Millis) -> Answered {
    channel(query)?;
    let addresses = addresses(body)?;
    if book.empty_fault() {
        return Ok(book.batch(200, Vec::new(), Vec::new(), now));
    }
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for address in &addresses {
        match book.item_fault().map_or_else(|| check_address(address), Err) {
            Ok(()) => {
                let statuses = unsubscribe(book, address, now);
                done.push(json!({"subscriberIdString": address, "statuses": statuses}));
            }
            Err(problem) => failed.push((None, problem.about("subscriberIdString", address))),
        }
    }
    Ok(book.batch(200, done, failed, now))
}

fn unsubscribe_one(book: &mut Book, address: &str, query: &Query, now: Millis) -> Answered {
    channel(query)?;
    check_address(address).map_err(|problem| Problem::invalid(problem.message))?;
    let results = unsubscribe(book, address, now);
    Ok(Reply::json(200, &json!({"status": "COMPLETE", "results": results})))
}

/// Opts out of everything; the answer names each type and what changed.
fn unsubscribe(book: &mut Book, address: &str, now: Millis) -> Vec<Value> {
    let status = book.consents.of(address);
    let reason = if status.unsubscribed_all { "NO_STATUS_CHANGE" } else { "UNSUBSCRIBE_FROM_ALL_OCCURRED" };
    status.unsubscribed_all = true;
    status.changed_at = Some(now);
    for (id, _) in SUBSCRIPTIONS {
        status.types.insert(id, "UNSUBSCRIBED".to_owned());
    }
    mark(book, address, true, now);
    SUBSCRIPTIONS
        .iter()
        .map(|(id, name)| shown(address, *id, name, "UNSUBSCRIBED", Some(reason), now))
        .collect()
}

/// The contact of an address shows its opt-out in a property of HubSpot's own.
fn mark(book: &mut Book, address: &str, out: bool, now: Millis) {
    let table = book.table(Kind::Contacts);
    if let Some(id) = table.find(address, Some("email")) {
        table.set(id, &BTreeMap::from([("hs_email_optout".to_owned(), out.to_string())]), now);
    }
}

fn shown(address: &str, id: u64, name: &str, status: &str, reason: Option<&str>, now: Millis) -> Value {
    let mut shown = json!({
        "subscriberIdString": address,
        "channel": "EMAIL",
        "subscriptionId": id,
        "subscriptionName": name,
        "status": status,
        "source": "API",
        "timestamp": now.rfc3339(),
    });
    if let Some(reason) = reason {
        shown["setStatusSuccessReason"] = json!(reason);
    }
    shown
}

fn write_one(book: &mut Book, address: &str, body: &Value, now: Millis) -> Answered {
    let wish = wish(body)?;
    check_address(address).map_err(|problem| Problem::invalid(problem.message))?;
    let result = write(book, address, &wish, now).map_err(|problem| Problem::invalid(problem.message))?;
    Ok(Reply::json(200, &result))
}

fn write_many(book: &mut Book, body: &Value, now: Millis) -> Answered {
    let mut wishes = Vec::new();
    for item in input::inputs(body)? {
        let Some(address) = input::text(item, "subscriberIdString")? else {
            return Err(Problem::invalid("Some required fields were not set: [subscriberIdString]"));
        };
        wishes.push((address, wish(item)?));
    }
    if book.empty_fault() {
        return Ok(book.batch(200, Vec::new(), Vec::new(), now));
    }
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (address, wish) in &wishes {
        let checked = book.item_fault().map_or_else(|| check_address(address), Err);
        match checked.and_then(|()| write(book, address, wish, now)) {
            Ok(result) => done.push(result),
            Err(problem) => failed.push((None, problem.about("subscriberIdString", address))),
        }
    }
    Ok(book.batch(200, done, failed, now))
}

struct Wish {
    subscription: u64,
    state: String,
}

/// Reads `{channel, subscriptionId, statusState, legalBasis?, legalBasisExplanation?}`.
fn wish(item: &Value) -> Result<Wish, Problem> {
    if item.get("channel").and_then(Value::as_str) != Some("EMAIL") {
        return Err(Problem::invalid("`channel` must be EMAIL"));
    }
    let Some(subscription) = item.get("subscriptionId").and_then(Value::as_u64) else {
        return Err(Problem::invalid("`subscriptionId` must be a number"));
    };
    let state = input::text(item, "statusState")?.unwrap_or_default();
    if !matches!(state.as_str(), "SUBSCRIBED" | "UNSUBSCRIBED" | "NOT_SPECIFIED") {
        return Err(Problem::invalid("`statusState` must be SUBSCRIBED, UNSUBSCRIBED or NOT_SPECIFIED"));
    }
    const BASES: [&str; 7] = [
        "CONSENT_WITH_NOTICE",
        "LEGITIMATE_INTEREST_CLIENT",
        "LEGITIMATE_INTEREST_OTHER",
        "LEGITIMATE_INTEREST_PQL",
        "NON_GDPR",
        "PERFORMANCE_OF_CONTRACT",
        "PROCESS_AND_STORE",
    ];
    match input::text(item, "legalBasis")? {
        Some(basis) if !BASES.contains(&basis.as_str()) => {
            Err(Problem::invalid(format!("`{basis}` is no legal basis: {}", BASES.join(", "))))
        }
        _ => Ok(Wish { subscription, state }),
    }
}

fn write(book: &mut Book, address: &str, wish: &Wish, now: Millis) -> Result<Value, ItemProblem> {
    let Some((id, name)) = SUBSCRIPTIONS.iter().find(|(id, _)| *id == wish.subscription) else {
        let message = format!("there is no subscription type {}", wish.subscription);
        return Err(ItemProblem::new("VALIDATION_ERROR", message));
    };
    let status = book.consents.of(address);
    let old = status.types.get(id).map_or("NOT_SPECIFIED", String::as_str);
    let reason = match (old, wish.state.as_str()) {
        (old, new) if old == new => "NO_STATUS_CHANGE",
        ("UNSUBSCRIBED", "SUBSCRIBED") => "RESUBSCRIBE_OCCURRED",
        _ => "REQUESTED_CHANGE_OCCURRED",
    };
    status.types.insert(*id, wish.state.clone());
    status.changed_at = Some(now);
    let resubscribed = wish.state == "SUBSCRIBED" && std::mem::take(&mut status.unsubscribed_all);
    if resubscribed {
        mark(book, address, false, now);
    }
    Ok(shown(address, *id, name, &wish.state, Some(reason), now))
}

fn statuses(book: &Book, address: &str, now: Millis) -> Vec<Value> {
    let status = book.consents.0.get(&address.trim().to_lowercase());
    let of =
        |id: &u64| status.and_then(|status| status.types.get(id)).map_or("NOT_SPECIFIED", String::as_str);
    SUBSCRIPTIONS.iter().map(|(id, name)| shown(address, *id, name, of(id), None, now)).collect()
}

fn read_one(book: &Book, address: &str, query: &Query, now: Millis) -> Answered {
    channel(query)?;
    Ok(Reply::json(200, &json!({"status": "COMPLETE", "results": statuses(book, address, now)})))
}

fn read_many(book: &mut Book, query: &Query, body: &Value, now: Millis) -> Answered {
    channel(query)?;
    let done = addresses(body)?
        .iter()
        .map(|address| json!({"subscriberIdString": address, "statuses": statuses(book, address, now)}))
        .collect();
    Ok(book.batch(200, done, Vec::new(), now))
}

fn wide(book: &Book, address: &str) -> Value {
    let out =
        book.consents.0.get(&address.trim().to_lowercase()).is_some_and(|status| status.unsubscribed_all);
    json!({
        "subscriberIdString": address,
        "channel": "EMAIL",
        "wideStatusType": "PORTAL_WIDE",
        "status": if out { "UNSUBSCRIBED" } else { "NOT_SPECIFIED" },
    })
}

fn read_all(book: &Book, address: &str, query: &Query) -> Answered {
    channel(query)?;
    Ok(Reply::json(200, &json!({"status": "COMPLETE", "results": [wide(book, address)]})))
}

fn read_all_many(book: &mut Book, query: &Query, body: &Value, now: Millis) -> Answered {
    channel(query)?;
    let done = addresses(body)?
        .iter()
        .map(|address| json!({"subscriberIdString": address, "wideStatuses": [wide(book, address)]}))
        .collect();
    Ok(book.batch(200, done, Vec::new(), now))
}
