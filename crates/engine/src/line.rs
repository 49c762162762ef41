//! What waits for its turn in one queue of one destination, gathered into batches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mailspan_core::{DeliveryId, Millis, PersonId};

/// How batches are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batching {
    /// At least 1.
    pub(crate) max: usize,
    pub(crate) wait_ms: u64,
    /// One call may carry several items of one person.
    pub(crate) merges: bool,
}

/// Items by batch key. A group is ripe when it is full or its first item has waited long enough;
/// ripe turns go in the order in which they became ripe.
#[derive(Debug, Default)]
pub(crate) struct Line {
    ripe: VecDeque<Turn>,
    groups: BTreeMap<String, Group>,
    /// Groups that are not ripe, by the time when they will be.
    ripening: BTreeSet<(Millis, String)>,
}

#[derive(Debug)]
enum Turn {
    Alone(DeliveryId),
    /// Put together by the desk: a half of a refused batch, or what a plan left.
    Together(Vec<DeliveryId>),
    Group(String),
}

#[derive(Debug, Default)]
struct Group {
    ripe: bool,
    /// With the time when it became eligible.
    items: VecDeque<(DeliveryId, Millis)>,
}

impl Line {
    /// Adds an item; without a key it goes alone and at once.
    pub(crate) fn push(&mut self, delivery: DeliveryId, key: Option<String>, now: Millis, how: Batching) {
        let Some(key) = key else {
            self.ripe.push_back(Turn::Alone(delivery));
            return;
        };
        let group = self.groups.entry(key.clone()).or_default();
        group.items.push_back((delivery, now));
        self.place(key, now, how);
    }

    /// Items that go together, before all others of this queue.
    pub(crate) fn push_first(&mut self, together: Vec<DeliveryId>) {
        if !together.is_empty() {
            self.ripe.push_front(Turn::Together(together));
        }
    }

    /// Groups whose time has come become ripe.
    pub(crate) fn ripen(&mut self, now: Millis) {
        while self.ripening.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.ripening.pop_first() else { return };
            if let Some(group) = self.groups.get_mut(&key) {
                group.ripe = true;
                self.ripe.push_back(Turn::Group(key));
            }
        }
    }

    pub(crate) fn has_ripe(&self) -> bool {
        !self.ripe.is_empty()
    }

    /// When the next group becomes ripe by age.
    pub(crate) fn ripe_at(&self) -> Option<Millis> {
        self.ripening.first().map(|(at, _)| *at)
    }

    /// The next batch: nothing when nothing is ripe. Of a person one item, unless the call may merge.
    pub(crate) fn take(
        &mut self,
        now: Millis,
        how: Batching,
        person: impl Fn(DeliveryId) -> Option<PersonId>,
    ) -> Vec<DeliveryId> {
        match self.ripe.pop_front() {
            None => Vec::new(),
            Some(Turn::Alone(delivery)) => vec![delivery],
            Some(Turn::Together(mut together)) => {
                let rest = together.split_off(how.max.min(together.len()));
                self.push_first(rest);
                together
            }
            Some(Turn::Group(key)) => {
                let Some(mut group) = self.groups.remove(&key) else { return Vec::new() };
                let taken = gather(&mut group.items, how, person);
                if !group.items.is_empty() {
                    group.ripe = false;
                    self.groups.insert(key.clone(), group);
                    self.place(key, now, how);
                }
                taken
            }
        }
    }

    /// Puts a group that is not ripe where it belongs.
    fn place(&mut self, key: String, now: Millis, how: Batching) {
        let Some(group) = self.groups.get_mut(&key) else { return };
        let Some((_, since)) = group.items.front().copied() else { return };
        if group.ripe {
            return;
        }
        let at = since.plus(how.wait_ms);
        if group.items.len() >= how.max || at <= now {
            group.ripe = true;
            self.ripening.remove(&(at, key.clone()));
            self.ripe.push_back(Turn::Group(key));
        } else {
            self.ripening.insert((at, key));
        }
    }
}

fn gather(
    items: &mut VecDeque<(DeliveryId, Millis)>,
    how: Batching,
    person: impl Fn(DeliveryId) -> Option<PersonId>,
) -> Vec<DeliveryId> {
    let mut taken = Vec::with_capacity(how.max.min(items.len()));
    let mut left = VecDeque::new();
    let mut persons = BTreeSet::new();
    while let Some((delivery, since)) = items.pop_front() {
        let mut repeated = || !how.merges && person(delivery).is_some_and(|person| !persons.insert(person));
        if taken.len() >= how.max {
            left.push_back((delivery, since));
            left.append(items);
        } else if repeated() {
            left.push_back((delivery, since));
        } else {
            taken.push(delivery);
        }
    }
    *items = left;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: Batching = Batching { max: 3, wait_ms: 100, merges: false };

    fn push(line: &mut Line, deliveries: impl IntoIterator<Item = i64>, at: i64) {
        for delivery in deliveries {
            line.push(DeliveryId(delivery), Some("k".to_owned()), Millis(at), THREE);
        }
    }

    fn take(line: &mut Line, at: i64, persons: i64) -> Vec<i64> {
        line.ripen(Millis(at));
        let taken = line.take(Millis(at), THREE, |delivery| Some(PersonId(delivery.0 % persons)));
        taken.into_iter().map(|delivery| delivery.0).collect()
    }

    #[test]
    fn a_batch_goes_when_it_is_full_or_old() {
        let mut line = Line::default();
        push(&mut line, [1, 2], 0);
        assert_eq!((take(&mut line, 99, 100), line.ripe_at()), (vec![], Some(Millis(100))));
        push(&mut line, [3, 4], 99);
        assert_eq!(take(&mut line, 99, 100), [1, 2, 3]);
        assert_eq!((take(&mut line, 198, 100), line.ripe_at()), (vec![], Some(Millis(199))));
        assert_eq!(take(&mut line, 199, 100), [4]);
        assert_eq!((take(&mut line, 999, 100), line.ripe_at()), (vec![], None));
    }

    #[test]
    fn one_person_stands_once_in_a_batch_and_keeps_its_order() {
        let mut line = Line::default();
        push(&mut line, [1, 3, 5, 2], 0);
        assert_eq!(take(&mut line, 0, 2), [1, 2]);
        assert_eq!(take(&mut line, 100, 2), [3]);
        assert_eq!(take(&mut line, 100, 2), [5]);
    }

    #[test]
    fn what_has_no_key_goes_at_once_and_what_was_left_goes_first() {
        let mut line = Line::default();
        line.push(DeliveryId(1), None, Millis(0), THREE);
        line.push_first([2, 3, 4, 5].map(DeliveryId).to_vec());
        line.push_first(Vec::new());
        assert_eq!(take(&mut line, 0, 100), [2, 3, 4]);
        assert_eq!(take(&mut line, 0, 100), [5]);
        assert_eq!(take(&mut line, 0, 100), [1]);
        assert!(!line.has_ripe());
    }
}
