//! How a destination is doing, for those who ask.

use mailspan_core::{Millis, Reason};

use crate::BreakerState;
use crate::desk::Desk;

/// The state of a destination, as far as the engine decides it; disabled is an operator's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    Active,
    /// It failed: deliveries wait, or come in slowly.
    Degraded,
    /// Keeps its queue, and says why.
    Paused,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub state: Stands,
    pub breaker: BreakerState,
    pub paused: Option<Reason>,
    /// Exchanges that are not answered.
    pub in_flight: usize,
    /// Exchanges that may be in flight now.
    pub concurrency: usize,
    /// Deliveries in memory; never more than the window.
    pub held: usize,
    /// Requests that deliveries other than consent may still make, by the daily quota and by the
    /// vendor's last word; `None` where neither says anything.
    pub quota_left: Option<u64>,
    /// When the backlog will be through, if all goes as it did; `None` while paused.
    pub forecast: Option<Millis>,
}

/// Means over the last exchanges, each new one a sixteenth.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    took_us: u64,
    /// Thousandths of an item.
    items: u64,
}

impl Pace {
    pub(crate) fn learn(&mut self, took_ms: u64, items: usize) {
        let items = u64::try_from(items).unwrap_or(u64::MAX).saturating_mul(1_000);
        let took_us = took_ms.saturating_mul(1_000);
        if self.items == 0 {
            (self.took_us, self.items) = (took_us, items);
            return;
        }
        self.took_us = (self.took_us / 16).saturating_mul(15).saturating_add(took_us / 16);
        self.items = (self.items / 16).saturating_mul(15).saturating_add(items / 16).max(1_000);
    }

    fn requests(&self, deliveries: u64) -> u64 {
        deliveries.saturating_mul(1_000).div_ceil(self.items.max(1_000))
    }
}

impl Desk {
    pub(crate) fn standing(&self, now: Millis, backlog: u64) -> Standing {
        let breaker = self.breaker.state();
        let state = match (&self.paused, breaker) {
            (Some(_), _) => Stands::Paused,
            (None, BreakerState::Closed) => Stands::Active,
            // Back, and nothing waits that would show how fast it may go.
            (None, BreakerState::Ramping { .. }) if backlog == 0 => Stands::Active,
            _ => Stands::Degraded,
        };
        let quota = [self.quota.left(now, false), self.budget.vendor_left(now, false)];
        Standing {
            state,
            breaker,
            paused: self.paused.clone(),
            in_flight: self.calls.len(),
            concurrency: self.slots(),
            held: self.held.len(),
            quota_left: quota.into_iter().flatten().min(),
            forecast: self.paused.is_none().then(|| self.forecast(now, backlog)),
        }
    }

    /// The rate or the latency, whichever is slower, and the days that the quota needs. A breaker that
    /// is open is believed to close with its next probe.
    fn forecast(&self, now: Millis, backlog: u64) -> Millis {
        let mut requests = self.pace.requests(backlog);
        if requests == 0 {
            return now;
        }
        let slots = u64::try_from(self.slots()).unwrap_or(u64::MAX).max(1);
        let each_us = self.budget.pace_us().max(self.pace.took_us / slots);
        let mut from = now.max(self.budget.throttled().unwrap_or(now));
        if let BreakerState::Open { probe_at } = self.breaker.state() {
            from = from.max(probe_at);
        }
        let vendor = self.budget.vendor_left(now, false).zip(self.budget.vendor_until());
        if let Some((left, until)) = vendor.filter(|(left, _)| *left < requests) {
            requests -= left;
            from = from.max(until);
        }
        let (Some(today), Some((_, daily))) = (self.quota.left(from, false), self.quota.shares()) else {
            return from.plus(requests.saturating_mul(each_us) / 1_000);
        };
        if requests > today {
            let daily = daily.max(1);
            let rest = requests - today;
            let whole_days = (rest - 1) / daily;
            requests = rest - whole_days * daily;
            from = self.quota.resets(from).plus(whole_days.saturating_mul(86_400_000));
        }
        from.plus(requests.saturating_mul(each_us) / 1_000)
    }
}
