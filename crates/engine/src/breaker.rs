//! Stops sending to a destination that fails, finds out with one exchange at a time whether it is back,
//! and lets the work come in slowly then.

use std::collections::VecDeque;

use mailspan_core::limits::BREAKER_LOG_MAX;
use mailspan_core::{Millis, Reason};

use crate::CallId;

/// When a breaker opens and how it asks. Failures are answers 5xx, timeouts and lost connections; a
/// refusal (4xx) shows that the destination works, and throttling is no failure (design, section 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trip {
    /// Opens after so many failures in a row; at least 1.
    pub run: u32,
    /// Opens when so many in a hundred of at least `least` exchanges within `within_ms` failed.
    pub percent: u32,
    pub least: usize,
    pub within_ms: u64,
    /// Until the first probe; doubled with each probe that fails, up to `wait_max_ms`. The upper half of
    /// it is drawn from.
    pub wait_ms: u64,
    pub wait_max_ms: u64,
}

impl Trip {
    /// Never opens.
    pub const OFF: Trip = Trip {
        run: u32::MAX,
        percent: 101,
        least: usize::MAX,
        within_ms: 0,
        wait_ms: 5_000,
        wait_max_ms: 300_000,
    };
}

impl Default for Trip {
    /// 10 in a row, or half of 20 and more within 60 s; asked after 5 s up to 5 min.
    fn default() -> Trip {
        Trip { run: 10, percent: 50, least: 20, within_ms: 60_000, wait_ms: 5_000, wait_max_ms: 300_000 }
    }
}

/// Where a breaker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    /// Nothing is sent; the next delivery after `probe_at` is the probe.
    Open {
        probe_at: Millis,
    },
    /// One exchange is in flight to see whether the destination is back.
    Probing,
    /// Back: so many exchanges at once, and so many tenths of the rate.
    Ramping {
        slots: u32,
        tenths: u32,
    },
}

/// What an exchange says about the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Went {
    /// It answered, whatever it thinks of the items.
    Well,
    /// 5xx, no answer in time, no connection.
    Failed,
    /// Throttled, or nothing that says anything: the credential, or a request that never left.
    Neither,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changed {
    Opened { probe_at: Millis },
    Closed,
}

/// A step of the ramp lasts at least so long.
const RAMP_MS: u64 = 1_000;
/// A step of the ramp that has a success is over by then, however little there is to send.
const RAMP_MS_MAX: u64 = 10_000;
/// Failures in a row that end a ramp.
const RAMP_RUN: u32 = 3;
/// Doublings from a tenth of the rate to all of it.
const RAMP_STEPS: u32 = 4;

#[derive(Debug)]
pub(crate) struct Breaker {
    at: At,
    /// Failures in a row.
    run: u32,
    /// The last exchanges: when they ended, and whether they failed.
    log: VecDeque<(Millis, bool)>,
    /// Times opened without having closed.
    opened: u32,
    /// What was sent earlier tells of the time before.
    counts_from: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Closed,
    Open { until: Millis },
    Probing { call: CallId },
    Ramping { doubled: u32, well: u32, failed: u32, since: Millis },
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker { at: At::Closed, run: 0, log: VecDeque::new(), opened: 0, counts_from: Millis(i64::MIN) }
    }
}

impl Breaker {
    /// One that was open under an earlier lease: the next delivery is the probe.
    pub(crate) fn open_since_before(now: Millis) -> Breaker {
        Breaker { at: At::Open { until: now }, ..Breaker::default() }
    }

    pub(crate) fn state(&self) -> BreakerState {
        match self.at {
            At::Closed => BreakerState::Closed,
            At::Open { until } => BreakerState::Open { probe_at: until },
            At::Probing { .. } => BreakerState::Probing,
            At::Ramping { doubled, .. } => {
                BreakerState::Ramping { slots: 1 << doubled, tenths: (1 << doubled).min(10) }
            }
        }
    }

    /// A request goes out.
    pub(crate) fn sent(&mut self, call: CallId) {
        if let At::Open { .. } = self.at {
            self.at = At::Probing { call };
        }
    }

    /// An operator has done something about it: the next delivery is the probe.
    pub(crate) fn ask_now(&mut self, now: Millis) {
        if let At::Open { until } = &mut self.at {
            *until = (*until).min(now);
        }
    }

