//! The crash test: `kill -9` at random times and at every named point, under load, with faults at two
//! receivers.
//!
//! After each death the store, as the kill left it, must hold all that was acknowledged and add up; at the
//! end each receiver must have acted on all of it, in order for each person, and repeats must have come
//! under the key of the first. `docs/CRASH-TEST.md` says how to run it for long.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mailspan_core::SplitMix64;
use mailspan_testkit::{Hub, now_ms, until};
use serde_json::{Value, json};

use crate::support::{BINARY, SECRET};
use crate::tape::{Load, Tape};

/// The points of the product (`src/drill.rs`), each with how often it is passed at most before the kill.
const POINTS: [(&str, u64); 14] = [
    ("start-after-migrations", 1),
    ("accept-before-commit", 40),
    ("accept-in-commit", 40),
    ("accept-after-commit", 40),
    ("route-before-commit", 20),
    ("route-in-commit", 20),
    ("route-after-commit", 20),
    ("claim", 20),
    ("send-before", 60),
    ("send-after", 60),
    ("settle-in-commit", 40),
    ("settle-after-commit", 40),
    ("retention", 1),
    ("retention-in-commit", 2),
];
/// Kills of a run in the suite: each point once, and as many at random times.
const KILLS: u64 = 28;
/// The test runner of the suite ends a test after five minutes.
const PIECE: Duration = Duration::from_secs(200);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn nothing_is_lost_doubled_or_disordered_by_kills() {
    let seed = number("MAILSPAN_CRASH_SEED").unwrap_or(now_ms() as u64);
    match number("MAILSPAN_CRASH_KILLS") {
        None => drop(run(seed, KILLS, Duration::from_secs(600))),
        Some(kills) => piece(seed, kills),
    }
}

#[test]
fn every_point_of_the_product_is_tried() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/drill.rs")).unwrap();
    let list = text.split_once("POINTS: [&str; ").and_then(|(_, rest)| rest.split_once("];")).unwrap().0;
    let of_product: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    let here: Vec<&str> = POINTS.iter().map(|(name, _)| *name).collect();
    assert_eq!(here, of_product, "POINTS of this file and of src/drill.rs differ");
}

/// One piece of a long run: the sums of all pieces are kept in a file.
fn piece(seed: u64, wanted: u64) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("crash-test.json");
    let mut state: Value =
        std::fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(
            || json!({ "kills": 0, "acknowledged": 0, "repeats": 0, "worst_ms": 0, "seeds": [] }),
        );
    let done = state["kills"].as_u64().unwrap();
    if done < wanted {
        let piece = number("MAILSPAN_CRASH_SECONDS").map_or(PIECE, Duration::from_secs);
        let sums = run(seed, wanted - done, piece);
        let more = [("kills", sums.kills), ("acknowledged", sums.acknowledged), ("repeats", sums.repeats)];
        for (name, more) in more {
            state[name] = json!(state[name].as_u64().unwrap() + more);
        }
        state["worst_ms"] = json!(state["worst_ms"].as_i64().unwrap().max(sums.worst_ms));
        state["seeds"].as_array_mut().unwrap().push(json!(seed));
        std::fs::write(&path, state.to_string()).unwrap();
    }
    println!("{} of {wanted} kills: {state}", state["kills"]);
    println!("run the same command again to go on; remove {} to begin anew", path.display());
}

struct Sums {
    kills: u64,
    acknowledged: u64,
    repeats: u64,
    worst_ms: i64,
}

fn config(tapes: &[Tape; 2]) -> String {
    let destination = |name: &str, tape: &Tape| {
        format!(
            r#"
[destinations.{name}]
kind = "http"
url = "http://127.0.0.1:{}/activities"
timeout = "2s"
rate = "1000/1s"
concurrency = 16
retry = {{ calendar = ["200ms"], for = "30d" }}
"#,
            tape.receiver.port
        )
    };
    format!(
        r#"
[server]
listen = "127.0.0.1:{{HUB}}"

[storage]
url = "sqlite:hub.db"

[egress]
allow = ["127.0.0.1:1024-65535"]

[retention]
events = "1h"
requests = "1h"

[sources.mailtarget]
kind = "mailtarget"
secrets = [{{ env = "MAILTARGET_SECRET" }}]
{}{}
[[routes]]
name = "all"
from = ["mailtarget"]
to = ["crm", "mirror"]
"#,
        destination("crm", &tapes[0]),
        destination("mirror", &tapes[1])
    )
}

/// A hub that is killed again and again.
struct World {
    hub: Hub,
    tapes: [Tape; 2],
    load: Load,
    random: SplitMix64,
    clock_ms: i64,
    worst_ms: i64,
}

