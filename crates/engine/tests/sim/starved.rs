//! First tries beside a hill of retries: they wait for a slot, never for the hill.

use mailspan_core::{Cause, Class, Rate, SplitMix64, State};
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
