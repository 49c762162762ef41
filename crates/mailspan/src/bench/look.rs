//! The second phase: every event that was acknowledged is looked for. A speed without it is no result.

use std::collections::HashMap;

use serde::Serialize;

use super::event::Maker;
use super::load::Sent;
use super::receiver::Receipt;

/// What became of what was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    pub sent: u64,
    pub acknowledged: u64,
    /// Sent without a 200: a sender would repeat them. They are not looked for.
    pub refused: u64,
    /// Acknowledged, and missing at one destination at least (or in the journal).
    pub lost: u64,
    /// Deliveries (or events of the journal) beyond the first of each.
    pub duplicated: u64,
    /// First deliveries after one of a later event of the same person at the same destination.
    pub out_of_order: u64,
}

impl Found {
    pub fn add(&mut self, other: &Found) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
    }
}

/// Latencies of a load's events in microseconds from the instant at which they should have been sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    pub acknowledge: Vec<u64>,
    /// Of each delivery: until it first reached its destination.
    pub first_attempt: Vec<u64>,
    /// Of each event: until it had reached all of its destinations.
    pub end_to_end: Vec<u64>,
}

/// First receipts: (event, destination) to the time.
pub type Firsts = HashMap<(u64, u16), u64>;

/// Looks for every event at each of the destinations; `receipts` are in the order of arrival.
pub fn at_receiver(maker: &Maker, sent: &[Sent], receipts: &[Receipt], destinations: u16) -> (Found, Firsts) {
    let mut found = counted(sent);
    let mut firsts = Firsts::with_capacity(receipts.len());
    let mut latest: HashMap<(u64, u16), u64> = HashMap::new();
    for receipt in receipts {
        let key = (receipt.index, receipt.destination);
        if firsts.contains_key(&key) {
            found.duplicated += 1;
            continue;
        }
        firsts.insert(key, receipt.at);
        let lane = (maker.person(receipt.index), receipt.destination);
        found.out_of_order += follow(&mut latest, lane, receipt.index);
    }
    let missing = |one: &&Sent| {
        one.acknowledged.is_some() && (0..destinations).any(|to| !firsts.contains_key(&(one.index, to)))
    };
    found.lost = sent.iter().filter(missing).count() as u64;
    (found, firsts)
}

/// Looks for every event in the journal, given as the hub's ids in its order. Events of requests that
/// got no 200 may be there as well.
pub fn in_journal(maker: &Maker, sent: &[Sent], journal: &[u128]) -> Found {
    let mut found = counted(sent);
    let mut looked_for: HashMap<u128, u64> = HashMap::with_capacity(sent.len());
    for one in sent.iter().filter(|one| one.acknowledged.is_some()) {
        // Two answers with one id, or none: one of the events is not there.
        if one.hub_id == 0 || looked_for.insert(one.hub_id, one.index).is_some() {
            found.lost += 1;
        }
    }
    let mut latest: HashMap<(u64, u16), u64> = HashMap::new();
    let mut strangers = 0;
    for id in journal {
        match looked_for.remove(id) {
            Some(index) => found.out_of_order += follow(&mut latest, (maker.person(index), 0), index),
            None => strangers += 1,
        }
    }
    found.lost += looked_for.len() as u64;
    found.duplicated = u64::saturating_sub(strangers, found.refused);
    found
}

fn counted(sent: &[Sent]) -> Found {
    let acknowledged = sent.iter().filter(|one| one.acknowledged.is_some()).count() as u64;
    let all = sent.len() as u64;
    Found { sent: all, acknowledged, refused: all - acknowledged, ..Found::default() }
}

/// 1 where a later event of the lane came before.
fn follow(latest: &mut HashMap<(u64, u16), u64>, lane: (u64, u16), index: u64) -> u64 {
    let last = latest.entry(lane).or_insert(index);
    let late = u64::from(index < *last);
    *last = index.max(*last);
    late
}

