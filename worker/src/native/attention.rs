//! Attention over a paged cache of keys and values.
//!
//! Both the scores and the weighted sum of the values are products of a few rows with a panel, and all
//! query heads that share a head of keys go through them together.

#![expect(clippy::inline_always, reason = "only inlined is a loop compiled for the processor")]

use super::{
    kernel::{PANEL, TILE},
    kv_cache::{BLOCK, Cache, Head, KvNumber},
    simd::{Loop, exp, halved, vectorized},
};
use rayon::prelude::*;
use std::{iter::StepBy, ops::Range, slice::Iter};

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
pub(super) fn attend<N: KvNumber>(
    shape: Shape,
    cache: &Cache<N>,
    layer: usize,
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
                let mut inputs: [&[f32]; TILE] = [&[]; TILE];
                for (input, row) in inputs.iter_mut().zip(rows.clone()) {
                    *input = &queries[at(width, head_of_model, row)..][..shape.head_dim];
                }
                let (inputs, positions) = (&inputs[..rows.len()], &positions[..rows.len()]);
                let (head_there, blocks) = (cache.head(layer, head_of_model), &task.span.blocks);
                scratch.run(shape, head_there, blocks, inputs, positions);
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
    /// Block after block, a row for each query.
    scores: Vec<[f32; BLOCK]>,
    sums: Vec<f32>,
    /// Panel after panel, a row for each query.
    out: Vec<[f32; PANEL]>,
}

impl Scratch {
    /// Attends from up to [`TILE`] rows at `positions` of one sequence.
    fn run<N: KvNumber>(
        &mut self,
        shape: Shape,
        head: Head<'_, N>,
        table: &[u32],
        queries: &[&[f32]],
        positions: &[usize],
    ) {
        let rows = positions.len();
        let start_of = |position: usize| {
            shape.window.map_or(0, |window| (position + 1).saturating_sub(window))
        };
        let (lowest, highest) = (positions[0], positions[rows - 1]);
        let blocks = start_of(lowest) / BLOCK..highest / BLOCK + 1;
        self.scores.clear();
        self.scores.resize(blocks.len() * rows, [0.0; BLOCK]);
        for (block, scores) in table[blocks.clone()].iter().zip(self.scores.chunks_mut(rows)) {
            N::accumulate(queries, head.keys(*block), scores);
        }
        let offset = blocks.start * BLOCK;
        let mut valid = [const { 0..0 }; TILE];
        for (valid, position) in valid.iter_mut().zip(positions) {
            *valid = start_of(*position).saturating_sub(offset)..position + 1 - offset;
        }
        self.sums.clear();
        self.sums.resize(rows, 0.0);
        let (scores, sums) = (&mut self.scores, &mut self.sums);
        vectorized(Softmax { scores, valid: &valid[..rows], sums });
        let panels = shape.head_dim.div_ceil(PANEL);
        self.out.clear();
        self.out.resize(panels * rows, [0.0; PANEL]);
        for (block, scores) in blocks.zip(self.scores.chunks(rows)) {
            // What lies behind the last position is another sequence's past.
            let count = (highest + 1 - block * BLOCK).min(BLOCK);
            let mut shares: [&[f32]; TILE] = [&[]; TILE];
            for (shares, scores) in shares.iter_mut().zip(scores) {
                *shares = scores;
            }
            for (panel, out) in self.out.chunks_mut(rows).enumerate() {
                let values = head.values(table[block], panel, count);
                N::accumulate(&shares[..rows], values, out);
            }
        }
    }

    /// Writes a row's result.
    fn result(&self, row: usize, out: &mut [f32]) {
        let pieces = self.out[row..].iter().step_by(self.sums.len());
        vectorized(Share { pieces, of: self.sums[row], out });
    }
}

/// Replaces rows of scores by their exponentials, 0 outside of what is valid, and adds them up.
///
/// The sum goes by position, so blocks of nothing before or after don't change it.
struct Softmax<'a> {
    /// Block after block, a row for each of `valid` in each.
    scores: &'a mut [[f32; BLOCK]],
    valid: &'a [Range<usize>],
    sums: &'a mut [f32],
}

impl Loop for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { scores, valid, sums } = self;
        let rows = valid.len();
        for (row, (valid, sum)) in valid.iter().zip(sums).enumerate() {
            let mut largest = [f32::NEG_INFINITY; BLOCK];
            for (block, scores) in scores[row..].iter_mut().step_by(rows).enumerate() {
                let first = block * BLOCK;
                let within = |position: usize| position.saturating_sub(first).min(BLOCK);
                let (start, end) = (within(valid.start), within(valid.end));
                // All of most blocks is seen.
                if 0 < start || end < BLOCK {
                    scores[..start].fill(f32::NEG_INFINITY);
                    scores[end..].fill(f32::NEG_INFINITY);
                }
                for (largest, score) in largest.iter_mut().zip(scores.iter()) {
                    *largest = greater(*largest, *score);
                }
            }
            let largest = halved(largest, greater);
            let mut sums = [0.0_f32; BLOCK];
            for scores in scores[row..].iter_mut().step_by(rows) {
                for (sum, score) in sums.iter_mut().zip(scores.iter_mut()) {
                    *score = exp(*score - largest);
                    *sum += *score;
                }
            }
            *sum = halved(sums, |low, high| low + high);
        }
    }
}

/// Divides the pieces of a row.
struct Share<'a> {
    pieces: StepBy<Iter<'a, [f32; PANEL]>>,
    of: f32,
    out: &'a mut [f32],
}

impl Loop for Share<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let share = 1.0 / self.of;
        for (out, piece) in self.out.chunks_mut(PANEL).zip(self.pieces) {
            for (out, value) in out.iter_mut().zip(piece) {
                *out = value * share;
            }
        }
    }
}

/// The greater of two; the first where one is no number.
#[inline(always)]
fn greater(one: f32, other: f32) -> f32 {
    if one < other { other } else { one }
}
