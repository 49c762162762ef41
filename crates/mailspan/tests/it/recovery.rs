//! Recovery: a hub that is killed with a long queue takes events at once when it starts, keeps to the
//! receiver's limit, lets what is urgent pass the queue, and starves nothing that has just arrived. The figures
//! are printed.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mailspan_testkit::{DELAY_MS, Hub, Receiver, until};
use serde_json::{Value, json};

use crate::support::{AT, BINARY, SECRET, config, event, send};

/// How much memory may grow after a start, in KiB: the page caches of the store's threads fill, whatever the
/// length of the queue.
const GROWTH_KIB_MAX: u64 = 64 << 10;
/// How much it may still grow in the second half of the time, when they are full.
const LATE_GROWTH_KIB_MAX: u64 = 16 << 10;
/// Requests in ten seconds that the receiver takes: 200 a second.
const LIMIT: usize = 2_000;
/// Requests that the receiver gets, from the answer to a live event of the queue's own class on, until it gets that
/// event: a fiftieth of the queue at most. It is counted in requests, so a slow machine changes little.
const REQUESTS_BEFORE_MAX: usize = 1_000;
const WINDOW_MS: i64 = 10_000;
const BATCH: usize = 1_000;

fn pending() -> usize {
    std::env::var("MAILSPAN_RECOVERY_PENDING").map_or(50_000, |text| text.parse().unwrap())
}

/// How long it is looked at: more by flag, to see that memory stays.
fn seconds() -> u64 {
    std::env::var("MAILSPAN_RECOVERY_SECONDS").map_or(24, |text| text.parse().unwrap())
}

