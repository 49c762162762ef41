//! Virtual time: a node, its store, its receivers, and everything that can go wrong between them.

mod node;

use std::collections::BTreeMap;

use mailspan_core::limits::SENDS_MAX;
use mailspan_core::{
    Answer, DestinationId, Lost, Millis, Outcome, Parcel, Person, PersonId, Reason, Request, Room,
    SplitMix64, Subject,
};
use mailspan_engine::{CallId, Command, Happened, Limits, Notice};

use crate::Planted;
use crate::check::Watch;
use crate::draw;
use crate::receiver::{self, Reply};
use crate::store::{self, Settled, Store};

/// Deliveries are offered until then; receivers and the store are healthy some time after it.
const OFFERS_UNTIL: i64 = 40_000;
const FAULTS_UNTIL: i64 = 70_000;
const STEPS_MAX: usize = 60_000;

pub struct World {
    random: SplitMix64,
    /// What came later to the simulation draws from here, so that a seed keeps the rest of its schedule.
    other: SplitMix64,
    /// Receivers that fail always, until then.
    down: BTreeMap<DestinationId, Millis>,
    now: Millis,
    order: u64,
    queue: BTreeMap<(i64, u64), Ev>,
    store: Store,
    watch: Watch,
    node: Option<Node>,
    /// Counts nodes: what was meant for an earlier one does not arrive.
    epoch: u64,
    destinations: i64,
    persons: usize,
    limits: BTreeMap<DestinationId, Limits>,
    planted: Option<Planted>,
    next_row: i64,
    /// Kills while something is being written.
    kills_left: u64,
    pub steps: usize,
    /// How often each kind of thing happened.
    pub seen: BTreeMap<String, usize>,
}

enum Ev {
    Offer,
    Settings,
    Pause,
    Resume(DestinationId),
    Drain,
    Leave,
    Kill,
    Open,
    Late(Write),
    Down(DestinationId),
    /// Reaches the node of this epoch only.
    Node(u64, Box<Inner>),
}

enum Inner {
    Hear(Happened),
    /// The next node, which is this one again, takes a destination that was left.
    TakeOver(DestinationId),
    Read {
        destination: DestinationId,
        room: Room,
    },
    Arrive {
        call: CallId,
        request: Request,
    },
    Answer {
        call: CallId,
        answer: Result<Answer, Lost>,
        floors: Vec<(String, u64)>,
        throttled_ms: Option<u64>,
    },
    Commit,
    Wake(Millis),
}

use node::{Node, Write};

type Checked = Result<(), String>;

impl World {
    pub fn new(seed: u64, planted: Option<Planted>) -> World {
        let mut random = SplitMix64(seed);
        let destinations = 1 + random.below(3) as i64;
        let persons = 2 + random.below(4) as usize;
        let person = |id: usize| Person {
            id: PersonId(id as i64),
            subject: Subject::read(&format!("p{id}@example.com")),
            opens: 0,
            clicks: 0,
            opted_out_at: None,
            opted_in_at: None,
            suppressed: false,
            erased: false,
            formerly: mailspan_core::Formerly::default(),
        };
        let store = Store { persons: (0..persons).map(person).collect(), planted, ..Store::default() };
        let mut other = SplitMix64(seed ^ 0x5eed_9011);
        let mut policy = |limits| draw::policy(limits, &mut other);
        let limits =
            (1..=destinations).map(|id| (DestinationId(id), policy(draw::limits(&mut random)))).collect();
        let mut world = World {
            random,
            other,
            down: BTreeMap::new(),
            now: Millis(100_000),
            order: 0,
            queue: BTreeMap::new(),
            store,
            watch: Watch::default(),
            node: None,
            epoch: 0,
            destinations,
            persons,
            limits,
            planted,
            next_row: 1,
            kills_left: 0,
            steps: 0,
            seen: BTreeMap::new(),
        };
        world.schedule();
        world
    }

