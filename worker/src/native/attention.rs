//! Attention over a paged cache of keys and values.
//!
//! A block holds [`BLOCK`] positions of one sequence. Its keys are kept transposed, so that both
//! the scores and the weighted sum of the values are products of a tile with a panel, and all
//! query heads that share a head of keys go through them together.

#![expect(clippy::inline_always, reason = "only inlined is a loop compiled for the processor")]

use super::{
    kernel::{PANEL, TILE, accumulate, width_for},
    simd::{Loop, exp, vectorized},
};
use rayon::prelude::*;
use std::ops::Range;

/// Positions of a block.
pub(super) const BLOCK: usize = PANEL;

/// Tokens of one sequence that follow each other in a batch.
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// The first one's row in the batch.
    pub(super) row: usize,
    /// How many they are.
    pub(super) count: usize,
    /// The first one's position in its sequence.
    pub(super) position: usize,
    /// The sequence's blocks.
    pub(super) blocks: Vec<u32>,
}

/// The sizes that attention goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Heads of keys and values.
    pub(super) kv_heads: usize,
    /// Query heads to each of them.
    pub(super) group: usize,
    /// Floats of a head.
    pub(super) head_dim: usize,
    /// Positions that attention looks back.
    pub(super) window: Option<usize>,
}

/// The keys and values of one head in one layer, for all sequences.
#[derive(Debug)]
pub(super) struct Head {
    dim: usize,
    /// In rows of [`BLOCK`] floats: one for each float of a head, block after block.
    keys: Vec<f32>,
    /// In rows of [`PANEL`] floats: one for each position, panel after panel, block after block.
    values: Vec<f32>,
}

impl Head {
    /// Room for `blocks` blocks. The memory is taken when it is first written.
    pub(super) fn new(blocks: usize, head_dim: usize) -> Self {
        Self {
            dim: head_dim,
            // Flat, since only a vector of plain zeros is not written at once.
            keys: vec![0.0; blocks * head_dim * BLOCK],
            values: vec![0.0; blocks * head_dim.div_ceil(PANEL) * BLOCK * PANEL],
        }
    }

    /// Bytes that one block takes.
    pub(super) fn block_bytes(head_dim: usize) -> u64 {
        ((head_dim + head_dim.div_ceil(PANEL) * PANEL) * BLOCK * size_of::<f32>()) as u64
    }

    /// Keeps the key and the value of one position.
    pub(super) fn store(&mut self, block: u32, slot: usize, key: &[f32], value: &[f32]) {
        let block = block as usize;
        let (keys, _) = self.keys.as_chunks_mut::<BLOCK>();
        let rows = &mut keys[block * self.dim..(block + 1) * self.dim];
        for (row, key) in rows.iter_mut().zip(key) {
            row[slot] = *key;
        }
        let panels = self.dim.div_ceil(PANEL);
        let (values, _) = self.values.as_chunks_mut::<PANEL>();
        for (panel, value) in value.chunks(PANEL).enumerate() {
            let row = &mut values[(block * panels + panel) * BLOCK + slot];
            row[..value.len()].copy_from_slice(value);
        }
    }

    fn keys(&self, block: u32) -> &[[f32; BLOCK]] {
        &self.keys.as_chunks().0[block as usize * self.dim..][..self.dim]
    }

    fn values(&self, block: u32, panel: usize, count: usize) -> &[[f32; PANEL]] {
        let panels = self.dim.div_ceil(PANEL);
        &self.values.as_chunks().0[(block as usize * panels + panel) * BLOCK..][..count]
    }
}

/// Neighbouring tokens, some heads, and where their results go.
struct Task<'a> {
    span: &'a Span,
    first: usize,
    count: usize,
    head: usize,
    out: &'a mut [f32],
}

/// Attends from each row of `queries` to its sequence so far. `queries`, already scaled, and `out`
/// have a row of all heads for each token.
pub(super) fn attend(
    shape: Shape,
    heads: &[Head],
    spans: &[Span],
    queries: &[f32],
    out: &mut [f32],
) {
    let width = shape.kv_heads * shape.group * shape.head_dim;
    let together = (TILE / shape.group).max(1);
    // Few tokens are shared out by head, so that one long sequence keeps all threads busy.
    let tokens = queries.len() / width;
    let by_head = tokens < 4 * rayon::current_num_threads();
    let mut tasks = Vec::new();
    let mut rest = out;
    for span in spans {
        let step = if by_head { 1 } else { together };
        for first in (0..span.count).step_by(step) {
            let count = step.min(span.count - first);
            let (out, after) = rest.split_at_mut(count * width);
            rest = after;
            if by_head {
                let out = out.chunks_mut(width / shape.kv_heads).enumerate();
                tasks.extend(out.map(|(head, out)| Task { span, first, count, head, out }));
            } else {
                tasks.push(Task { span, first, count, head: 0, out });
            }
        }
    }
    tasks.into_par_iter().for_each_init(Scratch::default, |scratch, task| {
        let stride = shape.group * shape.head_dim;
        let heads_here = task.out.len() / (task.count * stride);
        let queries = &queries[(task.span.row + task.first) * width..][..task.count * width];
        // A row is a query head of a token.
        let all = task.count * shape.group;
        for head in 0..heads_here {
            let head_of_model = task.head + head;
            for first in (0..all).step_by(TILE) {
                let rows = first..(first + TILE).min(all);
                let at = |width: usize, head: usize, row: usize| {
                    let (token, member) = (row / shape.group, row % shape.group);
                    token * width + head * stride + member * shape.head_dim
                };
                let mut positions = [0; TILE];
                for (position, row) in positions.iter_mut().zip(rows.clone()) {
                    *position = task.span.position + task.first + row / shape.group;
                }
                let inputs = rows
                    .clone()
                    .map(|row| &queries[at(width, head_of_model, row)..][..shape.head_dim]);
                let (head_there, blocks) = (&heads[head_of_model], &task.span.blocks);
                scratch.run(shape, head_there, blocks, inputs, &positions[..rows.len()]);
                for (index, row) in rows.enumerate() {
                    let start = at(heads_here * stride, head, row);
                    scratch.result(index, &mut task.out[start..start + shape.head_dim]);
                }
            }
        }
    });
}

