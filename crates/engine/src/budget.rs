//! How much may be sent to one destination: its rate, its slots, what its vendor says is left.

use std::collections::VecDeque;

use mailspan_connectors::contract::Left;
use mailspan_core::limits::{RATE_LOG_MAX, SHORT_WINDOW_MS_MAX};
use mailspan_core::{Millis, Rate};

/// May a request go out?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grant {
    Now,
    NotBefore(Millis),
    WhenOneReturns,
}

/// By what a request is judged that would go out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    /// Requests in flight, and how many may be.
    pub(crate) in_flight: usize,
    pub(crate) slots: usize,
    /// How much of the rate may be used: 10 is all of it.
    pub(crate) tenths: u32,
    /// A backlog is spread evenly, by tenths of the rate's window, so that what is urgent finds room.
    pub(crate) even: bool,
    /// The last tenth of what the vendor has left is for consent.
    pub(crate) consent: bool,
}

/// Under a new lease: so many in each of at most ten equal times.
#[derive(Debug, Clone, Copy)]
struct Careful {
    until: Millis,
    each: usize,
    each_ms: u64,
    /// When the current one ends, and what it may still take.
    ends: Millis,
    left: usize,
}

/// Remembers when the last requests went out, so that no window of the rate's length holds more than
/// its count; a full burst is allowed. A count above [`RATE_LOG_MAX`] is kept as a smaller count in
/// a shorter window, which implies it.
#[derive(Debug)]
pub(crate) struct Budget {
    count: usize,
    per_ms: u64,
    sent: VecDeque<Millis>,
    last: Option<Millis>,
    careful: Option<Careful>,
    throttled: Option<Millis>,
    left: Option<Left>,
    /// The most that the vendor said was left within its window.
    most_left: u64,
}

impl Budget {
    pub(crate) fn new(rate: Rate) -> Budget {
        let mut budget = Budget {
            count: 1,
            per_ms: 1,
            sent: VecDeque::new(),
            last: None,
            careful: None,
            throttled: None,
            left: None,
            most_left: 0,
        };
        budget.set(rate);
        budget
    }

    /// Takes other limits; what was sent before still counts.
    pub(crate) fn set(&mut self, rate: Rate) {
        let pieces = rate.count.div_ceil(RATE_LOG_MAX).max(1);
        self.count = usize::try_from((rate.count / pieces).max(1)).unwrap_or(usize::MAX);
        self.per_ms = rate.per_ms.div_ceil(u64::from(pieces)).max(1);
        self.trim();
    }

    /// An earlier lease may have sent as much as was allowed, a moment ago: for one window of the rate a
    /// twentieth goes out, evenly but for consent, so that no window holds more than the limit plus 5 %.
    pub(crate) fn assume_spent(&mut self, now: Millis) {
        let share = (self.count / 20).max(1);
        self.sent.clear();
        self.sent.extend(std::iter::repeat_n(now, self.count - share));
        let times = share.min(10);
        let each_ms = self.per_ms.div_ceil(u64::try_from(times).unwrap_or(1));
        let each = share.div_ceil(times);
        self.careful = Some(Careful { until: now.plus(self.per_ms), each, each_ms, ends: now, left: 0 });
    }

    /// What an earlier lease sent is known, and how many more it may have sent whose rows were never written.
    /// In a short window all of it counts as sent just now; where that leaves hardly anything,
    /// [`Budget::assume_spent`] stands. In a long one each counts from its own time.
    pub(crate) fn sent_before(&mut self, now: Millis, sent: &[Millis], unseen: u32) {
        let unseen = usize::try_from(unseen).unwrap_or(usize::MAX);
        let known = sent.len().saturating_add(unseen).min(self.count);
        let share = (self.count / 20).max(1);
        let is_short = self.per_ms <= SHORT_WINDOW_MS_MAX;
        if is_short && known + share >= self.count {
            return;
        }
        self.careful = None;
        self.sent.clear();
        if is_short {
            self.sent.extend(std::iter::repeat_n(now, known));
            return;
        }
        let mut times: Vec<Millis> = sent.iter().map(|at| (*at).min(now)).collect();
        times.sort_unstable();
        self.sent.extend(times);
        self.sent.extend(std::iter::repeat_n(now, unseen.min(self.count)));
        self.trim();
    }

