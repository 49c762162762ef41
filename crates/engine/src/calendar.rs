//! When a delivery is tried again.

use mailspan_core::{Class, Millis};

/// Waits between tries. With a horizon the last wait repeats until then; without one the list is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    /// Not empty.
    pub waits_ms: Vec<u64>,
    /// How long a delivery is tried, by class (`Class as usize`); `None`: as often as there are waits.
    pub horizon_ms: Option<[u64; 3]>,
}

const HOUR: u64 = 3_600_000;

impl Default for Calendar {
    /// Design, section 9: 5 s to 6 h; consent 7 days, profile 72 h, activity 24 h.
    fn default() -> Calendar {
        Calendar {
            waits_ms: vec![5_000, 30_000, 120_000, 600_000, 1_800_000, HOUR, 3 * HOUR, 6 * HOUR],
            horizon_ms: Some([7 * 24 * HOUR, 72 * HOUR, 24 * HOUR]),
        }
    }
}

/// The time of the next try after `attempts` tries (1 after the first), or nothing: a dead letter.
/// Full jitter: somewhere in the upper nine tenths of the wait, by `jitter` (any number); what the
/// vendor asked for is a floor.
pub fn next_try(
    calendar: &Calendar,
    class: Class,
    attempts: u32,
    now: Millis,
    since: Millis,
    asked_ms: Option<u64>,
    jitter: u64,
) -> Option<Millis> {
    let _ = (calendar, class, attempts, now, since, asked_ms, jitter);
    None
}
