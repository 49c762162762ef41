//! The two ends of one queue: what has been due longest, and what became due last.

use mailspan_core::Millis;

use crate::line::Line;

/// While a queue is longer than what is held of it, batches go from its ends by turns: a backlog moves on at half
/// the pace at least, and what has just arrived does not wait for all of it.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    oldest: Line,
    newest: Line,
    /// The last batch was from the newest end.
    was_newest: bool,
}

impl Ends {
    /// Is the next batch from the newest end? `newest_first` is a planted bug.
    pub(crate) fn next(&mut self, newest_first: bool) -> bool {
        self.was_newest = match (self.oldest.has_ripe(), self.newest.has_ripe()) {
            (true, true) => newest_first || !self.was_newest,
            (_, newest) => newest,
        };
        self.was_newest
    }

    pub(crate) fn line(&mut self, newest: bool) -> &mut Line {
        if newest { &mut self.newest } else { &mut self.oldest }
    }

    pub(crate) fn ripen(&mut self, now: Millis) {
        self.oldest.ripen(now);
        self.newest.ripen(now);
    }

    pub(crate) fn has_ripe(&self) -> bool {
        self.oldest.has_ripe() || self.newest.has_ripe()
    }

    /// When the next group becomes ripe by age.
    pub(crate) fn ripe_at(&self) -> Option<Millis> {
        [self.oldest.ripe_at(), self.newest.ripe_at()].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use mailspan_core::DeliveryId;

    use super::*;
    use crate::line::Batching;

    /// `n` or `o` for each batch, by the end it came from.
    fn check(oldest: i64, newest: i64, expected: &str) {
        let how = Batching { max: 1, wait_ms: 0, merges: false };
        let mut ends = Ends::default();
        (0..oldest).for_each(|id| ends.line(false).push(DeliveryId(id), None, Millis(0), how));
        (0..newest).for_each(|id| ends.line(true).push(DeliveryId(100 + id), None, Millis(0), how));
        let mut taken = String::new();
        while ends.has_ripe() {
            let end = ends.next(false);
            assert_eq!(ends.line(end).take(Millis(0), how, |_| None).len(), 1);
            taken.push(if end { 'n' } else { 'o' });
        }
        assert_eq!(taken, expected);
    }

    #[test]
    fn the_ends_take_turns_and_one_alone_goes_on() {
        check(3, 3, "nonono");
        check(4, 1, "noooo");
        check(0, 2, "nn");
        check(2, 0, "oo");
    }
}
