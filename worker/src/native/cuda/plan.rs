//! From a batch to what the kernels read: pure.

use super::device::{Shape, rounded};
use crate::native::{kv_cache::BLOCK, model::Batch};

/// Rows of a tile of attention, as `kernels.cu` has it.
pub(super) const TILE: usize = 16;

/// Positions of a part, at least, where a context is split: as much as a warp reads while others start.
const SPLIT: usize = 256;

/// Parts of a context, at most.
pub(super) const PARTS: usize = 32;

/// A tile of attention over some positions, as `kernels.cu` has it.
pub(super) type Task = [i32; 8];

/// A token whose parts are put together, as `kernels.cu` has it.
pub(super) type Merge = [i32; 3];

/// What attention has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attention {
    /// Tiles.
    pub(super) tasks: Vec<Task>,
    /// Tokens with several parts.
    pub(super) merges: Vec<Merge>,
    /// Parts in all.
    pub(super) parts: usize,
}

/// How much there is of everything in a step in which each sequence decodes one token. Steps of the same
/// sizes are told to a GPU in the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sizes {
    /// Rows, all of them wanted.
    pub(super) rows: usize,
    /// Tiles of attention, for layers that see everything and for those with a window: as many as there are
    /// rows where no context is split, and otherwise more.
    pub(super) tasks: [usize; 2],
}

/// The least round sizes that have room for a batch; None unless each of its sequences decodes one token.
///
/// Tiles are a power of 2 to a row: few sizes, and at most as many idle tiles as there are busy ones.
pub(super) fn sizes(batch: &Batch, attention: &[Attention; 2]) -> Option<Sizes> {
    let decodes = batch.spans.iter().all(|span| span.count == 1)
        && batch.wanted.iter().copied().eq(0..batch.spans.len())
        && !batch.spans.is_empty();
    if !decodes {
        return None;
    }
    let rows = rounded(batch.spans.len());
    let tasks = attention.each_ref().map(|Attention { tasks, merges, .. }| {
        let to_a_row = tasks.len().div_ceil(rows).next_power_of_two();
        rows * if merges.is_empty() { to_a_row } else { to_a_row.max(2) }
    });
    Some(Sizes { rows, tasks })
}

/// What a step's kernels read, whatever the layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    /// Each token; or where among chosen tokens it is: -1 the first place, -2 the second.
    pub(super) tokens: Vec<i32>,
    /// Each token's position.
    pub(super) positions: Vec<i32>,
    /// Each token's place in the cache; below 0 it has none.
    pub(super) slots: Vec<i32>,
    /// The blocks of all sequences, one sequence after another.
    pub(super) tables: Vec<i32>,
}

/// Where each token of a batch belongs. The step before put the tokens that it chose behind `before` others.
pub(super) fn rows(batch: &Batch, before: usize) -> Rows {
    let tokens = batch.tokens.iter().map(|token| token.cast_signed()).collect();
    let mut rows = Rows { tokens, ..Rows::default() };
    for (row, wanted) in &batch.unknown {
        rows.tokens[*row] = -1 - number(before + *wanted);
    }
    for span in &batch.spans {
        for position in span.position..span.position + span.count {
            let block = span.blocks[position / BLOCK] as usize;
            rows.positions.push(number(position));
            rows.slots.push(number(block * BLOCK + position % BLOCK));
        }
        rows.tables.extend(span.blocks.iter().map(|block| number(*block as usize)));
    }
    rows
}

/// What attention has to do for a batch. Who decodes one token splits its context, by its length only: what
/// comes of it doesn't depend on who is beside it.
pub(super) fn attention(batch: &Batch, shape: Shape, window: Option<usize>) -> Attention {
    let group = shape.group;
    let mut attention = Attention::default();
    let mut table = 0;
    for span in &batch.spans {
        let rows = span.count * group;
        let start_of =
            |position: usize| window.map_or(0, |window| (position + 1).saturating_sub(window));
        let mut add = |first: usize, from: usize, to: usize, part: Option<usize>| {
            let part = part.map_or(-1, number);
            let [row, position, rows] = [span.row, span.position, rows].map(number);
            let [first, table, from, to] = [first, table, from, to].map(number);
            attention.tasks.push([row, position, rows, first, table, from, to, part]);
        };
        let ranges = if span.count == 1 && group <= TILE {
            parts(start_of(span.position), span.position + 1)
        } else {
            Vec::new()
        };
        if 1 < ranges.len() {
            let part = attention.parts;
            for (index, (from, to)) in ranges.iter().enumerate() {
                add(0, *from, *to, Some(part + index));
            }
            attention.merges.push([span.row, part, ranges.len()].map(number));
            attention.parts += ranges.len();
        } else {
            for first in (0..rows).step_by(TILE) {
                let last = (first + TILE).min(rows) - 1;
                let from = start_of(span.position + first / group);
                add(first, from, span.position + last / group + 1, None);
            }
        }
        table += span.blocks.len();
    }
    attention
}

