//! One destination: its policy, what it holds, what is in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mailspan_connectors::contract::{Question, Sink};
use mailspan_core::limits::QUEUE_ROOM;
use mailspan_core::{DeliveryId, DestinationId, Millis, Queue, Reason, Request, SplitMix64};

use crate::adapt::Adapt;
use crate::breaker::Breaker;
use crate::budget::{Ask, Budget, Grant};
use crate::claims::Claims;
use crate::ends::Ends;
use crate::held::{Held, Place};
use crate::line::Batching;
use crate::persons::Persons;
use crate::questions::Questions;
use crate::quota::Quota;
use crate::shares::Shares;
use crate::standing::Pace;
use crate::writes::Writes;
use crate::{BreakerState, CallId, Command, Fault, Fence, Happened, Limits, Notice, Trip};

const QUEUES: usize = Queue::ALL.len();

pub(crate) struct Desk {
    pub(crate) id: DestinationId,
    pub(crate) fence: Fence,
    pub(crate) limits: Limits,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) paused: Option<Reason>,
    pub(crate) budget: Budget,
    pub(crate) breaker: Breaker,
    pub(crate) adapt: Adapt,
    pub(crate) quota: Quota,
    pub(crate) pace: Pace,
    pub(crate) held: BTreeMap<DeliveryId, Held>,
    pub(crate) persons: Persons,
    /// A request that merged them was refused: each goes by itself until it has ended. At most
    /// [`mailspan_core::limits::ALONE_MAX`].
    pub(crate) alone: BTreeSet<DeliveryId>,
    /// What is held of each queue from its oldest end, at most what `Desk::room` says.
    pub(crate) count: [u16; QUEUES],
    /// And from its newest end.
    pub(crate) count_newest: [u16; QUEUES],
    pub(crate) lines: [Ends; QUEUES],
    pub(crate) shares: Shares,
    pub(crate) questions: Questions,
    pub(crate) calls: BTreeMap<CallId, Call>,
    pub(crate) claims: Claims,
    pub(crate) writes: Writes,
    /// When the credential was refused for the first time since the last success.
    pub(crate) reauth_at: Option<Millis>,
    /// The lease is another's.
    pub(crate) lost: bool,
    /// Another node shall have it: ends when nothing is in flight.
    pub(crate) leaving: bool,
    /// Stands in the engine's order of turns.
    pub(crate) queued: bool,
    /// The wake that the engine has noted.
    pub(crate) wake: Option<Millis>,
}

/// An exchange in flight.
pub(crate) struct Call {
    /// What planned it judges it, whatever the settings are by then.
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) request: Request,
    pub(crate) items: Vec<DeliveryId>,
    pub(crate) question: Option<Question>,
    pub(crate) queue: Queue,
    pub(crate) at: Millis,
}

/// What a step of the engine hands down.
pub(crate) struct Context<'a> {
    pub(crate) now: Millis,
    pub(crate) random: &'a mut SplitMix64,
    pub(crate) next_call: &'a mut u64,
    pub(crate) out: &'a mut Vec<Command>,
    pub(crate) draining: bool,
    pub(crate) fault: Option<Fault>,
}

impl Desk {
    pub(crate) fn new(
        id: DestinationId,
        fence: Fence,
        limits: Limits,
        sink: Arc<dyn Sink>,
        paused: Option<Reason>,
    ) -> Desk {
        let budget = Budget::new(limits.rate);
        let adapt = Adapt::new(limits.adapts, limits.concurrency);
        let quota = Quota::new(limits.daily, limits.day_starts_ms);
        let mut desk = Desk {
            id,
            fence,
            limits,
            sink,
            paused,
            budget,
            breaker: Breaker::default(),
            adapt,
            quota,
            pace: Pace::default(),
            held: BTreeMap::new(),
            persons: Persons::default(),
            alone: BTreeSet::new(),
            count: [0; QUEUES],
            count_newest: [0; QUEUES],
            lines: Default::default(),
            shares: Shares::default(),
            questions: Questions::default(),
            calls: BTreeMap::new(),
            claims: Claims::default(),
            writes: Writes::default(),
            reauth_at: None,
            lost: false,
            leaving: false,
            queued: false,
            wake: None,
        };
        desk.claims.offered();
        desk
    }

    /// Its breaker was open under an earlier lease. One that is switched off meanwhile is closed, and that is told.
    pub(crate) fn degraded_before(&mut self, now: Millis) -> Option<Command> {
        if self.limits.breaker != Trip::OFF {
            self.breaker = Breaker::open_since_before(now);
            return None;
        }
        Some(Command::Announce { destination: self.id, fence: self.fence, what: Notice::BreakerClosed })
    }

