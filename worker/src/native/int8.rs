//! Products of bytes: activations in groups of [`GROUP`] with weights that stay quantised.
//!
//! ```text
//! row of floats ─ bytes.rs ─▶ groups of bytes, a scale each ┐
//! panel of weights: groups of codes, scales, offsets ───────┴▶ Σ groups: scales · Σ bytes · codes
//! ```
//!
//! Within a group the sum is one of integers, so it is exact in whatever order a processor adds: by
//! byte dot products where it has them (`vnni`), else in 32-bit floats, which hold
//! integers up to 2²⁴ exactly where these sums stay below 2²¹. The groups are added in one order, from the
//! first to the last, each by a fused multiply-add. So a row's result depends neither on the rows
//! beside it nor on the kind of processor.

#![expect(clippy::inline_always, reason = "only inlined is a loop compiled for the processor")]

#[cfg(target_arch = "x86_64")]
use super::vnni;
use super::{
    bytes::{GROUP, Group, Rows, STEP, STEPS, TILE},
    kernel::{PANEL, accumulate},
    loops::WidenF16,
    simd::{Loop, vectorized},
};
use multiversion::{multiversion, target::match_target};
use std::ops::Range;

/// Groups of a panel that all tiles go through before the next ones: as many as stay in the nearest cache.
const NEAR: usize = 24;

/// Codes of one step for the columns of a panel, [`STEP`] for each column in turn.
pub(super) type Codes = [[u8; STEP * PANEL / 2]; 2];

/// A panel of weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel<'a> {
    /// Whether a byte holds two codes: that of a step, and above it that of half a group further.
    pub(super) halves: bool,
    /// The code that stands for 0.
    pub(super) zero: i32,
    /// Step after step, group after group.
    pub(super) codes: &'a [Codes],
    /// For each group, the bits of 16-bit floats.
    pub(super) scales: &'a [[u16; PANEL]],
    /// Likewise; empty where there are none.
    pub(super) offsets: &'a [[u16; PANEL]],
}

impl Panel<'_> {
    /// Some of its groups.
    fn part(self, groups: Range<usize>) -> Self {
        let steps = if self.halves { STEPS / 2 } else { STEPS };
        Self {
            codes: &self.codes[groups.start * steps..groups.end * steps],
            scales: &self.scales[groups.clone()],
            offsets: self.offsets.get(groups).unwrap_or_default(),
            ..self
        }
    }
}

/// The product of `rows` with a panel, a row of `out` for each of them and of those that pad them.
pub(super) fn multiply(panel: Panel<'_>, rows: Rows<'_>, out: &mut [[f32; PANEL]]) {
    dispatch(panel, rows.groups, rows.data, out);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512vnni"))]
fn dispatch(panel: Panel<'_>, groups: usize, rows: &[Group], out: &mut [[f32; PANEL]]) {
    match_target! {
        "x86_64+avx512f+avx512bw+avx512vl+avx512vnni" => {
            let parts = groups.div_ceil(NEAR);
            for part in 0..parts {
                let part = part * groups / parts..(part + 1) * groups / parts;
                let near = panel.part(part.clone());
                for (tile, out) in rows.chunks(TILE * groups).zip(out.chunks_mut(TILE)) {
                    let tile = &tile[part.start * out.len()..part.end * out.len()];
                    vnni::multiply(near, tile, 0 < part.start, out);
                }
            }
        }
        _ => in_floats(panel, groups, rows, out),
    }
}

/// The same for processors without byte dot products.
fn in_floats(panel: Panel<'_>, groups: usize, rows: &[Group], out: &mut [[f32; PANEL]]) {
    out.fill([0.0; PANEL]);
    let steps = if panel.halves { STEPS / 2 } else { STEPS };
    let mut wide = [[0.0; PANEL]; GROUP];
    for (group, codes) in panel.codes.chunks(steps).enumerate() {
        vectorized(Spread { codes, halves: panel.halves, zero: panel.zero, out: &mut wide });
        let [scales, offsets] = [panel.scales, panel.offsets].map(|bits| bits.get(group));
        for (tile, out) in rows.chunks(TILE * groups).zip(out.chunks_mut(TILE)) {
            let tile = &tile[group * out.len()..(group + 1) * out.len()];
            let mut left = [0.0; GROUP * TILE];
            let left = &mut left[..GROUP * out.len()];
            for (row, group) in tile.iter().enumerate() {
                let codes = group.codes.as_flattened();
                for (left, code) in left[row..].iter_mut().step_by(out.len()).zip(codes) {
                    *left = f32::from(*code);
                }
            }
            let mut sums = [[0.0; PANEL]; TILE];
            let sums = &mut sums[..out.len()];
            accumulate(left, &wide, sums);
            vectorized(Scale { sums, tile, scales, offsets, out });
        }
    }
}

/// Codes as floats, a row for each input.
struct Spread<'a> {
    codes: &'a [Codes],
    halves: bool,
    zero: i32,
    out: &'a mut [[f32; PANEL]; GROUP],
}

