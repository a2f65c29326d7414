//! Which tokens go through the model in the next step.
//!
//! ```text
//! add ─▶ waiting ─ admitted when it fits ─▶ running ─▶ finish
//!           ▲─────── preempted, youngest first ────┘
//! ```
//!
//! A step takes one token of each sequence that is being answered, and then parts of prompts, oldest
//! first, up to a budget. A preempted sequence gives up its blocks and computes them again later; its
//! tokens stay. Nothing here looks at a clock or at a number of the model.

use super::{attention::Span, blocks::Blocks, kv_cache::BLOCK, model::Batch};
use std::collections::VecDeque;

/// A sequence's number. It is never used twice.
pub(super) type SequenceId = u64;

/// Bounds on a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Sequences that run at once.
    pub(super) sequences: usize,
    /// Tokens in a step. Sequences that are being answered count, but are never left out.
    pub(super) tokens: usize,
}

#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache, or will be after the step.
    computed: usize,
    blocks: Vec<u32>,
    /// Blocks that were made known.
    published: usize,
}

impl Sequence {
    fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }
}

/// A step, and whom its results are for.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// What goes through the model.
    pub(super) batch: Batch,
    /// Whose next token each wanted row gives.
    pub(super) wanted: Vec<SequenceId>,
}

/// All sequences.
#[derive(Debug)]
pub(super) struct Scheduler {
    bounds: Bounds,
    blocks: Blocks,
    /// Oldest first.
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    next: SequenceId,
}

impl Scheduler {
    /// No sequences yet.
    pub(super) fn new(bounds: Bounds, blocks: Blocks) -> Self {
        Self { bounds, blocks, running: Vec::new(), waiting: VecDeque::new(), next: 0 }
    }

    /// Adds a sequence that begins with `tokens`.
    pub(super) fn add(&mut self, tokens: Vec<u32>) -> SequenceId {
        let id = self.next;
        self.next += 1;
        self.waiting.push_back(Sequence {
            id,
            tokens,
            computed: 0,
            blocks: Vec::new(),
            published: 0,
        });
        id
    }

    /// Whether there is nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Appends a token to a sequence that a step wanted one for.
    pub(super) fn append(&mut self, id: SequenceId, token: u32) {
        let sequence = self.running.iter_mut().find(|sequence| sequence.id == id);
        sequence.expect("what a step wants is running").tokens.push(token);
    }

    /// Ends a sequence.
    pub(super) fn finish(&mut self, id: SequenceId) {
        self.waiting.retain(|sequence| sequence.id != id);
        if let Some(at) = self.running.iter().position(|sequence| sequence.id == id) {
            let sequence = self.running.remove(at);
            self.blocks.release(&sequence.blocks);
        }
    }

    /// The next step. Empty only when there is nothing to do.
    ///
    /// The cache must hold the longest sequence there can be.
    pub(super) fn plan(&mut self) -> Step {
        let mut step = Step::default();
        let answering = self.running.iter().filter(|sequence| sequence.pending() == 1).count();
        let mut budget = self.bounds.tokens.saturating_sub(answering);
        let before = self.waiting.len();
        let mut at = 0;
        // Oldest first: who must make room is younger than all that have been planned.
        while at < self.running.len() {
            let pending = self.running[at].pending();
            let count = if pending == 1 { 1 } else { pending.min(budget) };
            while at < self.running.len() && !self.extend(at, count) {
                self.preempt();
            }
            if at < self.running.len() && 0 < count {
                self.take(at, count, &mut step);
                budget -= if pending == 1 { 0 } else { count };
            }
            at += 1;
        }
        let preempted = before < self.waiting.len();
        while !preempted && 0 < budget && self.admit() {
            let at = self.running.len() - 1;
            let count = self.running[at].pending().min(budget);
            let fits = self.extend(at, count);
            assert!(fits, "it was admitted because it fits");
            self.take(at, count, &mut step);
            budget -= count;
        }
        debug_assert!(self.is_idle() || !step.batch.tokens.is_empty(), "a step makes headway");
        step
    }

    /// Gets blocks for `count` more tokens of a running sequence. False if there are not enough.
    fn extend(&mut self, at: usize, count: usize) -> bool {
        let sequence = &mut self.running[at];
        while sequence.blocks.len() * BLOCK < sequence.computed + count {
            let Some(block) = self.blocks.take() else { return false };
            sequence.blocks.push(block);
        }
        true
    }

    /// Puts the youngest running sequence back to waiting, before all that wait.
    fn preempt(&mut self) {
        let mut sequence = self.running.pop().expect("something holds the blocks");
        self.blocks.release(&sequence.blocks);
        sequence.blocks.clear();
        (sequence.computed, sequence.published) = (0, 0);
        self.waiting.push_front(sequence);
    }

    /// Begins with the first that waits, if all its tokens and the next one fit.
    fn admit(&mut self) -> bool {
        if self.bounds.sequences <= self.running.len() {
            return false;
        }
        let Some(first) = self.waiting.front() else { return false };
        let mut shared = self.blocks.find(&first.tokens);
        // The last token is computed in any case: its logits are wanted.
        shared.truncate((first.tokens.len() - 1) / BLOCK);
        let needed = first.tokens.len() / BLOCK + 1 - shared.len();
        // Each of those under way will want another block soon.
        let spoken_for = self.running.len() + self.blocks.idle_among(&shared);
        if self.blocks.available() < needed + spoken_for {
            return false;
        }
        let mut sequence = self.waiting.pop_front().expect("it was there");
        for block in &shared {
            self.blocks.hold(*block);
        }
        (sequence.computed, sequence.published) = (shared.len() * BLOCK, shared.len());
        sequence.blocks = shared;
        self.running.push(sequence);
        true
    }

