//! First tries beside a hill of retries or behind a backlog of their own queue: they wait for a slot, never for
//! the hill. Where it is a backlog of first tries, the wait is counted in requests sent meanwhile.

use mailspan_core::{Cause, Class, Millis, Rate, SplitMix64, State};
use mailspan_engine::{Fault, Limits};

use crate::bench::limits;
use crate::town::{Manner, Town, p99};

/// A first try that waits longer stands behind retries.
const WAIT_MS_MAX: u64 = 2_000;

/// A destination by this seed, with a minute of retries before it; what is wrong with the waits of first tries.
fn run(seed: u64, fault: Option<Fault>) -> Result<(), String> {
    let mut random = SplitMix64(seed);
    let (latency_ms, concurrency) = (50 + random.below(150), 2 + random.below(7) as u32);
    let rate = Rate { count: 1_000, per_ms: 1_000 };
    let ours = Limits { rate, batch_max: 1, concurrency, adapts: random.chance(50), ..limits() };
    let mut town = Town::new();
    town.fault = fault;
    let crm = town.site(1, Manner::Well, latency_ms, ours);
    let retries = 60_000 * i64::from(concurrency) / latency_ms as i64;
    let class = [Class::Profile, Class::Activity][random.below(2) as usize];
    town.backlog(crm, retries, Class::Activity, Cause::Live, 1);
    let begin = town.now;
    town.offers(crm, class, 500 + random.below(500), begin.plus(30_000));
    town.start();
    town.run(begin.plus(600_000));
    let waited = town.sites[&crm].waited.iter().map(|(_, wait)| *wait);
    let (first, worst) = (waited.clone().count(), p99(waited));
    if town.rows.values().any(|row| row.state != State::Delivered) {
        return Err("something was never sent".to_owned());
    }
    if first < 30 || worst > WAIT_MS_MAX {
        return Err(format!("starved: {first} first tries, they waited up to {worst} ms"));
    }
    Ok(())
}

#[test]
fn retries_never_starve_first_tries_and_an_engine_that_lets_them_is_found() {
    for seed in 0..8 {
        assert_eq!(run(seed, None), Ok(()), "seed {seed}");
    }
    let found = (0..5).find_map(|seed| run(seed, Some(Fault::RetriesFirst)).err());
    assert!(found.is_some_and(|why| why.contains("starved")), "retries went first and nobody noticed");
}

/// Requests that may go out while a live event waits behind a backlog of its own queue: what is held of its newest
/// end twice over, as the oldest end has every other turn, and what is in flight.
const REQUESTS_MAX: usize = 128;
const BACKLOG: i64 = 20_000;

/// A node that starts before a backlog, and live events of the same class; after half of the time it is killed and
/// started again. With what is wrong, the most requests that a live event waited for.
fn behind_a_backlog(seed: u64, fault: Option<Fault>) -> Result<usize, String> {
    let mut random = SplitMix64(seed);
    let (latency_ms, concurrency) = (20 + random.below(100), 2 + random.below(7) as u32);
    let rate = Rate { count: 10 + random.below(90) as u32, per_ms: 1_000 };
    let batch_max = [1, 1, 10][random.below(3) as usize];
    let ours = Limits { rate, batch_max, batch_wait_ms: 0, concurrency, ..limits() };
    let mut town = Town::new();
    town.fault = fault;
    let crm = town.site(1, Manner::Well, latency_ms, ours);
    let class = [Class::Consent, Class::Profile, Class::Activity][random.below(3) as usize];
    town.backlog(crm, BACKLOG, class, Cause::Live, 0);
    town.now = town.now.plus(60_000);
    let begin = town.now;
    // A quarter of what it may be sent at most.
    town.offers(crm, class, 4_000 / u64::from(rate.count) + random.below(500), begin.plus(60_000));
    town.start();
    town.run(begin.plus(30_000));
    town.kill();
    town.start();
    town.run(begin.plus(80_000));
    let waiting = town.rows.values().filter(|row| row.live && row.state == State::Pending).count();
    if waiting > 0 {
        return Err(format!("starved: {waiting} live events are still waiting"));
    }
    let site = &town.sites[&crm];
    let requests = |(offered, wait): &(Millis, u64)| {
        site.sent.iter().filter(|at| **at >= *offered && **at < offered.plus(*wait)).count()
    };
    let worst = site.waited.iter().map(requests).max().unwrap_or(0);
    if site.waited.len() < 30 || worst > REQUESTS_MAX {
        return Err(format!("starved: {} live events, for up to {worst} requests", site.waited.len()));
    }
    // The backlog goes on, at half the pace at least.
    let ended: Vec<i64> =
        town.rows.iter().filter(|(_, row)| row.state == State::Delivered).map(|(id, _)| *id).collect();
    let oldest = ended.iter().filter(|id| **id <= BACKLOG / 2).count();
    if oldest * 5 < ended.len() * 2 {
        return Err(format!("starved: of {} that were sent {oldest} were of the oldest", ended.len()));
    }
    Ok(worst)
}

#[test]
fn live_events_pass_a_backlog_of_their_own_class_in_a_bounded_number_of_requests() {
    let worst = (0..12).map(|seed| behind_a_backlog(seed, None).map_err(|why| format!("seed {seed}: {why}")));
    let worst: Result<Vec<usize>, String> = worst.collect();
    println!("a live event waited for so many requests at most, by seed: {:?}", worst.unwrap());
}

#[test]
fn an_engine_that_forgets_the_newest_or_puts_them_before_all_is_found() {
    for fault in [Fault::NewestForgotten, Fault::NewestFirst] {
        let found = (0..6).find_map(|seed| behind_a_backlog(seed, Some(fault)).err());
        assert!(found.is_some_and(|why| why.contains("starved")), "{fault:?} was not found");
    }
}
