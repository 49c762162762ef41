//! The stored request that proves a fact of which no event tells: a consent that is given anew with other words, and
//! changes nothing that can be seen.

use mailspan_core::limits::{PROOF_SCAN_MAX, PROOF_SKEW_MS};
use mailspan_core::{Millis, Name};

use crate::erase::from_hex;
use crate::{RequestRow, Store, Trouble, sqlite};

/// What is known of the request.
#[derive(Debug, Clone)]
pub(crate) struct Sought {
    pub tenant: Name,
    /// When it came, which the fact was learned at.
    pub at: i64,
    pub digest: [u8; 16],
}

impl Store {
    /// By the moment when the fact was learned of and by its digest (hexadecimal). Requests are not found by either, but
    /// their numbers grow with time: it is looked for among [`PROOF_SCAN_MAX`] of them about that moment.
    pub async fn proof(
        &self,
        tenant: &Name,
        at: Millis,
        digest: &str,
    ) -> Result<Option<RequestRow>, Trouble> {
        let Some(digest) = from_hex(digest) else { return Ok(None) };
        let sought = Sought { tenant: tenant.clone(), at: at.0, digest };
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::proof::find(base, &sought)).await,
            Store::Postgres(postgres) => postgres.proof(&sought).await,
        }
    }
}

/// The last number before which every request came too early, by halving: two that came in the same seconds may have
/// their numbers the other way round, which the skew allows for.
pub(crate) struct Halving {
    low: i64,
    high: i64,
    before: i64,
}

impl Halving {
    /// `last`: the last number there is.
    pub(crate) fn new(sought: &Sought, last: i64) -> Halving {
        Halving { low: 0, high: last, before: sought.at.saturating_sub(PROOF_SKEW_MS) }
    }

    /// Where to look: at the first request with a greater number than this.
    pub(crate) fn middle(&self) -> Option<i64> {
        (self.low < self.high).then(|| self.low + (self.high - self.low) / 2)
    }

    /// `found`: the number of that request and when it came.
    pub(crate) fn saw(&mut self, middle: i64, found: Option<(i64, i64)>) {
        match found {
            Some((number, at)) if at < self.before => self.low = number,
            _ => self.high = middle,
        }
    }

    /// Behind this number it may be, within so many.
    pub(crate) fn place(&self) -> (i64, i64) {
        (self.low, PROOF_SCAN_MAX as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests by number and time; where the search for one that came at `at` begins.
    fn check(rows: &[(i64, i64)], at: i64, expected: i64) {
        let sought = Sought { tenant: Name::default_tenant(), at: at + PROOF_SKEW_MS, digest: [0; 16] };
        let mut halving = Halving::new(&sought, rows.last().map_or(0, |row| row.0));
        let mut steps = 0;
        while let Some(middle) = halving.middle() {
            halving.saw(middle, rows.iter().find(|row| row.0 > middle).copied());
            steps += 1;
            assert!(steps <= 70, "it does not end");
        }
        assert_eq!(halving.place().0, expected, "{rows:?} at {at}");
    }

    #[test]
    fn the_search_begins_behind_what_came_too_early() {
        let rows = [(3, 10), (4, 20), (90, 30), (91, 40), (1_000_000, 50)];
        check(&rows, 5, 0);
        check(&rows, 10, 0);
        check(&rows, 11, 3);
        check(&rows, 30, 4);
        check(&rows, 31, 90);
        check(&rows, 51, 1_000_000);
        check(&[], 5, 0);
    }
}
