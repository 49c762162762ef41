//! The delivery policy: one rule a test on the bench, and the questions of waiting, capacity and rate.

use mailspan_connectors::contract::{Item, Judgement, Known, Left, Plan, Sink, by_status};
use mailspan_core::limits::DESK_WINDOW_MAX;
use mailspan_core::{Answer, Cause, Class, Consent, Millis, Rate, Request, State};
use mailspan_engine::{BreakerState, CallId, Fault, Fence, Happened, Limits, Notice, Standing, Stands};
use serde_json::{Value, json};

use crate::bench::*;
use crate::town::{Manner, Site, Town, p99};

fn standing(bench: &Bench, backlog: u64) -> Standing {
    bench.engine.standing(Millis(bench.now), CRM, backlog).expect("it is open")
}

fn parcels(ids: std::ops::Range<i64>) -> Vec<mailspan_core::Parcel> {
    ids.map(|id| parcel(id, vec![facts()])).collect()
}

#[test]
fn ten_failures_open_the_breaker_one_probe_and_a_ramp_close_it() {
    let mut bench = Bench::with(Limits { batch_max: 1, ..limits() }, parcels(1..200));
    let mut calls = bench.sends();
    for _ in 1..10 {
        bench.answer(calls.remove(0).0, 502, Value::Null);
        assert_eq!((bench.notices().len(), bench.sent().len()), (0, 1));
        calls.extend(bench.sends());
    }
    bench.answer(calls.remove(0).0, 502, Value::Null);
    let Notice::BreakerOpened { reason, probe_at } = bench.notices()[0] else { panic!("not opened") };
    assert!(reason.text.contains("HTTP 502"), "{reason}");
    assert_eq!(bench.settlements()[0].attempts, 1, "what was tried counts its try");
    assert_eq!((standing(&bench, 0).state, bench.wake), (Stands::Degraded, Some(probe_at.0)));
    for (call, _) in calls {
        bench.answer(call, 200, done(1));
        assert_eq!(bench.sent().len(), 0, "a late success closes nothing");
    }
    bench.wake();
    assert_eq!(bench.claims(), 1, "what waited was let go of");
    bench.claimed(parcels(300..400));
    let probe = bench.sends();
    assert_eq!((probe.len(), standing(&bench, 0).breaker), (1, BreakerState::Probing));
    bench.now += 10;
    bench.answer(probe[0].0, 503, Value::Null);
    let BreakerState::Open { probe_at } = standing(&bench, 0).breaker else { panic!("not open") };
    assert!(probe_at.since(Millis(bench.now)) >= 5_000 && bench.notices().is_empty());
    bench.wake();
    bench.claimed(parcels(500..600));
    let (mut calls, mut closed, mut most) = (bench.sends(), 0, 0);
    while !calls.is_empty() && closed == 0 {
        bench.now += 200;
        let (call, _) = calls.remove(0);
        bench.answer(call, 200, done(1));
        calls.extend(bench.sends());
        closed += bench.notices().iter().filter(|notice| ***notice == Notice::BreakerClosed).count();
        let now = standing(&bench, 0);
        if let BreakerState::Ramping { slots, .. } = now.breaker {
            most = slots;
            assert!(now.in_flight <= slots as usize);
        }
    }
    assert_eq!((closed, most, standing(&bench, 0).state), (1, 8, Stands::Active));
}

#[test]
fn refusals_throttling_and_credentials_open_no_breaker() {
    for status in [400, 404, 422, 429] {
        let mut bench = Bench::with(Limits { batch_max: 1, concurrency: 50, ..limits() }, parcels(1..51));
        for (call, _) in bench.sends() {
            bench.answer(call, status, Value::Null);
        }
        assert_eq!(standing(&bench, 0).breaker, BreakerState::Closed, "HTTP {status}");
    }
}

