//! Many destinations with plain receivers, and a store that only keeps a queue each: for questions of
//! waiting, capacity and rate, where the faults of `world` would hide the answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mailspan_core::{
    Answer, Cause, Class, DeliveryId, DestinationId, Key, Lost, Millis, Operation, Outcome, Parcel, Part,
    Person, PersonId, Queue, Reason, Request, Room, Settlement, SplitMix64, State, Verdict,
};
use mailspan_engine::{CallId, Command, Engine, Fault, Fence, Happened, Limits, Notice};
use serde_json::json;

use crate::bench;
use crate::sink::SimSink;

/// How a receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Well,
    /// Says nothing: lost after 30 s.
    Hangs,
    /// 503 for as long as it is so.
    Fails,
    /// Works on so many at once, each as long as the latency says, and refuses what is more.
    Refuses {
        capacity: usize,
    },
    /// Works on so many at once; twice as many wait in its queue, what is more is refused.
    Queues {
        capacity: usize,
    },
    /// Of a hundred requests it answers ten with 503, loses five, and stalls on twelve for up to 350 ms.
    Flaky,
    /// Refuses a batch whole that has one of these, and a call with this one alone.
    Poisoned {
        every: i64,
    },
}

pub struct Site {
    pub manner: Manner,
    pub latency_ms: u64,
    pub limits: Limits,
    /// When each request went out.
    pub sent: Vec<Millis>,
    /// Which of them carried nothing but a kind.
    pub refused: usize,
    pub served: usize,
    /// How long each live delivery waited from its offer to its settlement, by the offer's time.
    pub waited: Vec<(Millis, u64)>,
    pub notices: Vec<(Millis, Notice)>,
    busy: usize,
    /// When each of the workers is free.
    workers: Vec<Millis>,
    random: SplitMix64,
    due: [BTreeSet<(Millis, i64)>; Queue::ALL.len()],
}

#[derive(Debug, Clone)]
pub struct Row {
    pub destination: DestinationId,
    pub class: Class,
    pub cause: Cause,
    pub attempts: u32,
    pub state: State,
    pub reason: Option<Reason>,
    pub offered: Millis,
    pub live: bool,
    /// Whose whole contact it writes.
    pub whole_of: Option<PersonId>,
    queue: Queue,
    due: Millis,
}

pub struct Town {
    pub now: Millis,
    pub engine: Engine,
    /// A bug that is switched on.
    pub fault: Option<Fault>,
    pub sites: BTreeMap<DestinationId, Site>,
    pub rows: BTreeMap<i64, Row>,
    /// The most deliveries that one desk held.
    pub held_max: usize,
    /// Claims that were made, and deliveries that they brought.
    pub claims: usize,
    pub mapped: usize,
    fence: i64,
    order: u64,
    queue: BTreeMap<(Millis, u64), Ev>,
    calls: BTreeMap<CallId, DestinationId>,
    /// The last call with a whole contact of each person.
    under_way: BTreeMap<PersonId, CallId>,
    wake: Option<Millis>,
    epoch: u64,
    next: i64,
}

enum Ev {
    Wake(Millis),
    Answer { epoch: u64, call: CallId, answer: Result<Answer, Lost> },
    Hear { epoch: u64, happened: Happened },
    Offer { destination: DestinationId, class: Class, cause: Cause, every_ms: u64, until: Millis },
    Turn { destination: DestinationId, manner: Manner },
}

/// Why none of these can be missing.
const KNOWN: &str = "the town knows its sites and rows";
const COMMIT_MS: u64 = 5;

impl Town {
    pub fn new() -> Town {
        crate::quiet();
        Town {
            now: Millis(1_000_000),
            engine: Engine::new(1),
            fault: None,
            sites: BTreeMap::new(),
            rows: BTreeMap::new(),
            held_max: 0,
            claims: 0,
            mapped: 0,
            fence: 0,
            order: 0,
            queue: BTreeMap::new(),
            calls: BTreeMap::new(),
            under_way: BTreeMap::new(),
            wake: None,
            epoch: 0,
            next: 1,
        }
    }