    /// An exchange ended that was sent at `sent_at`. `jitter` is any number.
    pub(crate) fn heard(
        &mut self,
        now: Millis,
        (call, sent_at): (CallId, Millis),
        went: Went,
        trip: &Trip,
        jitter: u64,
    ) -> Option<Changed> {
        match self.at {
            At::Open { .. } => None,
            At::Probing { call: probe } if probe != call => None,
            At::Probing { .. } if went == Went::Failed => {
                self.open(now, trip, jitter);
                None
            }
            At::Probing { .. } => {
                self.counts_from = now;
                self.run = 0;
                self.at = At::Ramping { doubled: 0, well: 0, failed: 0, since: now };
                None
            }
            _ if went == Went::Neither || sent_at < self.counts_from => None,
            At::Ramping { .. } => self.ramp(now, went, trip, jitter),
            At::Closed => self.count(now, went == Went::Failed, trip, jitter),
        }
    }

    fn count(&mut self, now: Millis, failed: bool, trip: &Trip, jitter: u64) -> Option<Changed> {
        self.run = if failed { self.run.saturating_add(1) } else { 0 };
        self.log.push_back((now, failed));
        let old = |(at, _): &(Millis, bool)| now.since(*at) > trip.within_ms;
        while self.log.len() > BREAKER_LOG_MAX || self.log.front().is_some_and(old) {
            self.log.pop_front();
        }
        let failures = self.log.iter().filter(|(_, failed)| *failed).count();
        let percent = usize::try_from(trip.percent).unwrap_or(usize::MAX);
        let by_share = self.log.len() >= trip.least.min(BREAKER_LOG_MAX)
            && failures.saturating_mul(100) >= self.log.len().saturating_mul(percent);
        if failed && (self.run >= trip.run.max(1) || by_share) {
            let probe_at = self.open(now, trip, jitter);
            return Some(Changed::Opened { probe_at });
        }
        None
    }

    fn ramp(&mut self, now: Millis, went: Went, trip: &Trip, jitter: u64) -> Option<Changed> {
        let At::Ramping { doubled, well, failed, since } = &mut self.at else { return None };
        if went == Went::Failed {
            *failed += 1;
            self.run += 1;
            if self.run >= RAMP_RUN || (*failed >= RAMP_RUN && failed >= well) {
                self.open(now, trip, jitter);
            }
            return None;
        }
        *well += 1;
        self.run = 0;
        let lasted = now.since(*since);
        if lasted < RAMP_MS || (*well < 1 << *doubled && lasted < RAMP_MS_MAX) {
            return None;
        }
        (*doubled, *well, *failed, *since) = (*doubled + 1, 0, 0, now);
        if *doubled < RAMP_STEPS {
            return None;
        }
        self.at = At::Closed;
        self.opened = 0;
        self.log.clear();
        Some(Changed::Closed)
    }

    fn open(&mut self, now: Millis, trip: &Trip, jitter: u64) -> Millis {
        let doublings = self.opened.min(30);
        self.opened = self.opened.saturating_add(1);
        let wait = trip.wait_ms.saturating_mul(1 << doublings).min(trip.wait_max_ms).max(1);
        let least = wait.div_ceil(2);
        let until = now.plus(least + jitter % (wait - least + 1));
        self.run = 0;
        self.log.clear();
        self.at = At::Open { until };
        until
    }
}