#[test]
fn a_daily_quota_leaves_a_tenth_and_keeps_a_tenth_for_consent() {
    let daily = Limits { daily: Some(20), batch_max: 1, concurrency: 50, ..limits() };
    let mut bench = Bench::new(daily);
    bench.hear(Happened::Spent { destination: CRM, requests: 5 });
    bench.claimed(parcels(1..31));
    assert_eq!(bench.sent().len(), 12, "18 of 20 may be used, one of them for consent alone, five are gone");
    let Notice::QuotaInDanger { used, daily: 20, resets } = *bench.notices()[0] else { panic!("no danger") };
    assert_eq!((used, bench.wake), (14, Some(resets.0)));
    let left = standing(&bench, 30);
    assert_eq!((left.quota_left, left.state), (Some(0), Stands::Active));
    let forecast = left.forecast.unwrap();
    assert_eq!(forecast.0 / 86_400_000, 2, "17 tomorrow, 13 the day after: {}", forecast.rfc3339());
    bench.hear(Happened::Offered { destination: CRM });
    bench.claimed((100..103).map(|id| parcel(id, vec![consent(Consent::OptOut, 60)])).collect());
    assert_eq!(bench.sent().len(), 1);
    bench.now = resets.0;
    bench.hear(Happened::Tick);
    assert_eq!(bench.sent().len(), 18 - 1, "the next day, two opt-outs first");
}

/// Says that the vendor has two requests left for ten seconds.
struct Scarce;

impl Sink for Scarce {
    fn plan(&self, items: &[Item], _: &Known) -> Plan {
        let body = json!({ "items": [{ "key": items[0].key.to_string() }] });
        Plan::Send { request: Request::json("POST", "", &body), takes: vec![0] }
    }

    fn judge(&self, items: &[Item], answer: &Answer) -> Judgement {
        let left = Some(Left { requests: 20, until: Millis(1_010_000) });
        Judgement { left, ..by_status(answer, items.len()) }
    }

    fn probe(&self) -> Request {
        Request::json("GET", "/", &Value::Null)
    }

    fn batch_key(&self, _: &Item) -> Option<String> {
        None
    }
}

#[test]
fn what_the_vendor_has_left_is_spread_over_its_time() {
    let mut bench = Bench::new(limits());
    let (fence, limits) = (Fence(1), Limits { concurrency: 1, ..limits() });
    let sink = std::sync::Arc::new(Scarce);
    bench.hear(Happened::Closed { destination: CRM });
    bench.hear(Happened::Opened { destination: CRM, fence, limits, sink, paused: None, degraded: false });
    bench.claimed(parcels(1..40));
    let mut at = Vec::new();
    while bench.now < 1_010_000 {
        match bench.sends().first() {
            Some((call, _)) => {
                at.push(bench.now - 1_000_000);
                bench.answer(*call, 200, Value::Null);
            }
            None => bench.wake(),
        }
    }
    assert_eq!(at.len(), 1 + 18, "twenty less the tenth that is for consent");
    assert!(
        at.iter().enumerate().all(|(nth, at)| *at <= nth as i64 * 540 && *at >= nth as i64 * 480),
        "{at:?}"
    );
    assert_eq!(standing(&bench, 0).quota_left, None, "its time is over");
}

#[test]
fn a_forecast_counts_what_waits_and_is_silent_while_paused() {
    let slow = Limits { rate: Rate { count: 10, per_ms: 1_000 }, batch_max: 1, ..limits() };
    let mut bench = Bench::new(slow);
    assert_eq!(standing(&bench, 0).forecast, Some(Millis(bench.now)));
    assert_eq!(standing(&bench, 600).forecast, Some(Millis(bench.now + 60_000)));
    let reason = mailspan_core::Reason::new("operator", "by hand");
    bench.hear(Happened::Paused { destination: CRM, reason });
    assert_eq!((standing(&bench, 600).forecast, standing(&bench, 0).state), (None, Stands::Paused));
}

#[test]
fn retries_that_hang_leave_slots_for_first_tries() {
    let mut bench = Bench::new(Limits { batch_max: 1, concurrency: 8, ..limits() });
    bench.claimed(
        (1..31).map(|id| mailspan_core::Parcel { attempts: 1, ..parcel(id, vec![facts()]) }).collect(),
    );
    assert_eq!(bench.sent().len(), 6);
    bench.hear(Happened::Offered { destination: CRM });
    bench.claimed(parcels(50..53));
    assert_eq!(bench.sent(), [[50], [51]]);
}

#[test]
fn one_poison_item_in_a_hundred_is_named_and_the_others_are_delivered() {
    let mut town = Town::new();
    let wide = Limits { batch_max: 100, batch_wait_ms: 10, concurrency: 4, ..limits() };
    let crm = town.site(1, Manner::Poisoned { every: 57 }, 20, wide);
    town.backlog(crm, 100, Class::Profile, Cause::Live, 0);
    town.start();
    town.run(Millis(2_000_000));
    for (id, row) in &town.rows {
        let expected = if *id == 57 { State::Dead } else { State::Delivered };
        assert_eq!(row.state, expected, "{id}");
        let code = row.reason.as_ref().map(|reason| reason.code.as_str());
        assert_eq!(code, (*id == 57).then_some("too_large"), "{id}");
    }
    assert!(town.sites[&crm].sent.len() < 40, "{} requests", town.sites[&crm].sent.len());
}

