//! A delivery as a desk holds it, and what a verdict makes of it.

use mailspan_connectors::contract::Item;
use mailspan_core::limits::{CRASHES_MAX, STEP_BYTES_MAX, STEPS_MAX};
use mailspan_core::{
    Cause, Class, DeliveryId, Elsewhere, Millis, Outcome, Part, Person, PersonId, Progress, Queue, Reason,
    Settlement, State, Step, Verdict, fold, superseded,
};

use crate::calendar::{Calendar, horizon, next_try};
use crate::coalesce::Load;

#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) delivery: DeliveryId,
    pub(crate) class: Class,
    pub(crate) cause: Cause,
    pub(crate) queue: Queue,
    /// It came from the newest end of its queue.
    pub(crate) newest: bool,
    pub(crate) attempts: u32,
    pub(crate) crashes: u32,
    pub(crate) since: Millis,
    pub(crate) person: Option<Person>,
    /// See [`mailspan_core::Parcel::whole`]; until it is let go of, whatever becomes of its parts.
    pub(crate) whole: bool,
    pub(crate) parts: Vec<Part>,
    pub(crate) elsewhere: Option<Elsewhere>,
    /// What it is sent with: its one part then speaks for others too.
    pub(crate) load: Option<Load>,
    /// An exchange was made for it since it was claimed.
    pub(crate) exchanged: bool,
    /// Steps of the current part since it was claimed.
    pub(crate) steps: u32,
    pub(crate) at: Place,
    /// Planted bugs: [`crate::Fault::ClassNotLowered`], [`crate::Fault::OptInNotRaised`].
    pub(crate) class_stays: bool,
    pub(crate) consent_stays: bool,
}

/// Where a held delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a line, until its turn comes.
    Waiting,
    /// Waits for the answer to a question.
    Asking,
    /// In a call.
    Calling,
    /// In a settlement that is not confirmed: its number.
    Settling(u64),
}

/// What to do with a part whose verdict is `Retry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retries {
    /// Counted; at the calendar's next time.
    ByCalendar,
    /// The destination is to blame, not the delivery: at this time, not counted.
    Uncounted(Millis),
    /// The batch was refused whole and goes again in halves, not counted.
    InHalves,
}

/// What a verdict is judged by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule<'a> {
    pub(crate) now: Millis,
    pub(crate) calendar: &'a Calendar,
    pub(crate) retries: Retries,
    pub(crate) jitter: u64,
}

impl Held {
    pub(crate) fn person_id(&self) -> Option<PersonId> {
        self.person.as_ref().map(|person| person.id)
    }

    /// It has begun: whoever could share its next call was in its last one.
    pub(crate) fn is_underway(&self) -> bool {
        self.exchanged || self.steps > 0 || self.parts.iter().any(|part| !part.is_open())
    }

