//! One subject in one round: start it, load it, look for everything, stop it.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use mailspan_core::Millis;
use serde_json::Value;

use super::event::{Maker, hex};
use super::figures::{Figure, Unit, quantiles};
use super::link::Link;
use super::load::{self, Aim, Load, Pace, Sent};
use super::look::{self, Firsts, Found};
use super::receiver::Receiver;
use super::{Goal, Plan, SECRET_FILE, Subject, aged, child, cpu, hub, receiver};
use crate::runtime;

/// Events of the load at full speed, fewer where each is delivered several times.
const FULL_EVENTS_MAX: u64 = 1_000_000;
const FULL_DELIVERIES_MAX: u64 = 3_000_000;
/// Nothing arrived for so long: what is missing is lost. The hub's calendar here ends before.
const QUIET_MS: u64 = 15_000;
const LOOK_MS: u64 = 10;
/// After the last delivery, for one too many.
const GRACE_MS: u64 = 200;

/// What one subject did in one round.
#[derive(Debug, Default)]
pub struct Measured {
    pub open: Vec<Figure>,
    pub full: Vec<Figure>,
    pub found: Found,
    pub notes: Vec<String>,
}

/// The subject with all that is around it.
struct Stage<'p> {
    plan: &'p Plan,
    subject: Subject,
    aim: Aim,
    receiver: Receiver,
    hub: Option<hub::Running>,
    child: Option<child::Child>,
    /// Destinations that each event should reach; 0 where none is looked at.
    destinations: u16,
    /// What is older in the journal is not of the load.
    began: Millis,
}

/// Measures in `folder`, which is empty and stays ours.
pub async fn measure(plan: &Plan, subject: Subject, folder: &Path) -> anyhow::Result<Measured> {
    let stage = set(plan, subject, folder).await?;
    let mut measured = Measured::default();
    let mut sent: Vec<Sent> = Vec::new();
    let mut next_round = 0;
    if let Some(per_second) = plan.per_second {
        let pace = Pace::Open { per_second, events: plan.open_events() };
        measured.open = stage.load(pace, &mut sent, &mut next_round, &mut measured.notes).await?;
    }
    if plan.full_ms > 0 {
        let each = u64::from(stage.destinations).max(1);
        let events_max = FULL_EVENTS_MAX.min(FULL_DELIVERIES_MAX / each);
        let pace = Pace::Full { ms: plan.full_ms, events_max };
        measured.full = stage.load(pace, &mut sent, &mut next_round, &mut measured.notes).await?;
    }
    measured.found = stage.look(&sent, &mut measured.notes).await?;
    stage.stop().await;
    Ok(measured)
}

async fn set<'p>(plan: &'p Plan, subject: Subject, folder: &Path) -> anyhow::Result<Stage<'p>> {
    let secret = hex(&runtime::random_u128().to_be_bytes());
    super::write_private(&folder.join(SECRET_FILE), &secret)?;
    let (epoch, began) = (runtime::instant(), runtime::now());
    let maker = Arc::new(Maker::new(&secret, runtime::random_u64(), plan.connections, began.0));
    let receiver = receiver::start(maker.clone(), epoch).await?;
    let destinations = match (plan.goal, subject) {
        (Goal::Ingest { .. }, _) | (_, Subject::Receiver) => 0,
        (_, Subject::Floor) => 1,
        (Goal::Deliver { fan_out, .. }, Subject::Hub | Subject::Dropping) => fan_out,
    };
    let arrived = (destinations > 0).then(|| (receiver.count.clone(), u64::from(destinations)));
    let (address, path, hub, child) = match subject {
        Subject::Hub | Subject::Dropping => {
            if let Some(events) = plan.aged {
                aged::fill(plan, folder, events).await.context("make a store with a past")?;
            }
            let hub = hub::start(plan, folder, receiver.address, subject == Subject::Dropping).await?;
            (hub.address, "/in/mailtarget", Some(hub), None)
        }
        Subject::Floor | Subject::Receiver => {
            let (child, address) = start_floor(plan, subject, folder, receiver.address).await?;
            (address, "/in", None, Some(child))
        }
    };
    let per_request = if hub.is_some() { plan.per_request } else { 1 };
    let connections = plan.connections;
    let aim = Aim { address, path, maker, connections, per_request, epoch, arrived };
    Ok(Stage { plan, subject, aim, receiver, hub, child, destinations, began })
}

