//! The state of the CRM, and how a request passes through it: faults, credential, limits, the act.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mailspan_core::limits::{SANDBOX_OBJECTS_MAX, SANDBOX_REQUESTS_KEPT};
use mailspan_core::{Millis, clip};
use serde::Serialize;
use serde_json::{Value, json};

use super::consent::Consents;
use super::model::{Kind, Table};
use super::problem::{ItemProblem, Problem, too_many};
use super::{objects, routes};
use crate::Faults;
use crate::gate::{Gate, Stop, Way, shuffle};
use crate::wire::{Reply, members, segments};

/// A request that the fake has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Seen {
    pub at: Millis,
    pub method: String,
    pub path: String,
    pub query: String,
    /// At most 16 KiB of it.
    pub body: String,
    /// What was answered; 0: nothing.
    pub status: u16,
}

/// A user of the CRM who can own records.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub email: String,
    pub archived: bool,
}

/// Everything that the CRM knows.
pub(crate) struct Book {
    pub token: String,
    pub tables: BTreeMap<Kind, Table>,
    /// Both directions of each association.
    pub links: BTreeSet<(Kind, u64, Kind, u64)>,
    pub owners: BTreeMap<u64, Owner>,
    pub consents: Consents,
    pub gate: Gate,
    pub seen: VecDeque<Seen>,
    pub seen_total: u64,
    next_id: u64,
}

/// A request, taken apart.
pub(crate) struct Call<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub authorization: Option<&'a str>,
    pub body: &'a [u8],
}

impl Book {
    pub fn new(token: &str, faults: Faults, seed: u64) -> Book {
        Book {
            token: token.to_owned(),
            tables: Kind::ALL.into_iter().map(|kind| (kind, Table::of(kind))).collect(),
            links: BTreeSet::new(),
            owners: BTreeMap::new(),
            consents: Consents::default(),
            gate: Gate::new(faults, seed),
            seen: VecDeque::new(),
            seen_total: 0,
            next_id: 17_000_000_000,
        }
    }

    /// Handles a request; nothing where none shall ever be answered.
    pub fn exchange(&mut self, call: &Call<'_>, now: Millis) -> Option<(Reply, Way)> {
        let reply = self.reply(call, now);
        self.remember(call, reply.as_ref().map_or(0, |reply| reply.status), now);
        let mut reply = reply?;
        if let (Some(rate), Some(left)) = (self.gate.faults.rate_limit, self.gate.remaining()) {
            reply = reply
                .with("x-hubspot-ratelimit-max", rate.count)
                .with("x-hubspot-ratelimit-remaining", left)
                .with("x-hubspot-ratelimit-interval-milliseconds", rate.per_ms);
        }
        if let (Some(limit), Some(left)) = (self.gate.faults.daily_limit, self.gate.remaining_today()) {
            reply = reply
                .with("x-hubspot-ratelimit-daily", limit)
                .with("x-hubspot-ratelimit-daily-remaining", left);
        }
        let way = self.gate.way();
        Some((reply, way))
    }

    fn reply(&mut self, call: &Call<'_>, now: Millis) -> Option<Reply> {
        let correlation = self.correlation();
        let stop = self.gate.before();
        if let Some(stop) = stop {
            return stopped(&stop, &correlation);
        }
        let expected = format!("Bearer {}", self.token);
        if self.token.is_empty() || call.authorization != Some(expected.as_str()) {
            return Some(Problem::unauthorized().reply(&correlation));
        }
        if let Some(stop) = self.gate.limits(now) {
            return stopped(&stop, &correlation);
        }
        let answered = self.act(call, now);
        Some(answered.unwrap_or_else(|problem| problem.reply(&correlation)))
    }

    fn act(&mut self, call: &Call<'_>, now: Millis) -> Result<Reply, Problem> {
        let path = routes::unversioned(&segments(call.path)).ok_or_else(|| no_path(call))?;
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let scope = routes::scope(call.method, &path);
        if self
            .gate
            .faults
            .missing_scopes
            .as_deref()
            .is_some_and(|missing| missing.split('+').any(|missing| missing == "*" || missing == scope))
        {
            return Err(Problem::missing_scopes(scope));
        }
        let body = match call.body {
            [] => Value::Null,
            bytes => serde_json::from_slice(bytes)
                .map_err(|error| Problem::invalid(format!("Invalid input JSON: {error}")))?,
        };
        let query = members(call.query);
        routes::act(self, call.method, &path, &query, &body, now).unwrap_or_else(|| Err(no_path(call)))
    }

