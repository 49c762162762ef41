//! `mailspan bench contacts`: contacts imported, changed and listed over the API, beside a bare table of the same
//! contacts written in transactions of the same size; then every contact is read back.

pub mod api;
mod pages;
pub mod people;
mod report;
pub mod tally;

use std::path::PathBuf;

use anyhow::Context;
use mailspan_core::Name;
use mailspan_core::limits::INTAKE_QUEUE_MAX;
use mailspan_store::floor::Floor;

pub use report::ContactsReport;

use super::figures::{Figure, Unit, medians, quantiles, value};
use super::place::{Made, On};
use super::{Folder, hub, in_memory, tenant};
use crate::{open, runtime};
use api::{Api, BULK, Took};
use tally::Tally;

/// A page is measured among so many contacts, and among all.
const FEW: u64 = 10_000;

const LOAD: &str = "first load, rows/s";
const IMPORT: &str = "bulk into all, rows/s";
const UPSERT: &str = "upsert of one, /s";

#[derive(Debug, Clone)]
pub struct ContactsPlan {
    pub contacts: u64,
    /// That write one contact a request.
    pub connections: u64,
    /// That are changed in each part of a round.
    pub changes: u64,
    /// Pages of each kind that are measured.
    pub pages: u64,
    pub rounds: u32,
    pub on: On,
    pub folder: Option<PathBuf>,
}

/// Fills a hub and a floor, then changes contacts in both in turns.
pub async fn run(plan: ContactsPlan) -> anyhow::Result<ContactsReport> {
    let folder = Folder::make(plan.folder.as_deref())?;
    let bare = Made::new(&plan.on, &folder.path, "bare").await?;
    let made = Made::new(&plan.on, &folder.path, "hub").await?;
    let done = tokio::select! {
        done = measure(&plan, &folder, &bare, &made) => done,
        () = runtime::told_to_stop() => Err(anyhow::anyhow!("stopped before the end: there is no result")),
    };
    for one in [bare, made] {
        one.remove().await;
    }
    let mut report = done?;
    report.notes.extend(super::warnings(in_memory(&folder.path) && matches!(report.plan.on, On::Sqlite)));
    Ok(report)
}

/// Both sides with what was measured of each.
struct Bench<'p> {
    plan: &'p ContactsPlan,
    api: Api,
    tally: Tally,
    floor: BareSide,
    ours: Vec<Figure>,
    theirs: Vec<Figure>,
    notes: Vec<String>,
}

async fn measure(
    plan: &ContactsPlan,
    folder: &Folder,
    bare: &Made,
    made: &Made,
) -> anyhow::Result<ContactsReport> {
    let key = tenant::make(&made.storage, Name::default_tenant()).await?;
    let hub = hub::start_on(&made.storage, String::new(), &folder.path).await?;
    let api = Api { address: hub.address, bearer: format!("Bearer {key}").into() };
    let floor = BareSide { floor: Floor::open(&bare.place()).await?, writes: 0, changed: 0 };
    let tally = Tally::new(plan.contacts);
    let mut bench = Bench { plan, api, tally, floor, ours: vec![], theirs: vec![], notes: vec![] };
    bench.fill().await?;
    bench.rounds().await?;
    eprintln!("every contact is read back");
    let found = bench.api.read_back(&bench.tally).await?;
    hub.child.stop().await;
    let Bench { ours, theirs, mut notes, .. } = bench;
    notes.extend(audited(made).await?);
    Ok(ContactsReport { plan: plan.clone(), ours, theirs, found, notes })
}

