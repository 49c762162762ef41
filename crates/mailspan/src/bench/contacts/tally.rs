//! What was written, and what of it was read back.

use serde::Serialize;
use serde_json::Value;

use super::people;

/// What became of the contacts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Contacts with an acknowledged write.
    pub written: u64,
    /// Writes that got no 200 or were refused: a caller would send them again.
    pub refused: u64,
    pub read_back: u64,
    /// Acknowledged, and not in the list.
    pub lost: u64,
    /// In the list more than once.
    pub doubled: u64,
    /// Older than the last acknowledged write, or not as it was written.
    pub different: u64,
}

/// The last version of each contact that was acknowledged, and the last that was sent.
pub struct Tally {
    versions: Vec<(Option<u32>, u32)>,
    refused: u64,
}

impl Tally {
    pub fn new(contacts: u64) -> Tally {
        Tally { versions: vec![(None, 0); usize::try_from(contacts).unwrap_or(0)], refused: 0 }
    }

    /// The version that is sent next.
    pub fn next(&self, n: u64) -> u32 {
        self.at(n).map_or(0, |(_, sent)| sent + 1)
    }

    /// `acknowledged`: false where nobody said that it was kept; it may be, all the same.
    pub fn sent(&mut self, n: u64, version: u32, acknowledged: bool) {
        self.refused += u64::from(!acknowledged);
        if let Some(one) = usize::try_from(n).ok().and_then(|n| self.versions.get_mut(n)) {
            one.1 = one.1.max(version);
            if acknowledged {
                one.0 = one.0.max(Some(version));
            }
        }
    }

    fn at(&self, n: u64) -> Option<(Option<u32>, u32)> {
        self.versions.get(usize::try_from(n).ok()?).copied()
    }

    /// A reading of the whole list, page by page.
    pub fn reading(&self) -> Reading<'_> {
        let written = self.versions.iter().filter(|(acknowledged, _)| acknowledged.is_some()).count() as u64;
        let found = Found { written, refused: self.refused, ..Found::default() };
        Reading { tally: self, seen: vec![false; self.versions.len()], found }
    }
}

pub struct Reading<'t> {
    tally: &'t Tally,
    seen: Vec<bool>,
    found: Found,
}

impl Reading<'_> {
    pub fn page(&mut self, contacts: &[Value]) {
        for shown in contacts {
            self.found.read_back += 1;
            let number = shown["email"].as_str().and_then(people::number);
            let known = number.and_then(|n| Some((usize::try_from(n).ok()?, self.tally.at(n)?)));
            let Some((place, (acknowledged, sent))) = known else {
                self.found.different += 1;
                continue;
            };
            if std::mem::replace(&mut self.seen[place], true) {
                self.found.doubled += 1;
            }
            let right = people::version(shown)
                .is_some_and(|version| Some(version) >= acknowledged && version <= sent);
            self.found.different += u64::from(!right);
        }
    }

    pub fn end(mut self) -> Found {
        let unseen = self.tally.versions.iter().zip(&self.seen);
        self.found.lost = unseen.filter(|((written, _), seen)| written.is_some() && !**seen).count() as u64;
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shown: &[(u64, u32)], expected: (u64, u64, u64)) {
        let mut tally = Tally::new(4);
        for (n, version, acknowledged) in [(0, 1, true), (1, 1, true), (1, 2, false), (2, 1, false)] {
            tally.sent(n, version, acknowledged);
        }
        let mut reading = tally.reading();
        let shown: Vec<Value> = shown.iter().map(|(n, version)| people::contact(*n, *version)).collect();
        reading.page(&shown);
        let found = reading.end();
        assert_eq!((found.lost, found.doubled, found.different), expected, "{shown:?}");
        assert_eq!((found.written, found.refused, tally.next(1)), (2, 2, 3));
    }

    #[test]
    fn what_is_lost_doubled_or_different_is_seen() {
        check(&[(0, 1), (1, 1)], (0, 0, 0));
        check(&[(0, 1), (1, 2), (2, 1)], (0, 0, 0));
        check(&[(1, 1)], (1, 0, 0));
        check(&[(0, 1), (1, 1), (0, 1)], (0, 1, 0));
        check(&[(0, 0), (1, 3)], (0, 0, 2));
        check(&[(0, 1), (1, 1), (9, 1)], (0, 0, 1));
    }
}
