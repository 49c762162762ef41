//! Webhooks on their way: grouped, disturbed by faults, signed, repeated until acknowledged. Pure:
//! the caller posts, and tells what came of it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use mailspan_core::limits::SANDBOX_WEBHOOKS_MAX;
use mailspan_core::{Millis, Span, SplitMix64};
use serde::Serialize;

use super::Generation;
use super::maker::Happening;
use super::payload::{SIGNATURE, generation_a, generation_b, signature};
use crate::Faults;

/// A request to post.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Webhook {
    /// For [`Queue::settle`].
    pub ticket: u64,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// Events in it.
    pub events: usize,
    /// Attempts before this one.
    pub retries: u32,
    /// Signed with a secret that nobody knows: 401 is the right answer.
    pub wrong_secret: bool,
    /// A second copy by the fault `duplicates`; it is not repeated.
    pub copy: bool,
}

/// Where all events that were made are. `made` is the sum of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Progress {
    pub made: u64,
    /// Not due yet, held by a fault, or waiting for their next attempt.
    pub waiting: u64,
    pub in_flight: u64,
    pub acknowledged: u64,
    /// Out of attempts.
    pub given_up: u64,
    /// There was no room for them, or they were forgotten by a fault.
    pub dropped: u64,
}

#[derive(Debug, Clone)]
struct Parcel {
    batch_id: String,
    events: Vec<Happening>,
    retries: u32,
    copy: bool,
}

/// Events and webhooks that wait or fly.
pub struct Queue {
    pub faults: Faults,
    generation: Generation,
    secret: String,
    /// Waits after the first, second, … attempt that was not acknowledged; then it gives up.
    calendar: Vec<Span>,
    random: SplitMix64,
    number: u64,
    upcoming: BTreeMap<(Millis, u64), Happening>,
    repeats: BTreeMap<(Millis, u64), Parcel>,
    /// Held for a burst, with the time since when.
    held: VecDeque<(Millis, Parcel)>,
    /// Goes after the next one.
    behind: Option<(Millis, Parcel)>,
    flying: BTreeMap<u64, Parcel>,
    progress: Progress,
}

/// Events in one batch of generation B.
const BATCH_EVENTS_MAX: usize = 100;
/// What faults hold goes out after this, also when nothing follows.
const HELD_MS_MAX: u64 = 10_000;

impl Queue {
    /// `secret` signs; an empty one signs nothing.
    pub fn new(
        generation: Generation,
        secret: &str,
        calendar: Vec<Span>,
        faults: Faults,
        seed: u64,
    ) -> Queue {
        Queue {
            faults,
            generation,
            secret: secret.to_owned(),
            calendar,
            random: SplitMix64(seed ^ 0x5eed_0001),
            number: 0,
            upcoming: BTreeMap::new(),
            repeats: BTreeMap::new(),
            held: VecDeque::new(),
            behind: None,
            flying: BTreeMap::new(),
            progress: Progress::default(),
        }
    }

    /// Takes events; each is due at its own time. What there is no room for is dropped and counted.
    pub fn push(&mut self, events: impl IntoIterator<Item = Happening>) {
        for event in events {
            self.progress.made += 1;
            if self.upcoming.len() + self.repeats.len() >= SANDBOX_WEBHOOKS_MAX {
                self.progress.dropped += 1;
                continue;
            }
            self.number += 1;
            self.upcoming.insert((event.at, self.number), event);
        }
    }

