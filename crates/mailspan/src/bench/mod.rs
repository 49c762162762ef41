//! `mailspan bench`: how fast the hub is on this machine, beside the least that a bare program needs
//! in the same minutes, and whether everything arrived.

mod aged;
mod bare;
mod child;
pub mod contacts;
mod cpu;
pub mod dedupe;
mod event;
mod figures;
pub mod floor;
mod hub;
mod link;
mod load;
mod look;
pub mod neighbours;
pub mod place;
mod receiver;
mod report;
mod round;
mod rows;
pub mod store;
mod store_contacts;
pub mod sync;
mod table;
mod tenant;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

pub use report::Report;

use crate::cli::progress::Progress;
use crate::runtime;

/// The secret that signs the load, in the folder of each round.
const SECRET_FILE: &str = "webhook.secret";
/// Events of one load: their times and ids are kept until all are looked for.
const EVENTS_MAX: u64 = 2_000_000;
/// `f_type` of a file system in memory (statfs(2)): a sync costs nothing there.
const TMPFS: i64 = 0x0102_1994;

/// What is measured, and how long.
#[derive(Debug, Clone)]
pub struct Plan {
    pub goal: Goal,
    /// Events a second of the open loop; nothing: full speed alone.
    pub per_second: Option<u64>,
    pub open_ms: u64,
    /// How long at full speed; 0: not at all.
    pub full_ms: u64,
    pub connections: u64,
    /// Events in one request of the sender at full speed, to the hub; the floors take one.
    pub per_request: u64,
    pub rounds: u32,
    /// Of `ingest`: old events that are in the store at first; nothing: none, and no hub that drops them.
    pub aged: Option<u64>,
    /// Where stores go; the system's temporary folder where nothing is said.
    pub folder: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Until the acknowledgement. `matching`: the routes' conditions hold, so deliveries are written (and
    /// kept: their destination is paused).
    Ingest { routes: u16, matching: bool },
    /// Until a receiver has it.
    Deliver { batch: u32, fan_out: u16, signed: bool, map: MapKind },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum MapKind {
    /// The event itself, as CloudEvents JSON
    None,
    /// A program that makes the shape of a CRM's activity
    Vrl,
}

/// What runs in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Receiver,
    Floor,
    Hub,
    /// The hub while retention drops old rows.
    Dropping,
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Subject::Receiver => "receiver",
            Subject::Floor => "floor",
            Subject::Hub => "hub",
            Subject::Dropping => "dropping",
        }
    }
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            goal: Goal::Ingest { routes: 1, matching: false },
            per_second: Some(1_000),
            open_ms: 10_000,
            full_ms: 5_000,
            connections: 64,
            per_request: 1,
            rounds: 3,
            aged: None,
            folder: None,
        }
    }
}

impl Plan {
    fn signed(&self) -> bool {
        matches!(self.goal, Goal::Deliver { signed: true, .. })
    }

    /// Destinations of the hub.
    fn destinations(&self) -> u16 {
        match self.goal {
            Goal::Ingest { .. } => 1,
            Goal::Deliver { fan_out, .. } => fan_out,
        }
    }

    fn delivers(&self) -> bool {
        matches!(self.goal, Goal::Deliver { .. })
    }

    /// Floor, hub, floor, hub, …: what changes on the machine within minutes meets both.
    fn subjects(&self) -> &'static [Subject] {
        match self.goal {
            Goal::Ingest { .. } if self.aged.is_some() => &[Subject::Dropping, Subject::Floor, Subject::Hub],
            Goal::Ingest { .. } => &[Subject::Floor, Subject::Hub],
            Goal::Deliver { .. } => &[Subject::Receiver, Subject::Floor, Subject::Hub],
        }
    }

    /// Events of the open loop.
    fn open_events(&self) -> u64 {
        self.per_second.unwrap_or(0).saturating_mul(self.open_ms) / 1_000
    }
}

/// Runs all rounds; says on stderr what it is at. The folders of the rounds are removed.
pub async fn run(plan: Plan, json: bool) -> anyhow::Result<Report> {
    let each = u64::from(plan.destinations());
    if plan.open_events().saturating_mul(each) > EVENTS_MAX {
        bail!(
            "that makes more than {EVENTS_MAX} deliveries, which the bench would have to remember: give a lower --rate or a shorter --for"
        );
    }
    let folder = Folder::make(plan.folder.as_deref())?;
    let mut report = Report::new(plan.clone(), folder.path.display().to_string(), in_memory(&folder.path));
    tokio::select! {
        done = rounds(&plan, &folder, &mut report, json) => done?,
        () = runtime::told_to_stop() => bail!("stopped before the end: there is no result"),
    }
    Ok(report)
}

async fn rounds(plan: &Plan, folder: &Folder, report: &mut Report, json: bool) -> anyhow::Result<()> {
    for number in 1..=plan.rounds {
        for subject in plan.subjects() {
            let what = format!("round {number} of {}: {}", plan.rounds, subject.name());
            if !json {
                eprintln!("{what}");
            }
            let progress = Progress::new(json);
            let place = folder.path.join(format!("{}-{number}", subject.name()));
            std::fs::create_dir(&place).with_context(|| format!("make {}", place.display()))?;
            let measured = progress.during(&what, round::measure(plan, *subject, &place)).await;
            drop(progress);
            let measured = measured.with_context(|| format!("measure the {}", subject.name()))?;
            report.add(*subject, measured);
            std::fs::remove_dir_all(&place).with_context(|| format!("remove {}", place.display()))?;
        }
    }
    Ok(())
}

/// A folder of our own that goes when we go.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn make(inside: Option<&Path>) -> anyhow::Result<Folder> {
        let inside = inside.map_or_else(std::env::temp_dir, Path::to_owned);
        let inside = std::path::absolute(&inside).with_context(|| format!("find {}", inside.display()))?;
        let path = inside.join(format!("mailspan-bench-{:08x}", runtime::random_u64() as u32));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("make {}: give another --folder", path.display()))?;
        Ok(Folder { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}

/// What makes figures worthless.
fn warnings(in_memory: bool) -> Vec<String> {
    let debug = "this is a debug build: its figures say nothing; use `cargo run --release -- bench …`";
    let memory = "the folder is in memory, where a sync costs nothing: give a --folder on a disk";
    let all = [(cfg!(debug_assertions), debug), (in_memory, memory)];
    all.into_iter().filter(|(holds, _)| *holds).map(|(_, text)| text.to_owned()).collect()
}

fn in_memory(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|of| of.f_type == TMPFS)
}

/// Writes a file for its owner only.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}