    /// The first open part, as a connector sees it.
    pub(crate) fn item(&self) -> Option<Item<'_>> {
        if let Some(Load { operation, key, .. }) = &self.load {
            return Some(Item { key, person: self.person.as_ref(), operation, step: None, elsewhere: false });
        }
        let part = self.parts.iter().find(|part| part.is_open())?;
        Some(Item {
            key: &part.key,
            person: self.person.as_ref(),
            operation: &part.operation,
            step: part.step.as_ref(),
            elsewhere: self.elsewhere.is_some(),
        })
    }

    /// Open opt-ins that are older than the person's last opt-out are skipped.
    pub(crate) fn skip_superseded(&mut self) {
        let Some(person) = &self.person else { return };
        for part in self.parts.iter_mut().filter(|part| part.is_open()) {
            if superseded(&part.operation, person) {
                let text = "the person opted out later than this opt-in happened";
                part.verdict = Some(Verdict::skipped("superseded", text));
            }
        }
    }

    /// Takes the verdict about the first open part.
    pub(crate) fn judged(&mut self, verdict: Verdict, rule: Rule) -> Outcome {
        match verdict {
            Verdict::Next { step, after_ms } => self.moved(step, after_ms, rule),
            Verdict::Retry { after_ms, reason } => match rule.retries {
                Retries::ByCalendar => self.tried(after_ms, reason, rule),
                Retries::Uncounted(due) => self.again(due, Some(reason)),
                Retries::InHalves => Outcome::Progressed,
            },
            verdict => {
                if let Some(part) = self.open_part() {
                    part.verdict = Some(verdict);
                }
                self.steps = 0;
                self.go_on(rule.now)
            }
        }
    }

    /// Ends when no part is open; moves to a lower lane when what was urgent is done, and to that of consent
    /// where the map made consent of an event of another class; else goes on.
    pub(crate) fn go_on(&mut self, now: Millis) -> Outcome {
        if let Some((state, reason)) = fold(&self.parts) {
            self.attempts = self.attempts.saturating_add(u32::from(self.exchanged));
            return Outcome::Ended { state, reason };
        }
        if self.class_of_open() == self.class { Outcome::Progressed } else { self.again(now, None) }
    }

    /// Counts a panic: tried again soon and alone, at [`CRASHES_MAX`] a dead letter.
    pub(crate) fn crashed(&mut self, text: &str, now: Millis) -> Outcome {
        self.crashes = self.crashes.saturating_add(1);
        let reason = Reason::new("crash", text);
        if self.crashes >= CRASHES_MAX {
            return Outcome::Ended { state: State::Dead, reason: Some(reason) };
        }
        self.again(now.plus(1_000 * u64::from(self.crashes)), Some(reason))
    }

    pub(crate) fn settlement(&self, outcome: Outcome, attempt: Option<usize>) -> Settlement {
        let handed_on = |part: &Part| part.verdict.as_ref().is_some_and(mailspan_core::Verdict::is_handed_on);
        let hand_on = self.elsewhere.filter(|_| self.parts.iter().any(handed_on));
        // What was handed on is remembered: a replay must not give the notice here after all.
        let done = hand_on.is_none()
            && matches!(&outcome, Outcome::Ended { state: State::Delivered | State::Skipped, .. });
        let untouched = self.parts.iter().all(|part| part.step.is_none() && part.verdict.is_none());
        let keep =
            |part: &Part| Progress { step: part.step.clone(), verdict: part.verdict.clone(), map: part.map };
        let progress = if done || untouched { Vec::new() } else { self.parts.iter().map(keep).collect() };
        Settlement {
            delivery: self.delivery,
            outcome,
            attempts: self.attempts,
            crashes: self.crashes,
            progress,
            attempt,
            hand_on,
        }
    }

    fn open_part(&mut self) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| part.is_open())
    }

    fn moved(&mut self, step: Step, after_ms: u64, rule: Rule) -> Outcome {
        if step.0.len() > STEP_BYTES_MAX {
            let text = format!("the connector's step has over {STEP_BYTES_MAX} bytes: report this as a bug");
            return self.judged(Verdict::reject("bad_step", text), rule);
        }
        if let Some(part) = self.open_part() {
            part.step = Some(step);
            part.verdict = None;
        }
        self.steps = self.steps.saturating_add(1);
        if after_ms == 0 && self.steps < STEPS_MAX {
            return Outcome::Progressed;
        }
        if after_ms == 0 {
            let text = format!("over {STEPS_MAX} steps in one try: the exchange does not end");
            return self.tried(None, Reason::new("endless", text), rule);
        }
        let due = rule.now.plus(after_ms);
        if due > horizon(rule.calendar, self.class, self.since) {
            let text = "the job at the destination did not end within the time for this class";
            return self.tried(Some(after_ms), Reason::new("out_of_time", text), rule);
        }
        self.again(due, None)
    }

    fn tried(&mut self, after_ms: Option<u64>, reason: Reason, rule: Rule) -> Outcome {
        self.attempts = self.attempts.saturating_add(1);
        if let Some(part) = self.open_part() {
            part.verdict = Some(Verdict::Retry { after_ms, reason: reason.clone() });
        }
        let Rule { now, calendar, jitter, .. } = rule;
        match next_try(calendar, self.class, self.attempts, now, self.since, after_ms, jitter) {
            Some(due) => self.again(due, Some(reason)),
            None => Outcome::Ended { state: State::Dead, reason: Some(reason) },
        }
    }

    fn again(&mut self, due: Millis, reason: Option<Reason>) -> Outcome {
        let class = self.class_of_open();
        Outcome::Again { due, queue: Queue::of(class, self.cause, self.attempts), class, reason }
    }

    /// Consent while one is open: in its lane alone it keeps its place among the opt-outs of its person. Else the
    /// most urgent class still open, once an operation as urgent as the delivery is done; the event's class
    /// alone says nothing of what is open (a consent event sent on by `http`).
    fn class_of_open(&self) -> Class {
        let urgent = self.parts.iter().any(|part| !part.is_open() && part.operation.class() <= self.class);
        let open = self.parts.iter().filter(|part| part.is_open()).map(|part| part.operation.class()).min();
        match open {
            Some(Class::Consent) if !self.consent_stays => Class::Consent,
            Some(open) if urgent && !self.class_stays => open.max(self.class),
            _ => self.class,
        }
    }
}
