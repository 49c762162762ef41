//! Judging what came back, and settling it.

use std::collections::BTreeSet;

use mailspan_connectors::contract::{Item, Judgement};
use mailspan_core::limits::ALONE_MAX;
use mailspan_core::{Answer, Attempt, DeliveryId, Lost, Outcome, Reason, Settlement, Signal, Verdict};

use crate::adapt::{Kind, Refusal};
use crate::attempt::attempt;
use crate::breaker::{Changed, Went, reason};
use crate::caught::caught;
use crate::coalesce::Load;
use crate::desk::{Call, Context, Desk};
use crate::held::{Held, Retries, Rule};
use crate::{CallId, Fault, Notice};

/// How long after a refused credential the one further try is made.
const REAUTH_MS: u64 = 1_000;

/// An exchange that ended, for its row.
pub(crate) struct Exchange {
    call: Call,
    answer: Result<Answer, Lost>,
}

impl Desk {
    pub(crate) fn answered(&mut self, id: CallId, answer: Result<Answer, Lost>, cx: &mut Context) {
        let Some(call) = self.calls.remove(&id) else { return };
        if cx.fault == Some(Fault::SlotNotReturned) && answer.is_err() {
            self.calls.insert(id, call.without_items());
        }
        let judgement = match &answer {
            Err(lost) => Ok(lost_verdicts(lost, call.items.len())),
            Ok(answer) => self.judge(&call, answer),
        };
        let signal = judgement.as_ref().ok().and_then(|judgement| judgement.signal.clone());
        self.learn(id, &call, &answer, signal.as_ref(), cx);
        let asked = call.question.as_ref().and_then(|question| self.questions.waiting.remove(question));
        let items = asked.unwrap_or_else(|| call.items.clone());
        let exchange = Exchange { call, answer };
        match judgement {
            Err(text) => {
                let text = format!("the connector panicked while judging: {text}");
                self.crash(&items, &text, Some(exchange), cx);
            }
            Ok(judgement) => self.apply(judgement, items, exchange, cx),
        }
    }

    /// What the exchange tells about the destination: to its breaker, and of how many it takes at once.
    fn learn(
        &mut self,
        id: CallId,
        call: &Call,
        answer: &Result<Answer, Lost>,
        signal: Option<&Signal>,
        cx: &mut Context,
    ) {
        let took_ms = cx.now.since(call.at);
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        let asked_ms = match signal {
            Some(Signal::Throttled { until }) => Some(until.since(cx.now)),
            _ => None,
        };
        let class = call.items.first().and_then(|first| self.held.get(first)).map(|held| held.class);
        let kind = class.map(|class| Kind::of(class, call.items.len())).filter(|_| call.question.is_none());
        match (status, kind) {
            (503, _) if asked_ms.is_none() => self.adapt.refused(cx.now, Refusal::Unavailable),
            (429 | 503, _) => {
                self.adapt.refused(cx.now, Refusal::TooMany { asked_ms: asked_ms.unwrap_or(0) })
            }
            _ if asked_ms.is_some() => {
                self.adapt.refused(cx.now, Refusal::TooMany { asked_ms: asked_ms.unwrap_or(0) })
            }
            (0, Some(kind)) => self.adapt.lost(cx.now, kind, took_ms),
            (200..=299, Some(kind)) => {
                self.adapt.ended(cx.now, kind, took_ms);
                self.pace.learn(took_ms, self.deliveries(&call.items));
            }
            _ => {}
        }
        let went = went(answer, signal);
        let jitter = cx.random.next_u64();
        let was = self.breaker.state();
        let notice = match self.breaker.heard(cx.now, (id, call.at), went, &self.limits.breaker, jitter) {
            Some(Changed::Opened { probe_at }) => {
                let last = match answer {
                    Ok(answer) => format!("HTTP {}", answer.status),
                    Err(lost) => lost.why.to_string(),
                };
                Some(Notice::BreakerOpened { reason: reason(&last, probe_at), probe_at })
            }
            Some(Changed::Closed) => Some(Notice::BreakerClosed),
            None => None,
        };
        if self.breaker.state() != was && self.is_shut(cx.now) {
            // What waits may wait for minutes: it is claimed and mapped as known then.
            self.adapt.restart();
            self.let_go_of_waiting();
        }
        self.announce(notice, cx);
    }

