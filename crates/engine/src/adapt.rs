//! How many exchanges at once suit a destination, found out from its refusals and its latency.
//!
//! A refusal takes its slot with it, so a capacity that falls is met after one refusal for each call too
//! many. It grows after a rest: by one, then two, four, … while nothing is refused and the latency stays
//! near the least that was seen. Latency that doubles means a queue at the receiver: less is sent. A 503
//! that names no wait may mean either, so it takes slots only down to what every vendor takes. At one call
//! at a time the latency is the receiver's own, and becomes the new measure. Calls of another class
//! or size take another time by nature, so each kind of call is measured for itself.

use mailspan_core::{Class, Millis};

/// What one begins with: every vendor takes so many.
const START: usize = 4;
/// Exchanges of one measurement, at least and at most.
const WINDOW_MIN: usize = 16;
const WINDOW_MAX: usize = 64;
/// After a refusal so many must go well, and so much time pass, before more is tried: under 1 % of
/// what is sent is refused.
const REST_EXCHANGES: u64 = 200;
const REST_MS: u64 = 3_000;
/// After being told to wait, ten times that.
const REST_MS_MAX: u64 = 60_000;
/// Differences below this are noise.
const NOISE_MS: u64 = 20;

#[derive(Debug)]
pub(crate) struct Adapt {
    on: bool,
    ceiling: usize,
    limit: usize,
    /// How much is added next.
    step: usize,
    /// Something had to wait for a slot since the last measurement.
    wanted: bool,
    rest_until: Millis,
    rest: u64,
    kinds: [Measure; KINDS],
}

/// What a refusal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// That there are too many (429, or a wait in milliseconds that was named).
    TooMany { asked_ms: u64 },
    /// 503 and nothing else: too many, or a fault that strikes whatever is sent. The breaker sees to the latter,
    /// and what every vendor takes goes on.
    Unavailable,
}

/// Three classes, and items by powers of two.
const KINDS: usize = 3 * SIZES;
const SIZES: usize = 8;

/// Calls that should take about the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(usize);

impl Kind {
    pub(crate) fn of(class: Class, items: usize) -> Kind {
        let size = usize::try_from(items.max(1).ilog2()).unwrap_or(SIZES).min(SIZES - 1);
        Kind(class as usize * SIZES + size)
    }
}

#[derive(Debug, Clone, Default)]
struct Measure {
    /// Of the measurement under way.
    took_ms: Vec<u64>,
    /// The least of all measurements.
    floor_ms: Option<u64>,
}

impl Measure {
    /// The lower quartile of what was measured, which is begun anew. A queue at the receiver delays all; a
    /// few that it stalls on say nothing.
    fn take(&mut self) -> u64 {
        self.took_ms.sort_unstable();
        let quartile = self.took_ms.get(self.took_ms.len() / 4).copied().unwrap_or(0);
        self.took_ms.clear();
        quartile
    }
}

impl Adapt {
    pub(crate) fn new(on: bool, concurrency: u32) -> Adapt {
        let ceiling = usize::try_from(concurrency.max(1)).unwrap_or(usize::MAX);
        let limit = if on { START.min(ceiling) } else { ceiling };
        Adapt {
            on,
            ceiling,
            limit,
            step: START,
            wanted: false,
            rest_until: Millis(0),
            rest: 0,
            kinds: std::array::from_fn(|_| Measure::default()),
        }
    }

    /// Other settings: what was learned stays true within them.
    pub(crate) fn set(&mut self, on: bool, concurrency: u32) {
        let before = self.limit;
        let kinds = std::mem::replace(&mut self.kinds, std::array::from_fn(|_| Measure::default()));
        *self = Adapt { kinds, ..Adapt::new(on, concurrency) };
        if on {
            self.limit = before.min(self.ceiling);
        }
    }

    pub(crate) fn slots(&self) -> usize {
        self.limit
    }

    /// A delivery was ripe and all slots were taken.
    pub(crate) fn turned_away(&mut self) {
        self.wanted = true;
    }

    /// The destination was away: whatever it could take before, it is found out again from one.
    pub(crate) fn restart(&mut self) {
        if self.on {
            (self.limit, self.step, self.wanted, self.rest) = (1, 1, false, 0);
            self.kinds.iter_mut().for_each(|kind| kind.took_ms.clear());
        }
    }

    /// An exchange was refused, perhaps because there are too many.
    pub(crate) fn refused(&mut self, now: Millis, why: Refusal) {
        let (least, asked_ms) = match why {
            Refusal::TooMany { asked_ms } => (1, asked_ms),
            Refusal::Unavailable => (START.min(self.limit), 0),
        };
        if !self.on || (self.limit <= least && why == Refusal::Unavailable) {
            return;
        }
        self.limit = (self.limit - 1).max(least);
        self.rest_for(now, asked_ms.saturating_mul(10).clamp(REST_MS, REST_MS_MAX));
        self.rest = REST_EXCHANGES;
    }

    /// No answer came. After a time that is usual it says nothing: a reset, a port that is closed.
    pub(crate) fn lost(&mut self, now: Millis, kind: Kind, took_ms: u64) {
        let floor = self.kinds.get(kind.0).and_then(|measure| measure.floor_ms);
        if floor.is_none_or(|floor| took_ms > floor) {
            self.ended(now, kind, took_ms);
        }
    }

