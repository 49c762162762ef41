//! Breaker and quota, checked from outside.

use std::collections::{BTreeMap, VecDeque};

use mailspan_core::{Class, DestinationId, Millis};
use mailspan_engine::{CallId, Limits, Notice};

use crate::draw::DAY_STARTS_MS;
use crate::receiver::Sent;
use crate::store::Store;

#[derive(Default)]
pub struct Policy {
    /// Destinations whose breaker is open, until a probe went well.
    open: BTreeMap<DestinationId, Open>,
    announced: BTreeMap<DestinationId, bool>,
    /// Requests of the day, whichever node sent them.
    days: BTreeMap<DestinationId, (i64, u32)>,
    /// When requests went out, whichever node sent them, and when nodes ended.
    sent: BTreeMap<DestinationId, VecDeque<Millis>>,
    killed: Vec<Millis>,
}

struct Open {
    probe: Option<CallId>,
    not_before: Millis,
    /// Half of the first wait.
    least_ms: u64,
}

type Checked = Result<(), String>;

impl Policy {
    pub fn killed(&mut self, now: Millis) {
        self.killed.push(now);
        self.open.clear();
        self.announced.clear();
    }

    pub fn left(&mut self, now: Millis, destination: DestinationId) {
        self.killed.push(now);
        self.open.remove(&destination);
        self.announced.remove(&destination);
    }

    /// A desk starts anew, with what was kept: after a breaker that opened one delivery is tried, and it is not said
    /// again. A breaker that is off closes with that.
    pub fn opened(&mut self, destination: DestinationId, degraded: bool, is_off: bool) {
        self.announced.insert(destination, degraded);
        if degraded && !is_off {
            let open = Open { probe: None, not_before: Millis(0), least_ms: 0 };
            self.open.insert(destination, open);
        }
    }

    /// Other limits: counted anew. A probe that is in flight and fails is followed by a wait of the new ones.
    pub fn limits_changed(&mut self, destination: DestinationId, limits: &Limits) {
        self.sent.remove(&destination);
        self.may_probe(destination);
        if let Some(open) = self.open.get_mut(&destination) {
            open.least_ms = limits.breaker.wait_ms / 2;
        }
    }

    /// Somebody did something about it: the next probe may come at once.
    pub fn may_probe(&mut self, destination: DestinationId) {
        if let Some(open) = self.open.get_mut(&destination) {
            open.not_before = Millis(0);
        }
    }

    pub fn announced(&mut self, now: Millis, destination: DestinationId, what: &Notice) -> Checked {
        let opened = match what {
            Notice::BreakerOpened { probe_at, .. } => {
                if *probe_at <= now {
                    return Err(format!("breaker: {destination:?} is probed at once"));
                }
                let open = Open { probe: None, not_before: *probe_at, least_ms: 0 };
                self.open.insert(destination, open);
                true
            }
            Notice::BreakerClosed => false,
            Notice::QuotaInDanger { .. } => return Ok(()),
        };
        if self.announced.insert(destination, opened).unwrap_or(false) == opened {
            return Err(format!("breaker: {destination:?} says twice what it said"));
        }
        Ok(())
    }

    pub fn sending(
        &mut self,
        now: Millis,
        (destination, call): (DestinationId, CallId),
        limits: &Limits,
        items: &[Sent],
        store: &Store,
    ) -> Checked {
        if let Some(open) = self.open.get_mut(&destination) {
            if open.probe.is_some() {
                return Err(format!("breaker: two probes at {destination:?}"));
            }
            if now < open.not_before {
                return Err(format!("breaker: {destination:?} is probed before its time"));
            }
            open.probe = Some(call);
            open.least_ms = limits.breaker.wait_ms / 2;
        }
        self.over_kills(now, destination, limits)?;
        self.count(now, destination, limits, items, store)
    }

    pub fn answered(&mut self, now: Millis, call: CallId, fails: bool) {
        if fails {
            for open in self.open.values_mut().filter(|open| open.probe == Some(call)) {
                open.probe = None;
                open.not_before = now.plus(open.least_ms);
            }
        } else {
            self.open.retain(|_, open| open.probe != Some(call));
        }
    }

    /// What a new node is told.
    pub fn spent(&self, destination: DestinationId, now: Millis) -> u64 {
        match self.days.get(&destination) {
            Some((day, sent)) if *day == day_of(now) => u64::from(*sent),
            _ => 0,
        }
    }

    /// Each change of nodes may add a twentieth of the rate, or one.
    fn over_kills(&mut self, now: Millis, destination: DestinationId, limits: &Limits) -> Checked {
        let sent = self.sent.entry(destination).or_default();
        sent.push_back(now);
        let within = |at: &Millis| now.since(*at) < limits.rate.per_ms;
        while sent.front().is_some_and(|at| !within(at)) {
            sent.pop_front();
        }
        let kills = self.killed.iter().filter(|at| within(at)).count();
        let count = limits.rate.count as usize;
        if sent.len() > count + kills * (count / 20).max(1) {
            return Err(format!(
                "lease: {} to {destination:?}, {} over {kills} kills",
                sent.len(),
                limits.rate
            ));
        }
        Ok(())
    }

    fn count(
        &mut self,
        now: Millis,
        destination: DestinationId,
        limits: &Limits,
        items: &[Sent],
        store: &Store,
    ) -> Checked {
        let (day, sent) = self.days.entry(destination).or_default();
        if *day != day_of(now) {
            (*day, *sent) = (day_of(now), 0);
        }
        *sent += 1;
        let Some(daily) = limits.daily else { return Ok(()) };
        let usable = daily - daily / 10;
        let row =
            |item: &Sent| store.rows.values().find(|row| row.keys.iter().any(|key| *key.0 == *item.key));
        let consent = items.iter().filter_map(row).any(|row| row.class == Class::Consent);
        // A look-up carries no item: it may be for consent.
        let allowed = if consent || items.is_empty() { usable } else { usable - usable / 10 };
        if *sent > allowed {
            return Err(format!("quota: request {sent} of {allowed} a day to {destination:?}"));
        }
        Ok(())
    }
}

fn day_of(now: Millis) -> i64 {
    (now.0 - DAY_STARTS_MS as i64).div_euclid(86_400_000)
}
