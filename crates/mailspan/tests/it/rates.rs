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

/// Disturbs the hubs until the time is over, then looks at every window.
fn looked_at(crm: &Receiver, mut disturb: impl FnMut(&mut SplitMix64)) {
    let seed = now_ms() as u64;
    let (began, mut random, mut disturbed) = (Instant::now(), SplitMix64(seed), 0);
    // A slow machine takes longer to send enough.
    let is_enough = || crm.seen().len() > LIMIT || began.elapsed() > LOOKED_AT * 3;
    while began.elapsed() < LOOKED_AT || !is_enough() {
        std::thread::sleep(Duration::from_millis(1_000 + random.below(2_500)));
        disturbed += 1;
        disturb(&mut random);
    }
    let limit = LIMIT + LIMIT / 20;
    let times = times(crm);
    let most = busiest(&times, WINDOW_MS);
    println!(
        "seed {seed}, disturbed {disturbed} times: {} requests in {:?}, at most {most} in {} s where {LIMIT} are allowed",
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
    looked_at(&crm, |random| {
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
    looked_at(&crm, |random| {
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
