//! Settlements on their way to the store. A delivery stands in one of them at most, and goes on when
//! that is committed: so no step is begun before the one before it is kept.

use std::collections::{BTreeMap, VecDeque};

use mailspan_core::{Attempt, DeliveryId, Millis, Outcome, Settlement};

use crate::desk::{Context, Desk};
use crate::held::Place;
use crate::{Command, Fault, SettleFailed};

/// How long until a settlement is given again that the store could not take.
const AGAIN_MS: u64 = 1_000;

#[derive(Debug, Default)]
pub(crate) struct Writes {
    next: u64,
    open: BTreeMap<u64, Write>,
    /// Those to be given again; the earliest first.
    again: VecDeque<(Millis, u64)>,
}

#[derive(Debug)]
struct Write {
    settlements: Vec<Settlement>,
    attempts: Vec<Attempt>,
    /// What goes on together once this is committed.
    halves: Vec<Vec<DeliveryId>>,
    /// The store could not say that it was done; it may have been, with a new head of a lane.
    given_again: bool,
}

impl Writes {
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Exchanges whose rows are not known to be kept.
    pub(crate) fn exchanges(&self) -> usize {
        self.open.values().map(|write| write.attempts.len()).sum()
    }

    /// One with rows of exchanges alone: which of them was answered is all the same.
    fn without_deliveries(&self) -> Option<u64> {
        let waits = |number: &u64| self.again.iter().all(|(_, again)| again != number);
        let mut open = self.open.iter().filter(|(_, write)| write.settlements.is_empty());
        open.find_map(|(number, _)| waits(number).then_some(*number))
    }

    pub(crate) fn again_at(&self) -> Option<Millis> {
        self.again.front().map(|(at, _)| *at)
    }
}

impl Desk {
    /// Gives settlements of held deliveries to the store, with the rows of their exchanges, all or nothing.
    pub(crate) fn write(
        &mut self,
        settlements: Vec<Settlement>,
        attempts: Vec<Attempt>,
        halves: Vec<Vec<DeliveryId>>,
        cx: &mut Context,
    ) {
        if settlements.is_empty() && attempts.is_empty() {
            return;
        }
        let number = self.writes.next;
        self.writes.next += 1;
        for settlement in &settlements {
            if let Some(held) = self.held.get_mut(&settlement.delivery) {
                held.at = Place::Settling(number);
            }
        }
        cx.out.push(Command::Settle {
            destination: self.id,
            fence: self.fence,
            settlements: settlements.clone(),
            attempts: attempts.clone(),
        });
        self.writes.open.insert(number, Write { settlements, attempts, halves, given_again: false });
    }

    /// The store's answer. One that fits no open write is of an earlier lease and says nothing.
    pub(crate) fn settled(
        &mut self,
        deliveries: &[DeliveryId],
        outcome: Result<(), SettleFailed>,
        cx: &mut Context,
    ) {
        // Of a load only the head is held.
        let place = |delivery: &DeliveryId| match self.held.get(delivery)?.at {
            Place::Settling(number) => Some(number),
            _ => None,
        };
        let number = match deliveries {
            [] => self.writes.without_deliveries(),
            _ => deliveries.iter().find_map(place),
        };
        let Some(number) = number else { return };
        let Some(write) = self.writes.open.get_mut(&number) else { return };
        let mut written: Vec<DeliveryId> = write.settlements.iter().map(|one| one.delivery).collect();
        let mut told = deliveries.to_vec();
        written.sort_unstable();
        told.sort_unstable();
        if written != told {
            return;
        }
        match outcome {
            Err(SettleFailed::FenceLost) => self.lost = true,
            Err(SettleFailed::Broken) => {
                write.given_again = true;
                self.writes.again.push_back((cx.now.plus(AGAIN_MS), number));
            }
            Ok(()) => {
                if let Some(write) = self.writes.open.remove(&number) {
                    self.committed(write, cx);
                }
            }
        }
    }

    pub(crate) fn write_again(&mut self, cx: &mut Context) {
        while self.writes.again_at().is_some_and(|at| at <= cx.now) {
            let Some((_, number)) = self.writes.again.pop_front() else { return };
            let Some(write) = self.writes.open.get(&number) else { continue };
            cx.out.push(Command::Settle {
                destination: self.id,
                fence: self.fence,
                settlements: write.settlements.clone(),
                attempts: write.attempts.clone(),
            });
        }
    }

    fn committed(&mut self, write: Write, cx: &mut Context) {
        if write.given_again {
            self.claims.offered();
        }
        let mut alone: Vec<DeliveryId> = Vec::new();
        for settlement in write.settlements {
            match settlement.outcome {
                Outcome::Progressed
                    if write.halves.iter().any(|half| half.contains(&settlement.delivery)) => {}
                Outcome::Progressed => alone.push(settlement.delivery),
                Outcome::Again { due, queue, .. } => {
                    self.let_go(settlement.delivery);
                    if due <= cx.now {
                        self.claims.more[queue as usize] = true;
                        self.claims.again = true;
                    } else if cx.fault != Some(Fault::WakeForgotten) {
                        self.claims.due(due);
                    }
                }
                Outcome::Ended { .. } | Outcome::CarriedBy { .. } => {
                    self.alone.remove(&settlement.delivery);
                    self.let_go(settlement.delivery);
                }
            }
        }
        for delivery in alone {
            self.line_up(delivery, cx.now);
        }
        for half in write.halves.into_iter().rev() {
            self.line_up_together(half);
        }
    }

    fn line_up_together(&mut self, deliveries: Vec<DeliveryId>) {
        if self.paused.is_some() {
            deliveries.into_iter().for_each(|delivery| self.let_go(delivery));
            return;
        }
        for delivery in &deliveries {
            if let Some(held) = self.held.get_mut(delivery) {
                held.at = Place::Waiting;
            }
        }
        let first = deliveries.first().and_then(|delivery| self.held.get(delivery));
        let Some((queue, newest)) = first.map(|held| (held.queue, held.newest)) else { return };
        self.lines[queue as usize].line(newest).push_first(deliveries);
    }
}
