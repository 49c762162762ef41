//! `mailspan bench`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use mailspan_core::Span;

use super::Common;
use crate::bench::contacts::{self, ContactsPlan};
use crate::bench::dedupe::{self, DedupePlan};
use crate::bench::neighbours::{self, NeighboursPlan};
use crate::bench::place::On;
use crate::bench::store::{self, StorePlan};
use crate::bench::sync::{self, SyncPlan};
use crate::bench::{self, Goal, MapKind, Plan, floor};

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// From a signed request to its acknowledgement, then every event looked for in the journal
    Ingest(Ingest),
    /// From a signed request to a receiver, then every event looked for there
    Deliver(Deliver),
    /// Journal, router and queue on the store alone, without HTTP, beside bare tables
    Store(Store),
    /// What the others wait when one of many destinations hangs and one fails always
    Neighbours(Neighbours),
    /// What a dedupe key costs where many are known, against few
    Dedupe(Dedupe),
    /// Contacts imported, changed and listed over the API, then every one read back
    Contacts(Contacts),
    /// From an unsubscribe until the last of four systems knows it, then each system looked at
    Sync(Sync),
    /// A bare program to compare with
    #[command(hide = true)]
    Floor(Floor),
}

#[derive(Debug, Args)]
pub struct Load {
    /// Events a second of the open loop, or `max` for full speed alone
    #[arg(long, default_value = "1000", value_parser = rate)]
    rate: Rate,
    /// How long the open loop runs (with `--rate max`: full speed)
    #[arg(long = "for", default_value = "10s", value_parser = Span::parse)]
    open: Span,
    /// How long full speed runs after the open loop; 0s for not at all
    #[arg(long, default_value = "5s", value_parser = Span::parse)]
    max_for: Span,
    /// Connections of the sender, kept alive
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    connections: u64,
    /// Events in one request of the sender at full speed, to the hub; the floors take one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    per_request: u64,
    /// How often each of floor and hub is measured, in turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Where the stores go while it runs; the system's temporary folder without it
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Ingest {
    #[command(flatten)]
    load: Load,
    /// Routes that look at each event
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    routes: u16,
    /// Their conditions hold: deliveries are written, for a destination that is paused
    #[arg(long)]
    matching: bool,
    /// Measure the hub also while retention drops old events, 100k of them or as many as are given
    #[arg(long, value_name = "EVENTS", num_args = 0..=1, default_missing_value = "100k", value_parser = keys, conflicts_with = "matching")]
    retention: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Deliver {
    #[command(flatten)]
    load: Load,
    /// Events in one request to the receiver, at most
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    batch: u32,
    /// Destinations of each event
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=20))]
    fan_out: u16,
    /// Sign each request as Standard Webhooks
    #[arg(long)]
    signed: bool,
    /// What the route makes of an event
    #[arg(long, default_value = "vrl")]
    map: MapKind,
}

#[derive(Debug, Args)]
pub struct Store {
    /// Events to write
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(10..=20_000_000))]
    events: u64,
    /// Requests at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    writers: u64,
    /// Deliveries of each event
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    routes: u16,
    #[command(flatten)]
    made: MadeOn,
}

#[derive(Debug, Args)]
pub struct Dedupe {
    /// Keys of the larger store, with `k` or `m` for thousands or millions
    #[arg(long, default_value = "1m", value_parser = keys)]
    keys: u64,
    #[command(flatten)]
    made: MadeOn,
}

#[derive(Debug, Args)]
pub struct Contacts {
    /// How many, with `k` or `m` for thousands or millions
    #[arg(long, default_value = "1m", value_parser = keys)]
    contacts: u64,
    /// Connections that write one contact a request
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    connections: u64,
    /// That are changed in bulk, and one by one, in each round
    #[arg(long, default_value = "20k", value_parser = keys)]
    changes: u64,
    /// Pages of each kind that are measured
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pages: u64,
    #[command(flatten)]
    made: MadeOn,
}

#[derive(Debug, Args)]
pub struct Sync {
    /// Unsubscribes a second
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rate: u64,
    /// Changes of other contacts a second, beside them
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    profiles: u64,
    /// How long each run is under load
    #[arg(long = "for", default_value = "20s", value_parser = Span::parse)]
    open: Span,
    /// The vendors' documented limits instead of none
    #[arg(long)]
    vendor_limits: bool,
    /// How often each of floor and hub is measured, in turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Where the store goes while it runs; the system's temporary folder without it
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct MadeOn {
    /// `sqlite`, or the URL of a database, where schemas are made and removed again
    #[arg(long, value_name = "URL", default_value = "sqlite", env = "MAILSPAN_BENCH_STORE", hide_env_values = true, value_parser = On::parse)]
    store: On,
    /// How often all is measured, in turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Where files go while it runs; the system's temporary folder without it
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Neighbours {
    /// Destinations, the two among them
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(3..=200))]
    destinations: u16,
    /// Events a second; each goes to every destination
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rate: u64,
    /// How long each run is under load
    #[arg(long = "for", default_value = "10s", value_parser = Span::parse)]
    open: Span,
    /// How often each of the two hubs is measured, in turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Where the stores go while it runs; the system's temporary folder without it
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Floor {
    kind: floor::Kind,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    folder: PathBuf,
    /// The receiver of `deliver`
    #[arg(long)]
    to: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy)]
