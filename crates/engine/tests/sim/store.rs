//! A model of the store: rows, heads of lanes, fences, writes that share a commit.

use std::collections::{BTreeMap, BTreeSet};

use mailspan_core::limits::CARRIED_MAX;
use mailspan_core::{
    Behind, Cause, Class, DeliveryId, DestinationId, EventId, Key, Millis, Operation, Outcome, Parcel, Part,
    Person, Progress, Queue, Reason, Room, Settlement, State,
};
use mailspan_engine::Fence;

use crate::Planted;

#[derive(Debug, Clone)]
pub struct Row {
    pub id: i64,
    pub destination: DestinationId,
    pub person: Option<usize>,
    pub class: Class,
    /// What the type of its event says.
    pub offered_as: Class,
    pub cause: Cause,
    pub queue: Queue,
    pub state: State,
    pub due: Option<Millis>,
    pub attempts: u32,
    pub crashes: u32,
    pub since: Millis,
    pub reason: Option<Reason>,
    pub carried_by: Option<i64>,
    pub progress: Vec<Progress>,
    /// Of its operations.
    pub keys: Vec<Key>,
    /// What the map makes of its event, or why it makes nothing.
    pub operations: Result<Vec<Operation>, Reason>,
}

#[derive(Default)]
pub struct Store {
    pub rows: BTreeMap<i64, Row>,
    pub persons: Vec<Person>,
    pub fences: BTreeMap<DestinationId, Fence>,
    pub paused: BTreeMap<DestinationId, Reason>,
    /// Those of which it was kept that their breaker opened.
    pub degraded: BTreeSet<DestinationId>,
    pub planted: Option<Planted>,
    /// The first settlement that was applied under an old fence.
    pub wrong_fence: Option<String>,
    pub changed: bool,
    /// Pending rows.
    pub lanes: BTreeMap<Lane, BTreeSet<i64>>,
    /// Running sums: rows offered, and ends by state.
    pub kept: BTreeMap<&'static str, usize>,
}

pub type Lane = (DestinationId, Option<usize>, Class, i64);

pub enum Settled {
    Ok { promoted: bool },
    FenceLost,
}

impl Store {
    /// A new delivery: due now where it is the head of its lane.
    pub fn offer(&mut self, mut row: Row, now: Millis) {
        self.changed = true;
        *self.kept.entry(State::Pending.name()).or_default() += 1;
        let lane = self.lanes.entry(lane(&row)).or_default();
        row.due = lane.is_empty().then_some(now);
        lane.insert(row.id);
        self.rows.insert(row.id, row);
    }

    pub fn settle(
        &mut self,
        destination: DestinationId,
        fence: Fence,
        settlements: &[Settlement],
        now: Millis,
    ) -> Settled {
        let current = self.fences[&destination];
        if fence != current {
            if self.planted != Some(Planted::SettleWithoutFence) {
                return Settled::FenceLost;
            }
            self.wrong_fence = Some(format!("settled under {fence:?} while {current:?} holds the lease"));
        }
        self.changed = true;
        let mut promoted = false;
        for settlement in settlements {
            promoted |= self.settle_one(settlement, now);
        }
        Settled::Ok { promoted }
    }

    /// Due heads, at most `room` from either end of a queue, and the earliest due time that was not taken.
    pub fn claim(
        &self,
        destination: DestinationId,
        room: Room,
        now: Millis,
    ) -> (Vec<Parcel>, Option<Millis>) {
        let here = self.pending().filter(|row| row.destination == destination && row.due.is_some());
        let mut heads: Vec<&Row> = here.collect();
        heads.sort_by_key(|row| (row.due, row.id));
        let (mut left, mut last) = (room.oldest, room.newest);
        let mut next_due = None;
        let mut parcels = Vec::new();
        for row in heads.iter().rev().filter(|row| row.due <= Some(now)) {
            let last = &mut last[row.queue as usize];
            if *last > 0 {
                *last -= 1;
                parcels.push(Parcel { newest: true, ..self.parcel(row) });
            }
        }
        for row in heads {
            let left = &mut left[row.queue as usize];
            if *left > 0 && row.due <= Some(now) {
                *left -= 1;
                parcels.push(self.parcel(row));
            } else {
                next_due = next_due.min(row.due).or(row.due);
            }
        }
        (parcels, next_due)
    }

    /// Each lane with pending rows has one head.
    pub fn check_heads(&self) -> Result<(), String> {
        for (lane, rows) in &self.lanes {
            let heads = rows.iter().filter(|id| self.rows[*id].due.is_some()).count();
            if heads != usize::from(!rows.is_empty()) {
                return Err(format!("lane {lane:?} has {heads} heads"));
            }
        }
        Ok(())
    }