impl Loop for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { codes, halves, zero, out } = self;
        let zero = zero as f32;
        let (low, high) = out.split_at_mut(GROUP / 2);
        for (step, codes) in codes.iter().enumerate() {
            let (columns, _) = codes.as_flattened().as_chunks::<STEP>();
            for (column, codes) in columns.iter().enumerate() {
                for (within, code) in codes.iter().enumerate() {
                    let row = step * STEP + within;
                    if halves {
                        low[row][column] = f32::from(code & 15) - zero;
                        high[row][column] = f32::from(code >> 4) - zero;
                    } else if row < GROUP / 2 {
                        low[row][column] = f32::from(*code) - zero;
                    } else {
                        high[row - GROUP / 2][column] = f32::from(*code) - zero;
                    }
                }
            }
        }
    }
}

/// Adds a group's sums, scaled, to the product.
struct Scale<'a> {
    sums: &'a [[f32; PANEL]],
    tile: &'a [Group],
    scales: Option<&'a [u16; PANEL]>,
    offsets: Option<&'a [u16; PANEL]>,
    out: &'a mut [[f32; PANEL]],
}

impl Loop for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let scales = widened(self.scales);
        let offsets = widened(self.offsets);
        for ((out, sums), group) in self.out.iter_mut().zip(self.sums).zip(self.tile) {
            for column in 0..PANEL {
                let scale = scales[column] * group.scale;
                out[column] = sums[column].mul_add(scale, out[column]);
                if self.offsets.is_some() {
                    out[column] = offsets[column].mul_add(group.total, out[column]);
                }
            }
        }
    }
}