    pub(crate) fn ask(&self, now: Millis, how: Ask) -> Grant {
        if how.in_flight >= how.slots.max(1) {
            return Grant::WhenOneReturns;
        }
        let tenths = usize::try_from(how.tenths.clamp(1, 10)).unwrap_or(10);
        let count = (self.count.saturating_mul(tenths) / 10).max(1);
        let by_rate = self.room_for(count, self.per_ms).unwrap_or(now);
        let by_even = self.even_from(count).filter(|_| how.even).unwrap_or(now);
        let by_vendor = self.by_vendor(now, how.consent).unwrap_or(now);
        let by_care = self.with_care(now).filter(|_| !how.consent).unwrap_or(now);
        let from = by_rate.max(by_even).max(by_care).max(by_vendor).max(self.throttled.unwrap_or(now));
        if from <= now { Grant::Now } else { Grant::NotBefore(from) }
    }

    fn with_care(&self, now: Millis) -> Option<Millis> {
        let careful = self.careful.filter(|careful| careful.until > now)?;
        (careful.left == 0).then_some(careful.ends.min(careful.until))
    }

    /// Would a request of an even spread go out now?
    pub(crate) fn has_even_room(&self, now: Millis) -> bool {
        self.even_from(self.count).is_none_or(|from| from <= now)
    }

    fn even_from(&self, count: usize) -> Option<Millis> {
        self.room_for(count.div_ceil(10), self.per_ms.div_ceil(10))
    }

    /// When fewer than so many will have gone out within so long; `None`: they never were so many.
    fn room_for(&self, count: usize, ms: u64) -> Option<Millis> {
        let nth_last = self.sent.get(self.sent.len().checked_sub(count)?)?;
        Some(nth_last.plus(ms))
    }

    /// What the vendor has left, when our own rate could use it up, is spread over the time that it must
    /// last.
    fn by_vendor(&self, now: Millis, consent: bool) -> Option<Millis> {
        let left = self.left.filter(|left| left.until > now)?;
        let usable = self.vendor_left(now, consent)?;
        if usable == 0 {
            return Some(left.until);
        }
        let count = u64::try_from(self.count).unwrap_or(u64::MAX).max(1);
        if usable.saturating_mul(self.per_ms) / count >= left.until.since(now) {
            return None;
        }
        let last = self.last?;
        Some(last.plus(left.until.since(last) / usable.saturating_add(1)))
    }

    /// How many more requests the vendor allows before its window ends; `None` when it did not say.
    pub(crate) fn vendor_left(&self, now: Millis, consent: bool) -> Option<u64> {
        let left = self.left.filter(|left| left.until > now)?;
        let kept = if consent { 0 } else { self.most_left / 10 };
        Some(left.requests.saturating_sub(kept))
    }

    /// When the vendor's window ends.
    pub(crate) fn vendor_until(&self) -> Option<Millis> {
        self.left.map(|left| left.until)
    }

    /// Milliseconds between two requests at the full rate, in thousandths.
    pub(crate) fn pace_us(&self) -> u64 {
        self.per_ms.saturating_mul(1_000) / u64::try_from(self.count).unwrap_or(u64::MAX).max(1)
    }

    /// Nothing goes out before then.
    pub(crate) fn throttled(&self) -> Option<Millis> {
        self.throttled
    }