/// The kernel's count of a process's memory, in KiB (proc(5)): `VmRSS` now, `VmHWM` the most so far.
fn memory_kib(hub: &Hub, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", hub.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Events of many people, in batches, until so many deliveries wait.
pub fn fill(hub: &Hub, count: usize) {
    let made = &hub.rows(&["keys", "create", "--scope", "events:write"])[0];
    let key = format!("Bearer {}", made["key"].as_str().unwrap());
    let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
    for from in (0..count).step_by(BATCH) {
        let event =
            |n: usize| json!({ "type": "app.used", "subject": format!("u{}@example.com", n % 5_000) });
        let batch: Vec<Value> = (from..count.min(from + BATCH)).map(event).collect();
        let reply = until(30, "a batch is not taken", || {
            let reply = hub.post("/v1/events", &headers, json!(batch).to_string().as_bytes());
            (reply.status != 429).then_some(reply)
        });
        assert_eq!(reply.status, 202, "{reply:?}");
    }
    until(600, "the events are not routed", || {
        let audit = &hub.rows(&["audit"])[0];
        (audit["waiting"] == 0).then(|| assert_eq!(audit["pending"], count, "{audit}"))
    });
}

/// The most requests in any window of this length.
pub fn busiest(times: &[i64], window_ms: i64) -> usize {
    let in_window = |at: usize| times.partition_point(|time| *time < times[at] + window_ms) - at;
    (0..times.len()).map(in_window).max().unwrap_or(0)
}

pub fn times(crm: &Receiver) -> Vec<i64> {
    let mut times: Vec<i64> = crm.seen().iter().map(|seen| seen.at_ms).collect();
    times.sort_unstable();
    times
}

/// Another destination, which has no queue and gets what the platform says.
fn beside(side: &Receiver) -> String {
    format!(
        "[destinations.side]\nkind = \"http\"\nurl = \"http://127.0.0.1:{}/\"\nrate = \"1000/1s\"\n\
         [[routes]]\nname = \"side\"\nfrom = [\"mailtarget\"]\nto = [\"side\"]\n",
        side.port
    )
}

#[test]
fn a_long_queue_is_taken_up_at_once_within_the_limit_and_passed_by_what_is_urgent() {
    let (count, crm) = (pending(), Receiver::start());
    let settings = format!("rate = \"{}/1s\"\nconcurrency = 16", LIMIT / 10);
    let side = Receiver::start();
    let binary = std::env::var("MAILSPAN_RECOVERY_BINARY").unwrap_or_else(|_| BINARY.to_owned());
    let mut hub =
        Hub::new(&binary, &config(&crm, &settings, &beside(&side)), &[("MAILTARGET_SECRET", SECRET)]);
    hub.start();
    let paused = hub.run(&["destinations", "pause", "crm"]);
    assert!(paused.status.success(), "{}", String::from_utf8_lossy(&paused.stderr));
    let began = Instant::now();
    fill(&hub, count);
    println!("{count} deliveries wait after {:?}", began.elapsed());
    assert!(hub.run(&["destinations", "resume", "crm"]).status.success());
    until(30, "the queue does not move", || (crm.seen().len() > 100).then_some(()));
    hub.kill();
    let before = times(&crm);
    crm.forget();

    let began = Instant::now();
    hub.spawn();
    assert!(hub.ready(), "{}", hub.log());
    assert_eq!(send(&hub, &event("open", "first@example.com", AT)).status, 200);
    let accepting = began.elapsed();
    until(10, "a live event waits behind the queue of another destination", || {
        side.ok_about("first@example.com").pop()
    });
    until(30, "nothing is sent", || (!crm.seen().is_empty()).then_some(()));
    println!(
        "killed and started: an event is taken after {accepting:?}, one is sent after {:?}",
        began.elapsed()
    );

    let early = memory_kib(&hub, "VmRSS:");
    let mut half = None;
    let (mut slowest, mut slowest_beside, mut before_live) = (Duration::ZERO, Duration::ZERO, 0);
    for n in 0.. {
        if began.elapsed() > Duration::from_secs(seconds()) {
            break;
        }
        if half.is_none() && began.elapsed() > Duration::from_secs(seconds() / 2) {
            half = Some(memory_kib(&hub, "VmRSS:"));
        }
        let who = format!("urgent{n}@example.com");
        let asked = Instant::now();
        assert_eq!(send(&hub, &event("unsubscribe", &who, AT)).status, 200);
        until(30, "an opt-out waits behind the queue", || {
            crm.seen().iter().rev().any(|seen| seen.subject() == who).then_some(())
        });
        slowest = slowest.max(asked.elapsed());
        until(10, "another destination waits behind the queue", || side.ok_about(&who).pop());
        let live = format!("live{n}@example.com");
        let asked = Instant::now();
        assert_eq!(send(&hub, &event("open", &live, AT)).status, 200);
        let seen = crm.seen().len();
        until(10, "another destination waits behind the queue", || side.ok_about(&live).pop());
        slowest_beside = slowest_beside.max(asked.elapsed());
        let at = until(60, "a live event waits behind the queue of its own class", || {
            crm.seen().iter().position(|seen| seen.subject() == live)
        });
        before_live = before_live.max(at.saturating_sub(seen));
        std::thread::sleep(Duration::from_millis(500));
    }
    let half = half.unwrap();
    let (late, most) = (memory_kib(&hub, "VmRSS:"), memory_kib(&hub, "VmHWM:"));
    let after = times(&crm);
    let over_the_kill = busiest(&[before, after.clone()].concat(), WINDOW_MS);
    println!(
        "the slowest opt-out took {slowest:?}, the slowest live event to another destination \
         {slowest_beside:?}; before a live event of the queue's own class {before_live} others were sent at most; \
         memory was {early} KiB, {half} KiB at half \
         of the time, then {late} KiB, at most {most} KiB; {} requests, at most \
         {} in ten seconds ({over_the_kill} with those before the kill), the limit is {LIMIT}",
        after.len(),
        busiest(&after, WINDOW_MS),
    );
    assert!(over_the_kill <= LIMIT + LIMIT / 20, "{over_the_kill} requests in ten seconds");
    assert!(after.len() > LIMIT * 3 / 2, "the limit is hardly used: {} requests", after.len());
    assert!(most < early + GROWTH_KIB_MAX, "memory grows: {early} KiB, then at most {most} KiB");
    assert!(late < half + LATE_GROWTH_KIB_MAX, "memory goes on growing: {half} KiB, then {late} KiB");
    assert!(
        before_live <= REQUESTS_BEFORE_MAX,
        "{before_live} others were sent before a live event: it is starved"
    );
    let audit = &hub.rows(&["audit"])[0];
    let left = audit["pending"].as_u64().unwrap();
    assert!(left > 20 * REQUESTS_BEFORE_MAX as u64, "only {left} are pending: nothing would be behind them");
    assert_eq!((&audit["adds_up"], &audit["dead"]), (&json!(true), &json!(0)), "{audit}");
}

/// Longer than what a destination holds of it, while more arrives than goes out: the newest end moves on, and what was
/// in flight from it would wait for the oldest to come to it.
#[test]
fn what_was_in_flight_from_either_end_of_a_long_queue_is_sent_again_first() {
    let crm = Receiver::start();
    let mut hub = Hub::new(
        BINARY,
        &config(&crm, "rate = \"100/1s\"\nconcurrency = 8", ""),
        &[("MAILTARGET_SECRET", SECRET)],
    );
    hub.start();
    assert!(hub.run(&["destinations", "pause", "crm"]).status.success());
    fill(&hub, 3_000);
    assert!(hub.run(&["destinations", "resume", "crm"]).status.success());
    until(30, "the queue does not move", || (crm.ok().len() > 100).then_some(()));
    let arrive = |from: usize| {
        let event = |n: usize| event("open", &format!("new{n}@example.com"), AT);
        let batch: Vec<Value> = (from..from + 50).map(event).collect();
        assert_eq!(send(&hub, &json!(batch)).status, 200);
    };
    arrive(0);
    until(30, "nothing goes out from the newest end", || {
        crm.ok().iter().any(|seen| seen.subject().starts_with("new")).then_some(())
    });
    // All that is in flight hangs from now on; then the process is killed.
    let hung = Arc::new(Mutex::new(Vec::new()));
    let noted = hung.clone();
    crm.answer(move |seen| {
        noted.lock().unwrap().push((seen.header("idempotency-key").unwrap().to_owned(), seen.subject()));
        (200, vec![(DELAY_MS.to_owned(), "20000".to_owned())], "{}".to_owned())
    });
    until(30, "it is not all in flight", || (hung.lock().unwrap().len() >= 8).then_some(()));
    let in_flight = hung.lock().unwrap().clone();
    let newest = in_flight.iter().filter(|(_, who)| who.starts_with("new")).count();
    assert!((1..8).contains(&newest), "{newest} of 8 from the newest end");
    // Meanwhile more arrives than what is held of the newest end.
    let newer = |from: usize| {
        let event = |n: usize| event("open", &format!("later{n}@example.com"), AT);
        let batch: Vec<Value> = (from..from + 250).map(event).collect();
        assert_eq!(send(&hub, &json!(batch)).status, 200);
    };
    (0..1_000).step_by(250).for_each(newer);
    hub.kill();
    crm.forget();
    crm.status(200);
    hub.start();
    // Long before those thousand and the three thousand of the queue.
    until(12, "what was in flight is not sent again", || {
        let seen = crm.seen();
        let came =
            |(key, _): &(String, String)| seen.iter().any(|seen| seen.header("idempotency-key") == Some(key));
        in_flight.iter().all(came).then_some(())
    });
    let sent = crm.seen().len();
    println!("sent again among the first {sent} requests");
    assert!(sent < 500, "{sent} requests went out before: it came by its turn");
}