    /// Other settings under the same lease. What is in flight ends under those it was planned with;
    /// what only waits is claimed again, so that it is mapped anew.
    pub(crate) fn change(
        &mut self,
        now: Millis,
        limits: Limits,
        sink: Arc<dyn Sink>,
        paused: Option<Reason>,
    ) {
        self.budget.set(limits.rate);
        self.adapt.set(limits.adapts, limits.concurrency);
        self.quota.set(limits.daily, limits.day_starts_ms);
        self.breaker.ask_now(now);
        self.limits = limits;
        self.sink = sink;
        self.paused = paused;
        self.reauth_at = None;
        self.questions.forget();
        self.let_go_of_waiting();
    }

    /// By an answer of the destination: only while the lease is held.
    pub(crate) fn pause(&mut self, reason: Reason, cx: &mut Context) {
        self.pause_under(Some(self.fence), reason, cx);
    }

    /// Nothing is sent until resumed. What waits is let go, so it is claimed and mapped as known then.
    fn pause_under(&mut self, fence: Option<Fence>, reason: Reason, cx: &mut Context) {
        if self.paused.is_some() {
            return;
        }
        cx.out.push(Command::Stand { destination: self.id, fence, paused: Some(reason.clone()) });
        self.paused = Some(reason);
        self.let_go_of_waiting();
    }

    pub(crate) fn resume(&mut self, cx: &mut Context) {
        self.paused = None;
        self.reauth_at = None;
        self.breaker.ask_now(cx.now);
        self.claims.offered();
        cx.out.push(Command::Stand { destination: self.id, fence: None, paused: None });
    }

    pub(crate) fn hear(&mut self, happened: Happened, cx: &mut Context) {
        match happened {
            Happened::Offered { .. } => self.claims.offered(),
            Happened::Claimed { parcels, next_due, more, .. } => self.claimed(parcels, next_due, more, cx),
            Happened::ClaimFailed { .. } => self.claim_failed(cx.now),
            Happened::Answered { call, answer } => self.answered(call, answer, cx),
            Happened::Settled { deliveries, outcome, .. } => self.settled(&deliveries, outcome, cx),
            Happened::Spent { requests, .. } => {
                let notice = self.quota.spent(cx.now, requests);
                self.announce(notice, cx);
            }
            Happened::Paused { reason, .. } => self.pause_under(None, reason, cx),
            Happened::Resumed { .. } => self.resume(cx),
            Happened::SentBefore { sent, unseen, .. } => self.budget.sent_before(cx.now, &sent, unseen),
            Happened::Leaving { .. } => self.leaving = true,
            Happened::Opened { .. } | Happened::Closed { .. } | Happened::Tick => {}
        }
    }

    /// What needs no turn: dues that came, writes to be given again, the next claim.
    pub(crate) fn keep(&mut self, cx: &mut Context) {
        if self.claims.next_due.is_some_and(|due| due <= cx.now) {
            self.claims.next_due = None;
            self.claims.offered();
        }
        self.write_again(cx);
        if self.paused.is_none() && !cx.draining && !self.is_shut(cx.now) {
            self.claim(cx);
        }
        self.lines.iter_mut().for_each(|ends| ends.ripen(cx.now));
    }

    /// When this desk needs a turn though nothing happens.
    pub(crate) fn needs_wake(&self, now: Millis, draining: bool) -> Option<Millis> {
        let again = self.writes.again_at();
        if self.paused.is_some() || draining {
            return again;
        }
        let ripe = self.ripe() != [false; QUEUES];
        let budget = match self.grant(now, self.ripe()) {
            Grant::NotBefore(at) if ripe => Some(at),
            _ => None,
        };
        let claim = match self.breaker.state() {
            BreakerState::Open { probe_at } if probe_at > now => Some(probe_at),
            _ => self.claims.not_before,
        };
        let claim = claim.filter(|_| self.claims.in_flight.is_none());
        let ripening = self.lines.iter().filter_map(Ends::ripe_at).min();
        [again, budget, claim, ripening, self.claims.next_due].into_iter().flatten().min()
    }

    /// Queues that have a batch ready.
    pub(crate) fn ripe(&self) -> [bool; QUEUES] {
        std::array::from_fn(|queue| self.lines.get(queue).is_some_and(Ends::has_ripe))
    }

    /// Retries, backfill and replay, and first tries that fill half of their room: not urgent.
    pub(crate) fn is_backlog(&self, queue: Queue) -> bool {
        let at = queue as usize;
        queue > Queue::Activity || (queue != Queue::Consent && self.count[at] >= QUEUE_ROOM[at] / 2)
    }

