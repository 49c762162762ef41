//! Requests a day: a tenth is left to others who use the account, and a tenth of the rest to consent.

use mailspan_core::Millis;

use crate::Notice;

const DAY_MS: i64 = 86_400_000;

/// When the vendor's day began that is now, where its days begin so long after midnight UTC.
pub fn day_began(now: Millis, day_starts_ms: u64) -> Millis {
    let quota = Quota::new(None, day_starts_ms);
    Millis(quota.resets(now).0.saturating_sub(DAY_MS))
}

/// What was sent since the day began. A vendor's day begins at a fixed time, by UTC.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    daily: Option<u32>,
    day_starts_ms: i64,
    day: i64,
    used: u64,
    /// The danger was announced today.
    told: bool,
}

impl Quota {
    pub(crate) fn new(daily: Option<u32>, day_starts_ms: u64) -> Quota {
        let mut quota = Quota::default();
        quota.set(daily, day_starts_ms);
        quota
    }

    /// Takes other limits; what was sent today still counts.
    pub(crate) fn set(&mut self, daily: Option<u32>, day_starts_ms: u64) {
        self.daily = daily;
        self.day_starts_ms = i64::try_from(day_starts_ms).unwrap_or(0).rem_euclid(DAY_MS);
    }

    /// How many may go out today: of all, and of those that are not consent. `None`: no quota.
    pub(crate) fn shares(&self) -> Option<(u64, u64)> {
        let daily = u64::from(self.daily?);
        let usable = daily - daily / 10;
        Some((usable, usable - usable / 10))
    }

    pub(crate) fn left(&self, now: Millis, consent: bool) -> Option<u64> {
        let (usable, others) = self.shares()?;
        Some((if consent { usable } else { others }).saturating_sub(self.used(now)))
    }

    /// When the next day begins.
    pub(crate) fn resets(&self, now: Millis) -> Millis {
        let next = self.day_of(now).saturating_add(1);
        Millis(next.saturating_mul(DAY_MS).saturating_add(self.day_starts_ms))
    }

    /// A request is sent. Announces once a day that four fifths of what may be used are.
    pub(crate) fn spend(&mut self, now: Millis) -> Option<Notice> {
        self.used_is(now, self.used(now).saturating_add(1))
    }

    /// The store knows of so many today, whoever sent them; what it does not know yet is not forgotten.
    pub(crate) fn spent(&mut self, now: Millis, requests: u64) -> Option<Notice> {
        self.used_is(now, self.used(now).max(requests))
    }

    fn used_is(&mut self, now: Millis, used: u64) -> Option<Notice> {
        self.used = used;
        if self.day != self.day_of(now) {
            (self.day, self.told) = (self.day_of(now), false);
        }
        let (daily, (_, others)) = (self.daily?, self.shares()?);
        if self.told || self.used.saturating_mul(5) < others.saturating_mul(4) {
            return None;
        }
        self.told = true;
        Some(Notice::QuotaInDanger { used: self.used, daily, resets: self.resets(now) })
    }

    fn used(&self, now: Millis) -> u64 {
        if self.day_of(now) == self.day { self.used } else { 0 }
    }

    fn day_of(&self, now: Millis) -> i64 {
        now.0.saturating_sub(self.day_starts_ms).div_euclid(DAY_MS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_day_ends_at_its_own_midnight_and_is_announced_once() {
        let hour = 3_600_000;
        let mut quota = Quota::new(Some(100), 7 * hour);
        let now = Millis::parse_rfc3339("2026-05-08T06:00:00Z").unwrap();
        assert_eq!((quota.left(now, true), quota.left(now, false)), (Some(90), Some(81)));
        assert_eq!(quota.resets(now).rfc3339(), "2026-05-08T07:00:00Z");
        assert_eq!((quota.spent(now, 64), quota.spent(now, 60)), (None, None));
        assert_eq!(day_began(now, 7 * hour).rfc3339(), "2026-05-07T07:00:00Z");
        let told = Notice::QuotaInDanger { used: 65, daily: 100, resets: quota.resets(now) };
        assert_eq!((quota.spend(now), quota.spend(now)), (Some(told), None));
        assert_eq!((quota.left(now, true), quota.left(now, false)), (Some(24), Some(15)));
        let later = now.plus(hour);
        assert_eq!((quota.left(later, false), quota.spend(later)), (Some(81), None));
        assert_eq!(Quota::new(None, 0).left(now, false), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn no_day_holds_more_than_its_shares(
            daily in 0..200u32, starts in 0..200_000_000u64,
            wishes in proptest::collection::vec((0..4_000_000u64, any::<bool>()), 0..500),
        ) {
            let mut quota = Quota::new(Some(daily), starts);
            let mut now = Millis(0);
            let mut sent: std::collections::BTreeMap<Millis, (u64, u64)> = Default::default();
            for (gap, consent) in wishes {
                now = now.plus(gap);
                prop_assert!(quota.resets(now) > now && quota.resets(now).since(now) <= DAY_MS as u64);
                if quota.left(now, consent) == Some(0) {
                    continue;
                }
                quota.spend(now);
                let (all, others) = sent.entry(quota.resets(now)).or_default();
                *all += 1;
                *others += u64::from(!consent);
            }
            let daily = u64::from(daily);
            let usable = daily - daily / 10;
            prop_assert!(sent.values().all(|(all, others)| *all <= usable && *others <= usable - usable / 10));
        }
    }
}