    pub fn site(&mut self, number: i64, manner: Manner, latency_ms: u64, limits: Limits) -> DestinationId {
        let destination = DestinationId(number);
        let site = Site {
            manner,
            latency_ms,
            limits,
            sent: Vec::new(),
            refused: 0,
            served: 0,
            waited: Vec::new(),
            notices: Vec::new(),
            busy: 0,
            workers: Vec::new(),
            random: SplitMix64(number as u64),
            due: Default::default(),
        };
        self.sites.insert(destination, site);
        destination
    }

    /// A node takes all destinations under the next fence.
    pub fn start(&mut self) {
        self.epoch += 1;
        self.fence += 1;
        self.engine = Engine::with_fault(self.epoch, self.fault);
        self.wake = None;
        self.calls.clear();
        for destination in self.sites.keys().copied().collect::<Vec<_>>() {
            let site = &self.sites[&destination];
            let (limits, fence) = (site.limits.clone(), Fence(self.fence));
            let sink = Arc::new(SimSink { batches: limits.batch_max > 1 });
            self.hear(Happened::Opened { destination, fence, limits, sink, paused: None, degraded: false });
        }
    }

    /// The node is gone, with all that was in flight.
    pub fn kill(&mut self) {
        self.epoch += 1;
        self.engine = Engine::new(0);
        self.calls.clear();
        self.wake = None;
        self.sites.values_mut().for_each(|site| site.busy = 0);
    }

    /// Pending rows that are due now.
    pub fn backlog(
        &mut self,
        destination: DestinationId,
        rows: i64,
        class: Class,
        cause: Cause,
        attempts: u32,
    ) {
        for _ in 0..rows {
            self.row(destination, class, cause, attempts, false);
        }
    }

    /// A whole contact of each of these persons, due now.
    pub fn whole(
        &mut self,
        destination: DestinationId,
        class: Class,
        persons: impl IntoIterator<Item = i64>,
    ) {
        for person in persons {
            let id = self.row(destination, class, Cause::Live, 0, false);
            self.rows.get_mut(&id).expect(KNOWN).whole_of = Some(PersonId(person));
        }
    }

    /// One delivery each `every_ms` until then.
    pub fn offers(&mut self, destination: DestinationId, class: Class, every_ms: u64, until: Millis) {
        let offer = Ev::Offer { destination, class, cause: Cause::Live, every_ms, until };
        self.at(self.now.plus(every_ms), offer);
    }

    pub fn turns(&mut self, destination: DestinationId, manner: Manner, at: Millis) {
        self.at(at, Ev::Turn { destination, manner });
    }

