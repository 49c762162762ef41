//! The delivery engine: a pure state machine, `step(now, happened) → commands`.
//!
//! One desk a destination holds its policy and at most a window of deliveries. A turn plans one batch;
//! desks with work take turns round robin, so a destination that hangs costs the others its own slots
//! and nothing else. The program and the simulation (`tests/sim`) run the same code.

mod adapt;
mod answered;
mod attempt;
mod breaker;
mod budget;
mod calendar;
mod caught;
mod claims;
mod coalesce;
mod command;
mod desk;
mod ends;
mod happened;
mod held;
mod line;
mod persons;
mod questions;
mod quota;
mod shares;
mod standing;
mod turn;
mod writes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mailspan_core::limits::SENDS_MAX;
use mailspan_core::{DestinationId, Millis, SplitMix64};

pub use breaker::{BreakerState, Trip};
pub use calendar::{Calendar, next_try};
pub use command::{Command, Notice};
pub use happened::{CallId, Fence, Happened, Limits, SettleFailed};
pub use quota::day_began;
pub use standing::{Standing, Stands};

use desk::{Context, Desk};
use turn::Turn;

/// Bugs that can be switched on, to show that the simulation finds them.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    OptInNotSuperseded,
    SlotNotReturned,
    RetryBeforeDue,
    StaleClaimTaken,
    BudgetNotKept,
    WakeForgotten,
    BreakerProbesTwice,
    ClassNotLowered,
    ReserveNotKept,
    OldLeaseForgotten,
    CarriedWithTheDead,
    LateOfferSkipped,
    RetriesFirst,
    NewestForgotten,
    NewestFirst,
    NeverProbed,
    OptInNotRaised,
}

/// All destinations of this node.
pub struct Engine {
    desks: BTreeMap<DestinationId, Desk>,
    calls: BTreeMap<CallId, DestinationId>,
    /// Desks that may have something to send, in the order of their turns.
    turns: VecDeque<DestinationId>,
    wakes: BTreeSet<(Millis, DestinationId)>,
    /// The earliest wake that was asked for and has not come.
    wake_at: Option<Millis>,
    now: Millis,
    next_call: u64,
    random: SplitMix64,
    draining: bool,
    fault: Option<Fault>,
}

impl Engine {
    /// `seed` feeds jitter only.
    pub fn new(seed: u64) -> Engine {
        Engine {
            desks: BTreeMap::new(),
            calls: BTreeMap::new(),
            turns: VecDeque::new(),
            wakes: BTreeSet::new(),
            wake_at: None,
            now: Millis(0),
            next_call: 1,
            random: SplitMix64(seed),
            draining: false,
            fault: None,
        }
    }

    #[doc(hidden)]
    pub fn with_fault(seed: u64, fault: Option<Fault>) -> Engine {
        Engine { fault, ..Engine::new(seed) }
    }

    /// Takes in what happened and appends what is to be done. A time before that of an earlier step
    /// counts as that one.
    pub fn step(&mut self, now: Millis, happened: Happened, out: &mut Vec<Command>) {
        self.now = self.now.max(now);
        let mut touched = BTreeSet::new();
        self.hear(happened, out, &mut touched);
        while self.wakes.first().is_some_and(|(at, _)| *at <= self.now) {
            touched.extend(self.wakes.pop_first().map(|(_, destination)| destination));
        }
        for destination in &touched {
            self.tend(*destination, out);
        }
        self.take_turns(out, &mut touched);
        for destination in touched {
            self.leave(destination, out);
            self.note_wake(destination);
        }
        self.ask_for_wake(out);
    }

    /// Nothing is sent or claimed from here on; what is in flight is still judged and settled.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Exchanges that have not been answered.
    pub fn calls_in_flight(&self) -> usize {
        self.calls.len()
    }

    /// How a destination is doing, and when `backlog` pending deliveries will be through. Nothing for one
    /// that this node does not serve.
    pub fn standing(&self, now: Millis, destination: DestinationId, backlog: u64) -> Option<Standing> {
        self.desks.get(&destination).map(|desk| desk.standing(self.now.max(now), backlog))
    }

    /// Nothing is in flight: no exchange, no settlement.
    pub fn idle(&self) -> bool {
        self.calls.is_empty() && self.desks.values().all(|desk| desk.writes.is_empty())
    }