#[inline(always)]
fn widened(bits: Option<&[u16; PANEL]>) -> [f32; PANEL] {
    let mut out = [0.0; PANEL];
    if let Some(bits) = bits {
        WidenF16 { bits, out: &mut out }.run();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::bytes::{Bytes, packed, padded};

    /// Weights without a pattern.
    struct Weights {
        halves: bool,
        zero: i32,
        codes: Vec<Codes>,
        scales: Vec<[u16; PANEL]>,
        offsets: Vec<[u16; PANEL]>,
    }

    impl Weights {
        fn new(groups: usize, halves: bool, zero: i32, with_offsets: bool) -> Self {
            let mut state = 1_u32;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 8
            };
            let steps = groups * if halves { STEPS / 2 } else { STEPS };
            let mut byte = || (next() >> 8 & 0xff) as u8;
            let codes =
                std::iter::repeat_with(|| [[0; 64]; 2].map(|half| half.map(|_: u8| byte())))
                    .take(steps)
                    .collect();
            // Between 2⁻³ and 2⁻², with any sign.
            let mut half = || (next() & 0x83ff) as u16 | 0x3000;
            let mut rows = |count| {
                std::iter::repeat_with(|| [0; PANEL].map(|_: u16| half())).take(count).collect()
            };
            let scales = rows(groups);
            let offsets = rows(if with_offsets { groups } else { 0 });
            Self { halves, zero, codes, scales, offsets }
        }

        fn panel(&self) -> Panel<'_> {
            let Self { halves, zero, codes, scales, offsets } = self;
            Panel { halves: *halves, zero: *zero, codes, scales, offsets }
        }

        /// The weight's code, less what stands for 0.
        fn code(&self, input: usize, column: usize) -> i32 {
            let (group, within) = (input / GROUP, input % GROUP);
            let at = |step: usize| self.codes[step].as_flattened()[STEP * column + within % STEP];
            let code = match (self.halves, within < GROUP / 2) {
                (false, _) => at(group * STEPS + within / STEP),
                (true, true) => at(group * STEPS / 2 + within / STEP) & 15,
                (true, false) => at(group * STEPS / 2 + within / STEP - STEPS / 2) >> 4,
            };
            i32::from(code) - self.zero
        }
    }

    fn rows(count: usize, depth: usize) -> Vec<Vec<f32>> {
        let value = |row: usize, index: usize| ((row * depth + index * 7) as f32).sin() * 3.0;
        (0..count).map(|row| (0..depth).map(|index| value(row, index)).collect()).collect()
    }

    #[test]
    fn a_product_has_the_bits_of_a_plain_sum_whatever_computes_it() {
        // The second are more than are gone through at once.
        let formats = [(false, 128, false), (true, 8, false), (true, 0, true)];
        let both = [5, 2 * NEAR + 2].into_iter().flat_map(|groups| formats.map(|f| (groups, f)));
        for (groups, (halves, zero, with_offsets)) in both {
            let weights = Weights::new(groups, halves, zero, with_offsets);
            for count in [1, 2, 3, 6, 7, 13] {
                let rows = rows(count, groups * GROUP);
                let bytes = packed(&rows, zero);
                let mut got = vec![[f32::NAN; PANEL]; padded(count)];
                let mut floats = got.clone();
                multiply(weights.panel(), bytes.from(0), &mut got);
                in_floats(weights.panel(), groups, bytes.from(0).data, &mut floats);
                assert_eq!(got, floats, "{count} rows, {halves} {zero}");
                for (row, got) in got.iter().enumerate().take(count) {
                    for (column, got) in got.iter().enumerate() {
                        let want = plain(&weights, &bytes, groups, row, column);
                        let (got, want) = (got.to_bits(), want.to_bits());
                        assert_eq!(got, want, "row {row} of {count}, column {column}, {zero}");
                    }
                }
            }
        }
    }

    /// One element of the product, by the definition.
    fn plain(weights: &Weights, bytes: &Bytes, groups: usize, row: usize, column: usize) -> f32 {
        let tile = bytes.from(0).data.chunks(TILE * groups).nth(row / TILE).unwrap();
        let width = tile.len() / groups;
        let float = |bits: u16| half::f16::from_bits(bits).to_f32();
        (0..groups).fold(0.0_f32, |sum, index| {
            let group = tile[index * width + row % TILE];
            let codes = group.codes.as_flattened().iter().enumerate();
            let product: i32 = codes
                .map(|(at, code)| i32::from(*code) * weights.code(index * GROUP + at, column))
                .sum();
            let scale = float(weights.scales[index][column]) * group.scale;
            let sum = (product as f32).mul_add(scale, sum);
            match weights.offsets.get(index) {
                Some(offsets) => float(offsets[column]).mul_add(group.total, sum),
                None => sum,
            }
        })
    }

    #[test]
    fn what_is_no_number_or_almost_nothing_stays_so() {
        let weights = Weights::new(1, false, 128, false);
        for (value, finite) in
            [(f32::NAN, false), (f32::INFINITY, false), (1e-39, true), (0.0, true)]
        {
            let mut row = vec![0.0; GROUP];
            row[3] = value;
            let mut out = [[0.0; PANEL]];
            multiply(weights.panel(), packed(&[row], 128).from(0), &mut out);
            assert!(out[0].iter().all(|sum| sum.is_finite() == finite), "{value}: {out:?}");
        }
    }
}
