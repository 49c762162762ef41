//! The crash test: `kill -9` at random times and at every named point, under load, with faults at two
//! receivers.
//!
//! After each death the store, as the kill left it, must hold all that was acknowledged and add up; at the
//! end each receiver must have acted on all of it, in order for each person, and repeats must have come
//! under the key of the first, and each dead letter was told of once. `docs/CRASH-TEST.md` says how to run it for long.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mailspan_core::SplitMix64;
use mailspan_testkit::{Hub, PostgresServer, now_ms, until};
use serde_json::{Value, json};

use crate::mix::Mix;
use crate::support::{BINARY, SECRET};
use crate::tape::{Load, Mark, Tape};
use crate::told::Refusals;

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
/// Kills of a run in the suite, of each store: each point once, and as many at random times.
const KILLS: u64 = 28;
/// After so many kills it is looked at who carried whom: before retention, which comes once in as many.
const LOOK_AT_CARRIED: u64 = 8;
/// What was in flight at a death came again by then, or it counts as lost: well above what is measured.
const AGAIN_SECONDS: u64 = 15;
/// Events of a run, for each of its kills, at least.
const EVENTS_A_KILL: u64 = 10;
/// The test runner of the suite ends a test after five minutes.
const PIECE: Duration = Duration::from_secs(200);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[derive(Clone, Copy, PartialEq)]
enum Kept {
    Sqlite,
    Postgres,
}

impl Kept {
    fn name(self) -> &'static str {
        match self {
            Kept::Sqlite => "sqlite",
            Kept::Postgres => "postgres",
        }
    }
}

#[test]
fn nothing_is_lost_doubled_or_disordered_by_kills_on_sqlite() {
    test(Kept::Sqlite);
}

#[test]
fn nothing_is_lost_doubled_or_disordered_by_kills_on_postgres() {
    test(Kept::Postgres);
}

fn test(kept: Kept) {
    let seed = number("MAILSPAN_CRASH_SEED").unwrap_or(now_ms() as u64);
    match number("MAILSPAN_CRASH_KILLS") {
        None => drop(run(kept, seed, KILLS, Duration::from_secs(600))),
        Some(kills) => piece(kept, seed, kills),
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

/// One piece of a long run: the sums of all pieces are kept in a file, one a store.
fn piece(kept: Kept, seed: u64, wanted: u64) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-test-{}.json", kept.name()));
    let none = || json!({ "kills": 0, "acknowledged": 0, "repeats": 0, "again_ms": [], "seeds": [] });
    let read = || -> Value {
        let text = std::fs::read_to_string(&path).ok();
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(none)
    };
    let mut state = read();
    let done = state["kills"].as_u64().unwrap();
    if done < wanted {
        let piece = number("MAILSPAN_CRASH_SECONDS").map_or(PIECE, Duration::from_secs);
        let sums = run(kept, seed, wanted - done, piece);
        state = read();
        let more = [("kills", sums.kills), ("acknowledged", sums.acknowledged), ("repeats", sums.repeats)];
        for (name, more) in more {
            state[name] = json!(state[name].as_u64().unwrap() + more);
        }
        state["again_ms"].as_array_mut().unwrap().extend(sums.again_ms.iter().map(|ms| json!(ms)));
        state["seeds"].as_array_mut().unwrap().push(json!(seed));
        std::fs::write(&path, state.to_string()).unwrap();
    }
    let all: Vec<i64> = state["again_ms"].as_array().unwrap().iter().filter_map(Value::as_i64).collect();
    let again = spread(all);
    state.as_object_mut().unwrap().remove("again_ms");
    println!("{}: {} of {wanted} kills: {state}; {again}", kept.name(), state["kills"]);
    println!("run the same command again to go on; remove {} to begin anew", path.display());
}

/// Of the times until all that was in flight came again.
fn spread(mut ms: Vec<i64>) -> String {
    ms.sort_unstable();
    let at =
        |share: usize| ms.get((ms.len() * share / 100).min(ms.len().saturating_sub(1))).copied().unwrap_or(0);
    format!(
        "in flight came again after the start of the process: median {} ms, 95 % within {} ms, at most {} ms ({} starts)",
        at(50),
        at(95),
        at(100),
        ms.len()
    )
}

/// A long run has a copy of the program, so that one can build meanwhile.
fn binary() -> String {
    std::env::var("MAILSPAN_CRASH_BINARY").unwrap_or_else(|_| BINARY.to_owned())
}

struct Sums {
    kills: u64,
    acknowledged: u64,
    repeats: u64,
    again_ms: Vec<i64>,
}

fn config(kept: Kept, tapes: &[Tape; 2], refusals: &Refusals, mix: &Mix) -> String {
    let url = match kept {
        Kept::Sqlite => r#""sqlite:hub.db""#,
        Kept::Postgres => r#"{ env = "DATABASE_URL" }"#,
    };
    let destination = |name: &str, port: u16| {
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
            port
        )
    };
    format!(
        r#"
[server]
listen = "127.0.0.1:{{HUB}}"

[storage]
url = {url}

[egress]
allow = ["127.0.0.1:1024-65535"]

[retention]
events = "1h"
requests = "1h"

[sources.mailtarget]
kind = "mailtarget"
secrets = [{{ env = "MAILTARGET_SECRET" }}]

[sources.app]
kind = "api"
{}{}
[[routes]]
name = "all"
from = ["mailtarget"]
events = ["email.opened"]
to = ["crm", "mirror"]
{}{}"#,
        destination("crm", tapes[0].receiver.port),
        destination("mirror", tapes[1].receiver.port),
        refusals.config,
        mix.config
    )
}

