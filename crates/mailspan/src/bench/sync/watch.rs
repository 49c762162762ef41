//! Who knows, and since when: the fakes are looked at for as long as somebody is left to be told.

use std::collections::BTreeMap;
use std::time::Instant;

use super::vendors::Vendors;
use crate::bench::load::micros;
use crate::runtime;

/// Between two looks: a small part of what is measured.
const LOOK_MS: u64 = 2;
/// So long nobody learned anything: who does not know is not told any more.
const QUIET_MS: u64 = 30_000;

/// Microseconds from the epoch at which each system was seen to know of each contact.
pub type Known = BTreeMap<u64, [Option<u64>; 4]>;

/// Looks until all know of all, or nothing moves any more.
pub async fn until_known(vendors: &Vendors, epoch: Instant, numbers: &[u64]) -> Known {
    let mut known = Known::new();
    let mut left: Vec<u64> = numbers.to_vec();
    let mut moved = runtime::instant();
    while !left.is_empty() && moved.elapsed().as_millis() < u128::from(QUIET_MS) {
        left.retain(|n| {
            let times = known.entry(*n).or_default();
            let before = *times;
            for (time, knows) in times.iter_mut().zip(vendors.know(*n)) {
                if knows && time.is_none() {
                    *time = Some(micros(epoch));
                }
            }
            if *times != before {
                moved = runtime::instant();
            }
            times.contains(&None)
        });
        runtime::sleep(LOOK_MS).await;
    }
    known
}