    /// The requests to post now, at most about `max`; and the events that they tell for the first time.
    pub fn due(&mut self, now: Millis, max: usize) -> (Vec<Webhook>, Vec<Happening>) {
        let mut parcels = Vec::new();
        let mut fresh = Vec::new();
        while parcels.len() < max && self.repeats.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
            parcels.extend(self.repeats.pop_first().map(|(_, parcel)| parcel));
        }
        while parcels.len() < max {
            let events = self.take_events(now);
            if events.is_empty() {
                break;
            }
            fresh.extend(events.iter().cloned());
            if self.random.chance(self.faults.forget) {
                self.progress.dropped += events.len() as u64;
                continue;
            }
            parcels.push(Parcel { batch_id: self.batch_id(), events, retries: 0, copy: false });
        }
        let parcels = self.disturb(parcels, now);
        (parcels.into_iter().map(|parcel| self.launch(parcel)).collect(), fresh)
    }

    fn take_events(&mut self, now: Millis) -> Vec<Happening> {
        let max = if self.generation == Generation::A { 1 } else { BATCH_EVENTS_MAX };
        let mut events = Vec::new();
        while events.len() < max && self.upcoming.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
            events.extend(self.upcoming.pop_first().map(|(_, event)| event));
        }
        events
    }

    fn batch_id(&mut self) -> String {
        format!("{:016x}{:08x}", self.random.next_u64(), self.random.next_u64() >> 32)
    }

    /// Duplicates, swaps and bursts.
    fn disturb(&mut self, parcels: Vec<Parcel>, now: Millis) -> Vec<Parcel> {
        let mut out = Vec::with_capacity(parcels.len() + 2);
        for parcel in parcels {
            let copy =
                self.random.chance(self.faults.duplicates).then(|| Parcel { copy: true, ..parcel.clone() });
            if self.behind.is_none() && self.random.chance(self.faults.reorder) {
                self.behind = Some((now, parcel));
            } else {
                out.push(parcel);
                out.extend(self.behind.take().map(|(_, parcel)| parcel));
            }
            out.extend(copy);
        }
        if self.behind.as_ref().is_some_and(|(since, _)| now.since(*since) >= HELD_MS_MAX) {
            out.extend(self.behind.take().map(|(_, parcel)| parcel));
        }
        if self.faults.burst == 0 && self.held.is_empty() {
            return out;
        }
        self.held.extend(out.into_iter().map(|parcel| (now, parcel)));
        let old = self.held.front().is_some_and(|(since, _)| now.since(*since) >= HELD_MS_MAX);
        let release = old || self.held.len() as u64 >= self.faults.burst;
        if release { self.held.drain(..).map(|(_, parcel)| parcel).collect() } else { Vec::new() }
    }

    fn launch(&mut self, parcel: Parcel) -> Webhook {
        self.number += 1;
        let wrong_secret = self.random.chance(self.faults.wrong_secret);
        let body = match self.generation {
            Generation::A => parcel.events.first().map(generation_a).unwrap_or_default(),
            Generation::B => generation_b(&parcel.batch_id, parcel.retries, &parcel.events),
        };
        let body = Bytes::from(body.to_string());
        let mut headers = vec![
            ("content-type".to_owned(), "application/json".to_owned()),
            ("user-agent".to_owned(), "mailspan-sandbox-mailtarget".to_owned()),
        ];
        if !self.secret.is_empty() {
            let wrong = format!("not-{}", self.secret);
            let secret = if wrong_secret { &wrong } else { &self.secret };
            headers.push((SIGNATURE.to_owned(), signature(secret, &body)));
        }
        let webhook = Webhook {
            ticket: self.number,
            headers,
            body,
            events: parcel.events.len(),
            retries: parcel.retries,
            wrong_secret,
            copy: parcel.copy,
        };
        self.flying.insert(self.number, parcel);
        webhook
    }

    /// What came of a request: the status, or nothing where no answer came in time. Anything but 2xx
    /// is repeated by the calendar.
    pub fn settle(&mut self, ticket: u64, status: Option<u16>, now: Millis) {
        let Some(mut parcel) = self.flying.remove(&ticket) else { return };
        if parcel.copy {
            return;
        }
        let events = parcel.events.len() as u64;
        if status.is_some_and(|status| (200..300).contains(&status)) {
            self.progress.acknowledged += events;
            return;
        }
        let Some(wait) = self.calendar.get(parcel.retries as usize) else {
            self.progress.given_up += events;
            return;
        };
        parcel.retries += 1;
        self.number += 1;
        self.repeats.insert((now.plus(wait.ms), self.number), parcel);
    }

    pub fn in_flight(&self) -> usize {
        self.flying.len()
    }

    pub fn progress(&self) -> Progress {
        let count = |parcel: &Parcel| if parcel.copy { 0 } else { parcel.events.len() as u64 };
        let held = self.held.iter().chain(&self.behind).map(|(_, parcel)| count(parcel)).sum::<u64>();
        let repeats = self.repeats.values().map(count).sum::<u64>();
        Progress {
            waiting: self.upcoming.len() as u64 + held + repeats,
            in_flight: self.flying.values().map(count).sum(),
            ..self.progress
        }
    }
}
