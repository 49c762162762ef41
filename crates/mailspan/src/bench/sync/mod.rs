//! `mailspan bench sync`: the time from an unsubscribe until the last system knows it, among changes of others; fake
//! vendors, an endpoint of an application, and a bare program that tells all of them at once as the floor.

mod bare;
mod load;
mod report;
mod vendors;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use bytes::Bytes;
use hyper::Method;
use mailspan_core::Name;
use serde_json::json;

pub use report::SyncReport;

use super::contacts::api::{Api, metric};
use super::contacts::tally::Tally;
use super::figures::{Figure, quantiles};
use super::link::Link;
use super::place::{Made, On};
use super::{Folder, hub, in_memory, tenant};
use crate::runtime;
use load::{Aim, Sent, What};
use report::Found;
use vendors::{SYSTEMS, Vendors};

/// Contacts whose profile changes.
const OTHERS: u64 = 200;
/// Unsubscribes of a run: as many contacts are made at each system first.
pub const UNSUBSCRIBES_MAX: u64 = 20_000;
/// Until every contact is at every system.
const READY_MS_MAX: u64 = 300_000;
/// Until nothing waits in the hub.
const SETTLED_MS_MAX: u64 = 60_000;
const LOOK_MS: u64 = 50;

#[derive(Debug, Clone)]
pub struct SyncPlan {
    pub per_second: u64,
    /// Changes of others, a second.
    pub profiles: u64,
    pub ms: u64,
    pub rounds: u32,
    /// The vendors' own limits, as the kinds have them.
    pub limited: bool,
    pub folder: Option<PathBuf>,
}

impl SyncPlan {
    /// Unsubscribes of one round, of the hub and of the floor each.
    pub fn each(&self) -> u64 {
        (self.per_second.saturating_mul(self.ms) / 1_000).max(1)
    }
}

/// Floor and hub in turns, `--rounds` times.
pub async fn run(plan: SyncPlan) -> anyhow::Result<SyncReport> {
    if plan.each().saturating_mul(2 * u64::from(plan.rounds)) > UNSUBSCRIBES_MAX {
        bail!(
            "that makes more than {UNSUBSCRIBES_MAX} contacts: give a lower --rate, a shorter --for or fewer --rounds"
        );
    }
    let folder = Folder::make(plan.folder.as_deref())?;
    let made = Made::new(&On::Sqlite, &folder.path, "hub").await?;
    let mut report = tokio::select! {
        done = measure(&plan, &folder, &made) => done?,
        () = runtime::told_to_stop() => bail!("stopped before the end: there is no result"),
    };
    report.notes.extend(super::warnings(in_memory(&folder.path)));
    Ok(report)
}

/// Contacts: first the others, then of each round those of the hub and those of the floor.
struct Bench<'p> {
    plan: &'p SyncPlan,
    vendors: Arc<Vendors>,
    aim: Aim,
    ours: Vec<Vec<Figure>>,
    theirs: Vec<Vec<Figure>>,
    unsubscribed: Vec<Sent>,
    profiles: BTreeMap<u64, Sent>,
    notes: Vec<String>,
}

async fn measure(plan: &SyncPlan, folder: &Folder, made: &Made) -> anyhow::Result<SyncReport> {
    let key = tenant::make(&made.storage, Name::default_tenant()).await?;
    let vendors = Arc::new(vendors::start(&folder.path).await?);
    let hub = hub::start_on(&made.storage, vendors.sections(plan.limited), &folder.path).await?;
    let bearer: Arc<str> = format!("Bearer {key}").into();
    let aim = Aim { hub: hub.address, bearer, epoch: runtime::instant() };
    let mut bench = Bench {
        plan,
        vendors,
        aim,
        ours: vec![],
        theirs: vec![],
        unsubscribed: vec![],
        profiles: BTreeMap::new(),
        notes: vec![],
    };
    bench.endpoint().await?;
    bench.everybody().await?;
    for round in 0..u64::from(plan.rounds) {
        eprintln!("round {} of {}", round + 1, plan.rounds);
        bench.floor(round).await?;
        bench.hub(round).await?;
    }
    settled(&hub).await?;
    let told = bench.told_by_the_hub().await?;
    let found = bench.look(told);
    hub.child.stop().await;
    let Bench { ours, theirs, notes, .. } = bench;
    Ok(SyncReport::new(plan.clone(), &ours, &theirs, found, notes))
}

async fn settled(hub: &hub::Running) -> anyhow::Result<()> {
    let began = runtime::instant();
    while began.elapsed().as_millis() < u128::from(SETTLED_MS_MAX) {
        let audit = hub.audit().await?;
        if audit["waiting"] == 0 && audit["pending"] == 0 {
            return Ok(());
        }
        runtime::sleep(LOOK_MS).await;
    }
    // What is missing is found and counted.
    Ok(())
}

