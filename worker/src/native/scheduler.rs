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
//!
//! A step may be planned before the tokens of the one before it are known. A sequence whose last token is
//! awaited then takes part with a token that only the executor knows. If it turns out to have ended, what
//! this row gives is nobody's. Blocks change hands at once all the same: steps are carried out one after
//! another, so the next holder writes after the last one did.

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
    /// Those that are known.
    tokens: Vec<u32>,
    /// How many there may come to be.
    most: usize,
    /// Tokens that steps gave or will give, and that aren't known yet.
    awaited: usize,
    /// For which wanted row its last step gives the last of them.
    row: usize,
    /// Tokens whose keys and values are in the cache, or will be after the step.
    computed: usize,
    blocks: Vec<u32>,
    /// Blocks that were made known.
    published: usize,
}

impl Sequence {
    /// Tokens that a step can take in. Behind the last that there may be nothing comes.
    fn pending(&self) -> usize {
        (self.tokens.len() + self.awaited).min(self.most - 1) - self.computed
    }

    /// Makes full blocks known, as far as their tokens are.
    fn publish(&mut self, blocks: &mut Blocks) {
        let known = self.computed.min(self.tokens.len());
        let (full, _) = self.tokens[..known].as_chunks::<BLOCK>();
        while self.published < full.len() {
            let index = self.published;
            let before = index.checked_sub(1).map(|before| self.blocks[before]);
            blocks.publish(self.blocks[index], before, &full[index]);
            self.published += 1;
        }
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

    /// Adds a sequence that begins with `tokens` and ends when it has `most`, if not before.
    pub(super) fn add(&mut self, tokens: Vec<u32>, most: usize) -> SequenceId {
        assert!(tokens.len() < most, "a sequence has room for an answer");
        let id = self.next;
        self.next += 1;
        self.waiting.push_back(Sequence {
            id,
            tokens,
            most,
            awaited: 0,
            row: 0,
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

    /// Appends a token to a sequence that a step wanted one for, and that hasn't ended.
    pub(super) fn append(&mut self, id: SequenceId, token: u32) {
        // It may have been preempted since.
        let mut all = self.running.iter_mut().chain(&mut self.waiting);
        let sequence = all.find(|sequence| sequence.id == id).expect("it hasn't ended");
        sequence.tokens.push(token);
        sequence.awaited -= 1;
        sequence.publish(&mut self.blocks);
    }

    /// Ends a sequence.
    pub(super) fn finish(&mut self, id: SequenceId) {
        self.waiting.retain(|sequence| sequence.id != id);
        if let Some(at) = self.running.iter().position(|sequence| sequence.id == id) {
            let sequence = self.running.remove(at);
            self.blocks.release(&sequence.blocks);
        }
    }

    /// The next step. Empty only when there is nothing to do before awaited tokens are known.
    ///
    /// Of the steps before, only the last one's tokens may be awaited.
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
        let mut all = self.running.iter().chain(&self.waiting);
        let may_be_empty = self.is_idle() || all.any(|sequence| 0 < sequence.awaited);
        debug_assert!(may_be_empty || !step.batch.tokens.is_empty(), "a step makes headway");
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
        let Batch { tokens, spans, wanted, unknown } = &mut step.batch;
        let end = sequence.computed + count;
        spans.push(Span {
            row: tokens.len(),
            count,
            position: sequence.computed,
            blocks: sequence.blocks.clone(),
        });
        tokens.extend(&sequence.tokens[sequence.computed..end.min(sequence.tokens.len())]);
        if sequence.tokens.len() < end {
            unknown.push((tokens.len(), sequence.row));
            tokens.push(0);
        }
        sequence.computed = end;
        if end == sequence.tokens.len() + sequence.awaited {
            wanted.push(tokens.len() - 1);
            sequence.row = step.wanted.len();
            sequence.awaited += 1;
            step.wanted.push(sequence.id);
        }
        // Known at once: within a step, a layer writes all keys and values before it reads any.
        sequence.publish(&mut self.blocks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Runs prompts of these lengths to `answer` tokens each, and returns the steps it took. Every second
    /// one could have had more. A token is its position and its sequence, so that every row can be checked.
    /// What a step gives is known at once, or one step late.
    fn run(
        bounds: Bounds,
        blocks: usize,
        sharing: bool,
        lengths: &[usize],
        answer: usize,
        ahead: bool,
    ) -> Vec<Step> {
        let mut scheduler = Scheduler::new(bounds, Blocks::new(blocks, sharing));
        let token =
            |owner: usize, position: usize| u32::try_from(owner * 10_000 + position).unwrap();
        let mut lengths_now = HashMap::new();
        for (owner, length) in lengths.iter().enumerate() {
            let tokens = (0..*length).map(|position| token(owner, position)).collect();
            let id = scheduler.add(tokens, length + answer + owner % 2 * 50);
            lengths_now.insert(id, (owner, *length));
        }
        let mut written: HashMap<(u32, usize), u32> = HashMap::new();
        let mut steps: Vec<Step> = Vec::new();
        let mut given: Vec<(SequenceId, u32)> = Vec::new();
        while !scheduler.is_idle() {
            let mut step = scheduler.plan();
            for (row, wanted) in &step.batch.unknown {
                step.batch.tokens[*row] = given[*wanted].1;
            }
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
            let next = |(id, row): (&SequenceId, &usize)| (*id, batch.tokens[*row] + 1);
            let new: Vec<_> = step.wanted.iter().zip(&batch.wanted).map(next).collect();
            let known = if ahead { &given } else { &new };
            for (id, token_given) in known {
                let Some((owner, length)) = lengths_now.get_mut(id) else { continue };
                assert_eq!(*token_given, token(*owner, *length));
                *length += 1;
                if *length == lengths[*owner] + answer {
                    scheduler.finish(*id);
                    lengths_now.remove(id);
                } else {
                    scheduler.append(*id, *token_given);
                }
            }
            given = new;
            steps.push(step);
            assert!(steps.len() < 10_000, "it comes to an end");
        }
        steps
    }

    const BOUNDS: Bounds = Bounds { sequences: 4, tokens: 64 };

    #[test]
    fn prompts_go_in_parts_beside_answers_and_within_the_budget() {
        for ahead in [false, true] {
            let steps = run(BOUNDS, 100, true, &[10, 200, 30], 20, ahead);
            assert!(steps.iter().all(|step| step.batch.tokens.len() <= 64));
            let mixed = |step: &Step| {
                let counts: Vec<usize> = step.batch.spans.iter().map(|span| span.count).collect();
                counts.contains(&1) && counts.iter().any(|count| 1 < *count)
            };
            assert!(steps.iter().any(mixed));
            let all: usize = steps.iter().map(|step| step.batch.tokens.len()).sum();
            // Nothing is computed twice, and ahead only what nobody knew would end.
            assert_eq!(all, 240 + 3 * 19 + usize::from(ahead));
        }
    }

    #[test]
    fn no_more_run_at_once_than_allowed() {
        for ahead in [false, true] {
            let steps = run(BOUNDS, 100, true, &[5; 20], 10, ahead);
            assert!(steps.iter().all(|step| step.batch.spans.len() <= 4));
            assert!(steps.iter().any(|step| step.batch.spans.len() == 4));
        }
    }

    #[test]
    fn with_too_few_blocks_the_youngest_begins_again_and_all_finish() {
        for (ahead, sharing) in [(false, false), (true, false), (true, true)] {
            let steps = run(BOUNDS, 6, sharing, &[40, 40, 40, 40], 100, ahead);
            let restarts = steps.iter().flat_map(|step| &step.batch.spans);
            // Who shares begins again behind what is still there of its own.
            let restarts = restarts.filter(|span| span.position == 0).count();
            assert!(sharing || 4 < restarts, "{ahead}: {restarts}");
        }
    }

    #[test]
    fn a_block_that_ends_with_an_awaited_token_is_known_by_what_that_turns_out_to_be() {
        for (given, start) in [(31, 32), (99, 0)] {
            let mut scheduler = Scheduler::new(BOUNDS, Blocks::new(20, true));
            let first = scheduler.add((0..31).collect(), 100);
            assert_eq!(scheduler.plan().wanted, [first]);
            let step = scheduler.plan();
            assert_eq!((step.batch.unknown, step.wanted), (vec![(0, 0)], vec![first]));
            scheduler.append(first, given);
            scheduler.add((0..40).collect(), 100);
            assert_eq!(scheduler.plan().batch.spans[1].position, start);
        }
    }

    #[test]
    fn nobody_goes_ahead_of_the_last_token_that_there_may_be() {
        let mut scheduler = Scheduler::new(BOUNDS, Blocks::new(20, true));
        let id = scheduler.add(vec![1, 2, 3], 5);
        assert_eq!(scheduler.plan().wanted, [id]);
        assert_eq!(scheduler.plan().batch.unknown, [(0, 0)]);
        scheduler.append(id, 4);
        assert!(scheduler.plan().batch.tokens.is_empty());
        scheduler.finish(id);
        assert!(scheduler.is_idle());
    }

    #[test]
    fn one_beginning_is_computed_once_even_within_a_step() {
        let mut scheduler = Scheduler::new(BOUNDS, Blocks::new(20, true));
        let tokens: Vec<u32> = (0..40).collect();
        scheduler.add(tokens.clone(), 100);
        scheduler.add(tokens.iter().copied().chain([99]).collect(), 100);
        let step = scheduler.plan();
        let spans = &step.batch.spans;
        assert_eq!((spans[0].count, spans[1].position, spans[1].count), (40, 32, 9));
        assert_eq!((spans[0].blocks[0], step.wanted.len()), (spans[1].blocks[0], 2));
    }
}
