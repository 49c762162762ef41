//! Which destinations a process takes and gives up where several share a database: each as many as the others.
//! Pure; the shell is [`super::leases`]. The reasons stand in docs/decisions/0010-spread-of-destinations.md.

use std::collections::{BTreeMap, BTreeSet};

use mailspan_core::{DestinationId, Millis};
use mailspan_store::LeaseRow;

/// Before the owner's number: the lease by which a process that delivers says that it lives.
const NODE: &str = "node/";

/// The lease that says that a process lives.
pub fn node(owner: u128) -> String {
    format!("{NODE}{owner:032x}")
}

/// What the leases say now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many of the configuration's destinations each process that lives holds; this one among them.
    pub counts: BTreeMap<u128, usize>,
    /// Held by nobody.
    pub free: BTreeSet<DestinationId>,
    /// Processes that ended some time ago and were not tidied away.
    pub dead: Vec<u128>,
}

/// How long a process may be silent until what it left behind is tidied away.
const DEAD_MS: i64 = 60_000;

/// Reads the leases as `me`, who knows these destinations.
pub fn seen(leases: &[LeaseRow], me: u128, known: &BTreeSet<DestinationId>, now: Millis) -> Seen {
    let mut seen = Seen { counts: BTreeMap::from([(me, 0)]), free: known.clone(), dead: Vec::new() };
    for lease in leases.iter().filter(|lease| lease.name.starts_with(NODE)) {
        if lease.until > now {
            seen.counts.insert(lease.owner, 0);
        } else if lease.until.0 < now.0.saturating_sub(DEAD_MS) {
            seen.dead.push(lease.owner);
        }
    }
    for lease in leases.iter().filter(|lease| lease.until > now) {
        let id = lease.name.strip_prefix("destination/").and_then(|id| id.parse().ok()).map(DestinationId);
        if id.is_some_and(|id| seen.free.remove(&id))
            && let Some(count) = seen.counts.get_mut(&lease.owner)
        {
            *count += 1;
        }
    }
    seen
}

/// What to do about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Of those that are free, this many.
    pub take: usize,
    /// Of those that are held, this many.
    pub give: usize,
}