    fn judge(&self, call: &Call, answer: &Answer) -> Result<Judgement, String> {
        let items: Vec<Item> = call.items.iter().filter_map(|id| self.held.get(id)?.item()).collect();
        let mut judgement = caught(|| call.sink.judge(&items, answer))?;
        let answered = call.question.is_some() && judgement.answer.is_some();
        if !answered && judgement.verdicts.len() != call.items.len() {
            let text = format!(
                "the connector gave {} verdicts for {} items, HTTP {}: report this as a bug",
                judgement.verdicts.len(),
                call.items.len(),
                answer.status
            );
            judgement.verdicts = vec![Verdict::retry("miscounted", text); call.items.len()];
        }
        Ok(judgement)
    }

    fn apply(&mut self, judgement: Judgement, items: Vec<DeliveryId>, exchange: Exchange, cx: &mut Context) {
        if let Some(left) = judgement.left {
            self.budget.learn(cx.now, left, self.calls.len());
        }
        let answered = judgement.answer.is_some();
        if let Some((question, text)) = judgement.answer {
            self.questions.learn(cx.now, question, text);
        }
        let failed = |verdict: &Verdict| matches!(verdict, Verdict::Retry { .. } | Verdict::Reject { .. });
        let succeeded = answered || judgement.verdicts.iter().any(|verdict| !failed(verdict));
        if succeeded && !matches!(judgement.signal, Some(Signal::Reauth { .. } | Signal::Stop { .. })) {
            self.reauth_at = None;
        }
        let retries = self.signalled(judgement.signal, &exchange, cx);
        if exchange.call.question.is_none() {
            self.conclude(&items, judgement.verdicts, retries, Some(exchange), cx);
        } else if answered {
            // It settles nothing, and counts against the rate and the day as any other.
            let row = exchange.row(0, false, cx);
            self.write(Vec::new(), vec![row], Vec::new(), cx);
            items.into_iter().for_each(|delivery| self.line_up(delivery, cx.now));
        } else if let Some(verdict) = judgement.verdicts.into_iter().next() {
            // The same question has the same answer for all who wait for it.
            let verdicts = vec![verdict; items.len()];
            self.conclude(&items, verdicts, retries, Some(exchange), cx);
        }
    }

    /// What a signal does to the destination, and to the items that are to be retried.
    fn signalled(&mut self, signal: Option<Signal>, exchange: &Exchange, cx: &mut Context) -> Retries {
        match signal {
            None => Retries::ByCalendar,
            Some(Signal::Split) => Retries::InHalves,
            Some(Signal::Throttled { until }) if until.since(cx.now) > self.limits.retry_after_max_ms => {
                let until = until.rfc3339();
                let text = format!(
                    "asked to send nothing until {until}, longer than retry_after_max: resume it then"
                );
                self.pause(Reason::new("throttled", text), cx);
                Retries::Uncounted(cx.now)
            }
            Some(Signal::Throttled { until }) => {
                self.budget.throttle(until);
                Retries::ByCalendar
            }
            Some(Signal::Stop { reason }) => {
                self.pause(reason, cx);
                Retries::Uncounted(cx.now)
            }
            Some(Signal::Reauth { reason }) => match self.reauth_at {
                Some(first) if exchange.call.at > first => {
                    self.pause(reason, cx);
                    Retries::Uncounted(cx.now)
                }
                _ => {
                    let then = cx.now.plus(REAUTH_MS);
                    self.reauth_at = self.reauth_at.or(Some(cx.now));
                    self.budget.throttle(then);
                    Retries::Uncounted(then)
                }
            },
        }
    }

    /// One verdict an item: settles them in one write, with the row of their exchange.
    pub(crate) fn conclude(
        &mut self,
        items: &[DeliveryId],
        mut verdicts: Vec<Verdict>,
        mut retries: Retries,
        exchange: Option<Exchange>,
        cx: &mut Context,
    ) {
        if retries == Retries::InHalves && items.len() == 1 {
            retries = Retries::ByCalendar;
            verdicts.iter_mut().for_each(refuse_retry);
        }
        let whole = verdicts.iter().any(|v| matches!(v, Verdict::Retry { .. } | Verdict::Reject { .. }));
        let row = exchange.map(|exchange| exchange.row(self.deliveries(items), whole, cx));
        let mut to_halve = Vec::new();
        let mut settlements = Vec::with_capacity(items.len());
        for (delivery, verdict) in items.iter().zip(verdicts) {
            if retries == Retries::InHalves && matches!(verdict, Verdict::Retry { .. }) {
                to_halve.push(*delivery);
            }
            let jitter = cx.random.next_u64();
            let rule = Rule { now: cx.now, calendar: &self.limits.calendar, retries, jitter };
            let Some(held) = self.held.get_mut(delivery) else { continue };
            held.exchanged |= row.is_some();
            let attempt = row.as_ref().map(|_| 0);
            if held.load.is_some() && !matches!(verdict, Verdict::Retry { .. }) {
                settlements.extend(loaded(held, &mut self.alone, verdict, attempt, cx.fault));
                continue;
            }
            let mut outcome = held.judged(verdict, rule);
            plant(cx.fault, &mut outcome, cx.now);
            settlements.push(held.settlement(outcome, attempt));
        }
        self.write(settlements, row.into_iter().collect(), halves(to_halve), cx);
    }