    /// An exchange went well, after so long.
    pub(crate) fn ended(&mut self, now: Millis, kind: Kind, took_ms: u64) {
        let Some(measure) = self.kinds.get_mut(kind.0).filter(|_| self.on) else { return };
        self.rest = self.rest.saturating_sub(1);
        measure.took_ms.push(took_ms);
        if measure.took_ms.len() < self.limit.clamp(WINDOW_MIN, WINDOW_MAX) {
            return;
        }
        let took = measure.take();
        let floor = match measure.floor_ms {
            Some(floor) if self.limit > 1 => floor.min(took),
            _ => took,
        };
        measure.floor_ms = Some(floor);
        if took > floor.saturating_mul(2).saturating_add(NOISE_MS) {
            self.shrink(floor, took);
            self.rest_for(now, REST_MS);
        } else if took <= floor.saturating_add(floor / 2).saturating_add(NOISE_MS) {
            self.grow(now);
        }
        self.wanted = false;
    }

    /// To where twice the least latency is expected; by a tenth at least, by half at most.
    fn shrink(&mut self, floor: u64, took: u64) {
        let right = u64::try_from(self.limit).unwrap_or(u64::MAX).saturating_mul(floor.saturating_mul(2))
            / took.max(1);
        let right = usize::try_from(right).unwrap_or(usize::MAX);
        let least_cut = self.limit - self.limit.div_ceil(10);
        self.limit = right.clamp(self.limit / 2, least_cut.max(self.limit / 2)).max(1);
    }

    fn grow(&mut self, now: Millis) {
        if !self.wanted || self.rest > 0 || now < self.rest_until {
            return;
        }
        self.limit = self.limit.saturating_add(self.step).min(self.ceiling);
        self.step = self.step.saturating_mul(2).min(self.limit);
    }

    fn rest_for(&mut self, now: Millis, ms: u64) {
        self.step = 1;
        self.rest_until = self.rest_until.max(now.plus(ms));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: Kind = Kind(0);

    #[test]
    fn it_grows_while_wanted_and_a_refusal_takes_one_slot_and_a_rest() {
        let mut adapt = Adapt::new(true, 64);
        let mut now = Millis(0);
        let mut well = |adapt: &mut Adapt, times: usize, wanted: bool| {
            for _ in 0..times {
                now = now.plus(1);
                if wanted {
                    adapt.turned_away();
                }
                adapt.ended(now, ONE, 100);
            }
            now
        };
        well(&mut adapt, 100, false);
        assert_eq!(adapt.slots(), 4, "nobody waited for a slot");
        well(&mut adapt, 1_000, true);
        assert_eq!(adapt.slots(), 64);
        let now = well(&mut adapt, 1, true);
        adapt.refused(now, Refusal::TooMany { asked_ms: 0 });
        assert_eq!(adapt.slots(), 63);
        well(&mut adapt, 190, true);
        assert_eq!(adapt.slots(), 63);
        well(&mut adapt, 3_000, true);
        assert_eq!(adapt.slots(), 64);
    }

    #[test]
    fn latency_shrinks_it_to_one_and_that_is_measured_anew() {
        let mut adapt = Adapt::new(true, 8);
        let slow = |adapt: &mut Adapt, times: i64, ms: u64, from: i64| {
            for at in 0..times {
                adapt.turned_away();
                adapt.ended(Millis(from + at * 100), ONE, ms);
            }
        };
        slow(&mut adapt, 100, 100, 0);
        assert_eq!(adapt.slots(), 8);
        slow(&mut adapt, 50, 1_000, 10_000);
        assert_eq!(adapt.slots(), 1);
        slow(&mut adapt, 500, 1_000, 100_000);
        assert_eq!(adapt.slots(), 8, "it is slow by itself");
        let mut fixed = Adapt::new(false, 8);
        slow(&mut fixed, 100, 5_000, 0);
        fixed.refused(Millis(0), Refusal::TooMany { asked_ms: 0 });
        fixed.restart();
        assert_eq!(fixed.slots(), 8);
    }

    #[test]
    fn calls_that_take_longer_by_nature_are_no_sign_of_a_queue() {
        let mut adapt = Adapt::new(true, 16);
        let kinds = [(Kind::of(Class::Profile, 1), 30), (Kind::of(Class::Profile, 100), 900)];
        for at in 0..400 {
            let (kind, ms) = kinds[at / 20 % 2];
            adapt.turned_away();
            adapt.ended(Millis(at as i64 * 100), kind, ms);
        }
        assert_eq!(adapt.slots(), 16);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn it_stays_between_one_and_its_ceiling(
            ceiling in 0..600u32, steps in proptest::collection::vec((0..5u8, any::<u64>()), 0..600),
        ) {
            let mut adapt = Adapt::new(true, ceiling);
            let mut now = Millis(0);
            for (what, number) in steps {
                now = now.plus(number % 1_000);
                match what {
                    0 if number % 2 == 0 => adapt.refused(now, Refusal::Unavailable),
                    0 => adapt.refused(now, Refusal::TooMany { asked_ms: number }),
                    1 => adapt.turned_away(),
                    2 if number % 50 == 0 => adapt.restart(),
                    3 => adapt.lost(now, Kind::of(Class::Activity, 1), number),
                    _ => adapt.ended(now, Kind::of(Class::Profile, number as usize), number >> (number % 64)),
                }
                prop_assert!(adapt.slots() >= 1 && adapt.slots() <= ceiling.max(1) as usize);
            }
        }
    }
}