    /// May a request go out for the most urgent of these queues?
    pub(crate) fn grant(&self, now: Millis, ripe: [bool; QUEUES]) -> Grant {
        let consent = ripe[Queue::Consent as usize];
        let even = Queue::ALL.iter().all(|queue| !ripe[*queue as usize] || self.is_backlog(*queue));
        if let Some(withheld) = self.withheld(now, consent) {
            return withheld;
        }
        let tenths = match self.breaker.state() {
            BreakerState::Ramping { tenths, .. } => tenths,
            _ => 10,
        };
        let (in_flight, slots) = (self.calls.len(), self.slots());
        self.budget.ask(now, Ask { in_flight, slots, tenths, even, consent })
    }

    /// By the breaker or the daily quota.
    pub(crate) fn withheld(&self, now: Millis, consent: bool) -> Option<Grant> {
        match self.breaker.state() {
            BreakerState::Probing => Some(Grant::WhenOneReturns),
            BreakerState::Open { probe_at } if probe_at > now => Some(Grant::NotBefore(probe_at)),
            _ if self.has_too_many_unkept() => Some(Grant::WhenOneReturns),
            _ if self.quota.left(now, consent) == Some(0) => Some(Grant::NotBefore(self.quota.resets(now))),
            _ => None,
        }
    }

    /// Whoever goes on after a kill must not be surprised by more requests than it assumes.
    fn has_too_many_unkept(&self) -> bool {
        let unkept = || self.calls.len() + self.writes.exchanges();
        self.limits.has_long_window()
            && unkept() >= usize::try_from(self.limits.unseen_max()).unwrap_or(usize::MAX)
    }

    /// The breaker is open, and it is not yet time for a probe: nothing is claimed.
    pub(crate) fn is_shut(&self, now: Millis) -> bool {
        matches!(self.breaker.state(), BreakerState::Open { probe_at } if probe_at > now)
    }

    /// Exchanges that may be in flight now.
    pub(crate) fn slots(&self) -> usize {
        let slots = usize::try_from(self.limits.concurrency.max(1)).unwrap_or(usize::MAX);
        let slots = slots.min(self.adapt.slots());
        match self.breaker.state() {
            BreakerState::Ramping { slots: ramp, .. } => {
                slots.min(usize::try_from(ramp).unwrap_or(usize::MAX))
            }
            _ => slots,
        }
    }

    pub(crate) fn announce(&self, notice: Option<Notice>, cx: &mut Context) {
        cx.out.extend(notice.map(|what| Command::Announce { destination: self.id, fence: self.fence, what }));
    }

    /// Puts a delivery with an open part in its line; while paused, lets it go.
    pub(crate) fn line_up(&mut self, delivery: DeliveryId, now: Millis) {
        if self.paused.is_some() {
            self.let_go(delivery);
            return;
        }
        let how = self.batching();
        let Some(held) = self.held.get_mut(&delivery) else { return };
        held.at = Place::Waiting;
        // What crashed goes alone, so that it takes nothing down with it. A panic in `batch_key` comes
        // again from `plan` or is harmless.
        let key = match held.item() {
            Some(item) if held.crashes == 0 && how.max > 1 => {
                crate::caught::caught(|| self.sink.batch_key(&item)).unwrap_or(None)
            }
            _ => None,
        };
        let how = if held.is_underway() { Batching { wait_ms: 0, ..how } } else { how };
        self.lines[held.queue as usize].line(held.newest).push(delivery, key, now, how);
    }

    /// Forgets a delivery; the store knows it.
    pub(crate) fn let_go(&mut self, delivery: DeliveryId) {
        let Some(held) = self.held.remove(&delivery) else { return };
        if self.persons.leave(&held) {
            self.claims.offered();
        }
        self.claims.left();
        let count = if held.newest { &mut self.count_newest } else { &mut self.count };
        count[held.queue as usize] -= 1;
        if self.claims.in_flight.is_some() {
            self.claims.stale.insert(delivery);
        }
    }

    pub(crate) fn batching(&self) -> Batching {
        Batching {
            max: usize::try_from(self.limits.batch_max.max(1)).unwrap_or(usize::MAX),
            wait_ms: self.limits.batch_wait_ms,
            merges: self.limits.merges,
        }
    }

    pub(crate) fn let_go_of_waiting(&mut self) {
        self.lines = Default::default();
        let waiting: Vec<DeliveryId> =
            self.held.values().filter(|held| held.at == Place::Waiting).map(|held| held.delivery).collect();
        for delivery in waiting {
            self.let_go(delivery);
        }
        self.claims.offered();
    }
}