fn run(seed: u64, kills: u64, time: Duration) -> Sums {
    println!("seed {seed}: MAILSPAN_CRASH_SEED={seed} draws the same kills and faults again");
    let end = Instant::now() + time;
    let tapes = [Tape::start(seed ^ 1), Tape::start(seed ^ 2)];
    let mut hub = Hub::new(BINARY, &config(&tapes), &[("MAILTARGET_SECRET", SECRET)]);
    let clock = hub.folder().join("clock").display().to_string();
    hub.set_env("MAILSPAN_CLOCK_FILE", &clock);
    let load = Load::start(hub.port);
    let mut world = World { hub, tapes, load, random: SplitMix64(seed), clock_ms: 0, worst_ms: 0 };
    let mut done = 0;
    while done < kills && Instant::now() < end {
        let point = (done % 2 == 0).then(|| POINTS[(done / 2) as usize % POINTS.len()]);
        world.kill(point);
        world.check();
        done += 1;
    }
    world.finish(done)
}

impl World {
    /// Starts the hub and kills it: at a named point, or at a random time after it is ready.
    fn kill(&mut self, point: Option<(&'static str, u64)>) {
        let armed = point.map(|(name, most)| (name, format!("{name}:{}", 1 + self.random.below(most))));
        if let Some((name, _)) = &armed
            && name.starts_with("retention")
        {
            self.step_the_clock();
        }
        self.hub.set_env("MAILSPAN_CRASH_POINT", armed.as_ref().map_or("", |(_, text)| text));
        self.start();
        match &armed {
            Some((_, text)) => {
                self.hub.wait_for_end(30, &format!("the hub was not killed at {text}"));
                self.hub.kill();
            }
            None => {
                std::thread::sleep(Duration::from_millis(50 + self.random.below(700)));
                self.hub.kill();
            }
        }
        self.hub.set_env("MAILSPAN_CRASH_POINT", "");
        println!("killed {}", armed.map_or("at a random time".to_owned(), |(_, text)| format!("at {text}")));
    }

    /// Two hours on: retention has something to drop.
    fn step_the_clock(&mut self) {
        self.clock_ms += 2 * 3_600_000;
        std::fs::write(self.hub.folder().join("clock"), self.clock_ms.to_string()).unwrap();
    }

    /// Starts the hub and measures when what was in flight at its death came again.
    fn start(&mut self) {
        let in_flight: Vec<Vec<String>> = self.tapes.iter().map(Tape::in_flight).collect();
        let marks: Vec<usize> = self.tapes.iter().map(Tape::len).collect();
        self.hub.spawn();
        if !self.hub.ready() {
            return;
        }
        let ready = now_ms();
        let mut worst = None;
        for ((tape, keys), mark) in self.tapes.iter().zip(&in_flight).zip(marks) {
            let came = |key: &String| tape.came_after(mark, key);
            let look = || keys.iter().map(came).collect::<Option<Vec<i64>>>();
            let deadline = Instant::now() + Duration::from_secs(3);
            let mut all = look();
            while all.is_none() && !self.hub.has_ended() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
                all = look();
            }
            worst = worst.max(all.into_iter().flatten().max());
        }
        if let Some(at) = worst {
            let in_flight: usize = in_flight.iter().map(Vec::len).sum();
            println!(
                "{in_flight} requests were in flight; the last came again {} ms after ready",
                at - ready
            );
            self.worst_ms = self.worst_ms.max(at - ready);
        }
    }

    /// The store as the kill left it, read by a command.
    fn check(&self) {
        let acknowledged = self.load.acknowledged() as u64;
        let audit = self.hub.rows(&["audit"]).remove(0);
        assert_eq!(audit["adds_up"], true, "{audit}");
        let accepted = audit["accepted"].as_u64().unwrap();
        assert!(accepted >= acknowledged, "{acknowledged} were acknowledged, {accepted} are kept: {audit}");
    }

    fn finish(mut self, kills: u64) -> Sums {
        self.start();
        assert!(!self.hub.has_ended(), "{}", self.hub.log());
        let acknowledged = self.load.end();
        self.tapes.iter().for_each(Tape::heal);
        for tape in &self.tapes {
            until(90, "acknowledged events never arrived", || tape.has_all(&acknowledged).then_some(()));
        }
        let audit = until(60, "something stays pending", || {
            let audit = self.hub.rows(&["audit"]).remove(0);
            (audit["pending"] == 0 && audit["waiting"] == 0).then_some(audit)
        });
        assert_eq!((&audit["adds_up"], &audit["dead"]), (&json!(true), &json!(0)), "{audit}");
        let repeats = self.tapes.iter().map(Tape::check).sum();
        let (acknowledged, worst_ms) = (acknowledged.len() as u64, self.worst_ms);
        println!(
            "{kills} kills: {acknowledged} acknowledged events arrived at both receivers, {repeats} repeats, \
             in flight again at most {worst_ms} ms after ready; {audit}"
        );
        assert!(acknowledged > 10 * kills, "there was hardly any load: {acknowledged} events");
        Sums { kills, acknowledged, repeats, worst_ms }
    }
}