impl Bench<'_> {
    /// The application's own endpoint, as it would be made.
    async fn endpoint(&self) -> anyhow::Result<()> {
        let url = format!("http://{}/hook", self.vendors.addresses[3]);
        let wanted = json!({ "url": url, "events": ["contact.unsubscribed"], "secret": "whsec_0123456789abcdef0123456789abcdef" });
        let mut link = Link::new(self.aim.hub);
        let bearer = Some(("authorization", &*self.aim.bearer));
        let body = Bytes::from(wanted.to_string());
        let (status, answer) = link.send(Method::POST, "/webhooks/endpoints", bearer, body).await?;
        if status != 201 {
            bail!("the endpoint was answered {status}: {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }

    /// Makes every contact through the hub, and waits until each is where it belongs.
    async fn everybody(&mut self) -> anyhow::Result<()> {
        let count = OTHERS + 2 * self.plan.each() * u64::from(self.plan.rounds);
        eprintln!("{count} contacts on their way to every system");
        (0..count).for_each(|n| drop(self.vendors.hubspot.add_contact(&super::contacts::people::email(n))));
        let api = Api { address: self.aim.hub, bearer: self.aim.bearer.clone() };
        let mut tally = Tally::new(count);
        let took = api.bulk((0..count).collect(), &mut tally).await?;
        if let Some(trouble) = took.trouble {
            bail!("the contacts could not be made: {trouble}");
        }
        let began = runtime::instant();
        let mut next = 0;
        while next < count {
            if self.vendors.have(next) {
                next += 1;
            } else if began.elapsed().as_millis() > u128::from(READY_MS_MAX) {
                bail!("after {READY_MS_MAX} ms contact {next} of {count} was not at every system");
            } else {
                runtime::sleep(LOOK_MS).await;
            }
        }
        Ok(())
    }

    /// Numbers of a round: of the hub's unsubscribes (`part` 0) or the floor's (1).
    fn numbers(&self, round: u64, part: u64) -> Vec<(u64, u32)> {
        let each = self.plan.each();
        let first = OTHERS + (2 * round + part) * each;
        (first..first + each).map(|n| (n, 0)).collect()
    }

    async fn floor(&mut self, round: u64) -> anyhow::Result<()> {
        let numbers = self.numbers(round, 1);
        let what = What::Bare(self.vendors.clone());
        let (sent, trouble) = load::end(load::start(&self.aim, &what, &numbers, self.plan.per_second)).await;
        if let Some(trouble) = trouble {
            bail!("the floor could not be measured: {trouble}");
        }
        let took = |one: &Sent| Some(one.acknowledged?.saturating_sub(one.intended));
        let took: Vec<u64> = sent.iter().filter_map(took).collect();
        self.theirs.push(quantiles("last system knows", &took));
        Ok(())
    }

    async fn hub(&mut self, round: u64) -> anyhow::Result<()> {
        let numbers = self.numbers(round, 0);
        let changes = self.plan.profiles.saturating_mul(self.plan.ms) / 1_000;
        let first = u32::try_from(round * changes.div_ceil(OTHERS) + 1)?;
        let version = |k: u64| first + u32::try_from(k / OTHERS).unwrap_or(0);
        let others: Vec<(u64, u32)> = (0..changes).map(|k| (k % OTHERS, version(k))).collect();
        let profiles = load::start(&self.aim, &What::Profile, &others, self.plan.profiles);
        let unsubscribes = load::start(&self.aim, &What::Unsubscribe, &numbers, self.plan.per_second);
        let wanted: Vec<u64> = numbers.iter().map(|(n, _)| *n).collect();
        let known = watch::until_known(&self.vendors, self.aim.epoch, &wanted).await;
        let (sent, trouble) = load::end(unsubscribes).await;
        let (changed, other_trouble) = load::end(profiles).await;
        self.notes.extend(trouble.into_iter().chain(other_trouble));
        self.ours.push(figures(&sent, &known));
        self.unsubscribed.extend(sent);
        for one in changed {
            let last = self.profiles.entry(one.n).or_insert(one);
            if one.version >= last.version {
                *last = one;
            }
        }
        Ok(())
    }

    /// How many unsubscribes the hub's own histogram has.
    async fn told_by_the_hub(&self) -> anyhow::Result<u64> {
        let mut link = Link::new(self.aim.hub);
        metric(&mut link, &self.aim.bearer, "mailspan_unsubscribe_known_seconds_count").await
    }

    /// The second phase: what each fake has.
    fn look(&self, told: u64) -> Found {
        let mut found = Found { told_by_metric: told, ..Found::default() };
        for one in &self.unsubscribed {
            found.unsubscribes += 1;
            found.refused += u64::from(one.acknowledged.is_none());
            if one.acknowledged.is_some() && self.vendors.know(one.n) != [true; 4] {
                found.untold += 1;
            }
            found.doubled += self.vendors.application.times(one.n).saturating_sub(1);
        }
        for n in 0..OTHERS {
            found.wrongly_told += u64::from(self.vendors.know(n) != [false; 4] || !self.vendors.have(n));
        }
        for (n, last) in &self.profiles {
            let current = self.vendors.version(*n) == Some(last.version);
            found.stale += u64::from(last.acknowledged.is_some() && !current);
        }
        found
    }
}

/// Of each system, and of the last of them.
fn figures(sent: &[Sent], known: &watch::Known) -> Vec<Figure> {
    let mut acknowledged = vec![];
    let (mut last, mut of_each) = (vec![], [const { Vec::new() }; 4]);
    for one in sent {
        acknowledged.extend(one.acknowledged.map(|at| at.saturating_sub(one.intended)));
        let times = known.get(&one.n).copied().unwrap_or_default();
        for (list, at) in of_each.iter_mut().zip(times) {
            list.extend(at.map(|at| at.saturating_sub(one.intended)));
        }
        if let Some(all) = times.into_iter().collect::<Option<Vec<u64>>>() {
            last.extend(all.into_iter().max().map(|at| at.saturating_sub(one.intended)));
        }
    }
    let mut figures = quantiles("last system knows", &last);
    figures.extend(quantiles("acknowledge", &acknowledged));
    for (name, list) in SYSTEMS.iter().zip(of_each) {
        figures.extend(quantiles(&format!("{name} knows"), &list));
    }
    figures
}
