//! What a seed makes: limits and deliveries.

use mailspan_core::{
    Cause, Class, Consent, DestinationId, Fields, Millis, Operation, Queue, Rate, Reason, SplitMix64, State,
};
use mailspan_engine::{Calendar, Limits, Trip};

use crate::sink::{NOTHING, POISON_JUDGE, POISON_PLAN};
use crate::store::{Row, keys};

pub fn limits(random: &mut SplitMix64) -> Limits {
    let calendar = Calendar {
        waits_ms: vec![500, 2_000, 5_000],
        horizon_ms: random.chance(70).then_some([600_000, 300_000, 120_000]),
        exact: false,
    };
    Limits {
        rate: Rate { count: 2 + random.below(20) as u32, per_ms: 100 + random.below(1_500) },
        concurrency: 1 + random.below(4) as u32,
        batch_max: 1 + random.below(6) as u32,
        batch_wait_ms: random.below(300),
        calendar,
        retry_after_max_ms: 60_000,
        merges: random.chance(30),
        coalesces: false,
        adapts: false,
        breaker: Trip::default(),
        daily: None,
        day_starts_ms: 0,
    }
}

/// The delivery policy, drawn by its own numbers: breakers that open soon, days that end in the middle.
pub fn policy(limits: Limits, random: &mut SplitMix64) -> Limits {
    let breaker = Trip {
        run: 3 + random.below(8) as u32,
        percent: 50,
        least: 20,
        within_ms: 60_000,
        wait_ms: 1_000 + random.below(3_000),
        wait_max_ms: 10_000,
    };
    Limits {
        breaker,
        adapts: random.chance(40),
        daily: random.chance(25).then(|| 4 + random.below(40) as u32),
        day_starts_ms: DAY_STARTS_MS,
        coalesces: random.chance(60),
        ..limits
    }
}

/// The world begins at 100 s after midnight and takes deliveries for 40 s.
pub const DAY_STARTS_MS: u64 = 125_000;

/// A delivery of an event that happened a while before now, at times before others that came earlier.
pub fn row(random: &mut SplitMix64, id: i64, destinations: i64, persons: usize, now: Millis) -> Row {
    let destination = DestinationId(1 + random.below(destinations as u64) as i64);
    let at = Millis(now.0 - random.below(20_000) as i64);
    let operations = operations(random, at, id);
    let urgent = |operations: &Vec<Operation>| operations.iter().map(Operation::class).min();
    // Of some that state consent the type of the event says nothing of it.
    let made = operations.as_ref().ok().and_then(urgent).unwrap_or(Class::Activity);
    let class = if id % 4 == 0 && made == Class::Consent { Class::Activity } else { made };
    let cause =
        [Cause::Live, Cause::Live, Cause::Live, Cause::Backfill, Cause::Replay][random.below(5) as usize];
    Row {
        id,
        destination,
        offered_as: class,
        person: (!random.chance(10)).then(|| random.below(persons as u64) as usize),
        class,
        cause,
        queue: Queue::of(class, cause, 0),
        state: State::Pending,
        due: None,
        attempts: 0,
        crashes: 0,
        since: now,
        reason: None,
        carried_by: None,
        progress: Vec::new(),
        keys: keys(id, destination, operations.as_ref().map_or(0, Vec::len)),
        operations,
    }
}

fn operations(random: &mut SplitMix64, at: Millis, id: i64) -> Result<Vec<Operation>, Reason> {
    let consent = |consent| Operation::SetConsent { consent, at, reason: None };
    let log = |title: &str| Operation::LogActivity {
        title: title.to_owned(),
        body: String::new(),
        at,
        record: None,
        deal: None,
    };
    // Each says one thing or two, by its number: so what arrived tells which update it was.
    let fields = || {
        let names = [["a", "a"], ["b", "b"], ["a", "b"]][id.rem_euclid(3) as usize];
        let fields: Fields = names.map(|name| (name.to_owned(), id.into())).into();
        Operation::SetFields { fields, record: None }
    };
    let owner = Operation::NotifyOwner {
        owner: Some(format!("owner:{}", random.below(3))),
        title: String::new(),
        text: String::new(),
        at,
    };
    match random.below(100) {
        0..=19 => Ok(vec![consent(Consent::OptIn)]),
        20..=34 => Ok(vec![consent(Consent::OptOut), log("unsubscribed")]),
        35..=44 => Ok(vec![consent(Consent::DoNotContact), fields(), owner]),
        45..=64 => Ok(vec![fields()]),
        65..=84 => Ok(vec![log("clicked"), fields()]),
        85..=90 => Ok(vec![Operation::Send { content_type: String::new(), body: String::new() }; 2]),
        91 => Ok(vec![log(POISON_PLAN)]),
        92 => Ok(vec![log(POISON_JUDGE)]),
        93 => Ok(Vec::new()),
        94 => Ok(vec![log(NOTHING)]),
        95 => Err(Reason::new("crash", "the map panicked")),
        96 => Err(Reason::new("map", "the map has an error in line 3")),
        _ => Ok(vec![owner]),
    }
}
