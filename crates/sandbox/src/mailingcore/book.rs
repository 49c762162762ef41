//! The state of the account, and how a request passes through it: faults, credential, limits, the act.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mailspan_core::Millis;
use mailspan_core::limits::SANDBOX_REQUESTS_KEPT;
use serde_json::{Value, json};

use super::contacts::{self, Contact};
use super::hooks::{self, Hooks};
use super::problem::Problem;
use super::suppressions::{self, Suppression};
use crate::Faults;
use crate::gate::{Gate, Stop, Way};
use crate::wire::{Reply, members, segments};

pub(crate) struct Book {
    pub key: String,
    pub tenant: String,
    pub contacts: BTreeMap<String, Contact>,
    /// Address in lower case to id.
    pub by_email: BTreeMap<String, String>,
    pub by_external_id: BTreeMap<String, String>,
    /// `(updatedAt, id)`, as the list of changes is ordered.
    pub changes: BTreeSet<(i64, String)>,
    pub suppressions: BTreeMap<String, Suppression>,
    pub hooks: Hooks,
    pub gate: Gate,
    pub seen: VecDeque<(String, String, u16)>,
    pub seen_total: u64,
}

/// A request, taken apart.
pub(crate) struct Call<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub authorization: Option<&'a str>,
    pub tenant: Option<&'a str>,
    pub body: &'a [u8],
}

impl Book {
    pub fn new(key: &str, faults: Faults, seed: u64) -> Book {
        let mut book = Book {
            key: key.to_owned(),
            tenant: String::new(),
            contacts: BTreeMap::new(),
            by_email: BTreeMap::new(),
            by_external_id: BTreeMap::new(),
            changes: BTreeSet::new(),
            suppressions: BTreeMap::new(),
            hooks: Hooks::default(),
            gate: Gate::new(faults, seed),
            seen: VecDeque::new(),
            seen_total: 0,
        };
        book.tenant = book.new_id("clx");
        book
    }

    /// A prefix and 22 letters and digits.
    pub fn new_id(&mut self, prefix: &str) -> String {
        const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut letter = || char::from(ALPHABET[self.gate.random.below(36) as usize]);
        std::iter::once(prefix.to_owned()).chain((0..22).map(|_| letter().to_string())).collect()
    }

    /// Handles a request; nothing where none shall ever be answered.
    pub fn exchange(&mut self, call: &Call<'_>, now: Millis) -> Option<(Reply, Way)> {
        let reply = self.reply(call, now);
        self.seen_total += 1;
        if self.seen.len() == SANDBOX_REQUESTS_KEPT {
            self.seen.pop_front();
        }
        let status = reply.as_ref().map_or(0, |reply| reply.status);
        self.seen.push_back((call.method.to_owned(), call.path.to_owned(), status));
        let mut reply = reply?.with("date", http_date(now));
        if let (Some(rate), Some(left)) = (self.gate.faults.rate_limit, self.gate.remaining()) {
            reply = reply
                .with("x-ratelimit-limit", rate.count)
                .with("x-ratelimit-remaining", left)
                .with("x-ratelimit-reset", now.plus(rate.per_ms).0.div_euclid(1_000));
        }
        let way = self.gate.way();
        Some((reply, way))
    }