/// Splits positions into parts of whole blocks.
fn parts(from: usize, to: usize) -> Vec<(usize, usize)> {
    let start = from / BLOCK * BLOCK;
    let each = (to - start).div_ceil(PARTS).next_multiple_of(BLOCK).max(SPLIT);
    let part = |at: usize| (at.max(from), (at + each).min(to));
    (start..to).step_by(each).map(part).collect()
}

fn number(count: usize) -> i32 {
    i32::try_from(count).expect("positions, rows and places in the cache fit into 31 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::attention::Span;

    #[test]
    fn every_row_sees_its_past_once_and_nothing_else() {
        let shape = |group| Shape { head_dim: 64, group, half: super::super::device::Half::Bf16 };
        for (group, window) in [(1, None), (4, Some(40)), (7, None), (8, Some(1000)), (20, None)] {
            let mut batch = Batch::default();
            for (count, position) in [(1, 0), (1, 31), (5, 0), (1, 700), (40, 64), (1, 20_000)] {
                let blocks = vec![0; (position + count) / BLOCK + 1];
                batch.spans.push(Span { row: batch.tokens.len(), count, position, blocks });
                batch.tokens.resize(batch.tokens.len() + count, 0);
            }
            let attention = attention(&batch, shape(group), window);
            let mut seen = vec![Vec::new(); batch.tokens.len() * group];
            for [row, position, rows, first, _, from, to, part] in &attention.tasks {
                for at in *first..(first + number(TILE)).min(*rows) {
                    let last = position + at / number(group);
                    let from =
                        window.map_or(*from, |window| (*from).max(last + 1 - number(window)));
                    let row = row * number(group) + at;
                    let seen = &mut seen[usize::try_from(row).expect("a row")];
                    seen.extend(from..(*to).min(last + 1));
                    assert_eq!(
                        -1 < *part,
                        attention.merges.iter().any(|merge| {
                            merge[0] == row / number(group)
                                && merge[1] <= *part
                                && *part < merge[1] + merge[2]
                        })
                    );
                }
            }
            for span in &batch.spans {
                for row in 0..span.count * group {
                    let last = span.position + row / group;
                    let from = window.map_or(0, |window| (last + 1).saturating_sub(window));
                    let wanted: Vec<i32> = (from..=last).map(number).collect();
                    assert_eq!(seen[span.row * group + row], wanted, "{group} {window:?} {row}");
                }
            }
            assert!(attention.merges.iter().all(|merge| merge[2] <= number(PARTS)));
        }
    }

    #[test]
    fn sizes_have_room_for_their_batch_and_are_few() {
        let shape = Shape { head_dim: 64, group: 4, half: super::super::device::Half::Bf16 };
        let mut all = std::collections::HashSet::new();
        for rows in 1..=300 {
            for longest in [1, 255, 257, 1200, 20_000] {
                let mut batch = Batch::default();
                for row in 0..rows {
                    let position = (row * 7919) % longest;
                    let blocks = vec![0; position / BLOCK + 1];
                    batch.spans.push(Span { row, count: 1, position, blocks });
                    batch.tokens.push(0);
                    batch.wanted.push(row);
                }
                let attention = [None, Some(64)].map(|window| attention(&batch, shape, window));
                let sizes = sizes(&batch, &attention).expect("each decodes one token");
                assert!(rows <= sizes.rows && sizes.rows < rows + 32);
                for (attention, tasks) in attention.iter().zip(sizes.tasks) {
                    assert!(attention.tasks.len() <= tasks);
                    assert!(tasks < 2 * attention.tasks.len().max(sizes.rows) + 1);
                    // Who puts parts together is told so by there being more tiles than rows.
                    assert!(attention.merges.is_empty() || sizes.rows < tasks);
                }
                all.insert(sizes);
                batch.wanted.pop();
                assert_eq!(super::sizes(&batch, &attention), None);
            }
        }
        assert!(all.len() < 70, "{}", all.len());
    }
}