impl Bench<'_> {
    /// The first load, with pages measured after [`FEW`] contacts and at its end.
    async fn fill(&mut self) -> anyhow::Result<()> {
        let few = FEW.min(self.plan.contacts);
        let (mut ours, mut theirs) = (0.0, 0.0);
        let since = runtime::now();
        for (range, among) in [(0..few, "few"), (few..self.plan.contacts, "all")] {
            eprintln!("first load to {} contacts", range.end);
            for start in range.clone().step_by(100 * BULK as usize) {
                let numbers: Vec<u64> = (start..range.end.min(start + 100 * BULK)).collect();
                let took = self.api.bulk(numbers.clone(), &mut self.tally).await?;
                ours += took.seconds;
                self.noted(took);
                theirs += self.floor.write(&numbers, BULK).await?;
            }
            let until = runtime::now();
            // What is measured is a page, not a page beside the router's work.
            self.api.routed().await?;
            let pages = pages::of_hub(&self.api, (since, until), self.plan.pages, among).await?;
            self.ours.extend(pages);
            self.theirs.extend(self.floor.pages(self.plan.pages, among).await?);
        }
        let speed = |seconds: f64| self.plan.contacts as f64 / seconds.max(f64::MIN_POSITIVE);
        self.ours.insert(0, Figure::new(LOAD, Unit::PerSecond, speed(ours)));
        self.theirs.insert(0, Figure::new(LOAD, Unit::PerSecond, speed(theirs)));
        Ok(())
    }

    /// Changes contacts that are there, scattered over all, in turns with the floor.
    async fn rounds(&mut self) -> anyhow::Result<()> {
        let count = self.plan.changes.min(self.plan.contacts);
        let speed = |name: &str, seconds: f64| {
            Figure::new(name, Unit::PerSecond, count as f64 / seconds.max(f64::MIN_POSITIVE))
        };
        let (mut ours, mut theirs) = (vec![], vec![]);
        for round in 0..u64::from(self.plan.rounds) {
            eprintln!("round {} of {}", round + 1, self.plan.rounds);
            let numbers = |part: u64| {
                let first = (round * 2 + part) * count;
                (first..first + count).map(|k| people::scattered(k, self.plan.contacts)).collect::<Vec<_>>()
            };
            let bulk = self.api.bulk(numbers(0), &mut self.tally).await?;
            let bare_bulk = self.floor.write(&numbers(0), BULK).await?;
            let upsert = self.api.upsert(numbers(1), self.plan.connections, &mut self.tally).await?;
            let bare_upsert = self.floor.write(&numbers(1), self.plan.connections).await?;
            let mut figures = vec![speed(IMPORT, bulk.seconds), speed(UPSERT, upsert.seconds)];
            figures.extend(quantiles("upsert of one", &upsert.micros));
            ours.push(figures);
            theirs.push(vec![speed(IMPORT, bare_bulk), speed(UPSERT, bare_upsert)]);
            self.noted(bulk);
            self.noted(upsert);
        }
        self.ours.extend(medians(&ours));
        self.theirs.extend(medians(&theirs));
        Ok(())
    }

    fn noted(&mut self, took: Took) {
        if self.notes.is_empty() {
            self.notes.extend(took.trouble);
        }
    }
}

/// The bare table, and how often it was written.
struct BareSide {
    floor: Floor,
    writes: i64,
    changed: u32,
}

impl BareSide {
    /// Seconds that it takes to write these, so many in a transaction.
    async fn write(&mut self, numbers: &[u64], at_once: u64) -> anyhow::Result<f64> {
        self.changed += 1;
        let began = runtime::instant();
        for some in numbers.chunks(usize::try_from(at_once)?) {
            let row = |(place, n): (i64, &u64)| people::bare(*n, self.changed, self.writes + place);
            let rows: Vec<_> = (1..).zip(some).map(row).collect();
            self.writes += rows.len() as i64;
            self.floor.upsert(&rows).await?;
        }
        Ok(began.elapsed().as_secs_f64())
    }

    async fn pages(&mut self, count: u64, among: &str) -> anyhow::Result<Vec<Figure>> {
        let mut micros = vec![];
        for k in 0..count {
            let after = people::scattered(k, self.writes.unsigned_abs()).cast_signed();
            let began = runtime::instant();
            self.floor.page(after, api::PAGE).await?;
            micros.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        Ok([pages::CURSOR, pages::SINCE]
            .iter()
            .flat_map(|kind| quantiles(&format!("{kind} among {among}"), &micros))
            .collect())
    }
}

/// The store's own sums, once the hub has ended.
async fn audited(made: &Made) -> anyhow::Result<Option<String>> {
    let opened = open::store(&made.storage, &[], INTAKE_QUEUE_MAX).await.context("open the store again")?;
    let audit = opened.store.audit().await?;
    opened.close(open::CLOSE_MS_MAX).await;
    Ok((!audit.adds_up).then(|| format!("the hub's audit does not add up: {:?}", audit.differences)))
}
