//! Finds ids that occur twice, at 16 bytes an id.

use crate::shards::Bits;
use std::hash::{BuildHasher, RandomState};

/// Bits of an index in an entry; the rest is hash.
const INDEX_BITS: u32 = 40;

/// Ids and whose they are, each as 88 bits of keyed hash over 40 bits of index.
///
/// Two ids that only hash alike would be taken for one. Among n ids that is n²/2⁸⁹ likely: 3 in
/// 10¹⁴ for 4,000,000, which is rarer than that the memory they are compared in errs; and as the
/// keys are chosen anew each time, nobody can make up a file in which it happens. The result needs
/// no second look at the file, and no memory that grows with the number of duplicates.
#[derive(Debug, Default)]
pub(super) struct Ids {
    entries: Vec<u128>,
    keys: [RandomState; 2],
}

impl Ids {
    /// Notes a prompt's id.
    pub(super) fn add(&mut self, index: u64, id: &str) {
        let [high, low] = self.keys.each_ref().map(|key| u128::from(key.hash_one(id)));
        let hash = (high << 64 | low) >> INDEX_BITS << INDEX_BITS;
        assert!(index < 1 << INDEX_BITS, "an input has fewer than 2^40 prompts");
        self.entries.push(hash | u128::from(index));
    }

    /// The prompts, of this many, whose id an earlier prompt has.
    pub(super) fn duplicates(mut self, prompts: u64) -> Bits {
        self.entries.sort_unstable();
        let mut duplicates = Bits::new(prompts);
        for pair in self.entries.windows(2) {
            if pair[0] >> INDEX_BITS == pair[1] >> INDEX_BITS {
                // Of equal hashes the lower index sorts first, so the first prompt stays out.
                let index = u64::try_from(pair[1] & ((1 << INDEX_BITS) - 1));
                duplicates.insert(index.expect("40 bits fit into 64"));
            }
        }
        duplicates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_ids_is_no_duplicate_and_all_others_are() {
        let mut ids = Ids::default();
        for index in 0..100_000 {
            ids.add(index, &format!("{}", index % 99_000));
        }
        let duplicates = ids.duplicates(100_000);
        assert_eq!(duplicates.count(), 1000);
        assert!((99_000..100_000).all(|index| duplicates.contains(index)));
    }
}
