//! The product of a few rows with a panel of columns: the inner loop of everything.
//!
//! A tile holds up to [`TILE`] rows of the left matrix, transposed, so that one step of the sum
//! reads neighbouring floats. A panel holds [`PANEL`] columns of the right matrix likewise. Each
//! element of the product is one chain of fused multiply-adds over the inner dimension, from the
//! first step to the last. So a row's result does not depend on how many rows are beside it, where in a
//! tile it stands, or which processor computes it.

#![expect(clippy::inline_always, reason = "only inlined is a loop compiled for the processor")]

use pulp::{Arch, Simd, WithSimd};
use std::array::from_fn;

/// Columns of a panel.
pub(super) const PANEL: usize = 32;

/// Rows of a full tile.
pub(super) const TILE: usize = 12;

/// The widths that a tile may have, ascending.
const WIDTHS: [usize; 6] = [1, 2, 4, 6, 8, TILE];

/// The width of the tile that holds `rows` rows; some of them may be unused.
pub(super) fn width_for(rows: usize) -> usize {
    WIDTHS.into_iter().find(|width| rows <= *width).expect("a tile has no more rows than TILE")
}

/// Adds the product of `tile` and `panel` to `out`, whose rows are those of the tile.
///
/// `tile` holds as many groups of `out.len()` floats as `panel` has rows. A sum may be continued
/// over several calls: the order of its steps, and so its value, stay the same.
pub(super) fn accumulate(tile: &[f32], panel: &[[f32; PANEL]], out: &mut [[f32; PANEL]]) {
    Arch::new().dispatch(Accumulate { tile, panel, out });
}

struct Accumulate<'a> {
    tile: &'a [f32],
    panel: &'a [[f32; PANEL]],
    out: &'a mut [[f32; PANEL]],
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { tile, panel, out } = self;
        // 12 rows of two registers need 26 registers; with fewer than 32, rows go in two strips.
        let wide = 16 <= S::F32_LANES;
        match (out.len(), wide) {
            (1, _) => strips::<S, 1, 1>(simd, tile, panel, out),
            (2, _) => strips::<S, 2, 2>(simd, tile, panel, out),
            (4, _) => strips::<S, 4, 4>(simd, tile, panel, out),
            (6, _) => strips::<S, 6, 6>(simd, tile, panel, out),
            (8, true) => strips::<S, 8, 8>(simd, tile, panel, out),
            (8, false) => strips::<S, 8, 4>(simd, tile, panel, out),
            (TILE, true) => strips::<S, TILE, TILE>(simd, tile, panel, out),
            (TILE, false) => strips::<S, TILE, 6>(simd, tile, panel, out),
            (width, _) => unreachable!("no tile is {width} wide"),
        }
    }
}

/// Covers a tile of `W` rows by strips of `R` rows and two registers of columns.
#[inline(always)]
fn strips<S: Simd, const W: usize, const R: usize>(
    simd: S,
    tile: &[f32],
    panel: &[[f32; PANEL]],
    out: &mut [[f32; PANEL]],
) {
    let (tile, _) = tile.as_chunks::<W>();
    for row in (0..W).step_by(R) {
        for column in (0..PANEL).step_by(2 * S::F32_LANES) {
            strip::<S, W, R>(simd, tile, row, panel, column, &mut out[row..row + R]);
        }
    }
}

#[inline(always)]
fn strip<S: Simd, const W: usize, const R: usize>(
    simd: S,
    tile: &[[f32; W]],
    row: usize,
    panel: &[[f32; PANEL]],
    column: usize,
    out: &mut [[f32; PANEL]],
) {
    let columns = column..column + 2 * S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); 2]; R];
    for (sums, out) in sums.iter_mut().zip(out.iter()) {
        let (old, _) = S::as_simd_f32s(&out[columns.clone()]);
        *sums = [old[0], old[1]];
    }
    for (left, right) in tile.iter().zip(panel) {
        let (right, _) = S::as_simd_f32s(&right[columns.clone()]);
        let right = [right[0], right[1]];
        for (sums, left) in sums.iter_mut().zip(&left[row..row + R]) {
            let left = simd.splat_f32s(*left);
            sums[0] = simd.mul_add_f32s(left, right[0], sums[0]);
            sums[1] = simd.mul_add_f32s(left, right[1], sums[1]);
        }
    }
    for (sums, out) in sums.iter().zip(out.iter_mut()) {
        let (new, _) = S::as_mut_simd_f32s(&mut out[columns.clone()]);
        (new[0], new[1]) = (sums[0], sums[1]);
    }
}

