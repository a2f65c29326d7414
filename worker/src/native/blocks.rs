//! Which block of the KV cache belongs to whom. No block is ever copied.
//!
//! A full block is known by what stands in it and by the block before it, so sequences that begin
//! alike share their blocks. A block that nobody holds keeps what it has until its room is needed;
//! the one that was released first goes first.

use super::kv_cache::BLOCK;
use std::collections::{BTreeMap, HashMap};

/// The contents of a full block: the mark of the block before it, and its tokens.
type Content = (u64, [u32; BLOCK]);

/// The mark before a sequence's first block.
const ROOT: u64 = 0;

#[derive(Clone, Debug, Default)]
struct Block {
    holders: u32,
    /// When it was released; unique.
    released: u64,
    /// What it is known by, once it is full.
    content: Option<Content>,
    /// What the blocks after it know it by; unique, never used twice.
    mark: u64,
}

/// All blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    all: Vec<Block>,
    /// Blocks that hold nothing of worth.
    free: Vec<u32>,
    /// Blocks that nobody holds but that may be wanted again, in the order of their release.
    idle: BTreeMap<u64, u32>,
    known: HashMap<Content, u32>,
    clock: u64,
    sharing: bool,
}

impl Blocks {
    /// `count` free blocks. Without `sharing`, sequences that begin alike share nothing.
    pub(super) fn new(count: usize, sharing: bool) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            all: vec![Block::default(); count as usize],
            free: (0..count).rev().collect(),
            idle: BTreeMap::new(),
            known: HashMap::new(),
            clock: ROOT,
            sharing,
        }
    }

    /// Blocks that could be taken now.
    pub(super) fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// The blocks that already hold the beginning of `tokens`, as far as whole blocks go.
    pub(super) fn find(&self, tokens: &[u32]) -> Vec<u32> {
        let mut mark = ROOT;
        let mut found = Vec::new();
        if !self.sharing {
            return found;
        }
        for tokens in tokens.as_chunks::<BLOCK>().0 {
            let Some(block) = self.known.get(&(mark, *tokens)) else { break };
            mark = self.all[*block as usize].mark;
            found.push(*block);
        }
        found
    }

    /// How many of `blocks` nobody holds: taking them makes fewer available.
    pub(super) fn idle_among(&self, blocks: &[u32]) -> usize {
        blocks.iter().filter(|block| self.all[**block as usize].holders == 0).count()
    }

    /// Holds a block that [`find`](Self::find) found.
    pub(super) fn hold(&mut self, block: u32) {
        let entry = &mut self.all[block as usize];
        if entry.holders == 0 {
            self.idle.remove(&entry.released);
        }
        entry.holders += 1;
    }

    /// A block of one's own, if there is one.
    pub(super) fn take(&mut self) -> Option<u32> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => self.idle.pop_first()?.1,
        };
        let entry = &mut self.all[block as usize];
        if let Some(content) = entry.content.take() {
            self.known.remove(&content);
        }
        entry.holders = 1;
        Some(block)
    }

    /// Makes a full block known: `before` is the block before it, `tokens` stand in it.
    pub(super) fn publish(&mut self, block: u32, before: Option<u32>, tokens: &[u32; BLOCK]) {
        // Behind a block that isn't known nothing can be found.
        let mark = before.map_or(ROOT, |before| self.all[before as usize].mark);
        if !self.sharing || (before.is_some() && mark == ROOT) {
            return;
        }
        let content = (mark, *tokens);
        let known = *self.known.entry(content).or_insert(block);
        let mark = if known == block {
            self.clock += 1;
            self.clock
        } else {
            // Another sequence was first: what follows is known by its mark.
            self.all[known as usize].mark
        };
        let entry = &mut self.all[block as usize];
        entry.mark = mark;
        entry.content = (known == block).then_some(content);
    }

    /// Gives up blocks, in the order of the sequence.
    pub(super) fn release(&mut self, blocks: &[u32]) {
        // The end of a beginning is worth less than its start, so it goes first.
        for block in blocks.iter().rev() {
            let entry = &mut self.all[*block as usize];
            entry.holders -= 1;
            if 0 < entry.holders {
                continue;
            }
            if entry.content.is_some() {
                self.clock += 1;
                entry.released = self.clock;
                self.idle.insert(self.clock, *block);
            } else {
                entry.mark = ROOT;
                self.free.push(*block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(blocks: usize, seed: u32) -> Vec<u32> {
        (0..blocks * BLOCK).map(|i| u32::try_from(i).expect("small") + seed * 1000).collect()
    }

    fn fill(pool: &mut Blocks, tokens: &[u32]) -> Vec<u32> {
        let mut held: Vec<u32> = Vec::new();
        for tokens in tokens.as_chunks::<BLOCK>().0 {
            let block = pool.take().expect("there is room");
            pool.publish(block, held.last().copied(), tokens);
            held.push(block);
        }
        held
    }

    #[test]
    fn a_beginning_is_found_while_it_is_held_and_after() {
        let mut pool = Blocks::new(4, true);
        let held = fill(&mut pool, &tokens(2, 0));
        let longer = tokens(3, 0);
        assert_eq!(pool.find(&longer), held);
        assert!(pool.find(&tokens(2, 1)).is_empty());
        pool.release(&held);
        assert_eq!((pool.find(&longer), pool.available()), (held, 4));
    }

    #[test]
    fn the_same_tokens_after_another_beginning_are_another_block() {
        let mut pool = Blocks::new(4, true);
        let (a, b) = (tokens(1, 1), tokens(1, 2));
        fill(&mut pool, &[a.clone(), b.clone()].concat());
        assert!(pool.find(&b).is_empty());
        assert_eq!(pool.find(&[a.clone(), a].concat()).len(), 1);
    }

    #[test]
    fn what_was_released_first_and_the_end_before_the_start_makes_room() {
        let mut pool = Blocks::new(4, true);
        let (old, new) = (fill(&mut pool, &tokens(2, 1)), fill(&mut pool, &tokens(2, 2)));
        pool.release(&old);
        pool.release(&new);
        pool.take().expect("there is room");
        assert_eq!(pool.find(&tokens(2, 1)), old[..1]);
        pool.take().expect("there is room");
        assert_eq!((pool.find(&tokens(2, 1)).len(), pool.find(&tokens(2, 2))), (0, new));
    }

    #[test]
    fn two_that_fill_the_same_block_share_what_follows() {
        let mut pool = Blocks::new(6, true);
        let all = tokens(2, 0);
        let first = fill(&mut pool, &all);
        let second = fill(&mut pool, &all);
        assert_eq!((first.len(), second.len(), pool.available()), (2, 2, 2));
        pool.release(&second);
        assert_eq!((pool.available(), pool.find(&all)), (4, first));
    }

    #[test]
    fn none_can_be_taken_that_is_held() {
        let mut pool = Blocks::new(1, true);
        let held = fill(&mut pool, &tokens(1, 0));
        pool.hold(held[0]);
        pool.release(&held);
        assert_eq!((pool.take(), pool.idle_among(&held)), (None, 0));
        pool.release(&held);
        assert_eq!((pool.idle_among(&held), pool.take()), (1, Some(held[0])));
    }
}
