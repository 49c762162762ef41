//! When a round goes on. Pure: the random number is given.

use mailspan_core::limits::{POLL_BACKOFF_MS, POLL_BACKOFF_MS_MAX, POLL_RETRY_AFTER_MS_MAX};
use mailspan_core::{Millis, SplitMix64};
use mailspan_store::RoundRow;

/// A clock that differs from another node's by more than this was set back.
const SKEW_MS: u64 = 60_000;
/// No failure is tried again sooner.
const LEAST_MS: u64 = 1_000;

/// The next round: `every_ms` from now, a tenth sooner or later, so that many hubs that were started together do
/// not ask together.
pub fn after_round(now: Millis, every_ms: u64, random: u64) -> Millis {
    let tenth = every_ms / 10;
    now.plus(every_ms - tenth + SplitMix64(random).below(2 * tenth + 1))
}

/// After the `failures`-th answer in a row that was none. What the vendor asked for is a floor, obeyed up to a day;
/// else full jitter on an exponential calendar, so that what broke together does not come back together.
pub fn after_failure(now: Millis, failures: u32, asked_ms: Option<u64>, random: u64) -> Millis {
    let mut random = SplitMix64(random);
    let wait = match asked_ms {
        Some(asked) => {
            let asked = asked.min(POLL_RETRY_AFTER_MS_MAX);
            asked + random.below(asked / 10 + 1)
        }
        None => {
            let doublings = failures.saturating_sub(1).min(20);
            random.below((POLL_BACKOFF_MS << doublings).min(POLL_BACKOFF_MS_MAX))
        }
    };
    now.plus(wait.max(LEAST_MS))
}

/// How long to wait for a round; nothing while it is paused. One that was missed, however often, is due once.
pub fn wait(row: Option<&RoundRow>, now: Millis) -> Option<u64> {
    let Some(row) = row else { return Some(0) };
    if row.paused.is_some() {
        return None;
    }
    // The clock was set back: nobody knows how far `due` is.
    if row.asked_at.is_some_and(|at| at.since(now) > SKEW_MS) {
        return Some(0);
    }
    Some(row.due.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailspan_core::Reason;

    const NOW: Millis = Millis(1_000_000_000);

    #[test]
    fn the_next_round_is_a_tenth_sooner_or_later() {
        let waits: Vec<u64> = (0..1_000).map(|n| after_round(NOW, 900_000, n).since(NOW)).collect();
        assert!(waits.iter().all(|wait| (810_000..=990_000).contains(wait)));
        assert!(waits.iter().any(|wait| *wait < 830_000) && waits.iter().any(|wait| *wait > 970_000));
        assert_eq!(after_round(NOW, 0, 7), NOW);
    }

    fn check(failures: u32, asked: Option<u64>, least: u64, most: u64) {
        for random in 0..200 {
            let wait = after_failure(NOW, failures, asked, random).since(NOW);
            assert!((least..=most).contains(&wait), "{failures} {asked:?}: {wait}");
        }
    }

    #[test]
    fn failures_wait_longer_each_time_and_the_vendor_is_obeyed() {
        check(1, None, 1_000, 5_000);
        check(2, None, 1_000, 10_000);
        check(5, None, 1_000, 80_000);
        check(u32::MAX, None, 1_000, 3_600_000);
        check(1, Some(7_000), 7_000, 7_700);
        check(9, Some(0), 1_000, 1_000);
        check(1, Some(u64::MAX), 86_400_000, 95_040_000);
    }

    #[test]
    fn what_was_missed_is_due_once_and_what_is_paused_never() {
        let row = RoundRow {
            about: 1,
            cursor: String::new(),
            due: NOW.plus(5_000),
            failures: 0,
            reason: None,
            paused: None,
            asked_at: Some(NOW),
            ended_at: None,
            made_at: NOW,
        };
        assert_eq!(wait(None, NOW), Some(0));
        assert_eq!(wait(Some(&row), NOW), Some(5_000));
        assert_eq!(wait(Some(&row), NOW.plus(86_400_000)), Some(0));
        // The clock was set back by an hour.
        assert_eq!(wait(Some(&row), Millis(NOW.0 - 3_600_000)), Some(0));
        let paused = RoundRow { paused: Some(Reason::new("unauthorized", "no")), ..row };
        assert_eq!(wait(Some(&paused), NOW.plus(86_400_000)), None);
    }
}