    pub fn sums(&self) -> BTreeMap<&'static str, usize> {
        let mut sums = BTreeMap::new();
        for row in self.rows.values() {
            *sums.entry(row.state.name()).or_default() += 1;
        }
        sums
    }

    /// True when another row became the head of a lane.
    fn settle_one(&mut self, settlement: &Settlement, now: Millis) -> bool {
        let id = settlement.delivery.0;
        let Some(row) = self.rows.get_mut(&id) else { return false };
        if row.state != State::Pending && self.planted != Some(Planted::SettledTwice) {
            return false;
        }
        row.attempts = settlement.attempts;
        row.crashes = settlement.crashes;
        if !settlement.progress.is_empty() {
            row.progress = settlement.progress.clone();
        }
        let before = lane(row);
        match &settlement.outcome {
            Outcome::Progressed => return false,
            Outcome::Ended { state, reason } => {
                (row.state, row.due, row.reason) = (*state, None, reason.clone())
            }
            Outcome::CarriedBy { delivery } => {
                (row.state, row.due, row.carried_by) = (State::Coalesced, None, Some(delivery.0));
            }
            Outcome::Again { due, queue, class, reason } => {
                (row.queue, row.class, row.reason) = (*queue, *class, reason.clone());
                if lane(row) == before {
                    // What waits goes on waiting: it is written a second time.
                    row.due = row.due.and(Some(*due));
                    return false;
                }
                row.due = Some(*due);
                let lane = self.lanes.entry(lane(row)).or_default();
                if !lane.is_empty() {
                    row.due = None;
                }
                lane.insert(id);
            }
        }
        if row.state != State::Pending {
            *self.kept.entry(row.state.name()).or_default() += 1;
            let pending = self.kept.entry(State::Pending.name()).or_default();
            *pending = pending.saturating_sub(1);
        }
        let lane = self.lanes.entry(before).or_default();
        lane.remove(&id);
        let has_head = lane.iter().any(|id| self.rows[id].due.is_some());
        !has_head && self.promote(before, now)
    }

    /// A lane that lost its head gets its lowest pending row as the next.
    fn promote(&mut self, of: Lane, now: Millis) -> bool {
        let next = self.lanes.get(&of).and_then(|lane| lane.first());
        match next.and_then(|id| self.rows.get_mut(id)) {
            Some(row) if self.planted != Some(Planted::HeadNotPromoted) => {
                row.due = Some(now.min(row.since));
                true
            }
            _ => false,
        }
    }

    fn pending(&self) -> impl Iterator<Item = &Row> {
        self.lanes.values().flatten().map(|id| &self.rows[id])
    }

    fn parcel(&self, row: &Row) -> Parcel {
        let part = |(at, operation): (usize, &Operation)| Part {
            key: row.keys[at].clone(),
            operation: operation.clone(),
            step: row.progress.get(at).and_then(|progress| progress.step.clone()),
            verdict: row.progress.get(at).and_then(|progress| progress.verdict.clone()),
            map: 0,
        };
        Parcel {
            delivery: DeliveryId(row.id),
            class: row.class,
            cause: row.cause,
            attempts: row.attempts,
            crashes: row.crashes,
            since: row.since,
            person: row.person.map(|person| self.persons[person].clone()),
            whole: row.id % 3 == 0,
            newest: false,
            elsewhere: None,
            parts: row.operations.clone().map(|operations| operations.iter().enumerate().map(part).collect()),
            behind: if row.class == Class::Profile { self.behind(row) } else { Vec::new() },
        }
    }

    /// What waits behind a head, as the program reads it.
    fn behind(&self, head: &Row) -> Vec<Behind> {
        let waiting = self.lanes[&lane(head)].iter().filter(|id| **id != head.id).take(CARRIED_MAX);
        let behind = |id: &i64| {
            let row = &self.rows[id];
            let Parcel { delivery, attempts, crashes, parts, .. } =
                self.parcel(&Row { class: Class::Activity, ..row.clone() });
            Behind { delivery, attempts, crashes, parts: parts.unwrap_or_default() }
        };
        waiting.map(behind).collect()
    }
}

/// The keys of a row's operations.
pub fn keys(id: i64, destination: DestinationId, operations: usize) -> Vec<Key> {
    let key = |part| Key::derive(EventId(id as u128), "route", &destination.0.to_string(), part as u16);
    (0..operations).map(key).collect()
}

/// A row without a person is a lane of its own.
pub fn lane(row: &Row) -> Lane {
    (row.destination, row.person, row.class, if row.person.is_none() { row.id } else { 0 })
}

/// Destinations that have a row which is due.
pub fn with_work(store: &Store) -> BTreeSet<DestinationId> {
    store.pending().filter(|row| row.due.is_some()).map(|row| row.destination).collect()
}