/// The latencies of one load.
pub fn latencies(sent: &[Sent], firsts: &Firsts, destinations: u16) -> Latencies {
    let mut all = Latencies::default();
    for one in sent {
        let Some(acknowledged) = one.acknowledged else { continue };
        all.acknowledge.push(acknowledged.saturating_sub(one.intended));
        let times = (0..destinations).filter_map(|to| firsts.get(&(one.index, to)));
        let after: Vec<u64> = times.map(|at| at.saturating_sub(one.intended)).collect();
        if after.len() == usize::from(destinations) {
            all.end_to_end.extend(after.iter().max());
        }
        all.first_attempt.extend(after);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTIONS: u64 = 2;

    fn maker() -> Maker {
        Maker::new("secret", 1, CONNECTIONS, 0)
    }

    fn sent(index: u64) -> Sent {
        let hub_id = u128::from(index) + 100;
        Sent { index, intended: 10 * index, acknowledged: Some(10 * index + 3), hub_id }
    }

    /// The next event of the person of event 0.
    fn later() -> u64 {
        (1..).find(|index| maker().person(*index) == maker().person(0)).unwrap()
    }

    fn check(indices: &[u64], arrivals: &[(u64, u16)], destinations: u16, expected: (u64, u64, u64)) {
        let all: Vec<Sent> = indices.iter().map(|index| sent(*index)).collect();
        let receipt = |(at, (index, destination)): (usize, &(u64, u16))| Receipt {
            index: *index,
            at: at as u64,
            destination: *destination,
        };
        let receipts: Vec<Receipt> = arrivals.iter().enumerate().map(receipt).collect();
        let (found, _) = at_receiver(&maker(), &all, &receipts, destinations);
        assert_eq!((found.lost, found.duplicated, found.out_of_order), expected, "{arrivals:?}");
    }

    #[test]
    fn what_is_wrong_at_the_receiver_is_seen() {
        let later = later();
        check(&[0, 1], &[(0, 0), (1, 0)], 1, (0, 0, 0));
        check(&[0, 1], &[(1, 0), (0, 0)], 1, (0, 0, 0));
        check(&[0, 1], &[(1, 0)], 1, (1, 0, 0));
        check(&[0, 1], &[(0, 0), (1, 0), (0, 0), (0, 0)], 1, (0, 2, 0));
        check(&[0, later], &[(later, 0), (0, 0)], 1, (0, 0, 1));
        check(&[0, later], &[(0, 0), (later, 0), (0, 0)], 1, (0, 1, 0));
        check(&[0, later], &[(later, 0), (0, 1), (later, 1), (0, 0)], 2, (0, 0, 1));
        check(&[0, 1], &[(0, 0), (0, 1), (1, 1)], 2, (1, 0, 0));
        check(&[], &[], 1, (0, 0, 0));
    }

    #[test]
    fn what_is_wrong_in_the_journal_is_seen() {
        let check = |indices: &[u64], journal: &[u128], expected: (u64, u64, u64)| {
            let all: Vec<Sent> = indices.iter().map(|index| sent(*index)).collect();
            let found = in_journal(&maker(), &all, journal);
            assert_eq!((found.lost, found.duplicated, found.out_of_order), expected, "{journal:?}");
        };
        let later = later();
        check(&[0, 1], &[100, 101], (0, 0, 0));
        check(&[0, 1], &[101], (1, 0, 0));
        check(&[0, 1], &[100, 101, 999], (0, 1, 0));
        check(&[0, 0], &[100], (1, 0, 0));
        check(&[0, later], &[u128::from(later) + 100, 100], (0, 0, 1));
        let unanswered = Sent { acknowledged: None, hub_id: 0, ..sent(1) };
        let found = in_journal(&maker(), &[sent(0), unanswered], &[100, 101]);
        assert_eq!(
            (found.refused, found.lost, found.duplicated),
            (1, 0, 0),
            "it may have been accepted unseen"
        );
    }

    #[test]
    fn latencies_count_from_the_intended_instant() {
        let firsts = Firsts::from([((0, 0), 7), ((0, 1), 9), ((1, 0), 30)]);
        let all = latencies(&[sent(0), sent(1)], &firsts, 2);
        let expected =
            Latencies { acknowledge: vec![3, 3], first_attempt: vec![7, 9, 20], end_to_end: vec![9] };
        assert_eq!(all, expected);
    }
}