/// Waits of the destinations that are well, when the first two of a hundred are like this.
fn neighbours(first: Manner, second: Manner) -> (u64, usize) {
    let mut town = Town::new();
    let ours = || Limits { batch_max: 1, concurrency: 8, adapts: true, ..limits() };
    let until = Millis(1_000_000).plus(30_000);
    for number in 1..=100 {
        let manner = [first, second].get(number as usize - 1).copied().unwrap_or(Manner::Well);
        let destination = town.site(number, manner, 40, ours());
        if number <= 2 {
            town.backlog(destination, 5_000, Class::Activity, Cause::Live, 0);
        }
        town.offers(destination, Class::Activity, 180 + number as u64, until);
    }
    town.start();
    town.run(until.plus(30_000));
    let others = || town.sites.iter().filter(|(id, _)| id.0 > 2).map(|(_, site)| site);
    let waits = others().flat_map(|site| site.waited.iter().map(|(_, wait)| *wait));
    (p99(waits), others().map(|site| site.waited.len()).sum())
}

#[test]
fn a_neighbour_that_hangs_and_one_that_fails_cost_the_others_nothing() {
    let (alone, served_alone) = neighbours(Manner::Well, Manner::Well);
    let (beside, served_beside) = neighbours(Manner::Hangs, Manner::Fails);
    println!("p99 of waiting: {alone} ms alone, {beside} ms beside the two");
    assert_eq!(served_alone, served_beside);
    assert!(served_beside > 10_000 && beside * 10 <= alone * 11, "{beside} ms, alone {alone} ms");
}

#[test]
fn fifty_thousand_pending_and_a_kill_keep_the_limit_and_starve_nobody() {
    let mut town = Town::new();
    let rate = Rate { count: 1_000, per_ms: 10_000 };
    let crm = Limits { rate, batch_max: 10, batch_wait_ms: 50, concurrency: 16, adapts: true, ..limits() };
    let crm = town.site(1, Manner::Well, 80, crm);
    town.backlog(crm, 25_000, Class::Profile, Cause::Live, 1);
    town.backlog(crm, 25_000, Class::Activity, Cause::Backfill, 0);
    let begin = town.now;
    town.offers(crm, Class::Profile, 100, begin.plus(120_000));
    town.offers(crm, Class::Consent, 1_000, begin.plus(120_000));
    town.start();
    town.run(begin.plus(20_300));
    town.kill();
    let killed = town.now;
    town.run(killed.plus(700));
    town.start();
    town.run(killed.plus(800_000));
    let site = &town.sites[&crm];
    assert_eq!(
        (town.pending(crm), town.rows.values().filter(|row| row.state == State::Delivered).count()),
        (0, town.rows.len())
    );
    let most = site.most_within(10_000);
    let live = p99(site.waited.iter().map(|(_, wait)| *wait));
    println!(
        "{} requests, {most} in the fullest 10 s, live p99 {live} ms, {} held",
        site.sent.len(),
        town.held_max
    );
    assert!(most <= 1_050, "{most} within 10 s");
    assert!(live <= 1_500, "live deliveries waited {live} ms");
    assert!(town.held_max <= DESK_WINDOW_MAX, "{} held", town.held_max);
    let first = site.sent.iter().find(|at| **at >= killed.plus(700)).unwrap();
    assert!(first.since(killed) <= 2_000);
}

/// The fullest ten seconds when a node is killed after a burst, and another one finds more to do.
fn over_a_kill(fault: Option<Fault>) -> usize {
    let mut town = Town::new();
    town.fault = fault;
    let rate = Rate { count: 100, per_ms: 10_000 };
    let crm = town.site(1, Manner::Well, 80, Limits { rate, batch_max: 1, ..limits() });
    town.backlog(crm, 150, Class::Consent, Cause::Live, 0);
    town.start();
    town.run(town.now.plus(2_000));
    town.kill();
    town.start();
    town.run(town.now.plus(60_000));
    assert_eq!(town.pending(crm), 0);
    town.sites[&crm].most_within(10_000)
}

