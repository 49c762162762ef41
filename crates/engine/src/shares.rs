//! Whose turn it is among the queues of one destination.

use mailspan_core::Queue;

/// What one item costs its queue, as the inverse of its weight: profile, activity, retry, backfill and
/// replay share 4 : 4 : 2 : 1 : 1. Consent is not in the table: it always goes first.
const COST: [u64; Queue::ALL.len()] = [0, 1, 1, 2, 4, 4];

/// Stride scheduling (Waldspurger 1995): the queue that has consumed least for its weight is next.
/// A queue without work gives its share away and has no claim to it later.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    spent: [u64; Queue::ALL.len()],
    had_work: [bool; Queue::ALL.len()],
    /// What the queue served last had spent: where one that comes back starts.
    level: u64,
}

impl Shares {
    /// The next queue among those that have work (indexed by [`Queue`]).
    pub(crate) fn pick(&mut self, has_work: [bool; Queue::ALL.len()]) -> Option<Queue> {
        for queue in Queue::ALL.map(|queue| queue as usize) {
            if has_work[queue] && !self.had_work[queue] {
                self.spent[queue] = self.spent[queue].max(self.level);
            }
        }
        self.had_work = has_work;
        if has_work[Queue::Consent as usize] {
            return Some(Queue::Consent);
        }
        let next = Queue::ALL
            .into_iter()
            .filter(|queue| has_work[*queue as usize])
            .min_by_key(|queue| self.spent[*queue as usize])?;
        self.level = self.spent[next as usize];
        Some(next)
    }

    pub(crate) fn charge(&mut self, queue: Queue, items: usize) {
        let items = u64::try_from(items).unwrap_or(u64::MAX);
        let spent = &mut self.spent[queue as usize];
        *spent = spent.saturating_add(COST[queue as usize].saturating_mul(items));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn retries_backfill_and_replay_never_starve_first_tries(
            first in 1..3usize, turns in proptest::collection::vec((any::<[bool; 3]>(), 1..101usize), 1..400),
        ) {
            let mut shares = Shares::default();
            let (mut own, mut others) = (0, 0);
            for (has_lesser, items) in turns {
                let mut has_work = [false, false, false, has_lesser[0], has_lesser[1], has_lesser[2]];
                has_work[first] = true;
                let queue = shares.pick(has_work).unwrap();
                shares.charge(queue, items);
                if queue as usize == first { own += items } else { others += items }
                // 4 of 8 at least, but for a batch of each of the others and its equal in weight.
                prop_assert!(own + 3 * 100 * 4 >= others, "{own} first tries, {others} others");
            }
        }
    }

    fn serve(shares: &mut Shares, has_work: [bool; 6], turns: usize) -> [usize; 6] {
        let mut served = [0; 6];
        for _ in 0..turns {
            let queue = shares.pick(has_work).unwrap();
            shares.charge(queue, 1);
            served[queue as usize] += 1;
        }
        served
    }

    #[test]
    fn queues_share_by_weight_and_consent_goes_first() {
        let mut shares = Shares::default();
        assert_eq!(
            serve(&mut shares, [false, true, true, true, true, true], 1_200),
            [0, 400, 400, 200, 100, 100]
        );
        assert_eq!(serve(&mut shares, [true; 6], 10), [10, 0, 0, 0, 0, 0]);
        assert_eq!(shares.pick([false; 6]), None);
    }

    #[test]
    fn an_idle_queue_gives_its_share_away_and_does_not_claim_it_later() {
        let mut shares = Shares::default();
        serve(&mut shares, [false, true, false, false, false, true], 500);
        let served = serve(&mut shares, [false, true, true, false, false, false], 100);
        assert!((49..=51).contains(&served[2]), "{served:?}");
    }
}
