//! A blocked Bloom filter over dedupe keys, which are evenly spread already: one cache line a question.
//!
//! Sixteen bits a key and six bits set give about one false hit in a thousand questions; a hit is
//! confirmed in the table.

const BITS_PER_KEY: usize = 16;
const BLOCK_BYTES: usize = 64;
const PROBES: u32 = 6;

/// The version of the stored form: bytes as they are in memory.
pub(crate) const FILTER_VERSION: i64 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    bytes: Vec<u8>,
}

impl Filter {
    /// Room for so many keys.
    pub(crate) fn for_keys(keys: i64) -> Filter {
        let bits = usize::try_from(keys).unwrap_or(1).max(32) * BITS_PER_KEY;
        Filter { bytes: vec![0; (bits / 8).next_power_of_two().max(BLOCK_BYTES)] }
    }

    /// From the stored form; `None` where it cannot be one.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Option<Filter> {
        (bytes.len() >= BLOCK_BYTES && bytes.len().is_power_of_two()).then_some(Filter { bytes })
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn add(&mut self, key: &[u8; 16]) {
        let (start, mut bits) = self.place(key);
        for _ in 0..PROBES {
            let bit = (bits & 511) as usize;
            self.bytes[start + bit / 8] |= 1 << (bit % 8);
            bits >>= 9;
        }
    }

    pub(crate) fn may_hold(&self, key: &[u8; 16]) -> bool {
        let (start, mut bits) = self.place(key);
        for _ in 0..PROBES {
            let bit = (bits & 511) as usize;
            if self.bytes[start + bit / 8] & 1 << (bit % 8) == 0 {
                return false;
            }
            bits >>= 9;
        }
        true
    }

    /// The first byte of the key's block, and the bits to look at inside it.
    fn place(&self, key: &[u8; 16]) -> (usize, u64) {
        let key = u128::from_le_bytes(*key);
        let blocks = self.bytes.len() / BLOCK_BYTES;
        ((key as usize & (blocks - 1)) * BLOCK_BYTES, (key >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailspan_core::SplitMix64;

    fn key(random: &mut SplitMix64) -> [u8; 16] {
        (u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())).to_le_bytes()
    }

    #[test]
    fn no_key_is_missed_and_few_are_claimed_wrongly() {
        let mut random = SplitMix64(7);
        let mut filter = Filter::for_keys(10_000);
        let keys: Vec<_> = (0..10_000).map(|_| key(&mut random)).collect();
        keys.iter().for_each(|k| filter.add(k));
        assert!(keys.iter().all(|k| filter.may_hold(k)));
        let wrong = (0..100_000).filter(|_| filter.may_hold(&key(&mut random))).count();
        assert!(wrong < 400, "{wrong} false hits in 100,000: expected about 100");
    }
}