    /// Puts a running sequence's next tokens into the step.
    fn take(&mut self, at: usize, count: usize, step: &mut Step) {
        let sequence = &mut self.running[at];
        let Batch { tokens, spans, wanted } = &mut step.batch;
        spans.push(Span {
            row: tokens.len(),
            count,
            position: sequence.computed,
            blocks: sequence.blocks.clone(),
        });
        tokens.extend(&sequence.tokens[sequence.computed..sequence.computed + count]);
        sequence.computed += count;
        if sequence.pending() == 0 {
            wanted.push(tokens.len() - 1);
            step.wanted.push(sequence.id);
        }
        // Known at once: within a step, a layer writes all keys and values before it reads any.
        let (full, _) = sequence.tokens[..sequence.computed].as_chunks::<BLOCK>();
        while sequence.published < full.len() {
            let index = sequence.published;
            let before = index.checked_sub(1).map(|before| sequence.blocks[before]);
            self.blocks.publish(sequence.blocks[index], before, &full[index]);
            sequence.published += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Runs prompts of these lengths to `answer` tokens each, and returns the steps it took. A
    /// token is its position and its sequence, so that every row can be checked.
    fn run(
        bounds: Bounds,
        blocks: usize,
        sharing: bool,
        lengths: &[usize],
        answer: usize,
    ) -> Vec<Step> {
        let mut scheduler = Scheduler::new(bounds, Blocks::new(blocks, sharing));
        let token =
            |owner: usize, position: usize| u32::try_from(owner * 10_000 + position).unwrap();
        let mut lengths_now = HashMap::new();
        for (owner, length) in lengths.iter().enumerate() {
            let id = scheduler.add((0..*length).map(|position| token(owner, position)).collect());
            lengths_now.insert(id, (owner, *length));
        }
        let mut written: HashMap<(u32, usize), u32> = HashMap::new();
        let mut steps = Vec::new();
        while !scheduler.is_idle() {
            let step = scheduler.plan();
            let batch = &step.batch;
            for span in &batch.spans {
                for offset in 0..span.count {
                    let position = span.position + offset;
                    let token = batch.tokens[span.row + offset];
                    written.insert((span.blocks[position / BLOCK], position % BLOCK), token);
                }
            }
            // What a sequence would read is its own past, whole.
            for span in &batch.spans {
                let end = span.position + span.count;
                let owner = batch.tokens[span.row] / 10_000;
                for position in 0..end {
                    let found = written.get(&(span.blocks[position / BLOCK], position % BLOCK));
                    assert_eq!(found, Some(&token(owner as usize, position)));
                }
            }
            for id in &step.wanted {
                let (owner, length) = lengths_now.get_mut(id).expect("it is running");
                scheduler.append(*id, token(*owner, *length));
                *length += 1;
                if *length == lengths[*owner] + answer {
                    scheduler.finish(*id);
                }
            }
            steps.push(step);
            assert!(steps.len() < 10_000, "it comes to an end");
        }
        steps
    }

    const BOUNDS: Bounds = Bounds { sequences: 4, tokens: 64 };

    #[test]
    fn prompts_go_in_parts_beside_answers_and_within_the_budget() {
        let steps = run(BOUNDS, 100, true, &[10, 200, 30], 20);
        assert!(steps.iter().all(|step| step.batch.tokens.len() <= 64));
        let mixed = |step: &Step| {
            let counts: Vec<usize> = step.batch.spans.iter().map(|span| span.count).collect();
            counts.contains(&1) && counts.iter().any(|count| 1 < *count)
        };
        assert!(steps.iter().any(mixed));
        let all: usize = steps.iter().map(|step| step.batch.tokens.len()).sum();
        assert_eq!(all, 240 + 3 * 19, "nothing is computed twice");
    }

    #[test]
    fn no_more_run_at_once_than_allowed() {
        let steps = run(BOUNDS, 100, true, &[5; 20], 10);
        assert!(steps.iter().all(|step| step.batch.spans.len() <= 4));
        assert!(steps.iter().any(|step| step.batch.spans.len() == 4));
    }

    #[test]
    fn with_too_few_blocks_the_youngest_begins_again_and_all_finish() {
        let steps = run(BOUNDS, 6, false, &[40, 40, 40, 40], 100);
        let restarts = steps.iter().flat_map(|step| &step.batch.spans);
        assert!(4 < restarts.filter(|span| span.position == 0).count());
    }

    #[test]
    fn one_beginning_is_computed_once_even_within_a_step() {
        let mut scheduler = Scheduler::new(BOUNDS, Blocks::new(20, true));
        let tokens: Vec<u32> = (0..40).collect();
        scheduler.add(tokens.clone());
        scheduler.add(tokens.iter().copied().chain([99]).collect());
        let step = scheduler.plan();
        let spans = &step.batch.spans;
        assert_eq!((spans[0].count, spans[1].position, spans[1].count), (40, 32, 9));
        assert_eq!((spans[0].blocks[0], step.wanted.len()), (spans[1].blocks[0], 2));
    }
}
