//! Webhook endpoints and their signed webhooks: five attempts, 10 s doubled between them.

use std::collections::{BTreeMap, VecDeque};

use aws_lc_rs::hmac;
use bytes::Bytes;
use mailspan_core::Millis;
use mailspan_core::limits::{SANDBOX_REQUESTS_KEPT, SANDBOX_WEBHOOKS_MAX};
use serde_json::{Value, json};

use super::book::Book;
use super::problem::Problem;
use crate::wire::Reply;

/// Every event type.
pub const EVENTS: [&str; 8] = [
    "email.sent",
    "email.delivered",
    "email.opened",
    "email.clicked",
    "email.bounced",
    "email.complained",
    "email.failed",
    "contact.unsubscribed",
];
const ATTEMPTS_MAX: u32 = 5;
const BACKOFF_MS: u64 = 10_000;
const ENDPOINTS_MAX: usize = 10;
const SECRET_CHARS_MIN: usize = 32;

/// A webhook to post.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hook {
    /// For `settle`.
    pub ticket: u64,
    pub url: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// Signed with a secret that nobody knows: 401 is the right answer.
    pub wrong_secret: bool,
    /// A second copy by the fault `duplicates`; it is not repeated.
    pub copy: bool,
}

#[derive(Debug, Clone)]
struct Endpoint {
    url: String,
    events: Vec<String>,
    secret: String,
    active: bool,
    created_at: Millis,
}

#[derive(Debug, Clone)]
struct Delivery {
    id: String,
    endpoint: String,
    event: String,
    body: Bytes,
    attempt: u32,
    status: Option<u16>,
    created_at: Millis,
    attempted_at: Option<Millis>,
    copy: bool,
}

#[derive(Default)]
pub(crate) struct Hooks {
    endpoints: BTreeMap<String, Endpoint>,
    waiting: BTreeMap<(Millis, u64), Delivery>,
    flying: BTreeMap<u64, Delivery>,
    done: VecDeque<Delivery>,
    number: u64,
}

impl Hooks {
    pub fn open(&self) -> usize {
        self.waiting.len() + self.flying.len()
    }

    pub fn in_flight(&self) -> usize {
        self.flying.len()
    }
}

/// `t=<seconds>,v1=<hex>`: HMAC-SHA256 over `<seconds>.<body>`, keyed with the secret as it is written.
pub fn signature(secret: &str, seconds: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
    context.update(format!("{seconds}.").as_bytes());
    context.update(body);
    let mac: String = context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={mac}")
}

pub(crate) fn act(
    book: &mut Book,
    method: &str,
    path: &[&str],
    body: &Value,
    now: Millis,
) -> Option<Result<Reply, Problem>> {
    Some(match (method, path) {
        ("GET", []) => {
            let all = book.hooks.endpoints.iter().map(|(id, one)| shown(id, one, false)).collect::<Vec<_>>();
            Ok(Reply::json(200, &json!({"data": all, "meta": {"total": all.len()}})))
        }
        ("POST", []) => register(book, body, now),
        ("PATCH", [id, "toggle"]) => toggle(book, id, body),
        ("DELETE", [id]) => remove(book, id),
        ("GET", [id, "deliveries"]) => deliveries(book, id),
        _ => return None,
    })
}

fn none() -> Problem {
    Problem::new(404, "Webhook endpoint not found")
}

fn register(book: &mut Book, body: &Value, now: Millis) -> Result<Reply, Problem> {
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let url = text("url").filter(|url| url.starts_with("https://") || url.starts_with("http://127.0.0.1"));
    let url = url.ok_or_else(|| Problem::new(400, "url must be a public HTTPS address"))?.to_owned();
    let events = body.get("events").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let names: Vec<String> = events.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect();
    if names.is_empty()
        || names.len() != events.len()
        || !names.iter().all(|name| EVENTS.contains(&name.as_str()))
    {
        return Err(Problem::new(400, "events must be a list of event types"));
    }
    let secret = match text("secret") {
        Some(secret) if secret.chars().count() >= SECRET_CHARS_MIN => secret.to_owned(),
        Some(_) => return Err(Problem::new(400, "secret must be longer than or equal to 32 characters")),
        None => book.new_id("whsec_") + &book.new_id(""),
    };
    if book.hooks.endpoints.len() == ENDPOINTS_MAX {
        return Err(Problem::new(409, "at most 10 endpoints"));
    }
    let id = add(book, &url, names, &secret, now);
    Ok(Reply::json(201, &shown(&id, &book.hooks.endpoints[&id], true)))
}

