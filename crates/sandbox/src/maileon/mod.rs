//! A fake Maileon: contacts by REST 1.0 with permissions that are never lowered below a double opt-in,
//! synchronisation with its report, unsubscription that forgets the contact, markers, and webhooks that nobody
//! signs. Errors are XML, whatever was sent.

mod contacts;
mod sync;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, header};
use axum::routing::{get, post};
use mailspan_core::limits::{BODY_BYTES_MAX, SANDBOX_REQUESTS_KEPT};
use mailspan_core::{Millis, xml};
use serde_json::json;

use crate::gate::{Gate, Stop, Way};
use crate::wire::{self, Reply, deliver, hang, lock, members, segments};
use crate::{Clock, Faults};

pub use contacts::Contact;

/// A fake Maileon; clones share their state.
#[derive(Clone)]
pub struct Maileon {
    book: Arc<Mutex<Book>>,
    clock: Clock,
}

/// A webhook as it is posted: the parameters that its URL gets, and the body where one is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hook {
    pub query: String,
    pub body: Option<String>,
}

pub(crate) struct Book {
    key: String,
    contacts: BTreeMap<String, Contact>,
    /// Addresses with the unsubscription marker.
    markers: BTreeSet<String>,
    custom: BTreeSet<String>,
    hooks: VecDeque<Hook>,
    gate: Gate,
    next_id: u64,
    seen: VecDeque<(String, String, u16)>,
}

const TYPE: &str = "application/vnd.maileon.api+xml";

impl Maileon {
    /// An account with these custom fields; `key` is what callers must bring.
    pub fn new(key: &str, custom: &[&str], faults: Faults, seed: u64, clock: Clock) -> Maileon {
        let book = Book {
            key: key.to_owned(),
            contacts: BTreeMap::new(),
            markers: BTreeSet::new(),
            custom: custom.iter().map(|name| (*name).to_owned()).collect(),
            hooks: VecDeque::new(),
            gate: Gate::new(faults, seed),
            next_id: 1_000,
            seen: VecDeque::new(),
        };
        Maileon { book: Arc::new(Mutex::new(book)), clock }
    }

    /// The API, with `/1.0` before its paths or without; `GET /` and `GET /_sandbox/state` show the account,
    /// `POST /_sandbox/faults` breaks and mends it.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/", get(show_state))
            .route("/_sandbox/state", get(show_state))
            .route("/_sandbox/faults", post(change_faults))
            .fallback(answer)
            .with_state(self.clone())
    }

    /// The contact with this address.
    pub fn contact(&self, email: &str) -> Option<Contact> {
        lock(&self.book).contacts.get(&email.to_lowercase()).cloned()
    }

    pub fn contacts(&self) -> Vec<Contact> {
        lock(&self.book).contacts.values().cloned().collect()
    }

    /// True where the address has the unsubscription marker.
    pub fn is_marked(&self, email: &str) -> bool {
        lock(&self.book).markers.contains(&email.to_lowercase())
    }

    /// Somebody clicks the link: the contact is forgotten, the webhook has what stands in its URL.
    pub fn unsubscribe(&self, email: &str) {
        let mut book = lock(&self.book);
        book.tell("unsubscription", email, None);
        book.unsubscribe(&email.to_lowercase());
    }

    /// Somebody confirms: permission 4, and a webhook with a body.
    pub fn confirm(&self, email: &str) {
        let at = (self.clock)();
        let mut book = lock(&self.book);
        if let Some(contact) = book.contacts.get_mut(&email.to_lowercase()) {
            contact.permission = 4;
        }
        let text = at.rfc3339();
        let stamp =
            format!("{} {}", text.get(0..10).unwrap_or_default(), text.get(11..19).unwrap_or_default());
        book.tell("doi", email, Some(json!({"email": email, "timestamp": stamp}).to_string()));
    }

    /// The webhooks that were not taken yet.
    pub fn take_hooks(&self) -> Vec<Hook> {
        lock(&self.book).hooks.drain(..).collect()
    }

    /// Method, path and status of the latest requests, oldest first.
    pub fn requests_seen(&self) -> Vec<(String, String, u16)> {
        lock(&self.book).seen.iter().cloned().collect()
    }

    /// Other faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.book).gate.set(faults);
    }
}

/// A request, taken apart.
pub(crate) struct Call<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    authorization: Option<&'a str>,
    body: &'a [u8],
}

pub(crate) type Answered = Result<Reply, (u16, String)>;

/// An answer in XML. Its content type has no charset: the vendor's clients compare it to the letter.
pub(crate) fn reply(status: u16, body: &str) -> Reply {
    let xml = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{body}");
    Reply { status, headers: Vec::new(), content_type: TYPE, body: xml.into() }
}

pub(crate) fn refusal(status: u16, message: &str) -> Reply {
    reply(status, &format!("<error><message>{}</message></error>", xml::escaped(message)))
}