#[test]
fn a_change_of_leases_keeps_the_rate_and_one_that_forgets_is_found() {
    assert_eq!(over_a_kill(None), 105);
    assert_eq!(over_a_kill(Some(Fault::OldLeaseForgotten)), 150);
}

#[test]
fn six_days_paused_lose_nothing_and_come_in_within_the_limit() {
    let mut town = Town::new();
    let day = 86_400_000;
    let rate = Rate { count: 100, per_ms: 10_000 };
    let crm = town.site(1, Manner::Well, 80, Limits { rate, batch_max: 1, adapts: true, ..limits() });
    let begin = town.now;
    town.offers(crm, Class::Activity, 300_000, begin.plus(6 * day));
    town.offers(crm, Class::Consent, 3_600_000, begin.plus(6 * day));
    town.start();
    let reason = mailspan_core::Reason::new("operator", "by hand");
    town.hear(Happened::Paused { destination: crm, reason });
    town.run(begin.plus(6 * day));
    assert_eq!((town.sites[&crm].sent.len(), town.pending(crm)), (0, 6 * 288 + 6 * 24));
    town.hear(Happened::Resumed { destination: crm });
    town.run(begin.plus(7 * day));
    assert!(town.rows.values().all(|row| row.state == State::Delivered));
    assert!(town.sites[&crm].most_within(10_000) <= 105);
}

#[test]
fn after_an_outage_the_work_comes_in_slowly() {
    let mut town = Town::new();
    let rate = Rate { count: 200, per_ms: 10_000 };
    let ours = Limits { rate, batch_max: 1, concurrency: 16, adapts: true, ..limits() };
    let crm = town.site(1, Manner::Fails, 50, ours);
    let begin = town.now;
    town.offers(crm, Class::Activity, 200, begin.plus(900_000));
    town.turns(crm, Manner::Well, begin.plus(600_000));
    town.start();
    town.run(begin.plus(600_000));
    let during = town.sites[&crm].sent.len();
    assert!(during <= 10 + 16 + 10, "{during} requests went to a destination that was down");
    town.run(begin.plus(2_000_000));
    let site = &town.sites[&crm];
    let back = site.sent[during];
    let within = |ms: u64| site.sent[during..].iter().filter(|at| at.since(back) < ms).count();
    assert!(within(1_000) <= 3 + 20 && within(10_000) < 200, "{} and {}", within(1_000), within(10_000));
    assert!(site.most_within(10_000) <= 210);
    assert_eq!(town.pending(crm), 0, "nothing is lost");
    assert!(town.rows.values().all(|row| row.state == State::Delivered));
    assert_eq!(site.notices.len(), 2, "{:?}", site.notices);
}

/// Capacity 4, then 40, then 4, a minute each: the share of what the right number would have carried,
/// and the share that was refused, in thousandths.
fn stepped(manner: fn(usize) -> Manner) -> (usize, usize) {
    let mut town = Town::new();
    let rate = Rate { count: 100_000, per_ms: 1_000 };
    let ours = Limits { rate, batch_max: 1, concurrency: 64, adapts: true, ..limits() };
    let crm = town.site(1, manner(4), 100, ours);
    town.backlog(crm, 40_000, Class::Activity, Cause::Live, 0);
    let begin = town.now;
    town.turns(crm, manner(40), begin.plus(60_000));
    town.turns(crm, manner(4), begin.plus(120_000));
    town.start();
    town.run(begin.plus(180_000));
    let Site { served, refused, .. } = town.sites[&crm];
    // 110 ms each with jitter: what 4, 40 and 4 at once carry in a minute.
    let right = 60_000 * (4 + 40 + 4) / 110;
    println!("{served} of {right} served, {refused} refused, at {}", town.sites[&crm].sent.len());
    (served * 1_000 / right, refused * 1_000 / (served + refused))
}

#[test]
fn concurrency_follows_a_capacity_that_refuses() {
    let (served, refused) = stepped(|capacity| Manner::Refuses { capacity });
    assert!(served >= 800 && refused < 10, "{served} and {refused} in a thousand");
}

#[test]
fn concurrency_follows_a_capacity_that_queues() {
    let (served, refused) = stepped(|capacity| Manner::Queues { capacity });
    assert!(served >= 800 && refused < 10, "{served} and {refused} in a thousand");
}

