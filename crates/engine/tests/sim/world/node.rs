//! The node: how it begins and ends, and what it writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mailspan_core::{DeliveryId, DestinationId, Millis, Reason, Settlement};
use mailspan_engine::{CallId, Engine, Fence, Happened, SettleFailed, Trip};

use super::{Checked, Ev, Inner, World};
use crate::fault_of;
use crate::sink::SimSink;
use crate::store::Settled;

pub(super) struct Node {
    pub(super) engine: Engine,
    pub(super) wake: Option<Millis>,
    pub(super) draining: bool,
    pub(super) calls: BTreeMap<CallId, DestinationId>,
    pub(super) paused: BTreeMap<DestinationId, bool>,
    /// Being handed over, or left and not taken over yet.
    pub(super) leaving: BTreeSet<DestinationId>,
    /// Writes that wait for the next commit.
    pub(super) writes: Vec<Write>,
    pub(super) committing: bool,
}

pub(super) enum Write {
    Settle { destination: DestinationId, fence: Fence, settlements: Vec<Settlement> },
    Stand { destination: DestinationId, fence: Option<Fence>, paused: Option<Reason> },
    Degrade { destination: DestinationId, fence: Fence, degraded: bool },
}

impl World {
    /// Some writes are lost, some reach the store late, under a fence that is old by then.
    pub(super) fn kill(&mut self) {
        let Some(node) = self.node.take() else { return };
        self.epoch += 1;
        self.watch.killed(self.now);
        for write in node.writes {
            if self.random.chance(70) {
                self.after(6_000, Ev::Late(write));
            }
        }
        // No request of the old node is on its way any longer when the next one begins.
        let pause = 300 + self.random.below(2_000);
        self.after_exactly(pause, Ev::Open);
    }

    pub(super) fn open(&mut self) -> Checked {
        if self.node.is_some() {
            return Ok(());
        }
        let fault = self.planted.and_then(fault_of);
        self.node = Some(Node {
            engine: Engine::with_fault(self.random.next_u64(), fault),
            wake: None,
            draining: false,
            calls: BTreeMap::new(),
            paused: BTreeMap::new(),
            leaving: BTreeSet::new(),
            writes: Vec::new(),
            committing: false,
        });
        for destination in (1..=self.destinations).map(DestinationId) {
            self.store.fences.entry(destination).or_insert(Fence(0)).0 += 1;
            self.hear_anew(destination)?;
            let requests = self.watch.policy.spent(destination, self.now);
            self.hear(Happened::Spent { destination, requests })?;
        }
        Ok(())
    }

    /// Another node joins and shall have one of the destinations.
    pub(super) fn leave(&mut self) -> Checked {
        let destination = DestinationId(1 + self.other.below(self.destinations as u64) as i64);
        let Some(node) = &mut self.node else { return Ok(()) };
        if node.draining || !node.leaving.insert(destination) {
            return Ok(());
        }
        self.hear(Happened::Leaving { destination })
    }