    /// A request goes out.
    pub(crate) fn spend(&mut self, now: Millis) {
        self.sent.push_back(now);
        self.last = Some(now);
        if let Some(careful) = &mut self.careful {
            if careful.ends <= now {
                (careful.ends, careful.left) = (now.plus(careful.each_ms), careful.each);
            }
            careful.left = careful.left.saturating_sub(1);
        }
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
            Some(known) if known.until > now => {
                known.requests = known.requests.min(requests);
                self.most_left = self.most_left.max(left.requests);
            }
            _ => {
                self.left = Some(Left { requests, until: left.until });
                self.most_left = left.requests;
            }
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

    /// A budget with slots, asked for what is not consent.
    struct Slots {
        budget: Budget,
        slots: usize,
    }

    impl Slots {
        fn new(rate: Rate, slots: usize) -> Slots {
            Slots { budget: Budget::new(rate), slots }
        }

        fn ask(&self, now: Millis, in_flight: usize) -> Grant {
            self.ask_as(now, in_flight, 10, false)
        }

        fn ask_as(&self, now: Millis, in_flight: usize, tenths: u32, consent: bool) -> Grant {
            self.budget.ask(now, Ask { in_flight, slots: self.slots, tenths, even: false, consent })
        }
    }

    impl std::ops::Deref for Slots {
        type Target = Budget;

        fn deref(&self) -> &Budget {
            &self.budget
        }
    }

    impl std::ops::DerefMut for Slots {
        fn deref_mut(&mut self) -> &mut Budget {
            &mut self.budget
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn no_window_holds_more_than_the_rate(
            count in prop_oneof![1..20u32, 4_000..9_000u32], per_ms in 1..2_000u64,
            gaps in proptest::collection::vec(0..200u64, 1..400),
        ) {
            let mut budget = Slots::new(Rate { count, per_ms }, 1);
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
        let mut budget = Slots::new(Rate { count: 3, per_ms: 1_000 }, 10);
        for at in [0, 10, 20] {
            assert_eq!(budget.ask(Millis(at), 0), Grant::Now);
            budget.spend(Millis(at));
        }
        assert_eq!(budget.ask(Millis(20), 0), Grant::NotBefore(Millis(1_000)));
        assert_eq!(budget.ask(Millis(1_000), 0), Grant::Now);
    }

    #[test]
    fn slots_throttling_and_the_vendors_word_hold_back() {
        let mut budget = Slots::new(Rate { count: 100, per_ms: 1_000 }, 2);
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
        let mut budget = Slots::new(Rate { count: 10, per_ms: 1_000 }, 1);
        (0..10).for_each(|_| budget.spend(Millis(0)));
        budget.set(Rate { count: 2, per_ms: 2_000 });
        assert_eq!(budget.ask(Millis(1), 0), Grant::NotBefore(Millis(2_000)));
    }

    #[test]
    fn a_ramp_uses_tenths_of_the_rate() {
        let mut budget = Slots::new(Rate { count: 100, per_ms: 10_000 }, 10);
        let mut sent = 0;
        for tenths in [1, 2, 4, 8, 10] {
            while budget.ask_as(Millis(0), 0, tenths, false) == Grant::Now {
                budget.spend(Millis(0));
                sent += 1;
            }
            assert_eq!(sent, tenths * 10);
        }
        assert_eq!(budget.ask_as(Millis(1), 0, 0, false), Grant::NotBefore(Millis(10_000)));
    }

    #[test]
    fn what_the_vendor_has_left_is_spread_and_the_last_tenth_is_for_consent() {
        let mut budget = Slots::new(Rate { count: 1_000, per_ms: 1_000 }, 10);
        budget.learn(Millis(0), Left { requests: 20, until: Millis(10_000) }, 0);
        let (mut now, mut sent) = (Millis(0), 0);
        while let (true, grant) = (now < Millis(10_000), budget.ask(now, 0)) {
            match grant {
                Grant::Now => {
                    budget.spend(now);
                    sent += 1;
                }
                Grant::NotBefore(then) => now = then,
                Grant::WhenOneReturns => panic!("a slot is free"),
            }
            assert!(sent <= 2 + now.0 * 20 / 10_000, "{sent} by {now:?}: it is not spread");
        }
        assert_eq!(sent, 18);
        let mut budget = Slots::new(Rate { count: 1_000, per_ms: 1_000 }, 10);
        budget.learn(Millis(0), Left { requests: 20, until: Millis(10_000) }, 0);
        budget.learn(Millis(0), Left { requests: 2, until: Millis(10_000) }, 0);
        assert_eq!(budget.ask(Millis(0), 0), Grant::NotBefore(Millis(10_000)));
        assert_eq!(budget.ask_as(Millis(0), 0, 10, true), Grant::Now);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn no_window_holds_more_over_a_change_of_leases(
            count in 1..200u32, per_ms in 1..30_000u64, killed in 0..60_000i64, down in 0..5_000u64,
        ) {
            let rate = Rate { count, per_ms };
            let mut sent: Vec<Millis> = Vec::new();
            let mut run = |budget: &mut Slots, from: Millis, to: Millis| {
                let mut now = from;
                while now < to {
                    match budget.ask(now, 0) {
                        Grant::Now => {
                            budget.spend(now);
                            sent.push(now);
                        }
                        Grant::NotBefore(then) => now = then,
                        Grant::WhenOneReturns => return,
                    }
                }
            };
            let killed = Millis(killed);
            // The last window before the kill is what counts.
            run(&mut Slots::new(rate, 1), Millis(killed.0.saturating_sub(30_000).max(0)), killed);
            let opened = killed.plus(down);
            let mut next = Slots::new(rate, 1);
            next.assume_spent(opened);
            run(&mut next, opened, opened.plus(per_ms));
            let allowed = count as usize + (count as usize / 20).max(1);
            let window = per_ms;
            for (first, beyond) in sent.iter().zip(sent.iter().skip(allowed)) {
                prop_assert!(beyond.since(*first) >= window, "over {allowed} within {window} ms");
            }
        }
    }

    #[test]
    fn what_an_earlier_lease_sent_is_counted_and_no_more() {
        let how = Ask { in_flight: 0, slots: 8, tenths: 10, even: false, consent: false };
        let sends = |known: Option<usize>| {
            let mut budget = Budget::new(Rate { count: 100, per_ms: 10_000 });
            budget.assume_spent(Millis(0));
            if let Some(known) = known {
                budget.sent_before(Millis(0), &vec![Millis(0); known], if known == 0 { 0 } else { 8 });
            }
            let mut n = 0;
            while n < 200 && budget.ask(Millis(1), how) == Grant::Now {
                budget.spend(Millis(1));
                n += 1;
            }
            n
        };
        assert!(sends(None) <= 5, "without a word the worst is assumed");
        assert_eq!(sends(Some(0)), 100);
        assert_eq!(sends(Some(40)), 52);
        assert!(sends(Some(95)) <= 5);
    }

    /// One a second at most, for ten minutes; killed after each 20 s of sending, down for one.
    #[test]
    fn a_long_window_is_kept_over_several_kills() {
        let rate = Rate { count: 100, per_ms: 60_000 };
        let how = Ask { in_flight: 0, slots: 8, tenths: 10, even: false, consent: false };
        let mut sent: Vec<Millis> = vec![];
        for start in (0..300_000).step_by(21_000) {
            let opened = Millis(start);
            let mut budget = Budget::new(rate);
            budget.assume_spent(opened);
            let known: Vec<Millis> =
                sent.iter().copied().filter(|at| opened.since(*at) < rate.per_ms).collect();
            budget.sent_before(opened, &known, 8);
            for now in (start..start + 20_000).step_by(10).map(Millis) {
                if budget.ask(now, how) == Grant::Now {
                    budget.spend(now);
                    sent.push(now);
                }
            }
        }
        assert!(sent.len() > 300, "it goes on: {}", sent.len());
        for (first, beyond) in sent.iter().zip(sent.iter().skip(100)) {
            assert!(beyond.since(*first) >= 60_000, "over 100 in a minute, from {first:?} on");
        }
    }
}
