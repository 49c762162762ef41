//! A plain HTTP receiver, «a CRM of one's own»: keeps what it is sent, and breaks on request.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use mailspan_core::Millis;
use mailspan_core::limits::{
    BODY_BYTES_MAX, SANDBOX_OBJECTS_MAX, SANDBOX_PAGE_ROWS_MAX, SANDBOX_REQUESTS_KEPT,
};
use serde_json::{Value, json};

use crate::gate::{Gate, Stop, Way};
use crate::wire::{PAGE_POLICY, Reply, change_faults, deliver, escape, hang, lock, page};
use crate::{Clock, Faults};

/// A receiver; clones share their state.
#[derive(Clone)]
pub struct Receiver {
    inbox: Arc<Mutex<Inbox>>,
    clock: Clock,
}

/// A request as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    pub at: Millis,
    pub method: String,
    /// Path and query.
    pub url: String,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// What was answered; 0: nothing. A status of 2xx means that it was taken.
    pub status: u16,
    /// Its `Idempotency-Key` was taken before.
    pub repeated: bool,
}

struct Inbox {
    gate: Gate,
    kept_max: usize,
    kept: VecDeque<Received>,
    total: u64,
    taken: u64,
    repeated: u64,
    /// Idempotency keys of what was taken.
    keys: BTreeSet<String>,
}

impl Receiver {
    /// Keeps the latest [`SANDBOX_REQUESTS_KEPT`] requests.
    pub fn new(faults: Faults, seed: u64, clock: Clock) -> Receiver {
        Receiver::keeping(SANDBOX_REQUESTS_KEPT, faults, seed, clock)
    }

    /// Keeps the latest `kept_max` requests with their bodies.
    pub fn keeping(kept_max: usize, faults: Faults, seed: u64, clock: Clock) -> Receiver {
        let inbox = Inbox {
            gate: Gate::new(faults, seed),
            kept_max,
            kept: VecDeque::new(),
            total: 0,
            taken: 0,
            repeated: 0,
            keys: BTreeSet::new(),
        };
        Receiver { inbox: Arc::new(Mutex::new(inbox)), clock }
    }

    /// Takes every method and path and answers 200 `{"ok":true}`. `GET /` shows what came to people,
    /// `GET /_sandbox/state` to programs, `POST /_sandbox/faults` breaks and mends it.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/", get(show_page).fallback(take))
            .route("/_sandbox/state", get(show_state))
            .route("/_sandbox/faults", post(set))
            .fallback(take)
            .with_state(self.clone())
    }

    /// What is kept, oldest first: refused requests too.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.inbox).kept.iter().cloned().collect()
    }

    /// Requests in all.
    pub fn total(&self) -> u64 {
        lock(&self.inbox).total
    }

    /// Requests that were taken, and how many of them repeat an `Idempotency-Key`.
    pub fn taken(&self) -> (u64, u64) {
        let inbox = lock(&self.inbox);
        (inbox.taken, inbox.repeated)
    }

    pub fn set_faults(&self, faults: Faults) {
        lock(&self.inbox).gate.set(faults);
    }
}

impl Inbox {
    fn exchange(&mut self, mut received: Received) -> Option<(Reply, Way)> {
        let now = received.at;
        let stop = self.gate.before().or_else(|| self.gate.limits(now));
        let reply = match &stop {
            None => Some(Reply::json(200, &json!({"ok": true}))),
            Some(stop) => stopped(stop),
        };
        received.status = reply.as_ref().map_or(0, |reply| reply.status);
        if (200..300).contains(&received.status) {
            self.taken += 1;
            let key = received
                .headers
                .iter()
                .find(|(name, _)| name == "idempotency-key")
                .map(|(_, key)| key.clone());
            if self.keys.len() < SANDBOX_OBJECTS_MAX
                && let Some(key) = key
            {
                received.repeated = !self.keys.insert(key);
                self.repeated += u64::from(received.repeated);
            }
        }
        self.total += 1;
        if self.kept.len() >= self.kept_max {
            self.kept.pop_front();
        }
        self.kept.push_back(received);
        let way = if stop.is_none() { self.gate.way() } else { Way::Plain };
        reply.map(|reply| (reply, way))
    }
}

fn stopped(stop: &Stop) -> Option<Reply> {
    let refusal = |status: u16, why: &str| Reply::json(status, &json!({"ok": false, "error": why}));
    match stop {
        Stop::Hang => None,
        Stop::Unauthorized => Some(refusal(401, "the credential is not valid")),
        Stop::TooMany { wait_ms, .. } => {
            Some(refusal(429, "too many requests").with("retry-after", wait_ms.div_ceil(1_000).max(1)))
        }
        Stop::Status(status) => Some(refusal(*status, "broken by a fault of the sandbox")),
    }
}

async fn take(State(receiver): State<Receiver>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_BYTES_MAX).await else {
        return deliver(Reply::json(413, &json!({"ok": false})), Way::Plain).await;
    };
    let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let received = Received {
        at: (receiver.clock)(),
        method: parts.method.to_string(),
        url: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        headers: parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body,
        status: 0,
        repeated: false,
    };
    let exchanged = lock(&receiver.inbox).exchange(received);
    match exchanged {
        Some((reply, way)) => deliver(reply, way).await,
        None => hang().await,
    }
}

async fn show_page(State(receiver): State<Receiver>) -> Response<Body> {
    let page = {
        let inbox = lock(&receiver.inbox);
        let mut body =
            format!("<p>{} requests, {} taken, {} repeats</p>\n", inbox.total, inbox.taken, inbox.repeated);
        body.push_str("<table><tr><th>at</th><th>request</th><th>status</th><th>body</th></tr>\n");
        for received in inbox.kept.iter().rev().take(SANDBOX_PAGE_ROWS_MAX) {
            let text = String::from_utf8_lossy(&received.body);
            let cells = [
                received.at.rfc3339(),
                format!("{} {}", received.method, received.url),
                received.status.to_string(),
                mailspan_core::clip(&text, 300).into_owned(),
            ];
            let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
            body.push_str(&format!("<tr>{cells}</tr>\n"));
        }
        body.push_str("</table>\n");
        page("Sandbox receiver", &inbox.gate.faults, &body)
    };
    deliver(Reply::html(200, page).with("content-security-policy", PAGE_POLICY), Way::Plain).await
}

async fn show_state(State(receiver): State<Receiver>) -> Response<Body> {
    let state = {
        let inbox = lock(&receiver.inbox);
        let last: Vec<Value> = inbox.kept.iter().rev().take(20).map(shown).collect();
        json!({
            "vendor": "receiver",
            "faults": inbox.gate.faults.to_string(),
            "requests": inbox.total,
            "taken": inbox.taken,
            "repeated": inbox.repeated,
            "last_requests": last,
        })
    };
    deliver(Reply::json(200, &state), Way::Plain).await
}

fn shown(received: &Received) -> Value {
    json!({
        "at": received.at.rfc3339(),
        "method": received.method,
        "url": received.url,
        "status": received.status,
        "body": String::from_utf8_lossy(&received.body),
    })
}

async fn set(State(receiver): State<Receiver>, request: Request) -> Response<Body> {
    let reply = change_faults(request, |faults| receiver.set_faults(faults)).await;
    deliver(reply, Way::Plain).await
}