    /// How many deliveries these items stand for.
    fn deliveries(&self, items: &[DeliveryId]) -> usize {
        let of = |item| self.held.get(item).and_then(|held| held.load.as_ref()).map_or(1, Load::len);
        items.iter().map(of).sum()
    }

    /// A panic of the connector counts against each of the items; they go on alone.
    pub(crate) fn crash(
        &mut self,
        items: &[DeliveryId],
        text: &str,
        exchange: Option<Exchange>,
        cx: &mut Context,
    ) {
        let row = exchange.map(|exchange| exchange.row(items.len(), true, cx));
        let settle = |held: &mut Held| {
            let outcome = held.crashed(text, cx.now);
            held.settlement(outcome, row.as_ref().map(|_| 0))
        };
        let settlements =
            items.iter().filter_map(|delivery| self.held.get_mut(delivery).map(settle)).collect();
        self.write(settlements, row.into_iter().collect(), Vec::new(), cx);
    }
}

/// What becomes of a load. Done or skipped is true of all of it. A refusal says nothing of whose field is to
/// blame, and a step cannot be kept for several: they go on one by one, and each gets its own verdict.
fn loaded(
    held: &mut Held,
    alone: &mut BTreeSet<DeliveryId>,
    verdict: Verdict,
    attempt: Option<usize>,
    fault: Option<Fault>,
) -> Vec<Settlement> {
    let lost = fault == Some(Fault::CarriedWithTheDead);
    if lost || matches!(verdict, Verdict::Done | Verdict::Skipped { .. }) {
        return held.settle_load(&verdict, attempt);
    }
    if alone.len() >= ALONE_MAX {
        alone.clear();
    }
    alone.extend(held.take_apart());
    vec![held.settlement(Outcome::Progressed, attempt)]
}

impl Call {
    fn without_items(&self) -> Call {
        let request = self.request.clone();
        let sink = self.sink.clone();
        Call { sink, request, items: Vec::new(), question: None, queue: self.queue, at: self.at }
    }
}

impl Exchange {
    fn row(&self, items: usize, whole: bool, cx: &Context) -> Attempt {
        attempt(&self.call.request, &self.answer, self.call.at, cx.now, items, whole)
    }
}

fn went(answer: &Result<Answer, Lost>, signal: Option<&Signal>) -> Went {
    match (answer, signal) {
        (Err(lost), _) if lost.refused => Went::Neither,
        (Err(_), _) => Went::Failed,
        (_, Some(Signal::Throttled { .. } | Signal::Stop { .. } | Signal::Reauth { .. })) => Went::Neither,
        (Ok(answer), _) => match answer.status {
            500..=599 => Went::Failed,
            429 => Went::Neither,
            _ => Went::Well,
        },
    }
}

fn lost_verdicts(lost: &Lost, items: usize) -> Judgement {
    let reason = lost.why.clone();
    let verdict =
        if lost.refused { Verdict::Reject { reason } } else { Verdict::Retry { after_ms: None, reason } };
    Judgement { verdicts: vec![verdict; items], ..Judgement::default() }
}

/// A batch of one that is refused as a whole is a refusal of the item.
fn refuse_retry(verdict: &mut Verdict) {
    if let Verdict::Retry { reason, .. } = verdict {
        *verdict = Verdict::Reject { reason: reason.clone() };
    }
}

fn halves(mut items: Vec<DeliveryId>) -> Vec<Vec<DeliveryId>> {
    let second = items.split_off(items.len().div_ceil(2));
    [items, second].into_iter().filter(|half| !half.is_empty()).collect()
}

fn plant(fault: Option<Fault>, outcome: &mut Outcome, now: mailspan_core::Millis) {
    if let (Some(Fault::RetryBeforeDue), Outcome::Again { due, .. }) = (fault, outcome) {
        *due = now;
    }
}