/// Adds the product of `left` and `panel` to `out`: as [`accumulate`], of up to [`TILE`] rows that lie
/// where they are. Each is at least as long as `panel` has rows.
pub(super) fn accumulate_rows(left: &[&[f32]], panel: &[[f32; PANEL]], out: &mut [[f32; PANEL]]) {
    Arch::new().dispatch(AccumulateRows { left, panel, out });
}

struct AccumulateRows<'a> {
    left: &'a [&'a [f32]],
    panel: &'a [[f32; PANEL]],
    out: &'a mut [[f32; PANEL]],
}

impl WithSimd for AccumulateRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let most = if 16 <= S::F32_LANES { TILE } else { TILE / 2 };
        let panel = self.panel;
        for (left, out) in self.left.chunks(most).zip(self.out.chunks_mut(most)) {
            match left.len() {
                1 => rows::<S, 1>(simd, left, panel, out),
                2 => rows::<S, 2>(simd, left, panel, out),
                3 => rows::<S, 3>(simd, left, panel, out),
                4 => rows::<S, 4>(simd, left, panel, out),
                5 => rows::<S, 5>(simd, left, panel, out),
                6 => rows::<S, 6>(simd, left, panel, out),
                7 => rows::<S, 7>(simd, left, panel, out),
                8 => rows::<S, 8>(simd, left, panel, out),
                9 => rows::<S, 9>(simd, left, panel, out),
                10 => rows::<S, 10>(simd, left, panel, out),
                11 => rows::<S, 11>(simd, left, panel, out),
                _ => rows::<S, TILE>(simd, left, panel, out),
            }
        }
    }
}

#[inline(always)]
fn rows<S: Simd, const R: usize>(
    simd: S,
    left: &[&[f32]],
    panel: &[[f32; PANEL]],
    out: &mut [[f32; PANEL]],
) {
    // Cut to the same length, so that the loop needs no checks.
    let left: [&[f32]; R] = from_fn(|row| &left[row][..panel.len()]);
    for column in (0..PANEL).step_by(2 * S::F32_LANES) {
        let columns = column..column + 2 * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); 2]; R];
        for (sums, out) in sums.iter_mut().zip(out.iter()) {
            let (old, _) = S::as_simd_f32s(&out[columns.clone()]);
            *sums = [old[0], old[1]];
        }
        for (step, right) in panel.iter().enumerate() {
            let (right, _) = S::as_simd_f32s(&right[columns.clone()]);
            let right = [right[0], right[1]];
            for (sums, left) in sums.iter_mut().zip(&left) {
                let left = simd.splat_f32s(left[step]);
                sums[0] = simd.mul_add_f32s(left, right[0], sums[0]);
                sums[1] = simd.mul_add_f32s(left, right[1], sums[1]);
            }
        }
        for (sums, out) in sums.iter().zip(out.iter_mut()) {
            let (new, _) = S::as_mut_simd_f32s(&mut out[columns.clone()]);
            (new[0], new[1]) = (sums[0], sums[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .take(count)
        .collect()
    }

    #[test]
    fn a_row_has_the_same_bits_in_a_tile_of_any_width() {
        let depth = 77;
        let rows: Vec<Vec<f32>> = (0..).take(TILE).map(|seed| noise(depth, seed)).collect();
        let flat = noise(depth * PANEL, 99);
        let (panel, _) = flat.as_chunks::<PANEL>();
        let mut plain = vec![[0.0_f32; PANEL]; TILE];
        for (row, sums) in rows.iter().zip(&mut plain) {
            for (left, right) in row.iter().zip(panel) {
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = left.mul_add(*right, *sum);
                }
            }
        }
        for width in WIDTHS {
            let tile: Vec<f32> =
                (0..depth).flat_map(|k| rows[..width].iter().map(move |row| row[k])).collect();
            let mut out = vec![[0.0; PANEL]; width];
            // Half the sum, then the rest: continued sums are the same sums.
            accumulate(&tile[..30 * width], &panel[..30], &mut out);
            accumulate(&tile[30 * width..], &panel[30..], &mut out);
            assert_eq!(out, plain[..width], "width {width}");
        }
        for count in 1..=TILE {
            let rows: Vec<&[f32]> = rows[..count].iter().map(Vec::as_slice).collect();
            let mut out = vec![[0.0; PANEL]; count];
            accumulate_rows(&rows, panel, &mut out);
            assert_eq!(out, plain[..count], "{count} rows where they lie");
        }
    }
}
