//! When a delivery is tried again.

use mailspan_core::{Class, Millis};

/// Waits between tries. With a horizon the last wait repeats until then; without one the list is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    /// Not empty.
    pub waits_ms: Vec<u64>,
    /// How long a delivery is tried, by class (`Class as usize`); `None`: as often as there are waits.
    pub horizon_ms: Option<[u64; 3]>,
    /// Without jitter, where a schedule was promised to the receiver.
    pub exact: bool,
}

const HOUR: u64 = 3_600_000;
/// Design, section 9: consent 7 days, profile 72 h, activity 24 h.
const HORIZON_MS: [u64; 3] = [7 * 24 * HOUR, 72 * HOUR, 24 * HOUR];

impl Default for Calendar {
    /// Design, section 9: 5 s to 6 h; consent 7 days, profile 72 h, activity 24 h.
    fn default() -> Calendar {
        Calendar {
            waits_ms: vec![5_000, 30_000, 120_000, 600_000, 1_800_000, HOUR, 3 * HOUR, 6 * HOUR],
            horizon_ms: Some(HORIZON_MS),
            exact: false,
        }
    }
}

/// The time of the next try after `attempts` tries (1 after the first), or nothing: a dead letter.
/// Full jitter: somewhere in the upper nine tenths of the wait, by `jitter` (any number); what the
/// vendor asked for is a floor. Never later than the horizon, counted from `since`.
pub fn next_try(
    calendar: &Calendar,
    class: Class,
    attempts: u32,
    now: Millis,
    since: Millis,
    asked_ms: Option<u64>,
    jitter: u64,
) -> Option<Millis> {
    let tried = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
    let wait = match (calendar.waits_ms.get(tried), calendar.horizon_ms) {
        (Some(wait), _) => *wait,
        (None, Some(_)) => *calendar.waits_ms.last()?,
        (None, None) => return None,
    };
    let least = if calendar.exact { wait } else { wait.div_ceil(10) };
    let drawn = least + jitter % (wait - least + 1);
    let due = now.plus(drawn.max(asked_ms.unwrap_or(0)));
    let in_time = calendar.horizon_ms.is_none_or(|horizon| due <= since.plus(horizon[class as usize]));
    in_time.then_some(due)
}

/// Until when an operation may ask a vendor's job again: the horizon, or the default one where the
/// calendar has none.
pub(crate) fn horizon(calendar: &Calendar, class: Class, since: Millis) -> Millis {
    since.plus(calendar.horizon_ms.unwrap_or(HORIZON_MS)[class as usize])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class() -> impl Strategy<Value = Class> {
        prop_oneof![Just(Class::Consent), Just(Class::Profile), Just(Class::Activity)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn a_try_keeps_its_wait_its_floor_and_its_horizon(
            class in class(), attempts in 0..60u32, now in 0..1_000_000_000i64, age in 0..1_000_000_000i64,
            asked in proptest::option::of(0..100_000_000u64), jitter: u64, endless: bool,
        ) {
            let mut calendar = Calendar::default();
            if endless {
                calendar.horizon_ms = None;
            }
            let (now, since) = (Millis(now), Millis(now - age));
            let wait = calendar.waits_ms[(attempts.max(1) as usize - 1).min(calendar.waits_ms.len() - 1)];
            let longest = wait.max(asked.unwrap_or(0));
            match next_try(&calendar, class, attempts, now, since, asked, jitter) {
                Some(due) => {
                    let waited = due.since(now);
                    prop_assert!(waited >= (wait / 10).max(1), "{waited} of {wait}");
                    prop_assert!(waited >= asked.unwrap_or(0) && waited <= longest);
                    prop_assert!(endless || due <= horizon(&calendar, class, since));
                }
                None if endless => prop_assert!(attempts as usize > calendar.waits_ms.len()),
                None => prop_assert!(now.plus(longest) > horizon(&calendar, class, since)),
            }
        }
    }

    #[test]
    fn jitter_reaches_both_ends() {
        let calendar = Calendar { waits_ms: vec![100], horizon_ms: None, exact: false };
        let drawn: Vec<i64> = (0..91)
            .filter_map(|jitter| {
                next_try(&calendar, Class::Profile, 1, Millis(0), Millis(0), None, jitter).map(|due| due.0)
            })
            .collect();
        assert_eq!((drawn.first(), drawn.last(), drawn.len()), (Some(&10), Some(&100), 91));
    }

    #[test]
    fn without_a_horizon_the_list_is_used_up() {
        let calendar = Calendar { waits_ms: vec![1_000, 2_000], horizon_ms: None, exact: false };
        let due = |attempts| next_try(&calendar, Class::Profile, attempts, Millis(0), Millis(0), None, 0);
        assert_eq!((due(1), due(2), due(3)), (Some(Millis(100)), Some(Millis(200)), None));
    }

    #[test]
    fn nothing_overflows() {
        let calendar =
            Calendar { waits_ms: vec![u64::MAX, 0], horizon_ms: Some([u64::MAX; 3]), exact: false };
        let end = Millis(i64::MAX);
        assert_eq!(next_try(&calendar, Class::Consent, 1, end, end, Some(u64::MAX), u64::MAX), Some(end));
        assert_eq!(next_try(&calendar, Class::Consent, 2, Millis(5), Millis(0), None, 7), Some(Millis(5)));
        let empty = Calendar { waits_ms: Vec::new(), horizon_ms: Some([1; 3]), exact: false };
        assert_eq!(next_try(&empty, Class::Consent, 1, end, end, None, 0), None);
    }
}