pub(crate) fn add(book: &mut Book, url: &str, events: Vec<String>, secret: &str, now: Millis) -> String {
    let id = book.new_id("cl");
    let (url, secret) = (url.to_owned(), secret.to_owned());
    book.hooks.endpoints.insert(id.clone(), Endpoint { url, events, secret, active: true, created_at: now });
    id
}

fn shown(id: &str, one: &Endpoint, whole: bool) -> Value {
    let hint: String = one.secret.chars().rev().take(4).collect::<Vec<_>>().into_iter().rev().collect();
    let mut shown = json!({
        "id": id, "url": one.url, "events": one.events, "isActive": one.active, "secretHint": hint,
        "createdAt": one.created_at.rfc3339(),
    });
    if whole {
        shown["secret"] = json!(one.secret);
    }
    shown
}

fn toggle(book: &mut Book, id: &str, body: &Value) -> Result<Reply, Problem> {
    let endpoint = book.hooks.endpoints.get_mut(id).ok_or_else(none)?;
    endpoint.active = body.get("isActive").and_then(Value::as_bool).unwrap_or(!endpoint.active);
    let reply = Reply::json(200, &shown(id, endpoint, false));
    if !endpoint.active {
        book.hooks.waiting.retain(|_, delivery| delivery.endpoint != id);
    }
    Ok(reply)
}

fn remove(book: &mut Book, id: &str) -> Result<Reply, Problem> {
    book.hooks.endpoints.remove(id).ok_or_else(none)?;
    book.hooks.waiting.retain(|_, delivery| delivery.endpoint != id);
    Ok(Reply::json(200, &json!({"deleted": true})))
}

fn deliveries(book: &Book, id: &str) -> Result<Reply, Problem> {
    book.hooks.endpoints.get(id).ok_or_else(none)?;
    let open = book.hooks.waiting.values().chain(book.hooks.flying.values());
    let all = open.chain(book.hooks.done.iter().rev()).filter(|delivery| delivery.endpoint == id).take(20);
    let rows: Vec<Value> = all
        .map(|one| {
            json!({
                "id": one.id, "event": one.event, "statusCode": one.status, "attempt": one.attempt,
                "deliveredAt": one.attempted_at.map(Millis::rfc3339), "createdAt": one.created_at.rfc3339(),
            })
        })
        .collect();
    Ok(Reply::json(200, &json!({"data": rows, "meta": {"limit": 20}})))
}

/// Tells every endpoint that asked for it.
fn tell(book: &mut Book, event_type: &str, data: Value, now: Millis) {
    let id = book.new_id("evt_");
    let body = json!({
        "id": id, "type": event_type, "createdAt": now.rfc3339(), "tenantId": book.tenant, "data": data,
    });
    let body = Bytes::from(body.to_string());
    let asked = |one: &Endpoint| one.active && one.events.iter().any(|name| name == event_type);
    let endpoints: Vec<String> =
        book.hooks.endpoints.iter().filter(|(_, one)| asked(one)).map(|(id, _)| id.clone()).collect();
    for endpoint in endpoints {
        if book.gate.random.chance(book.gate.faults.forget) {
            continue;
        }
        if book.hooks.open() >= SANDBOX_WEBHOOKS_MAX {
            return;
        }
        let id = book.new_id("cl");
        book.hooks.number += 1;
        let (event, body) = (event_type.to_owned(), body.clone());
        let delivery = Delivery {
            id,
            endpoint,
            event,
            body,
            attempt: 0,
            status: None,
            created_at: now,
            attempted_at: None,
            copy: false,
        };
        book.hooks.waiting.insert((now, book.hooks.number), delivery);
    }
}

