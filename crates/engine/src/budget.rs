//! How much may be sent to one destination: its rate, its slots, what its vendor says is left.

use std::collections::VecDeque;

use mailspan_connectors::contract::Left;
use mailspan_core::limits::RATE_LOG_MAX;
use mailspan_core::{Millis, Rate};

/// May a request go out?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grant {
    Now,
    NotBefore(Millis),
    WhenOneReturns,
}

/// Remembers when the last requests went out, so that no window of the rate's length holds more than
/// its count; a full burst is allowed. A count above [`RATE_LOG_MAX`] is kept as a smaller count in
/// a shorter window, which implies it.
#[derive(Debug)]
pub(crate) struct Budget {
    count: usize,
    per_ms: u64,
    slots: usize,
    sent: VecDeque<Millis>,
    throttled: Option<Millis>,
    left: Option<Left>,
}

impl Budget {
    pub(crate) fn new(rate: Rate, concurrency: u32) -> Budget {
        let mut budget =
            Budget { count: 1, per_ms: 1, slots: 1, sent: VecDeque::new(), throttled: None, left: None };
        budget.set(rate, concurrency);
        budget
    }

    /// Takes other limits; what was sent before still counts.
    pub(crate) fn set(&mut self, rate: Rate, concurrency: u32) {
        let pieces = rate.count.div_ceil(RATE_LOG_MAX).max(1);
        self.count = usize::try_from((rate.count / pieces).max(1)).unwrap_or(usize::MAX);
        self.per_ms = rate.per_ms.div_ceil(u64::from(pieces)).max(1);
        self.slots = usize::try_from(concurrency.max(1)).unwrap_or(usize::MAX);
        self.trim();
    }

    pub(crate) fn ask(&self, now: Millis, in_flight: usize) -> Grant {
        if in_flight >= self.slots {
            return Grant::WhenOneReturns;
        }
        let by_rate = match self.sent.front() {
            Some(first) if self.sent.len() >= self.count => first.plus(self.per_ms),
            _ => now,
        };
        let by_vendor = match &self.left {
            Some(left) if left.requests == 0 => left.until,
            _ => now,
        };
        let from = by_rate.max(by_vendor).max(self.throttled.unwrap_or(now));
        if from <= now { Grant::Now } else { Grant::NotBefore(from) }
    }

    /// A request goes out.
    pub(crate) fn spend(&mut self, now: Millis) {
        self.sent.push_back(now);
        self.trim();
        if let Some(left) = &mut self.left {
            left.requests = left.requests.saturating_sub(1);
        }
        if self.left.is_some_and(|left| left.until <= now) {
            self.left = None;
        }
    }

    /// Nothing goes out before then.
    pub(crate) fn throttle(&mut self, until: Millis) {
        self.throttled = self.throttled.max(Some(until));
    }

    /// What the vendor says is left, when `in_flight` further requests were on their way. Answers come
    /// in any order, so within the vendor's window the smallest number counts.
    pub(crate) fn learn(&mut self, now: Millis, left: Left, in_flight: usize) {
        let in_flight = u64::try_from(in_flight).unwrap_or(u64::MAX);
        let requests = left.requests.saturating_sub(in_flight);
        match &mut self.left {
            Some(known) if known.until > now => known.requests = known.requests.min(requests),
            _ => self.left = Some(Left { requests, until: left.until }),
        }
    }

    fn trim(&mut self) {
        while self.sent.len() > self.count {
            self.sent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn no_window_holds_more_than_the_rate(
            count in prop_oneof![1..20u32, 4_000..9_000u32], per_ms in 1..2_000u64,
            gaps in proptest::collection::vec(0..200u64, 1..400),
        ) {
            let mut budget = Budget::new(Rate { count, per_ms }, 1);
            let mut now = Millis(0);
            let mut sent: Vec<Millis> = Vec::new();
            for gap in gaps {
                now = now.plus(gap);
                for _ in 0..3 {
                    match budget.ask(now, 0) {
                        Grant::Now => {
                            budget.spend(now);
                            sent.push(now);
                        }
                        Grant::NotBefore(then) => prop_assert!(then > now && then <= now.plus(per_ms)),
                        Grant::WhenOneReturns => prop_assert!(false, "a slot is free"),
                    }
                }
            }
            let count = count as usize;
            for (first, beyond) in sent.iter().zip(sent.iter().skip(count)) {
                prop_assert!(beyond.since(*first) >= per_ms, "{count} and one more within {per_ms} ms");
            }
        }
    }

    #[test]
    fn a_burst_is_allowed_then_the_oldest_must_age() {
        let mut budget = Budget::new(Rate { count: 3, per_ms: 1_000 }, 10);
        for at in [0, 10, 20] {
            assert_eq!(budget.ask(Millis(at), 0), Grant::Now);
            budget.spend(Millis(at));
        }
        assert_eq!(budget.ask(Millis(20), 0), Grant::NotBefore(Millis(1_000)));
        assert_eq!(budget.ask(Millis(1_000), 0), Grant::Now);
    }

    #[test]
    fn slots_throttling_and_the_vendors_word_hold_back() {
        let mut budget = Budget::new(Rate { count: 100, per_ms: 1_000 }, 2);
        assert_eq!(budget.ask(Millis(0), 2), Grant::WhenOneReturns);
        budget.throttle(Millis(500));
        budget.throttle(Millis(300));
        assert_eq!(budget.ask(Millis(0), 0), Grant::NotBefore(Millis(500)));
        budget.learn(Millis(500), Left { requests: 2, until: Millis(900) }, 1);
        budget.learn(Millis(500), Left { requests: 9, until: Millis(950) }, 0);
        assert_eq!(budget.ask(Millis(500), 0), Grant::Now);
        budget.spend(Millis(500));
        assert_eq!(budget.ask(Millis(501), 0), Grant::NotBefore(Millis(900)));
        assert_eq!(budget.ask(Millis(900), 0), Grant::Now);
        budget.spend(Millis(900));
        assert_eq!(budget.ask(Millis(901), 0), Grant::Now);
    }

    #[test]
    fn other_limits_do_not_forgive_what_was_sent() {
        let mut budget = Budget::new(Rate { count: 10, per_ms: 1_000 }, 1);
        (0..10).for_each(|_| budget.spend(Millis(0)));
        budget.set(Rate { count: 2, per_ms: 2_000 }, 1);
        assert_eq!(budget.ask(Millis(1), 0), Grant::NotBefore(Millis(2_000)));
    }
}