/// A destination that fails at random for a minute under load, and is well then: how many are served in that
/// minute, and how long the rest takes.
fn flaky(adapts: bool, per_second: u64) -> (usize, u64) {
    let mut town = Town::new();
    let rate = Rate { count: 1_000, per_ms: 1_000 };
    let calendar =
        mailspan_engine::Calendar { waits_ms: vec![200], horizon_ms: Some([1 << 40; 3]), exact: false };
    let ours = Limits { rate, batch_max: 1, concurrency: 16, adapts, calendar, ..limits() };
    let crm = town.site(1, Manner::Flaky, 2, ours);
    let begin = town.now;
    town.offers(crm, Class::Activity, 1_000 / per_second, begin.plus(60_000));
    town.turns(crm, Manner::Well, begin.plus(60_000));
    town.start();
    town.run(begin.plus(60_000));
    let (served, left) = (town.sites[&crm].served, town.pending(crm));
    let mut ms = 0;
    while town.pending(crm) > 0 && ms < 120_000 {
        ms += 100;
        town.run(begin.plus(60_000 + ms));
    }
    println!("adapts {adapts}, {per_second}/s: {served} served, {left} left, through after {ms} ms");
    (served, ms)
}

#[test]
fn a_destination_that_fails_at_random_is_used_and_fully_when_it_is_well_again() {
    for per_second in [50, 100] {
        let ((right, _), (served, ms)) = (flaky(false, per_second), flaky(true, per_second));
        assert!(served * 10 >= right * 9 && ms <= 1_000, "{served} of {right}, through after {ms} ms");
    }
    // More than what every vendor takes at once can carry: it waits until the destination is well, and then
    // for seconds.
    let (served, ms) = flaky(true, 200);
    assert!(served >= 60 * 120 && ms <= 10_000, "{served} served, through after {ms} ms");
}

/// What was kept of an earlier lease: one delivery shows whether the destination is back, and what was said is not
/// said again.
#[test]
fn a_desk_that_was_degraded_before_tries_one_delivery_and_says_only_what_is_new() {
    let open = |limits: Limits| {
        let mut bench = Bench::new(limits.clone());
        let sink = std::sync::Arc::new(crate::sink::SimSink { batches: limits.batch_max > 1 });
        bench.hear(Happened::Closed { destination: CRM });
        let opened = Happened::Opened {
            destination: CRM,
            fence: Fence(2),
            limits,
            sink,
            paused: None,
            degraded: true,
        };
        bench.hear(opened);
        let said = bench.notices().into_iter().cloned().collect::<Vec<_>>();
        (bench, said)
    };
    let (mut bench, said) = open(limits());
    assert_eq!(said, []);
    bench.hear(Happened::SentBefore { destination: CRM, sent: Vec::new(), unseen: 0 });
    bench.claimed(parcels(1..9));
    assert_eq!(bench.sent().len(), 1, "one is tried");
    bench.answer(bench.call(0), 503, Value::Null);
    assert_eq!((bench.notices(), bench.sent().len()), (vec![], 0), "it was said before");
    let (mut bench, said) = open(Limits { breaker: mailspan_engine::Trip::OFF, ..limits() });
    assert_eq!(said, [Notice::BreakerClosed], "it is switched off");
    bench.hear(Happened::SentBefore { destination: CRM, sent: Vec::new(), unseen: 0 });
    bench.claimed(parcels(1..9));
    assert!(bench.sent().len() > 1, "it is switched off");
}

#[test]
fn in_a_long_window_no_more_goes_out_than_a_kill_may_leave_unknown() {
    let counts = |per_ms| {
        let rate = Rate { count: 100, per_ms };
        let limits = Limits { rate, concurrency: 2, batch_max: 1, adapts: false, ..limits() };
        let mut bench = Bench::with(limits, parcels(1..9));
        let mut waiting: Vec<CallId> = bench.sends().into_iter().map(|(call, _)| call).collect();
        let (mut sent, mut settles) = (waiting.len(), vec![]);
        while let Some(call) = waiting.pop() {
            bench.answer(call, 200, json!({}));
            waiting.extend(bench.sends().into_iter().map(|(call, _)| call));
            sent += bench.sends().len();
            settles.extend(bench.settlements().iter().map(|one| one.delivery));
        }
        // None of it was kept; then one is.
        bench.hear(Happened::Settled { destination: CRM, deliveries: vec![settles[0]], outcome: Ok(()) });
        (sent, bench.sends().len())
    };
    assert_eq!(
        counts(60_000),
        (4, 1),
        "two in flight and two on their way to the store, then one for each that is kept"
    );
    assert_eq!(counts(1_000), (8, 0), "a short window counts all as sent just now");
}
