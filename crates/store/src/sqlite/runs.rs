//! In which run of a segment a key may stand: a small filter over each run, beside the one over the segment. A key
//! that is a repeat is then looked for in about one run, not in all of them, whatever its age.

use crate::filter::{FILTER_VERSION, Filter};

/// The version of a segment's stored filter that is followed by those of its runs.
pub(crate) const WITH_RUNS: i64 = 2;
/// Half of what a run of 8,192 would have for itself: eight bits a key, so about one in forty runs is looked at
/// in vain. 33 runs have 264 KiB.
const SIZED_FOR: i64 = 4_096;
/// After the filters: how long that of the segment is, how many runs there are, whether there are bare keys.
const TAIL_BYTES: usize = 6;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    filters: Vec<Filter>,
    /// Keys from before there were runs.
    pub bare: bool,
}

impl Runs {
    pub(crate) fn add(&mut self, run: u8, key: &[u8; 16]) {
        let at = usize::from(run);
        while self.filters.len() <= at {
            self.filters.push(Filter::for_keys(SIZED_FOR));
        }
        self.filters[at].add(key);
    }

    /// Runs that may hold the key: the one that does, if there is one, and few others.
    pub(crate) fn of<'a>(&'a self, key: &'a [u8; 16]) -> impl Iterator<Item = u8> + 'a {
        (0..u8::MAX).zip(&self.filters).filter(|(_, filter)| filter.may_hold(key)).map(|(run, _)| run)
    }

    /// The stored form of version [`WITH_RUNS`], behind the filter over all.
    pub(crate) fn pack(&self, all: &Filter) -> Vec<u8> {
        let mut bytes = all.as_bytes().to_vec();
        self.filters.iter().for_each(|filter| bytes.extend(filter.as_bytes()));
        let size = u32::try_from(all.as_bytes().len()).unwrap_or(0);
        bytes.extend(size.to_le_bytes());
        bytes.extend([u8::try_from(self.filters.len()).unwrap_or(u8::MAX), u8::from(self.bare)]);
        bytes
    }
}

/// A stored filter, with those of the runs where the version has them; nothing where it cannot be one: then it is
/// made anew from the keys.
pub(crate) fn unpack(version: i64, mut bytes: Vec<u8>) -> Option<(Filter, Option<Runs>)> {
    if version == FILTER_VERSION {
        return Some((Filter::from_bytes(bytes)?, None));
    }
    if version != WITH_RUNS {
        return None;
    }
    let tail: [u8; TAIL_BYTES] = bytes.last_chunk().copied()?;
    let [size @ .., runs, bare] = tail;
    let size = usize::try_from(u32::from_le_bytes(size)).ok()?;
    bytes.truncate(bytes.len() - TAIL_BYTES);
    if size > bytes.len() {
        return None;
    }
    let of_runs = bytes.split_off(size);
    let each = Filter::for_keys(SIZED_FOR).as_bytes().len();
    if bare > 1 || of_runs.len() != usize::from(runs) * each {
        return None;
    }
    let filters = of_runs.chunks(each).map(|chunk| Filter::from_bytes(chunk.to_vec()));
    let runs = Runs { filters: filters.collect::<Option<_>>()?, bare: bare == 1 };
    Some((Filter::from_bytes(bytes)?, Some(runs)))
}

#[cfg(test)]
mod tests {
    use mailspan_core::SplitMix64;

    use super::*;

    fn key(random: &mut SplitMix64) -> [u8; 16] {
        (u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())).to_be_bytes()
    }

    #[test]
    fn a_key_is_looked_for_in_its_run_and_few_others() {
        let mut random = SplitMix64(3);
        let mut runs = Runs::default();
        let keys: Vec<(u8, [u8; 16])> =
            (0..33 * 8_192).map(|n| ((n / 8_192) as u8, key(&mut random))).collect();
        keys.iter().for_each(|(run, key)| runs.add(*run, key));
        assert!(keys.iter().all(|(run, key)| runs.of(key).any(|found| found == *run)));
        let looked_at: usize = keys.iter().map(|(_, key)| runs.of(key).count()).sum();
        assert!(looked_at < keys.len() * 5 / 2, "{looked_at} runs are looked at for {} keys", keys.len());
    }

    #[test]
    fn the_stored_form_is_read_back_and_anything_else_is_not_believed() {
        let mut random = SplitMix64(4);
        let (mut all, mut runs) = (Filter::for_keys(1_000), Runs { bare: true, ..Runs::default() });
        for run in 0..3 {
            let key = key(&mut random);
            all.add(&key);
            runs.add(run, &key);
        }
        let bytes = runs.pack(&all);
        assert_eq!(unpack(WITH_RUNS, bytes.clone()), Some((all.clone(), Some(runs))));
        assert_eq!(unpack(FILTER_VERSION, all.as_bytes().to_vec()), Some((all.clone(), None)));
        for cut in [0, 1, 5, 6, 7, 100, bytes.len() - 1] {
            assert_eq!(unpack(WITH_RUNS, bytes[..cut].to_vec()), None, "{cut} bytes");
        }
        assert_eq!(unpack(WITH_RUNS, all.as_bytes().to_vec()), None);
        assert_eq!(unpack(FILTER_VERSION, bytes), None);
        assert_eq!(unpack(3, all.as_bytes().to_vec()), None);
    }
}