    fn reply(&mut self, call: &Call<'_>, now: Millis) -> Option<Reply> {
        let stopped = |problem: Problem| Some(problem.reply(call.path, now));
        match self.gate.before() {
            None => {}
            Some(Stop::Hang) => return None,
            Some(Stop::Unauthorized) => return stopped(Problem::new(401, "Invalid API key")),
            Some(Stop::Status(status @ (502..=504))) => {
                return Some(Reply::html(status, format!("<html><body><h1>{status}</h1></body></html>")));
            }
            Some(Stop::Status(status)) => return stopped(Problem::new(status, "Internal server error")),
            Some(Stop::TooMany { .. }) => return stopped(Problem::new(429, "Too many requests")),
        }
        let expected = format!("Bearer {}", self.key);
        if self.key.is_empty() || call.authorization != Some(expected.as_str()) {
            return stopped(Problem::new(401, "Invalid API key"));
        }
        if call.tenant.is_some_and(|tenant| tenant != self.tenant) {
            return stopped(Problem::new(403, "The API key belongs to another tenant"));
        }
        if let Some(Stop::TooMany { wait_ms, .. }) = self.gate.limits(now) {
            let reply = Problem::new(429, "Too many requests").reply(call.path, now);
            return Some(reply.with("retry-after", wait_ms.div_ceil(1_000).max(1)));
        }
        let acted = self.act(call, now);
        Some(acted.unwrap_or_else(|problem| problem.reply(call.path, now)))
    }

    fn act(&mut self, call: &Call<'_>, now: Millis) -> Result<Reply, Problem> {
        let path = segments(call.path);
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let scope = scope(call.method, &path);
        if self
            .gate
            .faults
            .missing_scopes
            .as_deref()
            .is_some_and(|missing| missing == "*" || missing == scope)
        {
            return Err(Problem::new(403, format!("Missing required API key scope: {scope}")));
        }
        let body = match call.body {
            [] => Value::Null,
            bytes => serde_json::from_slice(bytes)
                .map_err(|error| Problem::new(400, format!("Unexpected token in JSON: {error}")))?,
        };
        let query = members(call.query);
        let none = || Problem::new(404, format!("Cannot {} {}", call.method, call.path));
        let acted = match path.as_slice() {
            ["contacts", rest @ ..] => contacts::act(self, call.method, rest, &query, &body, now),
            ["suppressions", rest @ ..] => suppressions::act(self, call.method, rest, &query, &body, now),
            ["webhooks", "endpoints", rest @ ..] => hooks::act(self, call.method, rest, &body, now),
            _ => None,
        };
        acted.unwrap_or_else(|| Err(none()))
    }

    /// Everything that can be looked at, as JSON.
    pub fn state(&self) -> Value {
        let newest = self.changes.iter().rev().take(200).filter_map(|(_, id)| self.contacts.get(id));
        let contacts: Vec<Value> = newest.map(|contact| contact.json(&self.tenant)).collect();
        let opted_in = self.contacts.values().filter(|contact| contact.opt_in).count();
        json!({
            "vendor": "mailingcore",
            "faults": self.gate.faults.to_string(),
            "tenant_id": self.tenant,
            "requests": self.seen_total,
            "totals": {"contacts": self.contacts.len(), "opted_in": opted_in, "suppressed": self.suppressions.len()},
            "contacts": contacts,
            "suppressions": self.suppressions.iter().take(200).map(|(email, one)| json!({"email": email, "reason": one.reason})).collect::<Vec<_>>(),
            "webhooks_open": self.hooks.open(),
        })
    }
}

fn scope(method: &str, path: &[&str]) -> &'static str {
    match (path.first(), method) {
        (Some(&"contacts"), "GET") => "contacts:read",
        (Some(&"contacts"), _) => "contacts:write",
        (Some(&"suppressions"), "GET") => "suppressions:read",
        (Some(&"suppressions"), _) => "suppressions:write",
        _ => "webhooks:manage",
    }
}

/// RFC 9110, 5.6.7.
fn http_date(now: Millis) -> String {
    // 2026-06-30T12:00:10Z; the day of the week from the days since Thursday 1970-01-01.
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = Millis(now.0.div_euclid(1_000) * 1_000).rfc3339();
    let day = DAYS[now.0.div_euclid(86_400_000).rem_euclid(7) as usize];
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or("00");
    let month =
        part(5, 7).parse::<usize>().ok().and_then(|n| MONTHS.get(n.wrapping_sub(1))).unwrap_or(&"Jan");
    format!("{day}, {} {month} {} {} GMT", part(8, 10), part(0, 4), part(11, 19))
}