pub(crate) fn unsubscribed(book: &mut Book, id: &str, source: &str, now: Millis) {
    let Some(contact) = book.contacts.get(id) else { return };
    let data = json!({
        "contactId": contact.id, "externalId": contact.external_id, "email": contact.email,
        "unsubscribedAt": contact.unsubscribed_at.unwrap_or(now).rfc3339(), "source": source,
    });
    tell(book, "contact.unsubscribed", data, now);
}

pub(crate) fn of_mail(book: &mut Book, event_type: &str, email: &str, more: &Value, now: Millis) {
    let status = event_type.rsplit('.').next().unwrap_or_default().to_uppercase();
    let mut data = json!({
        "emailLogId": book.new_id("clxlog"), "to": email, "toEmail": email, "subject": "News", "status": status,
        "tags": [], "metadata": {}, "templateVersionId": null, "occurredAt": now.rfc3339(),
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        data[name.as_str()] = value.clone();
    }
    tell(book, event_type, data, now);
}

/// What is to be posted now; a new time and signature for each attempt.
pub(crate) fn due(book: &mut Book, now: Millis, max: usize) -> Vec<Hook> {
    let mut hooks = Vec::new();
    while hooks.len() < max && book.hooks.waiting.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
        let Some((_, delivery)) = book.hooks.waiting.pop_first() else { break };
        if book.gate.random.chance(book.gate.faults.duplicates) && !delivery.copy {
            hooks.extend(launch(book, Delivery { copy: true, ..delivery.clone() }, now));
        }
        hooks.extend(launch(book, delivery, now));
    }
    for at in 1..hooks.len() {
        if book.gate.random.chance(book.gate.faults.reorder) {
            hooks.swap(at - 1, at);
        }
    }
    hooks
}

fn launch(book: &mut Book, mut delivery: Delivery, now: Millis) -> Option<Hook> {
    let wrong_secret = book.gate.random.chance(book.gate.faults.wrong_secret);
    let endpoint = book.hooks.endpoints.get(&delivery.endpoint)?;
    delivery.attempt += 1;
    delivery.attempted_at = Some(now);
    book.hooks.number += 1;
    let secret = if wrong_secret { format!("not-{}", endpoint.secret) } else { endpoint.secret.clone() };
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let hook = Hook {
        ticket: book.hooks.number,
        url: endpoint.url.clone(),
        headers: vec![
            header("user-agent", "MailingCore-Webhook/1.0"),
            header("content-type", "application/json"),
            header("x-mailingcore-signature", &signature(&secret, now.0.div_euclid(1_000), &delivery.body)),
            header("x-mailingcore-event", &delivery.event),
            header("x-mailingcore-delivery-id", &delivery.id),
        ],
        body: delivery.body.clone(),
        wrong_secret,
        copy: delivery.copy,
    };
    book.hooks.flying.insert(hook.ticket, delivery);
    Some(hook)
}

/// Anything but 2xx is repeated, five attempts in all.
pub(crate) fn settle(book: &mut Book, ticket: u64, status: Option<u16>, now: Millis) {
    let Some(mut delivery) = book.hooks.flying.remove(&ticket) else { return };
    delivery.status = status;
    let taken = status.is_some_and(|status| (200..300).contains(&status));
    if delivery.copy {
        return;
    }
    if taken || delivery.attempt >= ATTEMPTS_MAX || !book.hooks.endpoints.contains_key(&delivery.endpoint) {
        if book.hooks.done.len() == SANDBOX_REQUESTS_KEPT {
            book.hooks.done.pop_front();
        }
        book.hooks.done.push_back(delivery);
        return;
    }
    let wait = BACKOFF_MS << (delivery.attempt - 1).min(10);
    book.hooks.number += 1;
    book.hooks.waiting.insert((now.plus(wait), book.hooks.number), delivery);
}
