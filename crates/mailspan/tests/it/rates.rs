//! A rate with a long window, over kills and over hand-overs between processes: what was sent before counts, whoever
//! sent it.

use std::time::{Duration, Instant};

use mailspan_core::SplitMix64;
use mailspan_testkit::{Hub, PostgresServer, Receiver, now_ms, until};
use serde_json::json;

use crate::recovery::{busiest, fill, times};
use crate::support::{BINARY, SECRET, config};

/// 100 a second; longer than the window up to which all that was sent before counts as sent just now.
const LIMIT: usize = 1_500;
const WINDOW_MS: i64 = 15_000;
const CONCURRENCY: usize = 8;
const PENDING: usize = 6_000;
/// More than two windows.
const LOOKED_AT: Duration = Duration::from_secs(34);

fn hub_on(url: &str, crm: &Receiver) -> Hub {
    let settings = format!("rate = \"{LIMIT}/{}s\"\nconcurrency = {CONCURRENCY}", WINDOW_MS / 1_000);
    let text = config(crm, &settings, "").replace("sqlite:hub.db", url);
    Hub::new(BINARY, &text, &[("MAILTARGET_SECRET", SECRET)])
}

/// A queue, and a destination that takes it.
fn filled(hub: &Hub, crm: &Receiver) {
    let paused = hub.run(&["destinations", "pause", "crm"]);
    assert!(paused.status.success(), "{}", String::from_utf8_lossy(&paused.stderr));
    fill(hub, PENDING);
    assert!(hub.run(&["destinations", "resume", "crm"]).status.success());
    until(30, "the queue does not move", || (crm.seen().len() > 50).then_some(()));
}

/// Disturbs the hubs until the time is over, then looks at every window. `unseen`: requests that each disturbance of a
/// window but the last may leave unknown to whoever goes on.
fn looked_at(crm: &Receiver, unseen: usize, mut disturb: impl FnMut(&mut SplitMix64)) {
    let seed = now_ms() as u64;
    let (began, mut random, mut disturbed) = (Instant::now(), SplitMix64(seed), Vec::new());
    while began.elapsed() < LOOKED_AT {
        std::thread::sleep(Duration::from_millis(1_000 + random.below(2_500)));
        disturbed.push(now_ms());
        disturb(&mut random);
    }
    let limit = LIMIT + LIMIT / 20 + unseen * busiest(&disturbed, WINDOW_MS).saturating_sub(1);
    let times = times(crm);
    let most = busiest(&times, WINDOW_MS);
    println!(
        "seed {seed}, disturbed {} times: {} requests in {:?}, at most {most} in {} s where {LIMIT} are allowed",
        disturbed.len(),
        times.len(),
        began.elapsed(),
        WINDOW_MS / 1_000
    );
    assert!(most <= limit, "{most} requests in {} s, the limit is {LIMIT}", WINDOW_MS / 1_000);
    assert!(times.len() > LIMIT, "the limit is hardly used: {} requests in {LOOKED_AT:?}", times.len());
    let left = PENDING.saturating_sub(times.len());
    assert!(left > 0, "the queue was empty before the end: nothing was held back");
}

fn adds_up(hub: &Hub) {
    let audit = &hub.rows(&["audit"])[0];
    assert_eq!((&audit["adds_up"], &audit["dead"]), (&json!(true), &json!(0)), "{audit}");
}

#[test]
fn a_rate_with_a_long_window_holds_over_kills() {
    let crm = Receiver::start();
    let mut hub = hub_on("sqlite:hub.db", &crm);
    hub.start();
    filled(&hub, &crm);
    looked_at(&crm, 0, |random| {
        if random.chance(70) {
            hub.kill();
        } else {
            assert_eq!(hub.stop(), Some(0));
        }
        hub.start();
    });
    adds_up(&hub);
}

#[test]
fn a_rate_with_a_long_window_holds_over_hand_overs() {
    let (server, crm) = (PostgresServer::start(), Receiver::start());
    let url = server.database("rates");
    let mut hubs = [hub_on(&url, &crm), hub_on(&url, &crm)];
    hubs[0].start();
    filled(&hubs[0], &crm);
    hubs[1].start();
    // Whoever serves it ends, so that the other takes over; then there are two again.
    let mut serving = 0;
    // What was in flight at one hand-over is taken into account at that one, but written nowhere for the next.
    looked_at(&crm, CONCURRENCY, |random| {
        let sent = crm.seen().len();
        if random.chance(50) {
            hubs[serving].kill();
        } else {
            assert_eq!(hubs[serving].stop(), Some(0));
        }
        until(30, "nobody takes over", || (crm.seen().len() > sent).then_some(()));
        hubs[serving].start();
        serving = 1 - serving;
    });
    adds_up(&hubs[0]);
}
