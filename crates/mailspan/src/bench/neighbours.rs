//! `mailspan bench neighbours`: what the others wait when one of many destinations hangs and one fails always.
//!
//! The same load in turns against a hub whose destinations are all well and against one with the two; the
//! ratio of the waits of those that are well in both is the result, its median over the rounds.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::event::{Maker, hex};
use super::figures::{Unit, median, quantiles, value};
use super::load::{self, Aim, Pace, Sent};
use super::look::{self, Firsts, Found};
use super::receiver::{self, Receiver};
use super::report::{STORE, rounded};
use super::table::shown;
use super::{Folder, SECRET_FILE, hub, in_memory};
use crate::runtime;

/// Nothing arrived for so long: what is missing is lost.
const QUIET_MS: u64 = 15_000;
const LOOK_MS: u64 = 10;
/// The two, above the others.
pub const BAD: u16 = 2;

#[derive(Debug, Clone)]
pub struct NeighboursPlan {
    /// The two among them.
    pub destinations: u16,
    /// Events a second; each goes to every destination.
    pub per_second: u64,
    pub ms: u64,
    pub rounds: u32,
    pub folder: Option<PathBuf>,
}

/// The 99th percentile of the waits of those that are well, in milliseconds: alone, and beside the two.
pub struct NeighboursReport {
    plan: NeighboursPlan,
    rounds: Vec<(f64, f64)>,
    found: Found,
    notes: Vec<String>,
}

/// Runs all rounds; says on stderr what it is at.
pub async fn run(plan: NeighboursPlan) -> anyhow::Result<NeighboursReport> {
    let folder = Folder::make(plan.folder.as_deref())?;
    let notes = super::warnings(in_memory(&folder.path));
    let mut report =
        NeighboursReport { plan: plan.clone(), rounds: Vec::new(), found: Found::default(), notes };
    tokio::select! {
        done = rounds(&plan, &folder.path, &mut report) => done?,
        () = runtime::told_to_stop() => bail!("stopped before the end: there is no result"),
    }
    Ok(report)
}

async fn rounds(plan: &NeighboursPlan, folder: &Path, report: &mut NeighboursReport) -> anyhow::Result<()> {
    for number in 1..=plan.rounds {
        let mut both = [0.0, 0.0];
        // Each goes first in every other round: what changes on the machine within minutes meets both.
        let order = if number % 2 == 1 { [false, true] } else { [true, false] };
        for bad in order {
            let word = if bad { "beside the two" } else { "alone" };
            eprintln!("round {number} of {}: {word}", plan.rounds);
            let place = folder.join(format!("{number}-{}", usize::from(bad)));
            std::fs::create_dir(&place).with_context(|| format!("make {}", place.display()))?;
            both[usize::from(bad)] = measure(plan, bad, &place, report).await?;
            std::fs::remove_dir_all(&place).with_context(|| format!("remove {}", place.display()))?;
        }
        report.rounds.push((both[0], both[1]));
    }
    Ok(())
}

async fn measure(
    plan: &NeighboursPlan,
    bad: bool,
    folder: &Path,
    report: &mut NeighboursReport,
) -> anyhow::Result<f64> {
    let secret = hex(&runtime::random_u128().to_be_bytes());
    super::write_private(&folder.join(SECRET_FILE), &secret)?;
    let (epoch, connections) = (runtime::instant(), plan.per_second.clamp(1, 16));
    let maker = Arc::new(Maker::new(&secret, runtime::random_u64(), connections, runtime::now().0));
    let receiver = receiver::start(maker.clone(), epoch).await?;
    let text = |listen| configuration(plan, bad, listen, receiver.address);
    let hub = hub::start_with(text, folder).await?;
    let path = "/in/mailtarget";
    let aim = Aim { address: hub.address, path, maker, connections, per_request: 1, epoch, arrived: None };
    let events = plan.per_second.saturating_mul(plan.ms) / 1_000;
    let load = load::run(&aim, Pace::Open { per_second: plan.per_second, events }, 0).await;
    report.notes.extend(load.trouble);
    let (found, firsts) = settled(plan.destinations - BAD, &aim, &load.sent, &receiver).await;
    report.found.add(&found);
    hub.child.stop().await;
    let waits = look::latencies(&load.sent, &firsts, plan.destinations - BAD).first_attempt;
    Ok(value(&quantiles("wait", &waits), "wait p99").unwrap_or(0.0))
}

/// What has arrived once all has, or nothing moves any more.
async fn settled(destinations: u16, aim: &Aim, sent: &[Sent], receiver: &Receiver) -> (Found, Firsts) {
    let (mut seen, mut moved) = (0, runtime::instant());
    loop {
        let count = receiver.count.load(Ordering::Relaxed);
        let quiet = moved.elapsed().as_millis() >= u128::from(QUIET_MS);
        if count != seen || quiet {
            // Those beyond are not looked at: some of them never answer.
            let all = receiver.receipts();
            let of_ours: Vec<_> = all.into_iter().filter(|one| one.destination < destinations).collect();
            let (found, firsts) = look::at_receiver(&aim.maker, sent, &of_ours, destinations);
            if found.lost == 0 || quiet {
                return (found, firsts);
            }
            (seen, moved) = if count != seen { (count, runtime::instant()) } else { (seen, moved) };
        }
        runtime::sleep(LOOK_MS).await;
    }
}