impl Book {
    fn exchange(&mut self, call: &Call<'_>, now: Millis) -> Option<(Reply, Way)> {
        let reply = self.reply(call, now);
        if self.seen.len() == SANDBOX_REQUESTS_KEPT {
            self.seen.pop_front();
        }
        let status = reply.as_ref().map_or(0, |reply| reply.status);
        self.seen.push_back((call.method.to_owned(), call.path.to_owned(), status));
        let way = self.gate.way();
        Some((reply?, way))
    }

    fn reply(&mut self, call: &Call<'_>, now: Millis) -> Option<Reply> {
        match self.gate.before() {
            None => {}
            Some(Stop::Hang) => return None,
            Some(Stop::Unauthorized) => return Some(refusal(401, "invalid api key")),
            Some(Stop::Status(status)) => return Some(refusal(status, "broken by a fault of the sandbox")),
            Some(Stop::TooMany { .. }) => return Some(refusal(429, "too many requests")),
        }
        if self.key.is_empty() || !call.authorization.is_some_and(|given| is_key(given, &self.key)) {
            return Some(refusal(401, "invalid api key"));
        }
        if let Some(Stop::TooMany { wait_ms, .. }) = self.gate.limits(now) {
            let wait = wait_ms.div_ceil(1_000).max(1);
            return Some(refusal(429, "too many requests").with("retry-after", wait));
        }
        if self
            .gate
            .faults
            .missing_scopes
            .as_deref()
            .is_some_and(|missing| missing == "*" || missing == call.method)
        {
            return Some(refusal(403, &format!("the key has no privilege for {}", call.method)));
        }
        let path = segments(call.path);
        let path: Vec<&str> = path.iter().map(String::as_str).filter(|part| *part != "1.0").collect();
        let query = members(call.query);
        let answered = match path.as_slice() {
            ["ping"] => Ok(reply(200, "<ping/>")),
            ["contacts"] if call.method == "POST" => sync::synchronise(self, &query, call.body),
            ["contacts", rest @ ..] => contacts::act(self, call.method, rest, &query, call.body),
            _ => Err((404, format!("no resource {}", call.path))),
        };
        Some(answered.unwrap_or_else(|(status, message)| refusal(status, &message)))
    }

    fn tell(&mut self, event: &str, email: &str, body: Option<String>) {
        if self.hooks.len() == SANDBOX_REQUESTS_KEPT {
            self.hooks.pop_front();
        }
        // As it is: Maileon does not always escape a `+`.
        self.hooks.push_back(Hook { query: format!("type={event}&email={email}"), body });
    }

    /// The contact is anonymised, which here means gone; the marker stays.
    fn unsubscribe(&mut self, email: &str) -> bool {
        let known = self.contacts.remove(email).is_some();
        if known {
            self.markers.insert(email.to_owned());
        }
        known
    }
}

/// `Basic` with base64 of the key; with a colon behind it, and the key as it is, as other clients send it.
fn is_key(given: &str, key: &str) -> bool {
    let Some(text) = given.strip_prefix("Basic ") else { return false };
    text == key
        || [base64(key.as_bytes()), base64(format!("{key}:").as_bytes())].iter().any(|one| one == text)
}

/// RFC 4648, 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let letter = ALPHABET[(word >> (18 - 6 * n) & 63) as usize];
            out.push(if n <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

async fn answer(State(account): State<Maileon>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_BYTES_MAX * 2).await else {
        return deliver(refusal(413, "the body is too large or broke off"), Way::Plain).await;
    };
    let call = Call {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or(""),
        authorization: parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()),
        body: &body,
    };
    let now = (account.clock)();
    let exchanged = lock(&account.book).exchange(&call, now);
    match exchanged {
        Some((reply, way)) => deliver(reply, way).await,
        None => hang().await,
    }
}

async fn show_state(State(account): State<Maileon>) -> Response<Body> {
    let state = {
        let book = lock(&account.book);
        let contacts: Vec<serde_json::Value> = book.contacts.values().take(200).map(Contact::json).collect();
        json!({
            "vendor": "maileon", "faults": book.gate.faults.to_string(), "requests": book.seen.len(),
            "contacts": contacts, "markers": book.markers.iter().take(200).collect::<Vec<_>>(),
        })
    };
    deliver(Reply::json(200, &state), Way::Plain).await
}

async fn change_faults(State(account): State<Maileon>, request: Request) -> Response<Body> {
    let reply = wire::change_faults(request, |faults| account.set_faults(faults)).await;
    deliver(reply, Way::Plain).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_spellings_of_the_key_are_taken() {
        assert_eq!([base64(b""), base64(b"a"), base64(b"ab"), base64(b"abc")], ["", "YQ==", "YWI=", "YWJj"]);
        for given in ["Basic YWJj", "Basic YWJjOg==", "Basic abc"] {
            assert!(is_key(given, "abc"), "{given}");
        }
        assert!(!is_key("Bearer abc", "abc") && !is_key("Basic YWI=", "abc"));
    }
}