/// What one thread works in.
#[derive(Default)]
struct Scratch {
    width: usize,
    query: Vec<f32>,
    scores: Vec<[f32; BLOCK]>,
    shares: Vec<f32>,
    sums: Vec<f32>,
    out: Vec<[f32; PANEL]>,
}

impl Scratch {
    /// Attends from up to [`TILE`] rows at `positions` of one sequence.
    fn run<'a>(
        &mut self,
        shape: Shape,
        head: &Head,
        table: &[u32],
        queries: impl ExactSizeIterator<Item = &'a [f32]>,
        positions: &[usize],
    ) {
        let width = width_for(positions.len());
        self.width = width;
        self.query.clear();
        self.query.resize(shape.head_dim * width, 0.0);
        for (row, query) in queries.enumerate() {
            for (slot, value) in self.query[row..].iter_mut().step_by(width).zip(query) {
                *slot = *value;
            }
        }
        let start_of = |position: usize| {
            shape.window.map_or(0, |window| (position + 1).saturating_sub(window))
        };
        let (lowest, highest) = (positions[0], positions[positions.len() - 1]);
        let blocks = start_of(lowest) / BLOCK..highest / BLOCK + 1;
        self.scores.clear();
        self.scores.resize(blocks.len() * width, [0.0; BLOCK]);
        for (block, scores) in table[blocks.clone()].iter().zip(self.scores.chunks_mut(width)) {
            accumulate(&self.query, head.keys(*block), scores);
        }
        self.sums.clear();
        for (row, position) in positions.iter().enumerate() {
            let offset = blocks.start * BLOCK;
            let valid = start_of(*position).saturating_sub(offset)..position + 1 - offset;
            let scores = &mut self.scores;
            self.sums.push(vectorized(Softmax { scores, width, row, valid }));
        }
        let panels = shape.head_dim.div_ceil(PANEL);
        self.out.clear();
        self.out.resize(panels * width, [0.0; PANEL]);
        self.shares.resize(BLOCK * width, 0.0);
        for (index, block) in blocks.enumerate() {
            // What lies behind the last position is another sequence's past.
            let count = (highest + 1 - block * BLOCK).min(BLOCK);
            let scores = &self.scores[index * width..(index + 1) * width];
            for (row, scores) in scores.iter().enumerate().take(positions.len()) {
                for (slot, score) in self.shares[row..].iter_mut().step_by(width).zip(scores) {
                    *slot = *score;
                }
            }
            for (panel, out) in self.out.chunks_mut(width).enumerate() {
                let values = head.values(table[block], panel, count);
                accumulate(&self.shares[..count * width], values, out);
            }
        }
    }

    /// Writes a row's result.
    fn result(&self, row: usize, out: &mut [f32]) {
        for (panel, out) in out.chunks_mut(PANEL).enumerate() {
            for (out, value) in out.iter_mut().zip(&self.out[panel * self.width + row]) {
                *out = value / self.sums[row];
            }
        }
    }
}

/// Replaces a row of scores by their exponentials, 0 outside of `valid`, and returns their sum.
///
/// The sum goes by position, so blocks of nothing before or after don't change it.
struct Softmax<'a> {
    /// Block after block, each with `width` rows.
    scores: &'a mut [[f32; BLOCK]],
    width: usize,
    row: usize,
    valid: Range<usize>,
}

impl Loop for Softmax<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        let Self { scores, width, row, valid } = self;
        let mut largest = [f32::NEG_INFINITY; BLOCK];
        for (block, scores) in scores[row..].iter_mut().step_by(width).enumerate() {
            for (position, score) in (block * BLOCK..).zip(scores.iter_mut()) {
                let seen = valid.start <= position && position < valid.end;
                *score = if seen { *score } else { f32::NEG_INFINITY };
            }
            for (largest, score) in largest.iter_mut().zip(scores.iter()) {
                *largest = if *largest < *score { *score } else { *largest };
            }
        }
        let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
        let mut sums = [0.0_f32; BLOCK];
        for scores in scores[row..].iter_mut().step_by(width) {
            for (sum, score) in sums.iter_mut().zip(scores.iter_mut()) {
                *score = exp(*score - largest);
                *sum += *score;
            }
        }
        sums.into_iter().sum()
    }
}