/// A hub that is killed again and again.
struct World {
    hub: Hub,
    tapes: [Tape; 2],
    load: Load,
    random: SplitMix64,
    clock_ms: i64,
    again_ms: Vec<i64>,
    refusals: Refusals,
    mix: Mix,
    /// When the last kill was noticed.
    died_ms: i64,
    /// Where the tapes stood when the hub was started.
    marks: [Mark; 2],
    /// The database's server outlives every kill.
    _server: Option<PostgresServer>,
}

fn run(kept: Kept, seed: u64, kills: u64, time: Duration) -> Sums {
    println!(
        "{}, seed {seed}: MAILSPAN_CRASH_SEED={seed} draws the same kills and faults again",
        kept.name()
    );
    let server = (kept == Kept::Postgres).then(PostgresServer::start);
    let database = server.as_ref().map(|server| server.database("crash")).unwrap_or_default();
    let env = [("MAILTARGET_SECRET", SECRET), ("DATABASE_URL", database.as_str())];
    let end = Instant::now() + time;
    let tapes = [Tape::start(seed ^ 1), Tape::start(seed ^ 2)];
    let refusals = Refusals::start();
    let mut mix = Mix::start(seed);
    let mut hub = Hub::new(&binary(), &config(kept, &tapes, &refusals, &mix), &env);
    let clock = hub.folder().join("clock").display().to_string();
    hub.set_env("MAILSPAN_CLOCK_FILE", &clock);
    mix.send_to(&hub, vec![hub.port]);
    let load = Load::start(hub.port);
    let random = SplitMix64(seed);
    let mut world = World {
        hub,
        tapes,
        load,
        random,
        clock_ms: 0,
        again_ms: Vec::new(),
        refusals,
        mix,
        died_ms: i64::MAX,
        marks: [Mark::default(); 2],
        _server: server,
    };
    let mut done = 0;
    while done < kills && Instant::now() < end {
        let point = (done % 2 == 0).then(|| POINTS[(done / 2) as usize % POINTS.len()]);
        world.kill(point);
        world.check();
        done += 1;
        if done % LOOK_AT_CARRIED == 0 {
            world.mix.look_at_carried(&world.hub);
        }
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
                if self.random.chance(50) {
                    self.mix.replay(self.hub.port);
                }
                std::thread::sleep(Duration::from_millis(50 + self.random.below(700)));
                self.hub.kill();
            }
        }
        self.died_ms = now_ms();
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
        let in_flight: Vec<Vec<String>> = self.in_flight();
        self.marks = self.tapes.each_ref().map(Tape::mark);
        let started = now_ms();
        self.hub.spawn();
        if !self.hub.ready() {
            return;
        }
        let mut worst = None;
        for ((tape, keys), mark) in self.tapes.iter().zip(&in_flight).zip(self.marks) {
            let look = || keys.iter().map(|key| tape.came_after(mark, key)).collect::<Option<Vec<i64>>>();
            let deadline = Instant::now() + Duration::from_secs(AGAIN_SECONDS);
            let mut all = look();
            while all.is_none() && !self.hub.has_ended() {
                assert!(Instant::now() < deadline, "{keys:?} did not come again: {:?}", self.pending());
                std::thread::sleep(Duration::from_millis(5));
                all = look();
            }
            worst = worst.max(all.into_iter().flatten().max());
        }
        if let Some(at) = worst {
            let in_flight: usize = in_flight.iter().map(Vec::len).sum();
            println!(
                "{in_flight} requests were in flight; the last came again {} ms after the start of the process",
                at - started
            );
            self.again_ms.push((at - started).max(0));
        }
    }

    fn in_flight(&self) -> Vec<Vec<String>> {
        let of = |(tape, mark): (&Tape, Mark)| tape.in_flight(mark, self.died_ms);
        self.tapes.iter().zip(self.marks).map(of).collect()
    }

    /// For whoever looks for the cause of a failure.
    fn pending(&self) -> Vec<Value> {
        self.hub.rows(&["deliveries", "list", "--state", "pending", "--limit", "1000"])
    }

    /// The store as the kill left it, read by a command.
    fn check(&self) {
        let acknowledged = (self.load.acknowledged() + self.mix.acknowledged()) as u64;
        let audit = self.hub.rows(&["audit"]).remove(0);
        assert_eq!(audit["adds_up"], true, "{audit}");
        let accepted = audit["accepted"].as_u64().unwrap();
        assert!(accepted >= acknowledged, "{acknowledged} were acknowledged, {accepted} are kept: {audit}");
    }

    fn finish(mut self, kills: u64) -> Sums {
        self.start();
        assert!(!self.hub.has_ended(), "{}", self.hub.log());
        // On a slow machine there was little time between the kills.
        until(60, "there is hardly any load", || {
            (self.load.acknowledged() as u64 > EVENTS_A_KILL * kills).then_some(())
        });
        let acknowledged = self.load.end();
        let mixed = self.mix.end();
        self.tapes.iter().for_each(Tape::heal);
        for tape in &self.tapes {
            until(90, "acknowledged events never arrived", || tape.has_all(&acknowledged).then_some(()));
        }
        self.mix.check(&self.hub, &acknowledged, &mixed);
        let audit = until(60, "something stays pending", || {
            let audit = self.hub.rows(&["audit"]).remove(0);
            (audit["pending"] == 0 && audit["waiting"] == 0).then_some(audit)
        });
        let dead = self.refusals.check(&self.hub);
        assert_eq!((&audit["adds_up"], &audit["dead"]), (&json!(true), &json!(dead)), "{audit}");
        let repeats = self.tapes.iter().map(Tape::check).sum();
        let (acknowledged, again_ms) = (acknowledged.len() as u64, self.again_ms);
        println!(
            "{kills} kills: {acknowledged} acknowledged events arrived at both receivers, {repeats} repeats, \
             {dead} dead letters were each told of once, {}; {audit}",
            spread(again_ms.clone())
        );
        Sums { kills, acknowledged, repeats, again_ms }
    }
}
