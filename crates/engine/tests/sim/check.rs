//! The invariants, checked from outside: what was sent, what the receiver did, what was settled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mailspan_core::{Class, Consent, DestinationId, Millis, Operation, Outcome, Settlement, State};
use mailspan_engine::Limits;

use crate::loads::{self, Loads};
use crate::policy_check::Policy;
use crate::receiver::Sent;
use crate::store::{Row, Store};

#[derive(Default)]
pub struct Watch {
    /// Key → row and part.
    keys: BTreeMap<String, (i64, usize)>,
    loads: Loads,
    ops: BTreeMap<String, String>,
    acted: BTreeSet<String>,
    /// The last row that was acted on for the first time, a lane.
    lanes: BTreeMap<(DestinationId, usize, Class), i64>,
    /// The newest opt-out that the receiver knows.
    opted_out: BTreeMap<(DestinationId, usize), Millis>,
    sent: BTreeMap<DestinationId, VecDeque<Millis>>,
    throttled: BTreeMap<DestinationId, Millis>,
    /// The least due time of a row, by the last answer that was handed to the engine.
    floors: BTreeMap<i64, Millis>,
    pub policy: Policy,
}

type Checked = Result<(), String>;

impl Watch {
    pub fn offered(&mut self, row: &Row) {
        for (part, key) in row.keys.iter().enumerate() {
            self.keys.insert(key.to_string(), (row.id, part));
        }
    }

    /// Other limits: counted anew.
    pub fn limits_changed(&mut self, destination: DestinationId) {
        self.sent.remove(&destination);
    }

    /// The node is gone: what it was told counts no more.
    pub fn killed(&mut self, now: Millis) {
        self.sent.clear();
        self.throttled.clear();
        self.floors.clear();
        self.policy.killed(now);
    }

    /// Another node serves it: what this one was told counts no more.
    pub fn left(&mut self, now: Millis, destination: DestinationId) {
        self.sent.remove(&destination);
        self.throttled.remove(&destination);
        self.policy.left(now, destination);
    }

    pub fn sending(
        &mut self,
        now: Millis,
        destination: DestinationId,
        limits: &Limits,
        items: &[Sent],
        store: &Store,
    ) -> Checked {
        let sent = self.sent.entry(destination).or_default();
        sent.push_back(now);
        if sent.len() > limits.rate.count as usize {
            let first = sent.pop_front().unwrap_or(now);
            if now.since(first) < limits.rate.per_ms {
                return Err(format!("rate: over {} were sent to {destination:?}", limits.rate));
            }
        }
        if self.throttled.get(&destination).is_some_and(|until| now < *until) {
            return Err(format!("throttled: {destination:?} asked for silence"));
        }
        let mut persons = BTreeSet::new();
        for item in items {
            let (id, part) =
                *self.keys.get(loads::own(&item.key)).ok_or(format!("unknown key {}", item.key))?;
            let row = &store.rows[&id];
            if loads::own(&item.key) != item.key {
                self.loads.sending(row, item, limits, store, now)?;
                continue;
            }
            sendable(row, part, item, now)?;
            lowered(row, part)?;
            not_superseded(row, part, store)?;
            if !limits.merges && !row.person.is_none_or(|person| persons.insert(person)) {
                return Err(format!("batch: person {:?} stands in it twice", row.person));
            }
        }
        Ok(())
    }

    pub fn acted(&mut self, items: &[Sent], store: &Store) -> Checked {
        for item in items {
            let op = item.op.to_string();
            if self.ops.entry(item.key.clone()).or_insert_with(|| op.clone()) != &op {
                return Err(format!("key {} means another operation than before", item.key));
            }
            if let Some(load) = self.loads.rows(&item.key) {
                let carrier = self.keys[loads::own(&item.key)].0;
                self.loads.heard(&store.rows[&carrier], item);
                load.iter().try_for_each(|id| self.in_order(&store.rows[id]))?;
                continue;
            }
            let (id, part) = self.keys[&item.key];
            let row = &store.rows[&id];
            self.loads.heard(row, item);
            let first = self.acted.insert(item.key.clone());
            let (Some(person), Ok(operations)) = (row.person, &row.operations) else { continue };
            self.consent(row, &operations[part], person)?;
            if first && part == 0 {
                self.last(row, person)?;
            }
        }
        Ok(())
    }

    /// A row of a load: for the first time, or again.
    fn in_order(&mut self, row: &Row) -> Checked {
        let first = self.acted.insert(row.keys[0].to_string());
        match row.person {
            Some(person) if first => self.last(row, person),
            _ => Ok(()),
        }
    }

    fn last(&mut self, row: &Row, person: usize) -> Checked {
        let lane = (row.destination, person, row.class);
        // One that its map moved to the lane of consent stands there by its number from then on.
        if row.class < row.offered_as {
            return Ok(());
        }
        let last = self.lanes.entry(lane).or_default();
        if *last > row.id {
            return Err(format!("lane {lane:?}: {} was done after {last}", row.id));
        }
        *last = row.id;
        Ok(())
    }

