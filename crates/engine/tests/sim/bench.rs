//! One desk on the bench: hand it what happened, look at what it commands.

use std::sync::Arc;

use mailspan_core::{
    Answer, Attempt, Cause, Class, Consent, DeliveryId, DestinationId, Fields, Key, Millis, Operation,
    Outcome, Parcel, Part, Person, PersonId, Queue, Rate, Request, Settlement, State, Subject, Verdict,
};
use mailspan_engine::{
    Calendar, CallId, Command, Engine, Fence, Happened, Limits, Notice, SettleFailed, Trip,
};
use serde_json::{Value, json};

use crate::sink::SimSink;

pub const CRM: DestinationId = DestinationId(1);

pub struct Bench {
    pub engine: Engine,
    pub now: i64,
    /// What came out of the last step, without wakes.
    pub out: Vec<Command>,
    pub wake: Option<i64>,
}

pub fn limits() -> Limits {
    Limits {
        rate: Rate { count: 1_000, per_ms: 1_000 },
        concurrency: 10,
        batch_max: 4,
        batch_wait_ms: 0,
        calendar: Calendar::default(),
        retry_after_max_ms: 3_600_000,
        merges: false,
        coalesces: false,
        adapts: false,
        breaker: Trip::default(),
        daily: None,
        day_starts_ms: 0,
    }
}

impl Bench {
    pub fn new(limits: Limits) -> Bench {
        crate::quiet();
        let mut bench = Bench { engine: Engine::new(1), now: 1_000_000, out: Vec::new(), wake: None };
        bench.open(CRM, limits);
        bench
    }

    /// With these deliveries claimed.
    pub fn with(limits: Limits, parcels: Vec<Parcel>) -> Bench {
        let mut bench = Bench::new(limits);
        bench.claimed(parcels);
        bench
    }

    pub fn open(&mut self, destination: DestinationId, limits: Limits) {
        let sink = Arc::new(SimSink { batches: limits.batch_max > 1 });
        self.hear(Happened::Opened {
            destination,
            fence: Fence(1),
            limits,
            sink,
            paused: None,
            degraded: false,
        });
    }

    pub fn hear(&mut self, happened: Happened) {
        self.out.clear();
        self.engine.step(Millis(self.now), happened, &mut self.out);
        for command in self.out.extract_if(.., |command| matches!(command, Command::WakeAt(_))) {
            let Command::WakeAt(at) = command else { continue };
            self.wake = Some(at.0);
        }
    }

    /// The last step said that a destination has been left.
    pub fn has_left(&self, destination: DestinationId) -> bool {
        self.out.contains(&Command::Left { destination })
    }

    pub fn claimed(&mut self, parcels: Vec<Parcel>) {
        self.hear(Happened::Claimed { destination: CRM, parcels, next_due: None, more: None });
    }

    /// As the program tells it: without what is held, from queues that all have more.
    pub fn claimed_of_many(&mut self, parcels: Vec<Parcel>) {
        let more = Some([true; Queue::ALL.len()]);
        self.hear(Happened::Claimed { destination: CRM, parcels, next_due: None, more });
    }

    pub fn answer(&mut self, call: CallId, status: u16, body: Value) {
        self.answer_with(call, status, &[], body);
    }

    pub fn answer_with(&mut self, call: CallId, status: u16, headers: &[(&str, &str)], body: Value) {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let body = body.to_string().into_bytes();
        let answer = Ok(Answer { at: Millis(self.now), status, headers, body, cut: false });
        self.hear(Happened::Answered { call, answer });
    }

    pub fn settled(&mut self, outcome: Result<(), SettleFailed>) {
        let deliveries = self.settlements().iter().map(|settlement| settlement.delivery).collect();
        self.hear(Happened::Settled { destination: CRM, deliveries, outcome });
    }

    pub fn wake(&mut self) {
        self.now = self.wake.take().expect("a wake was asked for");
        self.hear(Happened::Tick);
    }

    /// The calls that were sent, each with its deliveries.
    pub fn sends(&self) -> Vec<(CallId, Vec<i64>)> {
        let send = |command: &Command| match command {
            Command::Send { call, request, .. } => Some((*call, ids(request))),
            _ => None,
        };
        self.out.iter().filter_map(send).collect()
    }