    fn hear(&mut self, happened: Happened, out: &mut Vec<Command>, touched: &mut BTreeSet<DestinationId>) {
        let (destination, happened) = match happened {
            Happened::Tick => {
                self.wake_at = None;
                return;
            }
            Happened::Opened { destination, fence, limits, sink, paused, degraded } => {
                touched.insert(destination);
                match self.desks.get_mut(&destination) {
                    Some(desk) if desk.fence == fence => desk.change(self.now, limits, sink, paused),
                    _ => {
                        self.close(destination);
                        let mut desk = Desk::new(destination, fence, limits, sink, paused);
                        if degraded {
                            out.extend(desk.degraded_before(self.now));
                        }
                        // An earlier lease may have sent until a moment ago.
                        if fence > Fence(1) && self.fault != Some(Fault::OldLeaseForgotten) {
                            desk.budget.assume_spent(self.now);
                        }
                        self.desks.insert(destination, desk);
                    }
                }
                return;
            }
            Happened::Closed { destination } => {
                self.close(destination);
                return;
            }
            Happened::Answered { call, .. } => match self.calls.remove(&call) {
                Some(destination) => (destination, happened),
                None => return,
            },
            Happened::Offered { destination }
            | Happened::Claimed { destination, .. }
            | Happened::ClaimFailed { destination }
            | Happened::Settled { destination, .. }
            | Happened::Spent { destination, .. }
            | Happened::SentBefore { destination, .. }
            | Happened::Leaving { destination }
            | Happened::Paused { destination, .. }
            | Happened::Resumed { destination } => (destination, happened),
        };
        touched.insert(destination);
        if matches!(happened, Happened::Leaving { .. }) && !self.desks.contains_key(&destination) {
            out.push(Command::Left { destination });
        }
        let lost = self.with_desk(destination, out, |desk, cx| {
            desk.hear(happened, cx);
            desk.lost
        });
        if lost == Some(true) {
            self.close(destination);
        }
    }

    fn close(&mut self, destination: DestinationId) {
        if let Some(desk) = self.desks.remove(&destination) {
            self.calls.retain(|_, of| *of != destination);
            self.turns.retain(|of| *of != destination);
            self.wakes.extract_if(.., |(_, of)| *of == destination).for_each(drop);
            drop(desk);
        }
    }

    /// Closes a desk that is to be left and has nothing in flight.
    fn leave(&mut self, destination: DestinationId, out: &mut Vec<Command>) {
        let is_idle = |desk: &Desk| desk.leaving && desk.calls.is_empty() && desk.writes.is_empty();
        if self.desks.get(&destination).is_some_and(is_idle) {
            self.close(destination);
            out.push(Command::Left { destination });
        }
    }

    fn tend(&mut self, destination: DestinationId, out: &mut Vec<Command>) {
        let new = self.with_desk(destination, out, |desk, cx| {
            desk.keep(cx);
            !std::mem::replace(&mut desk.queued, true)
        });
        if new == Some(true) {
            self.turns.push_back(destination);
        }
    }

    fn take_turns(&mut self, out: &mut Vec<Command>, touched: &mut BTreeSet<DestinationId>) {
        while self.calls.len() < SENDS_MAX {
            let Some(destination) = self.turns.pop_front() else { return };
            touched.insert(destination);
            match self.with_desk(destination, out, Desk::turn) {
                Some(Turn::Sent(call)) => {
                    self.calls.insert(call, destination);
                    self.turns.push_back(destination);
                }
                Some(Turn::Planned) => self.turns.push_back(destination),
                Some(Turn::Nothing) => {
                    self.with_desk(destination, out, |desk, _| desk.queued = false);
                }
                None => {}
            }
        }
    }

    fn note_wake(&mut self, destination: DestinationId) {
        let Some(desk) = self.desks.get_mut(&destination) else { return };
        if let Some(before) = desk.wake.take() {
            self.wakes.remove(&(before, destination));
        }
        // A desk that waits for a slot of the engine is in `turns` and needs none.
        desk.wake =
            desk.needs_wake(self.now, self.draining || desk.leaving).map(|at| at.max(self.now.plus(1)));
        self.wakes.extend(desk.wake.map(|at| (at, destination)));
    }

    fn ask_for_wake(&mut self, out: &mut Vec<Command>) {
        let Some((at, _)) = self.wakes.first().copied() else { return };
        if self.wake_at.is_none_or(|asked| at < asked || asked <= self.now) {
            self.wake_at = Some(at);
            out.push(Command::WakeAt(at));
        }
    }

    fn with_desk<T>(
        &mut self,
        destination: DestinationId,
        out: &mut Vec<Command>,
        work: impl FnOnce(&mut Desk, &mut Context) -> T,
    ) -> Option<T> {
        let desk = self.desks.get_mut(&destination)?;
        let mut context = Context {
            now: self.now,
            random: &mut self.random,
            next_call: &mut self.next_call,
            out,
            draining: self.draining || desk.leaving,
            fault: self.fault,
        };
        Some(work(desk, &mut context))
    }
}