/// With D destinations and N processes each holds ⌊D/N⌋ or ⌈D/N⌉. `holds`: how many `me` holds and is not giving
/// up already.
///
/// Nobody gives up what no other lacks, and nobody takes what another lacks more: where all hold their share
/// nothing moves, whoever looks first.
pub fn plan(seen: &Seen, me: u128, holds: usize) -> Plan {
    let total: usize = seen.counts.values().sum::<usize>() + seen.free.len();
    let (low, high) = (total / seen.counts.len().max(1), total.div_ceil(seen.counts.len().max(1)));
    let others = || seen.counts.iter().filter(|(owner, _)| **owner != me);
    let lacking: usize = others().map(|(_, count)| low.saturating_sub(*count)).sum();
    if holds > high {
        return Plan { take: 0, give: holds - high };
    }
    if holds < low {
        return Plan { take: low - holds, give: 0 };
    }
    if holds < high {
        // One more than the least, once the least are served.
        return Plan { take: usize::from(seen.free.len() > lacking), give: 0 };
    }
    // Free ones, and those that others must give up, are on their way to whom they lack.
    let given: usize = others().map(|(_, count)| count.saturating_sub(high)).sum();
    let coming =
        seen.free.len() + given + seen.counts.get(&me).map_or(0, |count| count.saturating_sub(holds));
    let before_me = others().filter(|(owner, count)| **count >= high && **owner < me).count();
    let gives = high > low && lacking > coming && before_me < lacking - coming;
    Plan { take: 0, give: usize::from(gives) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Processes on one table of leases, each with a view of its own moment.
    struct Fleet {
        nodes: BTreeSet<u128>,
        held: BTreeMap<DestinationId, Option<u128>>,
        moves: usize,
    }

    impl Fleet {
        fn new(destinations: i64) -> Fleet {
            let held = (1..=destinations).map(|id| (DestinationId(id), None)).collect();
            Fleet { nodes: BTreeSet::new(), held, moves: 0 }
        }

        fn seen(&self, me: u128) -> Seen {
            let row = |name: String, owner: u128| LeaseRow { name, owner, until: Millis(10) };
            let mut leases: Vec<LeaseRow> =
                self.nodes.iter().map(|owner| row(node(*owner), *owner)).collect();
            leases.extend(
                self.held
                    .iter()
                    .filter_map(|(id, owner)| Some(row(format!("destination/{}", id.0), (*owner)?))),
            );
            super::seen(&leases, me, &self.held.keys().copied().collect(), Millis(5))
        }

        fn holds(&self, me: u128) -> Vec<DestinationId> {
            self.held.iter().filter(|(_, owner)| **owner == Some(me)).map(|(id, _)| *id).collect()
        }

        /// One looks; true where it changed something.
        fn turn(&mut self, me: u128) -> bool {
            let (seen, mine) = (self.seen(me), self.holds(me));
            let plan = plan(&seen, me, mine.len());
            for id in mine.iter().rev().take(plan.give) {
                self.held.insert(*id, None);
                self.moves += 1;
            }
            for id in seen.free.iter().take(plan.take) {
                self.held.insert(*id, Some(me));
            }
            plan != Plan::default()
        }

        /// All take turns until nothing changes any more.
        fn settle(&mut self) {
            let nodes: Vec<u128> = self.nodes.iter().copied().collect();
            for _ in 0..100 {
                let changed = nodes.iter().filter(|node| self.turn(**node)).count();
                if changed == 0 {
                    return self.is_even();
                }
            }
            panic!("it does not come to rest: {:?}", self.held);
        }

        fn is_even(&self) {
            assert!(self.held.values().all(Option::is_some), "not all are served: {:?}", self.held);
            let (total, nodes) = (self.held.len(), self.nodes.len());
            for node in &self.nodes {
                let count = self.holds(*node).len();
                assert!((total / nodes..=total.div_ceil(nodes)).contains(&count), "{:?}", self.held);
            }
        }

        fn end(&mut self, node: u128) {
            self.nodes.remove(&node);
            self.held.values_mut().filter(|owner| **owner == Some(node)).for_each(|owner| *owner = None);
        }
    }

    #[test]
    fn one_that_joins_gets_its_share_and_nothing_else_moves() {
        let mut fleet = Fleet::new(12);
        for (node, moves) in [(7, 0), (3, 6), (9, 4), (1, 3)] {
            fleet.nodes.insert(node);
            fleet.moves = 0;
            fleet.settle();
            assert_eq!(fleet.moves, moves, "as few as can be");
        }
        fleet.end(3);
        fleet.moves = 0;
        fleet.settle();
        assert_eq!(fleet.moves, 0, "only what became free is taken");
    }

    #[test]
    fn what_is_dead_is_named_and_counts_for_nothing() {
        let lease =
            |name: &str, owner: u128, until: i64| LeaseRow { name: name.into(), owner, until: Millis(until) };
        let leases = [
            lease(&node(1), 1, 200_001),
            lease(&node(2), 2, 199_999),
            lease(&node(3), 3, 100_000),
            lease("destination/1", 1, 200_001),
            lease("destination/2", 2, 200_001),
            lease("destination/3", 3, 100_000),
            lease("destination/9", 1, 200_001),
            lease("router", 1, 200_001),
        ];
        let known = BTreeSet::from([DestinationId(1), DestinationId(2), DestinationId(3)]);
        let seen = seen(&leases, 4, &known, Millis(200_000));
        assert_eq!(seen.counts, BTreeMap::from([(1, 1), (4, 0)]));
        assert_eq!((seen.free, seen.dead), (BTreeSet::from([DestinationId(3)]), vec![3]));
    }

    proptest! {
        #[test]
        fn whoever_comes_and_goes_it_comes_to_rest_evenly(
            destinations in 0_i64..40,
            steps in proptest::collection::vec((0_u128..6, any::<bool>(), 0_usize..9), 1..12),
        ) {
            let mut fleet = Fleet::new(destinations);
            for (node, joins, turns) in steps {
                if joins { fleet.nodes.insert(node); } else { fleet.end(node); }
                // Some look before the next one comes or goes.
                let nodes: Vec<u128> = fleet.nodes.iter().copied().collect();
                for turn in 0..turns.min(nodes.len() * 9) {
                    fleet.turn(nodes[(turn * 7) % nodes.len()]);
                }
            }
            fleet.nodes.insert(99);
            fleet.settle();
        }
    }
}