    /// Until that time, or until nothing happens any more.
    pub fn run(&mut self, until: Millis) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.happen(event);
        }
        self.now = until;
    }

    pub fn pending(&self, destination: DestinationId) -> usize {
        self.sites[&destination].due.iter().map(BTreeSet::len).sum()
    }

    fn happen(&mut self, event: Ev) {
        match event {
            Ev::Wake(at) if self.wake == Some(at) => {
                self.wake = None;
                self.hear(Happened::Tick);
            }
            Ev::Answer { epoch, call, answer } => {
                if epoch != self.epoch {
                    return;
                }
                let Some(destination) = self.calls.remove(&call) else { return };
                self.sites.get_mut(&destination).expect(KNOWN).busy -= 1;
                self.hear(Happened::Answered { call, answer });
            }
            Ev::Hear { epoch, happened } if epoch == self.epoch => self.hear(happened),
            Ev::Offer { destination, class, cause, every_ms, until } => {
                self.row(destination, class, cause, 0, true);
                self.hear(Happened::Offered { destination });
                if self.now.plus(every_ms) <= until {
                    let again = Ev::Offer { destination, class, cause, every_ms, until };
                    self.at(self.now.plus(every_ms), again);
                }
            }
            Ev::Turn { destination, manner } => {
                self.sites.get_mut(&destination).expect(KNOWN).manner = manner
            }
            Ev::Wake(_) | Ev::Hear { .. } => {}
        }
    }

    fn row(
        &mut self,
        destination: DestinationId,
        class: Class,
        cause: Cause,
        attempts: u32,
        live: bool,
    ) -> i64 {
        let (id, offered) = (self.next, self.now);
        self.next += 1;
        let queue = Queue::of(class, cause, attempts);
        let (state, reason) = (State::Pending, None);
        let (whole_of, due) = (None, offered);
        let row =
            Row { destination, class, cause, attempts, state, reason, offered, live, whole_of, queue, due };
        self.rows.insert(id, row);
        self.sites.get_mut(&destination).expect(KNOWN).due[queue as usize].insert((self.now, id));
        id
    }

    pub fn hear(&mut self, happened: Happened) {
        let mut out = Vec::new();
        self.engine.step(self.now, happened, &mut out);
        let mut todo = VecDeque::from(out);
        while let Some(command) = todo.pop_front() {
            self.command(command);
        }
    }

    fn command(&mut self, command: Command) {
        let (epoch, now) = (self.epoch, self.now);
        match command {
            Command::Claim { destination, room, held } => {
                let happened = self.claim(destination, room, &held);
                self.claims += 1;
                let standing = self.engine.standing(now, destination, 0).expect(KNOWN);
                self.held_max = self.held_max.max(standing.held);
                self.at(now.plus(1), Ev::Hear { epoch, happened });
            }
            Command::Send { call, destination, request, .. } => {
                self.calls.insert(call, destination);
                self.check_whole(call, &request);
                let (answer, after) = self.sites.get_mut(&destination).expect(KNOWN).handle(now, &request);
                self.at(now.plus(after), Ev::Answer { epoch, call, answer });
            }
            Command::Settle { destination, settlements, .. } => {
                let deliveries = settlements.iter().map(|settlement| settlement.delivery).collect();
                settlements.iter().for_each(|settlement| self.settle(settlement));
                let happened = Happened::Settled { destination, deliveries, outcome: Ok(()) };
                self.at(now.plus(COMMIT_MS), Ev::Hear { epoch, happened });
            }
            Command::WakeAt(at) => {
                self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
                self.at(at, Ev::Wake(at));
            }
            Command::Announce { destination, what, .. } => {
                self.sites.get_mut(&destination).expect(KNOWN).notices.push((now, what));
            }
            Command::Stand { .. } | Command::Left { .. } => {}
        }
    }

    /// As the program's stores and its shell do: what is held counts and is not brought.
    fn claim(&mut self, destination: DestinationId, room: Room, held: &[DeliveryId]) -> Happened {
        let site = &self.sites[&destination];
        let (mut parcels, mut next_due, mut more) = (Vec::new(), None, [false; Queue::ALL.len()]);
        let is_held = |id: &i64| held.binary_search(&DeliveryId(*id)).is_ok();
        for (queue, due) in site.due.iter().enumerate() {
            let last = due.iter().rev().skip_while(|(at, _)| *at > self.now);
            let newest: Vec<i64> = last.take(usize::from(room.newest[queue])).map(|(_, id)| *id).collect();
            let new = newest.iter().filter(|id| !is_held(id));
            parcels.extend(new.map(|id| Parcel { newest: true, ..self.parcel(*id) }));
            let limit = usize::from(room.oldest[queue]);
            let came = due.iter().take(limit).take_while(|(at, _)| *at <= self.now);
            let came: Vec<i64> = came.map(|(_, id)| *id).collect();
            let new = came.iter().filter(|id| !is_held(id) && !newest.contains(id));
            parcels.extend(new.map(|id| self.parcel(*id)));
            more[queue] = limit > 0 && came.len() >= limit;
            let next = due.iter().nth(came.len()).map(|(at, _)| *at);
            next_due = [next_due, next].into_iter().flatten().min();
        }
        self.mapped += parcels.len();
        Happened::Claimed { destination, parcels, next_due, more: Some(more) }
    }

    fn parcel(&self, id: i64) -> Parcel {
        let row = &self.rows[&id];
        let operation = match row.class {
            Class::Consent => bench::consent(mailspan_core::Consent::OptOut, 60),
            Class::Profile => bench::facts(),
            Class::Activity => Operation::Send { content_type: String::new(), body: String::new() },
        };
        let part = Part { key: Key(format!("{id}.0").into()), operation, step: None, verdict: None, map: 0 };
        Parcel {
            delivery: DeliveryId(id),
            class: row.class,
            cause: row.cause,
            attempts: row.attempts,
            crashes: 0,
            since: row.offered,
            person: row.whole_of.map(|id| Person { id, ..bench::nobody() }),
            whole: row.whole_of.is_some(),
            parts: Ok(vec![part]),
            newest: false,
            elsewhere: None,
            behind: Vec::new(),
        }
    }

    /// Of a person one whole contact is on its way.
    fn check_whole(&mut self, call: CallId, request: &Request) {
        let persons = bench::ids(request).into_iter().filter_map(|id| self.rows[&id].whole_of);
        for person in persons.collect::<Vec<_>>() {
            let before = self.under_way.insert(person, call);
            let still = before.filter(|before| self.calls.contains_key(before));
            assert_eq!(still, None, "two whole contacts of {person:?} are on their way");
        }
    }

    fn settle(&mut self, settlement: &Settlement) {
        let id = settlement.delivery.0;
        let row = self.rows.get_mut(&id).expect(KNOWN);
        let site = self.sites.get_mut(&row.destination).expect(KNOWN);
        row.attempts = settlement.attempts;
        if matches!(settlement.outcome, Outcome::Progressed) {
            return;
        }
        site.due[row.queue as usize].remove(&(row.due, id));
        match &settlement.outcome {
            Outcome::Again { due, queue, class, .. } => {
                (row.queue, row.class, row.due) = (*queue, *class, *due);
                site.due[*queue as usize].insert((*due, id));
            }
            Outcome::Ended { state, reason } => {
                (row.state, row.reason) = (*state, reason.clone());
                if row.live {
                    site.waited.push((row.offered, self.now.since(row.offered)));
                }
            }
            Outcome::Progressed | Outcome::CarriedBy { .. } => {}
        }
    }

    fn at(&mut self, at: Millis, event: Ev) {
        self.order += 1;
        self.queue.insert((at, self.order), event);
    }
}

