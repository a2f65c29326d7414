//! A set of prompts, at one bit a prompt.

/// A set of positions below a bound that was given at the start.
///
/// 4,000,000 prompts take 500 kB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
    bound: u64,
    count: u64,
}

impl Bits {
    /// The empty set of positions below `bound`.
    pub fn new(bound: u64) -> Self {
        let words = usize::try_from(bound.div_ceil(64)).expect("a bit a prompt fits into memory");
        Self { words: vec![0; words], bound, count: 0 }
    }

    /// Adds a position. False if it was there already.
    ///
    /// Panics if it isn't below the bound, which is a bug of the caller.
    pub fn insert(&mut self, position: u64) -> bool {
        assert!(position < self.bound, "position {position} of {}", self.bound);
        let (word, bit) = place(position);
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u64::from(new);
        new
    }

    /// Whether a position is in the set. One that isn't below the bound is not.
    pub fn contains(&self, position: u64) -> bool {
        let (word, bit) = place(position);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// How many positions are in the set.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// All positions are below this.
    pub const fn bound(&self) -> u64 {
        self.bound
    }

    /// The lowest position below the bound that isn't in the set.
    pub fn first_missing(&self) -> Option<u64> {
        let word = self.words.iter().position(|word| *word != u64::MAX)?;
        let position = word as u64 * 64 + u64::from(self.words[word].trailing_ones());
        (position < self.bound).then_some(position)
    }

    /// Adds every position of another set with the same bound.
    ///
    /// Panics if the bounds differ, which is a bug of the caller.
    pub fn extend(&mut self, other: &Self) {
        assert_eq!(self.bound, other.bound, "sets of prompts of two inputs");
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
        self.count = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
    }
}

fn place(position: u64) -> (usize, u64) {
    (usize::try_from(position / 64).unwrap_or(usize::MAX), 1 << (position % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_new_only_once() {
        let mut bits = Bits::new(130);
        for position in [0, 63, 64, 129] {
            assert!(!bits.contains(position));
            assert!(bits.insert(position));
            assert!(!bits.insert(position));
            assert!(bits.contains(position));
        }
        assert_eq!((bits.count(), bits.bound()), (4, 130));
        assert!(!bits.contains(130) && !bits.contains(u64::MAX));
    }

    #[test]
    fn the_first_missing_position_is_found_or_there_is_none() {
        let mut bits = Bits::new(66);
        for position in 0..66 {
            assert_eq!(bits.first_missing(), Some(position));
            bits.insert(position);
        }
        assert_eq!(bits.first_missing(), None);
        assert_eq!(Bits::new(0).first_missing(), None);
    }

    #[test]
    fn a_union_counts_what_both_have_once() {
        let (mut one, mut two) = (Bits::new(100), Bits::new(100));
        one.insert(3);
        one.insert(70);
        two.insert(70);
        two.insert(99);
        one.extend(&two);
        assert_eq!(one.count(), 3);
        assert!(one.contains(3) && one.contains(70) && one.contains(99));
    }
}