/// A hub as a user would configure it; the last two destinations hang and fail.
fn configuration(plan: &NeighboursPlan, bad: bool, listen: SocketAddr, receiver: SocketAddr) -> String {
    let mut text = format!(
        "[server]\nlisten = \"{listen}\"\n\n[storage]\nurl = \"sqlite:hub.db\"\n\n[egress]\nallow = [\"{receiver}\"]\n\n\
         [sources.mailtarget]\nkind = \"mailtarget\"\nsecrets = [{{ file = \"{SECRET_FILE}\" }}]\n"
    );
    let mut to = Vec::new();
    for number in 0..plan.destinations {
        let manner = match plan.destinations - number {
            1 if bad => "/fails",
            2 if bad => "/hangs",
            _ => "",
        };
        text += &format!(
            "\n[destinations.crm{number}]\nkind = \"http\"\nurl = \"http://{receiver}/{number}{manner}\"\n\
             rate = \"10000/1s\"\n"
        );
        to.push(format!("\"crm{number}\""));
    }
    text + &format!("\n[[routes]]\nname = \"all\"\nto = [{}]\n", to.join(", "))
}

impl NeighboursReport {
    /// False when one that is well did not get all, or out of order.
    pub fn whole(&self) -> bool {
        self.found.lost == 0 && self.found.out_of_order == 0 && self.found.acknowledged > 0
    }

    fn ratio(&self) -> f64 {
        median(self.rounds.iter().map(|(alone, beside)| beside / alone.max(f64::MIN_POSITIVE)).collect())
    }

    fn headline(&self) -> String {
        let NeighboursPlan { destinations, per_second, ms, rounds, .. } = self.plan;
        format!(
            "bench neighbours: {destinations} destinations, one hangs and one fails, {per_second} events/s to each \
             for {} s, medians of {rounds} rounds",
            ms / 1_000
        )
    }

    pub fn table(&self) -> String {
        let p99 = |of: fn(&(f64, f64)) -> f64| shown(Unit::Ms, median(self.rounds.iter().map(of).collect()));
        let mut text = format!("{}\nstore: {STORE}\n\n", self.headline());
        text += &format!("  wait p99 alone           {:>12}\n", p99(|round| round.0));
        text += &format!("  wait p99 beside the two  {:>12}\n", p99(|round| round.1));
        text += &format!("  median ratio             {:>12.2}\n", self.ratio());
        let each = self.rounds.iter().map(|(alone, beside)| beside / alone.max(f64::MIN_POSITIVE));
        let each: Vec<String> = each.map(|ratio| format!("{ratio:.2}")).collect();
        text += &format!("  ratios of the rounds     {:>12}\n", each.join("  "));
        let Found { lost, acknowledged, .. } = self.found;
        let word = if self.whole() { "ok  " } else { "FAIL" };
        text += &format!("{word}  {lost} of {acknowledged} events lost at those that are well\n");
        for note in &self.notes {
            text += &format!("note: {note}\n");
        }
        text
    }

    pub fn json(&self) -> Value {
        let round = |(alone, beside): &(f64, f64)| {
            let ratio = beside / alone.max(f64::MIN_POSITIVE);
            json!({ "alone_p99_ms": rounded(*alone), "beside_p99_ms": rounded(*beside), "ratio": rounded(ratio) })
        };
        json!({
            "bench": "neighbours",
            "settings": self.headline(),
            "store": STORE,
            "rounds": self.rounds.iter().map(round).collect::<Vec<_>>(),
            "median_ratio": rounded(self.ratio()),
            "found": self.found,
            "whole": self.whole(),
            "notes": self.notes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_configuration_holds() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(SECRET_FILE), "a-secret-of-the-bench-0123456789").unwrap();
        let plan = NeighboursPlan { destinations: 100, per_second: 10, ms: 1, rounds: 1, folder: None };
        let address = "127.0.0.1:18080".parse().unwrap();
        let file = folder.path().join("hub.toml");
        let text = configuration(&plan, true, address, address);
        assert!(text.contains("/98/hangs\"") && text.contains("/99/fails\""), "{text}");
        std::fs::write(&file, text).unwrap();
        let options = config::Options { env: &|_| None, names: &[], dev: false };
        assert!(config::load(&file, &options).is_ok());
    }

    #[test]
    fn the_ratio_is_the_median_of_the_rounds_and_a_loss_fails() {
        let plan = NeighboursPlan { destinations: 3, per_second: 1, ms: 1, rounds: 3, folder: None };
        let found = Found { sent: 1, acknowledged: 1, ..Found::default() };
        let rounds = vec![(10.0, 11.0), (10.0, 30.0), (20.0, 20.0)];
        let mut report = NeighboursReport { plan, rounds, found, notes: Vec::new() };
        assert_eq!((report.json()["median_ratio"].as_f64(), report.whole()), (Some(1.1), true));
        assert!(report.table().contains("1.10"), "{}", report.table());
        report.found.lost = 1;
        assert!(!report.whole() && report.table().contains("FAIL"));
    }
}