impl Site {
    fn handle(&mut self, now: Millis, request: &Request) -> (Result<Answer, Lost>, u64) {
        self.sent.push(now);
        self.busy += 1;
        let ids = bench::ids(request);
        let jitter = self.random.below(self.latency_ms / 5 + 1);
        let latency = self.latency_ms + jitter;
        let answered = |status: u16, after: u64| {
            let body = json!({ "verdicts": vec![Verdict::Done; ids.len()] }).to_string().into_bytes();
            (Ok(Answer { at: now.plus(after), status, headers: Vec::new(), body, cut: false }), after)
        };
        match self.manner {
            Manner::Hangs => {
                let why = Reason::new("timeout", "no answer within 30s");
                (Err(Lost { sent: true, refused: false, why }), 30_000)
            }
            Manner::Fails => answered(500, latency),
            Manner::Flaky => match self.random.below(100) {
                0..=9 => answered(503, latency),
                10..=14 => {
                    let why = Reason::new("lost", "the connection was closed");
                    (Err(Lost { sent: true, refused: false, why }), latency)
                }
                15..=26 => {
                    self.served += 1;
                    answered(200, 50 + self.random.below(300))
                }
                _ => {
                    self.served += 1;
                    answered(200, latency)
                }
            },
            Manner::Refuses { capacity } if self.busy > capacity => {
                self.refused += 1;
                answered(429, 5)
            }
            Manner::Queues { capacity } if self.busy > 2 * capacity => {
                self.refused += 1;
                answered(429, 5)
            }
            Manner::Queues { capacity } => {
                self.served += 1;
                self.workers.resize(capacity, now);
                let free = self.workers.iter_mut().min().expect(KNOWN);
                *free = (*free).max(now).plus(latency);
                let after = free.since(now);
                answered(200, after)
            }
            Manner::Poisoned { every } if ids.iter().any(|id| id % every == 0) => answered(413, latency),
            Manner::Well | Manner::Refuses { .. } | Manner::Poisoned { .. } => {
                self.served += 1;
                answered(200, latency)
            }
        }
    }

    /// The most requests within any window of that length.
    pub fn most_within(&self, ms: u64) -> usize {
        let (mut most, mut first) = (0, 0);
        for (last, at) in self.sent.iter().enumerate() {
            while at.since(self.sent[first]) >= ms {
                first += 1;
            }
            most = most.max(last + 1 - first);
        }
        most
    }
}

/// The wait that 99 in a hundred do not exceed.
pub fn p99(waits: impl IntoIterator<Item = u64>) -> u64 {
    let mut waits: Vec<u64> = waits.into_iter().collect();
    waits.sort_unstable();
    waits.get(waits.len() * 99 / 100).copied().unwrap_or(0)
}
