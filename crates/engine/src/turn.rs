//! One turn of a desk: one batch is planned.

use mailspan_connectors::contract::{Item, Plan};
use mailspan_core::{DeliveryId, Millis, Queue, Verdict};

use crate::budget::Grant;
use crate::caught::caught;
use crate::desk::{Call, Context, Desk};
use crate::held::{Place, Retries};
use crate::{BreakerState, CallId, Command, Fault};

/// What came of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Sent(CallId),
    /// Something was settled or put aside without an exchange; there may be more.
    Planned,
    /// Nothing can be sent now.
    Nothing,
}

/// The queue that a batch is of, and whether it is from its newest end.
type From = (Queue, bool);

/// What is not a first try.
const LESSER: [Queue; 3] = [Queue::Retry, Queue::Backfill, Queue::Replay];

impl Desk {
    pub(crate) fn turn(&mut self, cx: &mut Context) -> Turn {
        if self.paused.is_some() || cx.draining {
            return Turn::Nothing;
        }
        let ripe = self.ripe();
        if ripe == [false; Queue::ALL.len()] {
            return Turn::Nothing;
        }
        match self.granted(ripe, cx) {
            Grant::Now => {}
            Grant::NotBefore(_) => return Turn::Nothing,
            Grant::WhenOneReturns => {
                self.adapt.turned_away();
                return Turn::Nothing;
            }
        }
        let has_work = match cx.fault {
            Some(Fault::RetriesFirst) if ripe[Queue::Retry as usize] => {
                std::array::from_fn(|queue| queue == Queue::Retry as usize)
            }
            _ => self.within_pools(self.within_pace(ripe, cx.now)),
        };
        let Some(queue) = self.shares.pick(has_work) else {
            self.adapt.turned_away();
            return Turn::Nothing;
        };
        let held = &self.held;
        let how = self.batching();
        let newest = self.lines[queue as usize].next(cx.fault == Some(Fault::NewestFirst));
        let mut batch = self.lines[queue as usize]
            .line(newest)
            .take(cx.now, how, |delivery| held.get(&delivery)?.person_id());
        batch.retain(|delivery| self.held.get(delivery).is_some_and(|held| held.item().is_some()));
        if batch.is_empty() {
            return Turn::Planned;
        }
        self.plan((queue, newest), batch, cx)
    }

    fn granted(&self, mut ripe: [bool; Queue::ALL.len()], cx: &Context) -> Grant {
        let probing = self.breaker.state() == BreakerState::Probing;
        match cx.fault {
            Some(Fault::BudgetNotKept) => {
                self.withheld(cx.now, ripe[Queue::Consent as usize]).unwrap_or(Grant::Now)
            }
            Some(Fault::BreakerProbesTwice) if probing => Grant::Now,
            Some(Fault::NeverProbed) if matches!(self.breaker.state(), BreakerState::Open { .. }) => {
                Grant::WhenOneReturns
            }
            Some(Fault::ReserveNotKept) => {
                ripe[Queue::Consent as usize] = true;
                self.grant(cx.now, ripe)
            }
            _ => self.grant(cx.now, ripe),
        }
    }

    /// While the even spread of a backlog is ahead of its time, others only.
    fn within_pace(&self, mut ripe: [bool; Queue::ALL.len()], now: Millis) -> [bool; Queue::ALL.len()] {
        let backlog = |queue: &Queue| self.is_backlog(*queue);
        if Queue::ALL.iter().any(|queue| ripe[*queue as usize] && !backlog(queue))
            && !self.budget.has_even_room(now)
        {
            Queue::ALL.iter().filter(|queue| backlog(queue)).for_each(|queue| ripe[*queue as usize] = false);
        }
        ripe
    }

    /// Retries, backfill and replay leave a quarter of the slots to first tries: else those of them that
    /// hang would take one slot after the other.
    fn within_pools(&self, mut ripe: [bool; Queue::ALL.len()]) -> [bool; Queue::ALL.len()] {
        let slots = self.slots();
        let kept = if slots > 1 { slots.div_ceil(4) } else { 0 };
        let busy = self.calls.values().filter(|call| LESSER.contains(&call.queue)).count();
        if busy >= slots - kept {
            LESSER.iter().for_each(|queue| ripe[*queue as usize] = false);
        }
        ripe
    }

