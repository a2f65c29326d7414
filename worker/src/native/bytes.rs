//! Rows of activations as signed bytes: the left side of the products of [`int8`](super::int8).
//!
//! Each [`GROUP`] of a row's floats has a scale of its own.

#![expect(clippy::inline_always, reason = "only inlined is a loop compiled for the processor")]

#[cfg(target_arch = "x86_64")]
use super::vnni;
use super::{
    memory::room,
    simd::{Loop, vectorized},
};
use multiversion::{multiversion, target::match_target};
use rayon::prelude::*;

/// Inputs that share a scale.
pub(super) const GROUP: usize = 32;

/// Inputs whose codes lie side by side: as many as one step of a byte dot product adds.
pub(super) const STEP: usize = 4;

/// Steps of a group.
pub(super) const STEPS: usize = GROUP / STEP;

/// Rows of a full tile: their sums, of integers and of floats, fill the registers of AVX-512.
pub(super) const TILE: usize = 6;

/// The widths that a tile may have, ascending.
const WIDTHS: [usize; 4] = [1, 2, 4, TILE];

/// 1.5 · 2²³: adding it rounds to an integer, whose byte is then the lowest.
const ROUND: f32 = 12_582_912.0;

/// Below this the reciprocal might be infinite, and nothing in the group matters.
const LEAST: f32 = 1e-30;

/// A group of one row of activations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Group {
    /// Signed bytes.
    pub(super) codes: [[i8; STEP]; STEPS],
    /// What the bytes are multiplied by.
    pub(super) scale: f32,
    /// The sum of the bytes, scaled: what an offset of the weights is multiplied by.
    pub(super) total: f32,
    /// The sum of the bytes times the code that stands for 0, negated: where a sum over codes begins.
    pub(super) start: i32,
}

/// Rows of activations as bytes: tile after tile, group after group, row after row.
#[derive(Debug, Default)]
pub(super) struct Bytes {
    /// Groups of a row.
    groups: usize,
    /// The tiles, and maybe more behind them.
    data: Vec<Group>,
}

impl Bytes {
    /// Makes room for `rows` rows of `depth` floats and gives the tiles, the last of which may be narrower,
    /// for [`quantise`]. What stands in them means nothing.
    pub(super) fn tiles(
        &mut self,
        rows: usize,
        depth: usize,
    ) -> impl IndexedParallelIterator<Item = &mut [Group]> {
        let length = TILE * depth / GROUP;
        self.room(rows, depth).par_chunks_mut(length.max(1))
    }

    /// The same, the tiles one after another.
    pub(super) fn room(&mut self, rows: usize, depth: usize) -> &mut [Group] {
        self.groups = depth / GROUP;
        room(&mut self.data, padded(rows) * self.groups)
    }

    /// The tiles from a row on that begins one.
    pub(super) fn from(&self, row: usize) -> Rows<'_> {
        Rows { groups: self.groups, data: &self.data[row * self.groups..] }
    }
}

/// Tiles of rows, and maybe more behind them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    /// Groups of a row.
    pub(super) groups: usize,
    /// The groups.
    pub(super) data: &'a [Group],
}

/// Rows with those that pad the last tile.
pub(super) fn padded(rows: usize) -> usize {
    let rest = rows % TILE;
    let width = WIDTHS.into_iter().find(|width| rest <= *width).unwrap_or(TILE);
    rows - rest + if rest == 0 { 0 } else { width }
}

/// Puts a row of floats into a tile, for weights whose code `zero` stands for 0.
///
/// A byte is the nearest integer to 127 times the value over the group's largest magnitude, as in
/// llama.cpp's `q8_0`. What is no number makes the group's scale none.
pub(super) fn quantise(values: &[f32], row: usize, zero: i32, tile: &mut [Group]) {
    let step = tile.len() / (values.len() / GROUP).max(1);
    let groups = &mut tile[row..];
    vectorized(Quantise { values, groups, step });
    sum_up(groups, step, zero);
}

/// Puts one piece of each row, a group's floats, into its group.
pub(super) fn quantise_pieces(rows: &[[f32; GROUP]], zero: i32, groups: &mut [Group]) {
    vectorized(Quantise { values: rows.as_flattened(), groups, step: 1 });
    sum_up(groups, 1, zero);
}

struct Quantise<'a> {
    /// Group after group.
    values: &'a [f32],
    groups: &'a mut [Group],
    /// From the place of one group to the next.
    step: usize,
}

impl Loop for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (values, _) = self.values.as_chunks::<GROUP>();
        for (group, values) in self.groups.iter_mut().step_by(self.step).zip(values) {
            // Magnitudes rank as the integers that their bits are, and above all of them what is no number.
            let mut largest = 0;
            for value in values {
                largest = largest.max(value.to_bits() & 0x7fff_ffff);
            }
            let largest = f32::from_bits(largest);
            let inverse = if largest < LEAST { 0.0 } else { 127.0 / largest };
            let mut codes = [[0; STEP]; STEPS];
            for (code, value) in codes.as_flattened_mut().iter_mut().zip(values) {
                // No more than its byte: what is no number must not overflow the sum.
                *code = value.mul_add(inverse, ROUND).to_bits().to_le_bytes()[0].cast_signed();
            }
            (group.codes, group.scale) = (codes, largest * (1.0 / 127.0));
        }
    }
}

/// Adds up the bytes of every `step`th group.
///
/// In a loop of its own, by byte dot products where there are any: the compiler would add byte by byte,
/// which takes as long as all the rest.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512vnni"))]
fn sum_up(groups: &mut [Group], step: usize, zero: i32) {
    for group in groups.iter_mut().step_by(step) {
        let sum = match_target! {
            "x86_64+avx512f+avx512bw+avx512vl+avx512vnni" => vnni::sum(&group.codes),
            _ => group.codes.as_flattened().iter().map(|code| i16::from(*code)).sum::<i16>(),
        };
        group.total = group.scale * f32::from(sum);
        group.start = -zero * i32::from(sum);
    }
}

/// Rows of one length, packed.
#[cfg(test)]
pub(super) fn packed(rows: &[Vec<f32>], zero: i32) -> Bytes {
    let mut bytes = Bytes::default();
    let tiles = bytes.tiles(rows.len(), rows[0].len());
    tiles.zip(rows.par_chunks(TILE)).for_each(|(tile, rows)| {
        for (row, values) in rows.iter().enumerate() {
            quantise(values, row, zero, tile);
        }
    });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_as_bytes_is_off_by_half_a_step_at_most() {
        let row = (0..4 * GROUP).map(|index| (index as f32 * 7.0).sin() * 3.0).collect();
        let rows = [row];
        let bytes = packed(&rows, 8);
        for (group, values) in bytes.data.iter().zip(rows[0].chunks(GROUP)) {
            let codes = group.codes.as_flattened();
            assert!(codes.iter().any(|code| code.unsigned_abs() == 127), "{codes:?}");
            for (code, value) in codes.iter().zip(values) {
                assert!((f32::from(*code) * group.scale - value).abs() <= 0.501 * group.scale);
            }
            let sum: i32 = codes.iter().map(|code| i32::from(*code)).sum();
            assert_eq!((group.start, group.total), (-8 * sum, group.scale * sum as f32));
        }
    }
}