async fn start_floor(
    plan: &Plan,
    subject: Subject,
    folder: &Path,
    receiver: SocketAddr,
) -> anyhow::Result<(child::Child, SocketAddr)> {
    let kind = match (subject, plan.delivers()) {
        (Subject::Receiver, _) => super::floor::Kind::Receiver,
        (_, false) => super::floor::Kind::Ingest,
        (_, true) => super::floor::Kind::Deliver,
    };
    let address = child::free_address()?;
    let (listen, to) = (address.to_string(), receiver.to_string());
    let mut args = vec!["bench", "floor", kind.name(), "--listen", &listen];
    if kind == super::floor::Kind::Deliver {
        args.extend(["--to", &to]);
    }
    let mut args: Vec<&OsStr> = args.into_iter().map(OsStr::new).collect();
    args.extend([OsStr::new("--folder"), folder.as_os_str()]);
    let mut child = child::start(folder, &args)?;
    child.ready(address, "/ready").await?;
    Ok((child, address))
}

impl Stage<'_> {
    async fn load(
        &self,
        pace: Pace,
        all: &mut Vec<Sent>,
        next_round: &mut u64,
        notes: &mut Vec<String>,
    ) -> anyhow::Result<Vec<Figure>> {
        let before = self.cpu_ms();
        let load = load::run(&self.aim, pace, *next_round).await;
        *next_round = load.next_round;
        notes.extend(load.trouble.iter().map(|why| format!("{}: {why}", self.subject.name())));
        all.extend(&load.sent);
        let firsts = self.settle(all).await?;
        let after = self.cpu_ms();
        Ok(self.figures(&load, &firsts, (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1))))
    }

    /// Processor time of the subject, and of all: the subject, the generator and the receiver.
    fn cpu_ms(&self) -> (u64, u64) {
        let hub = self.hub.as_ref().map(|hub| &hub.child);
        let own = hub.or(self.child.as_ref()).map_or(0, |child| cpu::used_ms(child.pid));
        (own, own + cpu::used_ms(std::process::id()))
    }

    /// Waits until everything acknowledged has arrived, or nothing moves any more; for intake, until
    /// everything is routed.
    async fn settle(&self, all: &[Sent]) -> anyhow::Result<Firsts> {
        if self.destinations == 0 {
            if let Some(hub) = &self.hub {
                hub.routed().await?;
            }
            return Ok(Firsts::new());
        }
        let acknowledged = all.iter().filter(|one| one.acknowledged.is_some()).count() as u64;
        let expected = acknowledged * u64::from(self.destinations);
        let (mut seen, mut moved) = (0, runtime::instant());
        loop {
            let count = self.receiver.count.load(Ordering::Relaxed);
            let quiet = moved.elapsed().as_millis() >= u128::from(QUIET_MS);
            if count >= expected && count != seen || quiet {
                let (found, firsts) = self.at_receiver(all);
                if found.lost == 0 || quiet {
                    return Ok(firsts);
                }
            }
            if count != seen {
                (seen, moved) = (count, runtime::instant());
            }
            runtime::sleep(LOOK_MS).await;
        }
    }

    fn at_receiver(&self, all: &[Sent]) -> (Found, Firsts) {
        look::at_receiver(&self.aim.maker, all, &self.receiver.receipts(), self.destinations)
    }

    fn figures(&self, load: &Load, firsts: &Firsts, cpu_ms: (u64, u64)) -> Vec<Figure> {
        let latencies = look::latencies(&load.sent, firsts, self.destinations);
        let mut figures = vec![self.speed(load, firsts)];
        figures.extend(quantiles("acknowledge", &latencies.acknowledge));
        figures.extend(quantiles("first attempt", &latencies.first_attempt));
        figures.extend(quantiles("end to end", &latencies.end_to_end));
        let events = latencies.acknowledge.len().max(1) as f64;
        let each = |ms: u64| ms as f64 * 1_000.0 / events;
        figures.push(Figure::new("CPU an event, all processes", Unit::Micros, each(cpu_ms.1)));
        figures.push(Figure::new("CPU an event, alone", Unit::Micros, each(cpu_ms.0)));
        figures
    }

    /// From the first event's instant to the last acknowledgement, or to the last first arrival.
    fn speed(&self, load: &Load, firsts: &Firsts) -> Figure {
        let began = load.sent.iter().map(|one| one.intended).min().unwrap_or(0);
        let arrivals = |one: &Sent| {
            let index = one.index;
            (0..self.destinations).filter_map(move |to| firsts.get(&(index, to)).copied())
        };
        let times: Vec<u64> = match self.destinations {
            0 => load.sent.iter().filter_map(|one| one.acknowledged).collect(),
            _ => load.sent.iter().flat_map(arrivals).collect(),
        };
        let took = times.iter().max().map_or(0, |last| last.saturating_sub(began)).max(1);
        let name = if self.plan.delivers() { "deliveries/s" } else { "events/s" };
        Figure::new(name, Unit::PerSecond, times.len() as f64 * 1_000_000.0 / took as f64)
    }

    async fn look(&self, all: &[Sent], notes: &mut Vec<String>) -> anyhow::Result<Found> {
        if self.destinations > 0 {
            runtime::sleep(GRACE_MS).await;
        }
        if let Some(hub) = &self.hub {
            let audit = hub.audit().await?;
            check_audit(&audit, notes);
            if let (Subject::Dropping, Some(events)) = (self.subject, self.plan.aged) {
                check_dropped(&audit, events, notes);
            }
        }
        match (self.subject, &self.hub) {
            (_, Some(hub)) if self.destinations == 0 => {
                Ok(look::in_journal(&self.aim.maker, all, &hub.journal(self.began).await?))
            }
            (Subject::Floor, _) if self.destinations == 0 => self.look_in_floor(all).await,
            (Subject::Receiver, _) => Ok(look::at_receiver(&self.aim.maker, all, &[], 0).0),
            _ => Ok(self.at_receiver(all).0),
        }
    }

    async fn look_in_floor(&self, all: &[Sent]) -> anyhow::Result<Found> {
        let (_, body) =
            Link::new(self.aim.address).get("/count").await.context("ask the floor for its rows")?;
        let kept =
            serde_json::from_slice::<Value>(&body).ok().and_then(|body| body["kept"].as_u64()).unwrap_or(0);
        let found = look::at_receiver(&self.aim.maker, all, &[], 0).0;
        let lost = found.acknowledged.saturating_sub(kept);
        let duplicated = kept.saturating_sub(found.sent);
        Ok(Found { lost, duplicated, ..found })
    }

    async fn stop(self) {
        for child in self.hub.map(|hub| hub.child).into_iter().chain(self.child) {
            child.stop().await;
        }
    }
}

/// Retention must have been at work, and not have run out of work long before the end.
fn check_dropped(audit: &Value, events: u64, notes: &mut Vec<String>) {
    let dropped = audit["dropped_events"].as_u64().unwrap_or(0);
    let of = format!("dropping: retention dropped {dropped} of {events} old events while the load ran");
    notes.push(match dropped {
        0 => format!("{of}: nothing was measured beside it, let it run longer"),
        all if all >= events => {
            format!("{of}: some of the load ran beside nothing, give more to --retention")
        }
        _ => of,
    });
}

/// The hub's own sums must agree with what the bench finds.
fn check_audit(audit: &Value, notes: &mut Vec<String>) {
    if audit["adds_up"] != true {
        notes.push(format!("hub: its audit does not add up: {}", audit["differences"]));
    }
    for name in ["refused", "quarantined", "duplicates", "dead"] {
        if audit[name].as_u64().unwrap_or(0) > 0 {
            notes.push(format!("hub: its audit counts {} {name}", audit[name]));
        }
    }
}