    /// An answer is handed to the engine.
    pub fn answered(
        &mut self,
        now: Millis,
        destination: DestinationId,
        floors: Vec<(String, u64)>,
        throttled_ms: Option<u64>,
        at: Millis,
    ) {
        for (key, floor) in floors {
            let alone = || self.keys.get(&key).map(|(id, _)| *id);
            if let Some(id) = self.loads.head(&key).or_else(alone) {
                self.floors.insert(id, now.plus(floor));
            }
        }
        if let Some(ms) = throttled_ms {
            let until = self.throttled.entry(destination).or_insert(at.plus(ms));
            *until = (*until).max(at.plus(ms));
        }
    }

    pub fn settling(&mut self, settlements: &[Settlement]) -> Checked {
        for settlement in settlements {
            let floor = self.floors.remove(&settlement.delivery.0);
            if let (Outcome::Again { due, .. }, Some(floor)) = (&settlement.outcome, floor)
                && *due < floor
            {
                return Err(format!(
                    "{:?} is tried again at {due:?}, not before {floor:?}",
                    settlement.delivery
                ));
            }
        }
        Ok(())
    }

    /// At the end each row is where it belongs.
    pub fn ended(&self, store: &Store) -> Checked {
        for row in store.rows.values() {
            match row.state {
                State::Pending => {
                    return Err(format!("forgotten: {} is pending and nothing is planned", row.id));
                }
                State::Dead if row.reason.is_none() => {
                    return Err(format!("{} is dead without a reason", row.id));
                }
                State::Delivered if !row.keys.iter().any(|key| self.acted.contains(&*key.0)) => {
                    return Err(format!("{} is delivered, the receiver has nothing", row.id));
                }
                _ => {}
            }
        }
        self.loads.ended(store)?;
        let kept: BTreeMap<_, _> = store.kept.clone().into_iter().filter(|(_, rows)| *rows > 0).collect();
        let sums = store.sums();
        if kept == sums { Ok(()) } else { Err(format!("the sums do not add up: {kept:?}, counted {sums:?}")) }
    }

    fn consent(&mut self, row: &Row, operation: &Operation, person: usize) -> Checked {
        let Operation::SetConsent { consent, at, .. } = operation else { return Ok(()) };
        let newest = self.opted_out.entry((row.destination, person)).or_insert(Millis(i64::MIN));
        match consent {
            Consent::OptIn if *at <= *newest => {
                Err(format!("consent: opt-in {} of {at:?} was done after the opt-out of {newest:?}", row.id))
            }
            Consent::OptIn => Ok(()),
            Consent::OptOut | Consent::DoNotContact => {
                *newest = (*newest).max(*at);
                Ok(())
            }
        }
    }
}

/// Only a head that is due is sent, at the step that the store knows, and nothing that is done.
fn sendable(row: &Row, part: usize, item: &Sent, now: Millis) -> Checked {
    if row.state != State::Pending {
        return Err(format!("{} is sent though it ended", row.id));
    }
    if row.due.is_none_or(|due| due > now) {
        return Err(format!("{} is sent though it is due at {:?}", row.id, row.due));
    }
    let Some(progress) = row.progress.get(part) else { return Ok(()) };
    if progress.verdict.as_ref().is_some_and(|verdict| verdict.is_final()) {
        return Err(format!("part {part} of {} is sent though it is done", row.id));
    }
    let step = progress.step.as_ref().map(|step| step.0.as_str());
    if step != item.step.as_deref() { Err(format!("{} is sent at another step", row.id)) } else { Ok(()) }
}

/// What is left of a delivery whose urgent part is done stands in a lower lane.
fn lowered(row: &Row, part: usize) -> Checked {
    let Ok(operations) = &row.operations else { return Ok(()) };
    let ended = |at: usize| {
        let verdict = row.progress.get(at).and_then(|progress| progress.verdict.as_ref());
        verdict.is_some_and(|verdict| verdict.is_final())
    };
    let urgent = operations.iter().enumerate().any(|(at, of)| ended(at) && of.class() <= row.class);
    if urgent && (0..part).all(ended) && operations[part].class() > row.class {
        return Err(format!("class: {} is sent in the lane of what is done", row.id));
    }
    Ok(())
}

/// An opt-in is not sent when a newer opt-out was known before it was offered.
fn not_superseded(row: &Row, part: usize, store: &Store) -> Checked {
    let opt_in = |row: &Row, part: usize| match row.operations.as_ref().ok()?.get(part)? {
        Operation::SetConsent { consent, at, .. } => Some((*consent == Consent::OptIn, *at)),
        _ => None,
    };
    let Some((true, at)) = opt_in(row, part) else { return Ok(()) };
    let newer = |other: &&Row| {
        other.id < row.id
            && row.person.is_some()
            && other.person == row.person
            && matches!(opt_in(other, 0), Some((false, out)) if out >= at)
    };
    match store.rows.values().find(newer) {
        Some(out) => Err(format!("consent: opt-in {} is sent, {} opted out later", row.id, out.id)),
        None => Ok(()),
    }
}
