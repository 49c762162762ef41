//! Claiming due deliveries, and taking in what a claim brought.

use std::collections::BTreeSet;

use mailspan_core::limits::{NEWEST_PART, QUEUE_ROOM, QUEUE_ROOM_BATCHED};
use mailspan_core::{DeliveryId, Millis, Outcome, Parcel, Queue, Reason, Room, Settlement, State};

use crate::coalesce::load;
use crate::desk::{Context, Desk};
use crate::held::{Held, Place};
use crate::{Command, Fault};

/// How long until a claim is repeated that failed, or whose answer contradicts itself.
const AGAIN_MS: u64 = 1_000;
/// Batches of one queue that may be held at once.
const BATCHES_HELD: u16 = 8;
const QUEUES: usize = Queue::ALL.len();

/// What is known of the store's rows that are not held.
#[derive(Default)]
pub(crate) struct Claims {
    /// The room asked for in the claim that is in flight.
    pub(crate) in_flight: Option<Room>,
    /// Something was offered or came due while the claim was in flight: it may not have seen it.
    pub(crate) again: bool,
    /// The store may have due rows of this queue that are not held.
    pub(crate) more: [bool; QUEUES],
    /// The last look at the oldest of this queue did not bring all that was due.
    pub(crate) deep: [bool; QUEUES],
    /// The last look at the oldest of this queue brought nothing but what is held or was passed over, and the same look
    /// would bring the same: what lies behind is looked for when something has left.
    pub(crate) stuck: [bool; QUEUES],
    /// Among the newest of this queue may be some that are not held.
    pub(crate) newer: [bool; QUEUES],
    /// Let go of while the claim was in flight: its answer may show them as they were before.
    pub(crate) stale: BTreeSet<DeliveryId>,
    /// The earliest row that is not due yet.
    pub(crate) next_due: Option<Millis>,
    /// After a failure.
    pub(crate) not_before: Option<Millis>,
}

impl Desk {
    /// How many deliveries of each queue may be held from either end: more where they go in batches. Only first
    /// tries have a newest end.
    fn room(&self) -> Room {
        let batch = u16::try_from(self.limits.batch_max).unwrap_or(u16::MAX);
        let batches = batch.saturating_mul(BATCHES_HELD);
        let oldest: [u16; QUEUES] =
            std::array::from_fn(|queue| QUEUE_ROOM[queue].max(batches.min(QUEUE_ROOM_BATCHED[queue])));
        let newest = |queue: Queue| match queue {
            Queue::Consent | Queue::Profile | Queue::Activity => {
                let oldest = oldest[queue as usize];
                (oldest / NEWEST_PART).max(batch.min(oldest / 2))
            }
            Queue::Retry | Queue::Backfill | Queue::Replay => 0,
        };
        Room { oldest, newest: Queue::ALL.map(newest) }
    }

    /// One claim at a time, for the queues of which less than half the room is taken. Where a queue is longer than
    /// its room, those that became due last have a room of their own: what has just arrived is not behind all the rest.
    pub(crate) fn claim(&mut self, cx: &mut Context) {
        if self.claims.in_flight.is_some() || self.claims.not_before.is_some_and(|at| at > cx.now) {
            return;
        }
        self.claims.not_before = None;
        let most = self.room();
        let mut room = Room::default();
        for queue in 0..QUEUES {
            // What is held or was passed over is still due in the store and comes again, so all the room is asked for.
            if self.claims.more[queue] && self.count[queue] < most.oldest[queue] / 2 {
                room.oldest[queue] = most.oldest[queue];
            }
            let newer = self.claims.deep[queue] && self.claims.newer[queue];
            if newer && self.count_newest[queue] < most.newest[queue].div_ceil(2) {
                room.newest[queue] = most.newest[queue];
            }
        }
        if cx.fault == Some(Fault::NewestForgotten) {
            room.newest = [0; QUEUES];
        }
        if room == Room::default() {
            return;
        }
        self.claims.in_flight = Some(room);
        self.claims.again = false;
        self.claims.stale.clear();
        let mut held: Vec<_> = self.held.keys().copied().chain(self.persons.passed_over()).collect();
        held.sort_unstable();
        cx.out.push(Command::Claim { destination: self.id, room, held });
    }