    /// Runs until nothing happens any more; then everything must be settled.
    pub fn run(&mut self) -> Checked {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = Millis(at);
            self.happen(event)?;
            self.check()?;
            if self.steps > STEPS_MAX {
                return Err("it does not end".to_owned());
            }
        }
        self.watch.ended(&self.store)
    }

    fn schedule(&mut self) {
        let start = self.now.0;
        self.at(start, Ev::Open);
        let burst = if self.random.chance(3) { 120 } else { 0 };
        for _ in 0..burst {
            self.at(start + 1, Ev::Offer);
        }
        for _ in 0..10 + self.random.below(20) {
            let at = start + self.random.below(OFFERS_UNTIL as u64) as i64;
            self.at(at, Ev::Offer);
        }
        for destination in (1..=self.destinations).map(DestinationId) {
            if self.other.chance(40) {
                let at = start + self.other.below(OFFERS_UNTIL as u64) as i64;
                self.at(at, Ev::Down(destination));
            }
        }
        for _ in 0..self.other.below(4) {
            let at = start + self.other.below(FAULTS_UNTIL as u64) as i64;
            self.at(at, Ev::Leave);
        }
        self.kills_left = self.random.below(4);
        for _ in 0..self.random.below(3) {
            let at = start + self.random.below(FAULTS_UNTIL as u64) as i64;
            let event = if self.random.chance(30) { Ev::Drain } else { Ev::Kill };
            self.at(at, event);
        }
        for _ in 0..self.random.below(3) {
            let at = start + self.random.below(OFFERS_UNTIL as u64) as i64;
            let event = if self.random.chance(50) { Ev::Pause } else { Ev::Settings };
            self.at(at, event);
        }
    }

    fn happen(&mut self, event: Ev) -> Checked {
        match event {
            Ev::Offer => self.offer(),
            Ev::Settings => return self.settings(),
            Ev::Pause => {
                let destination = self.any_destination();
                self.after(5_000, Ev::Resume(destination));
                let reason = Reason::new("operator", "paused by hand");
                return self.hear(Happened::Paused { destination, reason });
            }
            Ev::Resume(destination) => {
                self.watch.policy.may_probe(destination);
                self.store.paused.remove(&destination);
                if let Some(node) = &mut self.node {
                    node.paused.insert(destination, false);
                }
                return self.hear(Happened::Resumed { destination });
            }
            Ev::Drain => {
                if let Some(node) = &mut self.node {
                    node.engine.drain();
                    node.draining = true;
                }
            }
            Ev::Down(destination) => {
                let until = self.now.plus(5_000 + self.other.below(20_000));
                self.down.insert(destination, until);
            }
            Ev::Leave => return self.leave(),
            Ev::Kill => self.kill(),
            Ev::Open => return self.open(),
            Ev::Late(write) => {
                if let Some(Settled::FenceLost) = self.apply(&write) {
                    self.saw("fence lost");
                }
            }
            Ev::Node(epoch, inner) if epoch == self.epoch && self.node.is_some() => {
                return self.inner(*inner);
            }
            Ev::Node(..) => {}
        }
        Ok(())
    }

    fn inner(&mut self, inner: Inner) -> Checked {
        match inner {
            Inner::Hear(happened) => self.hear(happened),
            Inner::TakeOver(destination) => self.take_over(destination),
            Inner::Read { destination, room } => {
                let (parcels, next_due) = self.store.claim(destination, room, self.now);
                self.claimed(destination, parcels, next_due);
                Ok(())
            }
            Inner::Arrive { call, request } => {
                let healthy = self.healthy();
                let destination = self.node.as_ref().and_then(|node| node.calls.get(&call));
                let down =
                    destination.and_then(|of| self.down.get(of)).is_some_and(|until| self.now < *until);
                let Reply { answer, after_ms, acted, floors, throttled_ms } = match down {
                    true => receiver::down(self.now, &request, &mut self.other),
                    false => receiver::handle(self.now, &request, &mut self.random, healthy),
                };
                self.watch.acted(&acted, &self.store)?;
                let answer = Inner::Answer { call, answer, floors, throttled_ms };
                self.after_exactly(after_ms, Ev::Node(self.epoch, Box::new(answer)));
                Ok(())
            }
            Inner::Answer { call, answer, floors, throttled_ms } => {
                let Some(node) = &mut self.node else { return Ok(()) };
                let Some(destination) = node.calls.remove(&call) else { return Ok(()) };
                let at = answer.as_ref().map_or(self.now, |answer| answer.at);
                self.saw(&answer.as_ref().map_or("lost".to_owned(), |answer| answer.status.to_string()));
                let fails = answer.as_ref().map_or(true, |answer| answer.status >= 500);
                self.watch.policy.answered(self.now, call, fails);
                self.watch.answered(self.now, destination, floors, throttled_ms, at);
                self.hear(Happened::Answered { call, answer })
            }
            Inner::Commit => {
                self.commit();
                Ok(())
            }
            Inner::Wake(at) => {
                let Some(node) = &mut self.node else { return Ok(()) };
                if node.wake != Some(at) {
                    return Ok(());
                }
                node.wake = None;
                self.hear(Happened::Tick)
            }
        }
    }

    fn saw(&mut self, what: &str) {
        match self.seen.get_mut(what) {
            Some(times) => *times += 1,
            None => drop(self.seen.insert(what.to_owned(), 1)),
        }
    }

    /// One step of the engine, and what it commands.
    fn hear(&mut self, happened: Happened) -> Checked {
        let Some(node) = &mut self.node else { return Ok(()) };
        let mut out = Vec::new();
        self.steps += 1;
        if let Happened::Paused { destination, .. } = &happened {
            node.paused.insert(*destination, true);
        }
        node.engine.step(self.now, happened, &mut out);
        for command in out {
            self.command(command)?;
        }
        let Some(node) = &self.node else { return Ok(()) };
        if node.draining && node.engine.idle() {
            self.kill();
        }
        Ok(())
    }

    fn command(&mut self, command: Command) -> Checked {
        let epoch = self.epoch;
        let Some(node) = &mut self.node else { return Ok(()) };
        match command {
            Command::Claim { destination, room, .. } => {
                if node.draining || node.leaving.contains(&destination) {
                    return Err("drain: it claims".to_owned());
                }
                self.after(20, Ev::Node(epoch, Box::new(Inner::Read { destination, room })));
            }
            Command::Send { call, destination, request, .. } => {
                let is_left = node.leaving.contains(&destination);
                if node.draining || is_left || node.paused.get(&destination) == Some(&true) {
                    return Err(format!("paused: something is sent to {destination:?}"));
                }
                node.calls.insert(call, destination);
                let busy = node.calls.values().filter(|of| **of == destination).count();
                let limits = &self.limits[&destination];
                if busy > limits.concurrency as usize || node.calls.len() > SENDS_MAX {
                    return Err(format!("concurrency: {busy} calls to {destination:?}"));
                }
                let items = receiver::items(&request);
                self.watch.sending(self.now, destination, limits, &items, &self.store)?;
                self.watch.policy.sending(self.now, (destination, call), limits, &items, &self.store)?;
                self.after(100, Ev::Node(epoch, Box::new(Inner::Arrive { call, request })));
            }
            Command::Settle { destination, fence, settlements, .. } => {
                self.watch.settling(&settlements)?;
                settlements.iter().for_each(|settlement| self.saw(&shown(&settlement.outcome)));
                self.write(Write::Settle { destination, fence, settlements });
            }
            Command::Stand { destination, fence, paused } => {
                node.paused.insert(destination, paused.is_some());
                self.saw(paused.as_ref().map_or("resumed", |_| "paused"));
                if paused.is_some() {
                    self.after(8_000, Ev::Resume(destination));
                }
                self.write(Write::Stand { destination, fence, paused });
            }
            Command::Left { destination } => return self.left(destination),
            Command::Announce { destination, fence, what } => {
                self.saw(match what {
                    Notice::BreakerOpened { .. } => "breaker opened",
                    Notice::BreakerClosed => "breaker closed",
                    Notice::QuotaInDanger { .. } => "quota in danger",
                });
                self.watch.policy.announced(self.now, destination, &what)?;
                if !matches!(what, Notice::QuotaInDanger { .. }) {
                    let degraded = what != Notice::BreakerClosed;
                    self.write(Write::Degrade { destination, fence, degraded });
                }
            }
            Command::WakeAt(at) => {
                if at <= self.now {
                    return Err(format!("wake: asked at {:?} for {at:?}", self.now));
                }
                if node.wake.is_none_or(|before| at < before) {
                    node.wake = Some(at);
                    self.at(at.0, Ev::Node(epoch, Box::new(Inner::Wake(at))));
                }
            }
        }
        Ok(())
    }

    fn offer(&mut self) {
        let row = draw::row(&mut self.random, self.next_row, self.destinations, self.persons, self.now);
        self.next_row += 1;
        let consent = row.operations.as_ref().ok().and_then(|operations| operations.first());
        if let (Some(person), Some(mailspan_core::Operation::SetConsent { consent, at, .. })) =
            (row.person, consent)
        {
            let person = &mut self.store.persons[person];
            let last = match consent {
                mailspan_core::Consent::OptIn => &mut person.opted_in_at,
                _ => &mut person.opted_out_at,
            };
            *last = (*last).max(Some(*at));
        }
        let destination = row.destination;
        self.watch.offered(&row);
        self.store.offer(row, self.now);
        self.after(5, Ev::Node(self.epoch, Box::new(Inner::Hear(Happened::Offered { destination }))));
    }

    fn settings(&mut self) -> Checked {
        let destination = self.any_destination();
        let limits = draw::limits(&mut self.random);
        let Some(node) = &self.node else { return Ok(()) };
        if node.leaving.contains(&destination) {
            return Ok(());
        }
        let busy = node.calls.values().filter(|of| **of == destination).count();
        let limits = draw::policy(limits, &mut self.other);
        let limits = Limits { concurrency: limits.concurrency.max(busy as u32), ..limits };
        self.watch.limits_changed(destination);
        self.watch.policy.limits_changed(destination, &limits);
        self.limits.insert(destination, limits);
        self.hear_opened(destination)
    }

    fn claimed(&mut self, destination: DestinationId, parcels: Vec<Parcel>, next_due: Option<Millis>) {
        let failed = !self.healthy() && self.random.chance(3);
        let happened = match failed {
            true => Happened::ClaimFailed { destination },
            false => Happened::Claimed { destination, parcels, next_due, more: None },
        };
        self.after(60, Ev::Node(self.epoch, Box::new(Inner::Hear(happened))));
    }

    fn check(&mut self) -> Checked {
        if let Some(wrong) = &self.store.wrong_fence {
            return Err(format!("fence: {wrong}"));
        }
        if std::mem::take(&mut self.store.changed) {
            self.store.check_heads()?;
        }
        let Some(node) = &self.node else { return Ok(()) };
        let planned = |event: &Ev| matches!(event, Ev::Node(epoch, _) if *epoch == self.epoch);
        if node.draining || self.queue.values().any(planned) {
            return Ok(());
        }
        let open = |destination: &DestinationId| {
            node.paused.get(destination) != Some(&true) && !node.leaving.contains(destination)
        };
        match store::with_work(&self.store).into_iter().find(open) {
            Some(_) => Err("forgotten: there is work and nothing is planned, no wake either".to_owned()),
            None => Ok(()),
        }
    }

    fn healthy(&self) -> bool {
        self.now.0 > 100_000 + FAULTS_UNTIL
    }

    fn any_destination(&mut self) -> DestinationId {
        DestinationId(1 + self.random.below(self.destinations as u64) as i64)
    }

    fn after(&mut self, at_most_ms: u64, event: Ev) {
        let ms = self.random.below(at_most_ms + 1);
        self.after_exactly(ms, event);
    }

    fn after_exactly(&mut self, ms: u64, event: Ev) {
        self.at(self.now.plus(ms).0, event);
    }

    fn at(&mut self, at: i64, event: Ev) {
        self.order += 1;
        self.queue.insert((at, self.order), event);
    }
}

fn shown(outcome: &Outcome) -> String {
    let code =
        |reason: &Option<Reason>| reason.as_ref().map_or(String::new(), |reason| format!(" {}", reason.code));
    match outcome {
        Outcome::Progressed => "progressed".to_owned(),
        Outcome::Ended { state, reason } => format!("{}{}", state.name(), code(reason)),
        Outcome::Again { class, reason, .. } => format!("again {}{}", class.name(), code(reason)),
        Outcome::CarriedBy { .. } => "carried".to_owned(),
    }
}