    /// Nothing of it may be in flight; then it is taken over under the next fence.
    pub(super) fn left(&mut self, destination: DestinationId) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        let settles =
            |write: &Write| matches!(write, Write::Settle { destination: of, .. } if *of == destination);
        if node.calls.values().any(|of| *of == destination) || node.writes.iter().any(settles) {
            return Err(format!("left: something of {destination:?} is in flight"));
        }
        if !node.leaving.contains(&destination) {
            return Err(format!("left: nobody asked for {destination:?}"));
        }
        self.saw("left");
        self.watch.left(self.now, destination);
        let rest = 1 + self.other.below(2_000);
        self.after_exactly(rest, Ev::Node(self.epoch, Box::new(Inner::TakeOver(destination))));
        Ok(())
    }

    pub(super) fn take_over(&mut self, destination: DestinationId) -> Checked {
        let Some(node) = &mut self.node else { return Ok(()) };
        node.leaving.remove(&destination);
        self.store.fences.entry(destination).or_insert(Fence(0)).0 += 1;
        self.hear_anew(destination)?;
        let requests = self.watch.policy.spent(destination, self.now);
        self.hear(Happened::Spent { destination, requests })
    }

    /// Under a lease that was just taken.
    fn hear_anew(&mut self, destination: DestinationId) -> Checked {
        let is_off = self.limits[&destination].breaker == Trip::OFF;
        self.watch.policy.opened(destination, self.store.degraded.contains(&destination), is_off);
        self.hear_opened(destination)
    }

    pub(super) fn hear_opened(&mut self, destination: DestinationId) -> Checked {
        let paused = self.store.paused.get(&destination).cloned();
        if paused.is_some() {
            self.after(5_000, Ev::Resume(destination));
        }
        if let Some(node) = &mut self.node {
            node.paused.insert(destination, paused.is_some());
        }
        let limits = self.limits[&destination].clone();
        let sink = Arc::new(SimSink { batches: limits.batch_max > 1 });
        let fence = self.store.fences[&destination];
        let degraded = self.store.degraded.contains(&destination);
        self.hear(Happened::Opened { destination, fence, limits, sink, paused, degraded })
    }

    pub(super) fn write(&mut self, write: Write) {
        let Some(node) = &mut self.node else { return };
        node.writes.push(write);
        if self.kills_left > 0 && self.random.chance(4) {
            self.kills_left -= 1;
            self.after_exactly(0, Ev::Kill);
        }
        let Some(node) = &mut self.node else { return };
        if !std::mem::replace(&mut node.committing, true) {
            self.after(10, Ev::Node(self.epoch, Box::new(Inner::Commit)));
        }
    }

    /// All that waits, in one commit; now and then the disk is full.
    pub(super) fn commit(&mut self) {
        let Some(node) = &mut self.node else { return };
        node.committing = false;
        let writes = std::mem::take(&mut node.writes);
        let broken = !self.healthy() && self.random.chance(3);
        for write in writes {
            let mut settled = if broken { None } else { self.apply(&write) };
            // Committed, and the connection was lost before the store could say so.
            if settled.is_some() && !self.healthy() && self.other.chance(2) {
                self.saw("written and not said");
                settled = None;
            }
            let Write::Settle { destination, settlements, .. } = write else { continue };
            let outcome = match settled {
                Some(Settled::Ok { promoted }) => {
                    if promoted {
                        self.after(
                            5,
                            Ev::Node(self.epoch, Box::new(Inner::Hear(Happened::Offered { destination }))),
                        );
                    }
                    Ok(())
                }
                Some(Settled::FenceLost) => Err(SettleFailed::FenceLost),
                None => {
                    self.saw("broken");
                    Err(SettleFailed::Broken)
                }
            };
            let deliveries: Vec<DeliveryId> =
                settlements.iter().map(|settlement| settlement.delivery).collect();
            let happened = Happened::Settled { destination, deliveries, outcome };
            self.after(5, Ev::Node(self.epoch, Box::new(Inner::Hear(happened))));
        }
    }

    pub(super) fn apply(&mut self, write: &Write) -> Option<Settled> {
        match write {
            Write::Settle { destination, fence, settlements } => {
                Some(self.store.settle(*destination, *fence, settlements, self.now))
            }
            Write::Stand { destination, fence: Some(fence), .. }
                if self.store.fences[destination] != *fence =>
            {
                None
            }
            Write::Stand { destination, paused: Some(reason), .. } => {
                self.store.paused.insert(*destination, reason.clone());
                None
            }
            Write::Stand { destination, paused: None, .. } => {
                self.store.paused.remove(destination);
                None
            }
            Write::Degrade { destination, fence, .. } if self.store.fences[destination] != *fence => None,
            Write::Degrade { destination, degraded: true, .. } => {
                self.store.degraded.insert(*destination);
                None
            }
            Write::Degrade { destination, .. } => {
                self.store.degraded.remove(destination);
                None
            }
        }
    }
}
