//! One turn of a desk: one batch is planned.

use mailspan_connectors::contract::{Item, Plan};
use mailspan_core::{DeliveryId, Queue, Verdict};

use crate::budget::Grant;
use crate::caught::caught;
use crate::desk::{Call, Context, Desk};
use crate::held::{Place, Retries};
use crate::line::Line;
use crate::{CallId, Command, Fault};

/// What came of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Sent(CallId),
    /// Something was settled or put aside without an exchange; there may be more.
    Planned,
    /// Nothing can be sent now.
    Nothing,
}

impl Desk {
    pub(crate) fn turn(&mut self, cx: &mut Context) -> Turn {
        if self.paused.is_some() || cx.draining {
            return Turn::Nothing;
        }
        let has_work = std::array::from_fn(|queue| self.lines.get(queue).is_some_and(Line::has_ripe));
        let grant = self.budget.ask(cx.now, self.calls.len());
        if has_work == [false; Queue::ALL.len()]
            || (grant != Grant::Now && cx.fault != Some(Fault::BudgetNotKept))
        {
            return Turn::Nothing;
        }
        let Some(queue) = self.shares.pick(has_work) else { return Turn::Nothing };
        let held = &self.held;
        let mut batch = self.lines[queue as usize]
            .take(cx.now, self.batching(), |delivery| held.get(&delivery)?.person_id());
        batch.retain(|delivery| self.held.get(delivery).is_some_and(|held| held.item().is_some()));
        if batch.is_empty() {
            return Turn::Planned;
        }
        self.plan(queue, batch, cx)
    }

    fn plan(&mut self, queue: Queue, batch: Vec<DeliveryId>, cx: &mut Context) -> Turn {
        let known = self.questions.known(cx.now);
        let items: Vec<Item> = batch.iter().filter_map(|delivery| self.held.get(delivery)?.item()).collect();
        let planned = caught(|| self.sink.plan(&items, known));
        match planned {
            Err(text) => self.plan_crashed(queue, batch, &text, cx),
            Ok(Plan::Send { request, takes }) => {
                let taken = self.part(queue, batch, &takes);
                self.shares.charge(queue, taken.len());
                self.send(request, taken, None, cx)
            }
            Ok(Plan::Settle { takes, verdict }) => {
                let taken = self.part(queue, batch, &takes);
                let verdicts = vec![verdict; taken.len()];
                self.conclude(&taken, verdicts, Retries::ByCalendar, None, cx);
                Turn::Planned
            }
            Ok(Plan::Ask { question, request }) => {
                let answered = known.0.contains_key(&question);
                let first = self.part(queue, batch, &[0]);
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
                self.send(request, first, Some(question), cx)
            }
        }
    }

    /// A panic among several: each is planned alone. A panic with one item counts against it.
    fn plan_crashed(&mut self, queue: Queue, batch: Vec<DeliveryId>, text: &str, cx: &mut Context) -> Turn {
        if let [only] = batch[..] {
            self.crash(&[only], &format!("the connector panicked while planning: {text}"), None, cx);
            return Turn::Planned;
        }
        for delivery in batch.into_iter().rev() {
            self.lines[queue as usize].push_first(vec![delivery]);
        }
        Turn::Planned
    }

    /// The deliveries that a plan takes, in its order; the others wait on, before all others. Positions
    /// that cannot be, or that leave the first one out, mean the first alone.
    fn part(&mut self, queue: Queue, batch: Vec<DeliveryId>, takes: &[usize]) -> Vec<DeliveryId> {
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
        self.lines[queue as usize].push_first(rest);
        taken
    }

    fn send(
        &mut self,
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
        cx.out.push(Command::Send { call, destination: self.id, request: request.clone() });
        let sink = self.sink.clone();
        self.calls.insert(call, Call { sink, request, items, question, at: cx.now });
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