    fn plan(&mut self, from: From, batch: Vec<DeliveryId>, cx: &mut Context) -> Turn {
        let queue = from.0;
        let known = self.questions.known(cx.now);
        let items: Vec<Item> = batch.iter().filter_map(|delivery| self.held.get(delivery)?.item()).collect();
        let planned = caught(|| self.sink.plan(&items, known));
        match planned {
            Err(text) => self.plan_crashed(from, batch, &text, cx),
            Ok(Plan::Send { request, takes }) => {
                let taken = self.part(from, batch, &takes);
                self.shares.charge(queue, taken.len());
                self.send(from, request, taken, None, cx)
            }
            Ok(Plan::Settle { takes, verdict }) => {
                let taken = self.part(from, batch, &takes);
                let verdicts = vec![verdict; taken.len()];
                self.conclude(&taken, verdicts, Retries::ByCalendar, None, cx);
                Turn::Planned
            }
            Ok(Plan::Ask { question, request }) => {
                let answered = known.0.contains_key(&question);
                let first = self.part(from, batch, &[0]);
                if answered {
                    let verdict = Verdict::retry("asked_again", "the connector asks what it was told: a bug");
                    self.conclude(&first, vec![verdict], Retries::ByCalendar, None, cx);
                    return Turn::Planned;
                }
                self.place(&first, Place::Asking);
                if let Some(waiting) = self.questions.waiting.get_mut(&question) {
                    waiting.extend(first);
                    return Turn::Planned;
                }
                self.questions.waiting.insert(question.clone(), first.clone());
                self.send(from, request, first, Some(question), cx)
            }
        }
    }

    /// A panic among several: each is planned alone. A panic with one item counts against it.
    fn plan_crashed(&mut self, from: From, batch: Vec<DeliveryId>, text: &str, cx: &mut Context) -> Turn {
        if let [only] = batch[..] {
            self.crash(&[only], &format!("the connector panicked while planning: {text}"), None, cx);
            return Turn::Planned;
        }
        for delivery in batch.into_iter().rev() {
            self.lines[from.0 as usize].line(from.1).push_first(vec![delivery]);
        }
        Turn::Planned
    }

    /// The deliveries that a plan takes, in its order; the others wait on, before all others. Positions
    /// that cannot be, or that leave the first one out, mean the first alone.
    fn part(&mut self, from: From, batch: Vec<DeliveryId>, takes: &[usize]) -> Vec<DeliveryId> {
        let mut free = vec![true; batch.len()];
        let sound =
            takes.contains(&0) && takes.iter().all(|at| free.get_mut(*at).is_some_and(std::mem::take));
        if !sound {
            free = vec![true; batch.len()];
            free[0] = false;
        }
        let taken = if sound {
            takes.iter().map(|at| batch[*at]).collect()
        } else {
            batch.iter().take(1).copied().collect()
        };
        let rest =
            batch.iter().zip(&free).filter(|(_, free)| **free).map(|(delivery, _)| *delivery).collect();
        self.lines[from.0 as usize].line(from.1).push_first(rest);
        taken
    }

    fn send(
        &mut self,
        (queue, newest): From,
        request: mailspan_core::Request,
        items: Vec<DeliveryId>,
        question: Option<mailspan_connectors::contract::Question>,
        cx: &mut Context,
    ) -> Turn {
        if question.is_none() {
            self.place(&items, Place::Calling);
        }
        let call = CallId(*cx.next_call);
        *cx.next_call += 1;
        self.budget.spend(cx.now);
        self.breaker.sent(call);
        let notice = self.quota.spend(cx.now);
        self.announce(notice, cx);
        cx.out.push(Command::Send {
            call,
            destination: self.id,
            request: request.clone(),
            items: items.clone(),
            newest,
        });
        let sink = self.sink.clone();
        self.calls.insert(call, Call { sink, request, items, question, queue, at: cx.now });
        Turn::Sent(call)
    }

    fn place(&mut self, deliveries: &[DeliveryId], at: Place) {
        for delivery in deliveries {
            if let Some(held) = self.held.get_mut(delivery) {
                held.at = at;
            }
        }
    }
}
