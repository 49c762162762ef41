//! A fake MailingCore: contacts with upsert, bulk, patch and erasure, suppressions, webhook endpoints with
//! signed webhooks, and the list of what has changed. What the vendor's pages leave open is decided as a
//! strict server would: what it refuses, the vendor may refuse.

mod book;
mod contacts;
mod hooks;
mod input;
mod list;
mod problem;
mod suppressions;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, header};
use axum::routing::{get, post};
use mailspan_core::limits::BODY_BYTES_MAX;
use serde_json::Value;

use crate::gate::Way;
use crate::wire::{self, Reply, deliver, hang, lock};
use crate::{Clock, Faults, Spawn};
use book::{Book, Call};

pub use contacts::Contact;
pub use hooks::{EVENTS, Hook, signature};

/// A fake MailingCore; clones share their state.
#[derive(Clone)]
pub struct MailingCore {
    book: Arc<Mutex<Book>>,
    clock: Clock,
}

/// Posts a webhook to its receiver: the status, or nothing where none came.
pub type Post = Arc<dyn Fn(Hook) -> Pin<Box<dyn Future<Output = Option<u16>> + Send>> + Send + Sync>;

/// Webhooks on their way at once.
const POSTS_MAX: usize = 64;
/// The vendor's: how long an acknowledgement is waited for.
const POST_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(20);

impl MailingCore {
    /// An account with one tenant; `key` is what callers must bring.
    pub fn new(key: &str, faults: Faults, seed: u64, clock: Clock) -> MailingCore {
        MailingCore { book: Arc::new(Mutex::new(Book::new(key, faults, seed))), clock }
    }

    /// The API under the vendor's paths; `GET /` and `GET /_sandbox/state` show the account,
    /// `POST /_sandbox/faults` breaks and mends it.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/", get(show_state))
            .route("/_sandbox/state", get(show_state))
            .route("/_sandbox/faults", post(change_faults))
            .fallback(answer)
            .with_state(self.clone())
    }

    /// The id of the one tenant, for `X-Tenant-Id`.
    pub fn tenant_id(&self) -> String {
        lock(&self.book).tenant.clone()
    }

    /// All contacts, by address.
    pub fn contacts(&self) -> Vec<Contact> {
        let book = lock(&self.book);
        let mut all: Vec<Contact> = book.contacts.values().cloned().collect();
        all.sort_by(|one, two| one.email.cmp(&two.email));
        all
    }

    /// The contact with this address.
    pub fn contact(&self, email: &str) -> Option<Contact> {
        let book = lock(&self.book);
        let id = book.by_email.get(&email.to_lowercase())?;
        book.contacts.get(id).cloned()
    }

    /// Address in lower case to reason.
    pub fn suppressions(&self) -> BTreeMap<String, String> {
        let book = lock(&self.book);
        book.suppressions.iter().map(|(email, one)| (email.clone(), one.reason.clone())).collect()
    }

    /// Writes a contact as its API would, without a request. The error is what the API would answer.
    pub fn upsert(&self, contact: &Value) -> Result<Contact, String> {
        let now = (self.clock)();
        let mut book = lock(&self.book);
        let read = input::contact(contact, "").map_err(|all| all.join("; "))?;
        contacts::upsert(&mut book, read, now)
            .map(|(contact, _)| contact)
            .map_err(|problem| problem.message())
    }

    /// The hosted page: opts out, suppresses, and tells the endpoints. False where nobody has the address.
    pub fn unsubscribe(&self, email: &str) -> bool {
        let now = (self.clock)();
        suppressions::unsubscribe(&mut lock(&self.book), email, "hosted_page", now)
    }

    /// Tells the endpoints of a mail to this address: `email.bounced` with `{"bounceType": "hard"}`, …
    /// A hard bounce and a complaint suppress the address.
    pub fn happen(&self, event_type: &str, email: &str, more: &Value) {
        let now = (self.clock)();
        suppressions::happen(&mut lock(&self.book), event_type, email, more, now);
    }

    /// Registers an endpoint for all events without a request; its id.
    pub fn add_endpoint(&self, url: &str, secret: &str) -> String {
        let now = (self.clock)();
        hooks::add(
            &mut lock(&self.book),
            url,
            EVENTS.iter().map(|name| (*name).to_owned()).collect(),
            secret,
            now,
        )
    }

    /// The webhooks to post now; each is to be settled.
    pub fn due(&self, max: usize) -> Vec<Hook> {
        let now = (self.clock)();
        hooks::due(&mut lock(&self.book), now, max)
    }

    /// What came of a webhook.
    pub fn settle(&self, ticket: u64, status: Option<u16>) {
        let now = (self.clock)();
        hooks::settle(&mut lock(&self.book), ticket, status, now);
    }

    /// Webhooks that wait or fly.
    pub fn webhooks_open(&self) -> usize {
        lock(&self.book).hooks.open()
    }

    /// Posts what is due for as long as it is polled; the posts run beside it.
    pub async fn run(self, post: Post, spawn: Spawn) {
        loop {
            let free = POSTS_MAX.saturating_sub(lock(&self.book).hooks.in_flight());
            for hook in self.due(free) {
                let (account, post) = (self.clone(), post.clone());
                spawn(Box::pin(async move {
                    let ticket = hook.ticket;
                    let answered = tokio::time::timeout(POST_TIMEOUT, post(hook)).await;
                    account.settle(ticket, answered.ok().flatten());
                }));
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// How many requests came in all.
    pub fn requests_total(&self) -> u64 {
        lock(&self.book).seen_total
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

async fn answer(State(account): State<MailingCore>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_BYTES_MAX * 2).await else {
        return deliver(Reply::text(413, "the body is too large or broke off\n".to_owned()), Way::Plain)
            .await;
    };
    let text = |name: header::HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let call = Call {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or(""),
        authorization: text(header::AUTHORIZATION),
        tenant: text(header::HeaderName::from_static("x-tenant-id")),
        body: &body,
    };
    let now = (account.clock)();
    let exchanged = lock(&account.book).exchange(&call, now);
    match exchanged {
        Some((reply, way)) => deliver(reply, way).await,
        None => hang().await,
    }
}

async fn show_state(State(account): State<MailingCore>) -> Response<Body> {
    let state = lock(&account.book).state();
    deliver(Reply::json(200, &state), Way::Plain).await
}

async fn change_faults(State(account): State<MailingCore>, request: Request) -> Response<Body> {
    let reply = wire::change_faults(request, |faults| account.set_faults(faults)).await;
    deliver(reply, Way::Plain).await
}