    /// A claim is a read: what it shows of deliveries that are held, or were let go of since it was
    /// asked for, is out of date.
    pub(crate) fn claimed(
        &mut self,
        parcels: Vec<Parcel>,
        next_due: Option<Millis>,
        more: Option<[bool; QUEUES]>,
        cx: &mut Context,
    ) {
        let Some(room) = self.claims.in_flight.take() else { return };
        if self.paused.is_some() || cx.draining || self.is_shut(cx.now) {
            self.claims.offered();
            return;
        }
        let most = self.room();
        let mut came = [0_u16; QUEUES];
        let mut left = [false; QUEUES];
        let mut newly = [false; QUEUES];
        let mut has_news = false;
        let mut settlements = Vec::new();
        for parcel in parcels {
            let queue = Queue::of(parcel.class, parcel.cause, parcel.attempts);
            let at = queue as usize;
            let (taken, most) = match parcel.newest {
                true => (self.count_newest[at], most.newest[at]),
                false => (self.count[at], most.oldest[at]),
            };
            came[at] = came[at].saturating_add(u16::from(!parcel.newest));
            let stale =
                self.claims.stale.contains(&parcel.delivery) && cx.fault != Some(Fault::StaleClaimTaken);
            if stale {
                left[at] = true;
            } else if self.held.contains_key(&parcel.delivery) {
                continue;
            } else if taken >= most {
                left[at] = true;
            } else if self.persons.must_wait(&parcel) {
                has_news |= self.persons.pass_over(&parcel);
            } else {
                has_news = true;
                newly[at] |= parcel.newest;
                settlements.extend(self.admit(parcel, queue, cx));
            }
        }
        for queue in 0..QUEUES {
            let full = match more {
                Some(more) => more[queue],
                None => room.oldest[queue] > 0 && came[queue] >= room.oldest[queue],
            };
            let unseen = room.oldest[queue] == 0 && self.claims.more[queue];
            let again = self.claims.again && cx.fault != Some(Fault::LateOfferSkipped);
            self.claims.more[queue] = full && has_news || unseen || left[queue] || again;
            if room.oldest[queue] > 0 {
                self.claims.deep[queue] = full;
                self.claims.stuck[queue] = full && !has_news;
            }
            // Where all of the newest were held already, the next look waits for a word.
            let unread = room.newest[queue] == 0 && self.claims.newer[queue];
            self.claims.newer[queue] = newly[queue] || unread || left[queue] || again;
        }
        self.claims.stale.clear();
        self.claims.again = false;
        self.note_next_due(next_due, cx.now);
        self.write(settlements, Vec::new(), Vec::new(), cx);
    }

    pub(crate) fn claim_failed(&mut self, now: Millis) {
        if self.claims.in_flight.take().is_some() {
            self.claims.stale.clear();
            self.claims.offered();
            self.claims.not_before = Some(now.plus(AGAIN_MS));
        }
    }

    fn note_next_due(&mut self, next_due: Option<Millis>, now: Millis) {
        let Some(due) = next_due else { return };
        if due > now {
            self.claims.due(due);
        } else if self.claims.more == [false; QUEUES] && (!self.claims.is_stuck() || self.held.is_empty()) {
            // A row is due that no queue accounts for: look again, but not at once. A queue that is stuck accounts for
            // it, behind what is held.
            self.claims.due(now.plus(AGAIN_MS));
        }
    }

    /// Holds a delivery and lines it up, or says how it ends without an exchange.
    fn admit(&mut self, parcel: Parcel, queue: Queue, cx: &mut Context) -> Option<Settlement> {
        let Parcel {
            delivery,
            class,
            cause,
            attempts,
            crashes,
            since,
            person,
            whole,
            parts,
            newest,
            elsewhere,
            behind,
        } = parcel;
        let (parts, failed) = match parts {
            Ok(parts) => (parts, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        let at = Place::Waiting;
        let mut held = Held {
            delivery,
            class,
            cause,
            queue,
            newest,
            attempts,
            crashes,
            since,
            person,
            whole,
            parts,
            elsewhere,
            load: None,
            exchanged: false,
            steps: 0,
            at,
            class_stays: cx.fault == Some(Fault::ClassNotLowered),
            consent_stays: cx.fault == Some(Fault::OptInNotRaised),
        };
        let outcome = match failed {
            Some(Reason { code, text }) if code == "crash" => held.crashed(&text, cx.now),
            Some(reason) => Outcome::Ended { state: State::Dead, reason: Some(reason) },
            None => {
                if cx.fault != Some(Fault::OptInNotSuperseded) {
                    held.skip_superseded();
                }
                held.go_on(cx.now)
            }
        };
        let count = if newest { &mut self.count_newest } else { &mut self.count };
        count[queue as usize] += 1;
        if outcome == Outcome::Progressed {
            if self.limits.coalesces {
                held.load = load(&held, &behind, &self.alone);
            }
            self.hold(held);
            self.line_up(delivery, cx.now);
            return None;
        }
        let settlement = held.settlement(outcome, None);
        self.hold(held);
        Some(settlement)
    }
}

impl Claims {
    /// Any queue may have due rows now.
    pub(crate) fn offered(&mut self) {
        self.more = [true; QUEUES];
        self.newer = [true; QUEUES];
        self.again = true;
    }

    /// Something is held no longer: what comes next of a queue that showed nothing else may be seen now.
    pub(crate) fn left(&mut self) {
        for (more, stuck) in self.more.iter_mut().zip(&mut self.stuck) {
            *more |= std::mem::take(stuck);
        }
    }

    fn is_stuck(&self) -> bool {
        self.stuck != [false; QUEUES]
    }

    pub(crate) fn due(&mut self, at: Millis) {
        self.next_due = Some(self.next_due.map_or(at, |due| due.min(at)));
    }
}
