//! A fake HubSpot: contacts, notes, tasks and deals with their properties and associations, owners,
//! subscriptions, erasure; date versions and v3; its limits, its refusals, its partial failures.
//! Strict where the vendor's specification is: what it refuses, the vendor may refuse.

mod associations;
mod book;
mod consent;
mod input;
mod model;
mod objects;
mod owners;
mod page;
mod problem;
mod properties;
mod routes;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, header};
use axum::routing::{get, post};
use mailspan_core::limits::BODY_BYTES_MAX;
use serde::Serialize;

use crate::gate::Way;
use crate::wire::{self, Reply, deliver, hang, lock};
use crate::{Clock, Faults};
use book::{Book, Call, Owner};
use model::{CONTACT_PROPERTIES, EVENT_KEY, Kind, define};

pub use book::Seen;
pub use consent::Status;

/// A fake HubSpot; clones share their state.
#[derive(Clone)]
pub struct HubSpot {
    book: Arc<Mutex<Book>>,
    clock: Clock,
}

/// A contact as the CRM knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Contact {
    pub id: String,
    /// Empty where it has none.
    pub email: String,
    pub properties: BTreeMap<String, String>,
}

/// A note or a task, with the records it is associated with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Engagement {
    pub id: String,
    pub properties: BTreeMap<String, String>,
    /// Ids of contacts.
    pub contacts: Vec<String>,
    /// Ids of deals.
    pub deals: Vec<String>,
}

impl HubSpot {
    /// An account that was prepared: with the `mt_` properties on contacts, and the unique
    /// `mt_event_key` on notes and tasks. `token` is the service key that callers must bring.
    pub fn new(token: &str, faults: Faults, seed: u64, clock: Clock) -> HubSpot {
        let account = HubSpot::bare(token, faults, seed, clock);
        let mut book = lock(&account.book);
        for (name, value_type) in CONTACT_PROPERTIES {
            let property = define(name, value_type, false);
            book.table(Kind::Contacts).properties.insert(name.to_owned(), property);
        }
        for kind in [Kind::Notes, Kind::Tasks] {
            let property = define(EVENT_KEY, "string", true);
            book.table(kind).properties.insert(EVENT_KEY.to_owned(), property);
        }
        drop(book);
        account
    }

    /// An account with HubSpot's own properties alone, to be prepared.
    pub fn bare(token: &str, faults: Faults, seed: u64, clock: Clock) -> HubSpot {
        HubSpot { book: Arc::new(Mutex::new(Book::new(token, faults, seed))), clock }
    }

    /// The API under the vendor's paths; `GET /` shows the account to people, `GET /_sandbox/state`
    /// to programs, `POST /_sandbox/faults` breaks and mends it.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/", get(show_page))
            .route("/_sandbox/state", get(show_state))
            .route("/_sandbox/faults", post(change_faults))
            .fallback(answer)
            .with_state(self.clone())
    }

    /// Makes a contact, or finds the one with this address; its record id.
    pub fn add_contact(&self, email: &str) -> String {
        self.seed(Kind::Contacts, &[("email", email)])
    }

    /// Makes a deal; its record id.
    pub fn add_deal(&self, name: &str) -> String {
        self.seed(Kind::Deals, &[("dealname", name)])
    }

    fn seed(&self, kind: Kind, properties: &[(&str, &str)]) -> String {
        let now = (self.clock)();
        lock(&self.book).seed(kind, properties, now).map_or_else(String::new, |id| id.to_string())
    }

    /// Makes a user who can own records; its owner id.
    pub fn add_owner(&self, email: &str) -> String {
        let mut book = lock(&self.book);
        let id = book.owners.keys().next_back().map_or(70_000_001, |last| last + 1);
        book.owners.insert(id, Owner { email: email.to_owned(), archived: false });
        id.to_string()
    }

    /// All contacts, by record id.
    pub fn contacts(&self) -> Vec<Contact> {
        page::contacts(&lock(&self.book), usize::MAX)
    }

    /// The contact with this address.
    pub fn contact(&self, email: &str) -> Option<Contact> {
        let book = lock(&self.book);
        let table = &book.tables[&Kind::Contacts];
        table.find(email, Some("email")).map(|id| page::contact(&table.objects[&id]))
    }

    /// All notes, by record id.
    pub fn notes(&self) -> Vec<Engagement> {
        page::engagements(&lock(&self.book), Kind::Notes, usize::MAX)
    }

    /// Notes that are associated with no contact: nobody will ever see them.
    pub fn notes_that_hang_on_nobody(&self) -> Vec<Engagement> {
        self.notes().into_iter().filter(|note| note.contacts.is_empty()).collect()
    }

    /// All tasks, by record id.
    pub fn tasks(&self) -> Vec<Engagement> {
        page::engagements(&lock(&self.book), Kind::Tasks, usize::MAX)
    }

    /// What each address is subscribed to, by address in lower case.
    pub fn statuses(&self) -> BTreeMap<String, Status> {
        lock(&self.book).consents.0.clone()
    }

    /// What one address is subscribed to; nothing where nobody ever said.
    pub fn status(&self, address: &str) -> Option<Status> {
        lock(&self.book).consents.0.get(&address.trim().to_lowercase()).cloned()
    }

    /// The latest requests, at most [`mailspan_core::limits::SANDBOX_REQUESTS_KEPT`], oldest first.
    pub fn requests_seen(&self) -> Vec<Seen> {
        lock(&self.book).seen.iter().cloned().collect()
    }

    /// How many requests came in all.
    pub fn requests_total(&self) -> u64 {
        lock(&self.book).seen_total
    }

    /// Other faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.book).gate.set(faults);
    }

    pub fn faults(&self) -> Faults {
        lock(&self.book).gate.faults.clone()
    }
}

async fn answer(State(account): State<HubSpot>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_BYTES_MAX).await else {
        return deliver(Reply::text(413, "the body is too large or broke off\n".to_owned()), Way::Plain)
            .await;
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

async fn show_page(State(account): State<HubSpot>) -> Response<Body> {
    let page = page::html(&lock(&account.book));
    deliver(Reply::html(200, page).with("content-security-policy", wire::PAGE_POLICY), Way::Plain).await
}

async fn show_state(State(account): State<HubSpot>) -> Response<Body> {
    let state = page::state(&lock(&account.book));
    deliver(Reply::json(200, &state), Way::Plain).await
}

async fn change_faults(State(account): State<HubSpot>, request: Request) -> Response<Body> {
    let reply = wire::change_faults(request, |faults| account.set_faults(faults)).await;
    deliver(reply, Way::Plain).await
}