/// Why it opened, for people.
pub(crate) fn reason(last: &str, probe_at: Millis) -> Reason {
    let text = format!(
        "too many exchanges failed, the last: {last}; deliveries wait, one is tried at {}",
        probe_at.rfc3339()
    );
    Reason::new("breaker_open", text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A destination under test: calls are numbered, and answered in the order in which they are sent.
    struct Bench {
        breaker: Breaker,
        now: Millis,
        calls: u64,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { breaker: Breaker::default(), now: Millis(1_000_000), calls: 0 }
        }

        fn exchange(&mut self, went: Went, ms: u64) -> Option<Changed> {
            self.calls += 1;
            let call = CallId(self.calls);
            self.breaker.sent(call);
            let sent_at = self.now;
            self.now = self.now.plus(ms);
            self.breaker.heard(self.now, (call, sent_at), went, &Trip::default(), 7)
        }

        fn fail(&mut self, times: usize) {
            for _ in 0..times {
                self.exchange(Went::Failed, 0);
            }
        }

        fn probe_at(&self) -> Millis {
            match self.breaker.state() {
                BreakerState::Open { probe_at } => probe_at,
                other => panic!("it should be open: {other:?}"),
            }
        }
    }

    #[test]
    fn a_run_opens_and_what_is_no_failure_does_not() {
        let mut bench = Bench::new();
        for _ in 0..9 {
            assert_eq!(bench.exchange(Went::Failed, 1), None);
            assert_eq!(bench.exchange(Went::Neither, 1), None);
        }
        assert!(matches!(bench.exchange(Went::Failed, 1), Some(Changed::Opened { .. })));
        let waits = bench.probe_at().since(bench.now);
        assert!((2_500..=5_000).contains(&waits), "{waits}");
    }

    #[test]
    fn a_share_opens_when_there_are_enough_within_the_time() {
        let mut bench = Bench::new();
        let mut opened =
            |ms: u64| (0..40).find(|at| bench.exchange([Went::Well, Went::Failed][at % 2], ms).is_some());
        assert_eq!(opened(4_000), None, "fifteen a minute are too few");
        assert_eq!(opened(1), Some(5), "with the last minute's fifteen");
    }

    #[test]
    fn waits_double_to_the_longest_and_a_probe_that_goes_well_ramps_until_closed() {
        let mut bench = Bench::new();
        bench.fail(10);
        let mut waits = Vec::new();
        for _ in 0..8 {
            waits.push(bench.probe_at().since(bench.now));
            bench.now = bench.probe_at();
            bench.exchange(Went::Failed, 0);
        }
        let longest = [5, 10, 20, 40, 80, 160, 300, 300].map(|seconds| seconds * 1_000);
        assert!(waits.iter().zip(longest).all(|(wait, longest)| *wait >= longest / 2 && *wait <= longest));
        bench.now = bench.probe_at();
        bench.exchange(Went::Well, 0);
        let mut steps = Vec::new();
        while bench.breaker.state() != BreakerState::Closed {
            let changed = bench.exchange(Went::Well, 300);
            assert_eq!(changed.is_some(), bench.breaker.state() == BreakerState::Closed);
            steps.push(bench.breaker.state());
        }
        steps.dedup();
        let ramp = |doubled: u32| BreakerState::Ramping { slots: 1 << doubled, tenths: 1 << doubled };
        assert_eq!(steps, [ramp(0), ramp(1), ramp(2), ramp(3), BreakerState::Closed]);
    }

    #[test]
    fn a_ramp_that_fails_opens_again_and_late_answers_say_nothing() {
        let mut bench = Bench::new();
        bench.fail(10);
        let (early, sent_at) = (CallId(99), bench.now);
        bench.now = bench.probe_at();
        bench.exchange(Went::Well, 10);
        for _ in 0..5 {
            let heard = bench.breaker.heard(bench.now, (early, sent_at), Went::Failed, &Trip::default(), 0);
            assert_eq!(heard, None);
        }
        assert!(matches!(bench.breaker.state(), BreakerState::Ramping { slots: 1, .. }));
        bench.fail(3);
        assert!(bench.probe_at().since(bench.now) > 4_999, "the second wait is twice the first");
        bench.breaker.ask_now(bench.now);
        assert_eq!(bench.probe_at(), bench.now);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_breaker_opens_for_a_reason_probes_once_and_closes_when_all_is_well(
            went in proptest::collection::vec((0..3u8, 0..3_000u64), 1..300), jitter: u64,
        ) {
            let (trip, mut breaker, mut now) = (Trip::default(), Breaker::default(), Millis(0));
            let (mut run, mut announced_open) = (0, false);
            let well = std::iter::repeat_n((0, 1_000), 80);
            for (at, (kind, gap)) in went.into_iter().chain(well).enumerate() {
                now = now.plus(gap);
                if let BreakerState::Open { probe_at } = breaker.state() {
                    prop_assert!(probe_at.since(now) <= trip.wait_max_ms);
                    now = now.max(probe_at);
                }
                let was = breaker.state();
                let call = CallId(at as u64);
                breaker.sent(call);
                if matches!(was, BreakerState::Open { .. }) {
                    prop_assert_eq!(breaker.state(), BreakerState::Probing);
                    // Another call says nothing about the probe.
                    prop_assert_eq!(breaker.heard(now, (CallId(u64::MAX), now), Went::Well, &trip, 0), None);
                    prop_assert_eq!(breaker.state(), BreakerState::Probing);
                }
                let went = [Went::Well, Went::Failed, Went::Neither][usize::from(kind)];
                run = match went { Went::Well => 0, Went::Failed => run + 1, Went::Neither => run };
                match breaker.heard(now, (call, now), went, &trip, jitter) {
                    Some(Changed::Opened { .. }) => {
                        prop_assert!(!announced_open && went == Went::Failed && (run >= 10 || at >= 19));
                        announced_open = true;
                    }
                    Some(Changed::Closed) => {
                        prop_assert!(announced_open && went == Went::Well);
                        announced_open = false;
                        run = 0;
                    }
                    None => {}
                }
            }
            prop_assert_eq!(breaker.state(), BreakerState::Closed);
            prop_assert!(!announced_open);
        }
    }
}
