//! How many refused requests are explained and kept: a bucket a source.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use mailspan_core::limits::{REFUSED_BURST, REFUSED_PER_SECOND};
use mailspan_core::{Millis, Name};

/// Sources are of the configuration, so the map is bounded by it.
#[derive(Default)]
pub struct Refusals(Mutex<HashMap<Name, Bucket>>);

struct Bucket {
    /// Thousandths of a request.
    level: u64,
    at: Millis,
}

impl Refusals {
    /// True for one that is to be explained and kept; a burst of [`REFUSED_BURST`], then
    /// [`REFUSED_PER_SECOND`].
    pub fn take(&self, source: &Name, now: Millis) -> bool {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = REFUSED_BURST * 1_000;
        let bucket = buckets.entry(source.clone()).or_insert(Bucket { level: full, at: now });
        let grown = now.since(bucket.at).saturating_mul(REFUSED_PER_SECOND);
        *bucket = Bucket { level: bucket.level.saturating_add(grown).min(full), at: now.max(bucket.at) };
        let there = bucket.level >= 1_000;
        bucket.level -= if there { 1_000 } else { 0 };
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_kept_then_some_a_second() {
        let (refusals, source) = (Refusals::default(), Name::new("s"));
        let kept = |at: i64, n: usize| (0..n).filter(|_| refusals.take(&source, Millis(at))).count() as u64;
        assert_eq!(kept(0, 1_000), REFUSED_BURST);
        assert_eq!(kept(1_000, 1_000), REFUSED_PER_SECOND);
        assert_eq!(kept(500, 1_000), 0, "a clock that steps back gives nothing");
        assert_eq!(kept(100_000_000, 1_000), REFUSED_BURST);
        assert!(refusals.take(&Name::new("other"), Millis(0)));
    }
}