    pub fn sent(&self) -> Vec<Vec<i64>> {
        self.sends().into_iter().map(|(_, ids)| ids).collect()
    }

    pub fn call(&self, at: usize) -> CallId {
        self.sends()[at].0
    }

    pub fn settles<'a>(&'a self) -> Vec<(&'a [Settlement], &'a [Attempt])> {
        let settle = |command: &'a Command| match command {
            Command::Settle { settlements, attempts, .. } => Some((&settlements[..], &attempts[..])),
            _ => None,
        };
        self.out.iter().filter_map(settle).collect()
    }

    pub fn settlements(&self) -> &[Settlement] {
        match self.settles()[..] {
            [(settlements, _)] => settlements,
            _ => panic!("one settlement was expected: {:?}", self.out),
        }
    }

    pub fn claims(&self) -> usize {
        self.out.iter().filter(|command| matches!(command, Command::Claim { .. })).count()
    }

    /// What the claim of the last step wants to hear nothing of; nothing where nothing was claimed.
    pub fn unasked(&self) -> Option<Vec<i64>> {
        self.out.iter().find_map(|command| match command {
            Command::Claim { held, .. } => Some(held.iter().map(|delivery| delivery.0).collect()),
            _ => None,
        })
    }

    pub fn notices<'a>(&'a self) -> Vec<&'a Notice> {
        let notice = |command: &'a Command| match command {
            Command::Announce { what, .. } => Some(what),
            _ => None,
        };
        self.out.iter().filter_map(notice).collect()
    }

    pub fn paused(&self) -> Option<&str> {
        self.out.iter().find_map(|command| match command {
            Command::Stand { paused, .. } => Some(paused.as_ref().map_or("", |reason| &reason.code)),
            _ => None,
        })
    }
}

pub fn ids(request: &Request) -> Vec<i64> {
    crate::receiver::items(request)
        .iter()
        .filter_map(|item| item.key.split('.').next()?.parse().ok())
        .collect()
}

pub fn done(items: usize) -> Value {
    json!({ "verdicts": vec![Verdict::Done; items] })
}

pub fn nobody() -> Person {
    Person {
        id: PersonId(0),
        subject: Subject::nobody(),
        opens: 0,
        clicks: 0,
        opted_out_at: None,
        opted_in_at: None,
        suppressed: false,
        erased: false,
        formerly: mailspan_core::Formerly::default(),
    }
}

pub fn parcel(id: i64, operations: Vec<Operation>) -> Parcel {
    let person = Person { id: PersonId(id), opted_out_at: Some(Millis(50)), ..nobody() };
    let class = operations.iter().map(Operation::class).min().unwrap_or(Class::Activity);
    let part = |(at, operation)| Part {
        key: Key(format!("{id}.{at}").into()),
        operation,
        step: None,
        verdict: None,
        map: 0,
    };
    Parcel {
        delivery: DeliveryId(id),
        class,
        cause: Cause::Live,
        attempts: 0,
        crashes: 0,
        since: Millis(1_000_000),
        person: Some(person),
        whole: false,
        elsewhere: None,
        parts: Ok(operations.into_iter().enumerate().map(part).collect()),
        newest: false,
        behind: Vec::new(),
    }
}

pub fn facts() -> Operation {
    Operation::SetFields { fields: Fields::new(), record: None }
}

pub fn log(title: &str) -> Operation {
    Operation::LogActivity {
        title: title.to_owned(),
        body: String::new(),
        at: Millis(0),
        record: None,
        deal: None,
    }
}

pub fn consent(consent: Consent, at: i64) -> Operation {
    Operation::SetConsent { consent, at: Millis(at), reason: None }
}

pub fn ended(settlement: &Settlement) -> (State, &str) {
    match &settlement.outcome {
        Outcome::Ended { state, reason } => (*state, reason.as_ref().map_or("", |reason| &reason.code)),
        other => panic!("it should have ended: {other:?}"),
    }
}

pub fn again(settlement: &Settlement) -> (i64, Queue, Class) {
    match &settlement.outcome {
        Outcome::Again { due, queue, class, .. } => (due.0, *queue, *class),
        other => panic!("it should be tried again: {other:?}"),
    }
}