    fn remember(&mut self, call: &Call<'_>, status: u16, now: Millis) {
        self.seen_total += 1;
        if self.seen.len() == SANDBOX_REQUESTS_KEPT {
            self.seen.pop_front();
        }
        self.seen.push_back(Seen {
            at: now,
            method: call.method.to_owned(),
            path: call.path.to_owned(),
            query: call.query.to_owned(),
            body: clip(&String::from_utf8_lossy(call.body), 16 << 10).into_owned(),
            status,
        });
    }

    pub fn table(&mut self, kind: Kind) -> &mut Table {
        self.tables.entry(kind).or_insert_with(|| Table::of(kind))
    }

    /// A number for a new record, or the reason why there is no room.
    pub fn new_id(&mut self) -> Result<u64, ItemProblem> {
        if self.tables.values().map(|table| table.objects.len()).sum::<usize>() >= SANDBOX_OBJECTS_MAX {
            let message = "the sandbox keeps no more records: start it anew";
            return Err(ItemProblem::new("LIMIT_EXCEEDED", message));
        }
        self.next_id += 1 + self.gate.random.below(1_000);
        Ok(self.next_id)
    }

    /// Sixteen bytes in the shape of a UUID.
    pub fn correlation(&mut self) -> String {
        let (a, b) = (self.gate.random.next_u64(), self.gate.random.next_u64());
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            a >> 32,
            a >> 16 & 0xffff,
            a & 0xffff,
            b >> 48,
            b & 0xffff_ffff_ffff
        )
    }

    /// The fault that an item of a batch meets before it acts.
    pub fn item_fault(&mut self) -> Option<ItemProblem> {
        if self.gate.random.chance(self.gate.faults.partial) {
            return Some(ItemProblem::new("INTERNAL_ERROR", "internal error, try again"));
        }
        if self.gate.random.chance(self.gate.faults.reject) {
            return Some(ItemProblem::new("VALIDATION_ERROR", "refused by a rule of the account"));
        }
        None
    }

    /// True when a batch call shall do nothing and say nothing.
    pub fn empty_fault(&mut self) -> bool {
        self.gate.random.chance(self.gate.faults.empty_results)
    }

    /// The answer of a batch: results in an order of their own, errors with their trace ids.
    pub fn batch(
        &mut self,
        status: u16,
        done: Vec<Value>,
        failed: Vec<(Option<String>, ItemProblem)>,
        now: Millis,
    ) -> Reply {
        let mut results = done;
        shuffle(&mut results, &mut self.gate.random);
        let mut body = json!({
            "status": "COMPLETE",
            "results": results,
            "startedAt": now.rfc3339(),
            "completedAt": now.rfc3339(),
        });
        if failed.is_empty() {
            return Reply::json(status, &body);
        }
        let mut errors = Vec::with_capacity(failed.len());
        for (trace, problem) in &failed {
            let correlation = self.correlation();
            errors.push(problem.json(trace.as_deref(), &correlation));
        }
        body["numErrors"] = json!(errors.len());
        body["errors"] = Value::Array(errors);
        Reply::json(207, &body)
    }

    /// The records of a type that one record is associated with.
    pub fn linked(&self, kind: Kind, id: u64, to: Kind) -> Vec<u64> {
        self.links.range((kind, id, to, 0)..=(kind, id, to, u64::MAX)).map(|link| link.3).collect()
    }

    pub fn link(&mut self, from: Kind, from_id: u64, to: Kind, to_id: u64) {
        self.links.insert((from, from_id, to, to_id));
        self.links.insert((to, to_id, from, from_id));
    }

    /// Makes a contact without a request, for tests and the demo.
    pub fn seed(&mut self, kind: Kind, properties: &[(&str, &str)], now: Millis) -> Option<u64> {
        let properties =
            properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        if let Some((_, holder)) = self.table(kind).taken(&properties, None) {
            return Some(holder);
        }
        objects::write(self, kind, None, &properties, now).ok().map(|(id, _)| id)
    }
}

fn no_path(call: &Call<'_>) -> Problem {
    Problem::new(404, "OBJECT_NOT_FOUND", format!("no resource answers {} {}", call.method, call.path))
}

/// The answer to a request that a fault stopped.
fn stopped(stop: &Stop, correlation: &str) -> Option<Reply> {
    match stop {
        Stop::Hang => None,
        Stop::Unauthorized => Some(Problem::unauthorized().reply(correlation)),
        Stop::TooMany { policy, .. } => Some(too_many(policy, correlation)),
        // What a proxy before the vendor says is a page.
        Stop::Status(status @ (502..=504)) => {
            Some(Reply::html(*status, format!("<html><body><h1>{status}</h1></body></html>")))
        }
        Stop::Status(status) => {
            let body = json!({"status": "error", "message": "internal error", "correlationId": correlation});
            Some(Reply::json(*status, &body))
        }
    }
}