enum Rate {
    PerSecond(u64),
    Max,
}

/// A generator on the same machine reaches no more than about half of this.
const RATE_MAX: u64 = 200_000;
/// A connection that waits longer for its next event may be closed by the hub just when that comes:
/// at a low rate fewer are used.
const IDLE_S_MAX: u64 = 5;
const SPAN_MS_MAX: u64 = 3_600_000;

/// About 150 bytes of disk a key.
const KEYS_MAX: u64 = 100_000_000;

fn keys(text: &str) -> Result<u64, String> {
    let (digits, by) = match text.chars().last() {
        Some('k') => (&text[..text.len() - 1], 1_000),
        Some('m') => (&text[..text.len() - 1], 1_000_000),
        _ => (text, 1),
    };
    let keys = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(by));
    keys.filter(|keys| (1..=KEYS_MAX).contains(keys)).ok_or_else(|| "write 1 to 100m, such as 10m".to_owned())
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    match text.parse() {
        Ok(number @ 1..=RATE_MAX) => Ok(Rate::PerSecond(number)),
        _ => Err(format!("write events a second, 1 to {RATE_MAX}, or `max`")),
    }
}

/// Exit status 1 when something was lost or out of order.
pub async fn run(common: &Common, command: Bench) -> anyhow::Result<ExitCode> {
    let plan = match command {
        Bench::Ingest(Ingest { load, routes, matching, retention }) => {
            Plan { aged: retention, ..plan(load, Goal::Ingest { routes, matching })? }
        }
        Bench::Deliver(Deliver { load, batch, fan_out, signed, map }) => {
            plan(load, Goal::Deliver { batch, fan_out, signed, map })?
        }
        Bench::Dedupe(Dedupe { keys, made: MadeOn { store: on, rounds, folder } }) => {
            let report = dedupe::run(DedupePlan { keys, rounds, on, folder }).await?;
            print(common, report.json(), report.table());
            return Ok(if report.whole { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Bench::Store(Store { events, writers, routes, made: MadeOn { store: on, rounds, folder } }) => {
            let report =
                store::run(StorePlan { events, writers, routes, rounds, on, folder }, common.json).await?;
            print(common, report.json(), report.table());
            return Ok(if report.whole { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Bench::Contacts(Contacts { contacts, connections, changes, pages, made }) => {
            let MadeOn { store: on, rounds, folder } = made;
            let plan = ContactsPlan { contacts, connections, changes, pages, rounds, on, folder };
            let report = contacts::run(plan).await?;
            print(common, report.json(), report.table());
            return Ok(if report.whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Bench::Sync(Sync { rate, profiles, open, vendor_limits, rounds, folder }) => {
            if open.ms == 0 || open.ms > SPAN_MS_MAX {
                anyhow::bail!("--for takes 1ms to 1h");
            }
            let limited = vendor_limits;
            let plan = SyncPlan { per_second: rate, profiles, ms: open.ms, rounds, limited, folder };
            let report = sync::run(plan).await?;
            print(common, report.json(), report.table());
            return Ok(if report.whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Bench::Neighbours(Neighbours { destinations, rate, open, rounds, folder }) => {
            if open.ms == 0 || open.ms > SPAN_MS_MAX {
                anyhow::bail!("--for takes 1ms to 1h");
            }
            let plan = NeighboursPlan { destinations, per_second: rate, ms: open.ms, rounds, folder };
            let report = neighbours::run(plan).await?;
            print(common, report.json(), report.table());
            return Ok(if report.whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Bench::Floor(Floor { kind, listen, folder, to }) => {
            floor::run(kind, listen, &folder, to).await?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let report = bench::run(plan, common.json).await?;
    print(common, report.json(), report.table());
    Ok(if report.whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(common: &Common, json: serde_json::Value, table: String) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // A closed pipe is no error of ours.
    let _ = if common.json { writeln!(out, "{json}") } else { write!(out, "{table}") };
}

fn plan(load: Load, goal: Goal) -> anyhow::Result<Plan> {
    let (per_second, full) = match load.rate {
        Rate::PerSecond(number) => (Some(number), load.max_for),
        Rate::Max => (None, load.open),
    };
    if load.open.ms == 0 || load.open.ms.max(full.ms) > SPAN_MS_MAX {
        anyhow::bail!("--for takes 1ms to 1h, --max-for at most 1h");
    }
    let Load { per_request, rounds, folder, open, .. } = load;
    let connections = match per_second {
        Some(rate) => load.connections.min(rate.saturating_mul(IDLE_S_MAX)),
        None => load.connections,
    };
    Ok(Plan {
        goal,
        per_second,
        open_ms: open.ms,
        full_ms: full.ms,
        connections,
        per_request,
        rounds,
        aged: None,
        folder,
    })
}
