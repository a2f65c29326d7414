//! The product of a few rows with a panel of 16-bit floats: the inner loop of attention, where it is not
//! asked for 32 bits.
//!
//! As [`accumulate_rows`], and with the same bits: the floats are widened on their way, so that reading
//! them, which is what attention waits for, goes on beside the sums.

use super::{
    kernel::{PANEL, TILE, accumulate_rows},
    loops::WidenF16,
    simd::vectorized,
};
use multiversion::{multiversion, target::match_target};

/// Rows of a panel that are widened at once where the processor can't do it on the way.
const WIDENED: usize = 32;

/// Adds the product of `left` and a panel, given as the bits of its floats, to `out`.
///
/// `left` has up to [`TILE`] rows, each at least as long as the panel has rows.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx+f16c+fma"))]
pub(super) fn accumulate_halves(left: &[&[f32]], panel: &[[u16; PANEL]], out: &mut [[f32; PANEL]]) {
    match_target! {
        "x86_64+avx512f" => x86::sixteens(left, panel, out),
        "x86_64+avx+f16c+fma" => x86::eights(left, panel, out),
        _ => by_widening(left, panel, out),
    }
}

/// The same for other processors.
fn by_widening(left: &[&[f32]], panel: &[[u16; PANEL]], out: &mut [[f32; PANEL]]) {
    let mut wide = [[0.0; PANEL]; WIDENED];
    for (chunk, narrow) in panel.chunks(WIDENED).enumerate() {
        let wide = &mut wide[..narrow.len()];
        vectorized(WidenF16 { bits: narrow.as_flattened(), out: wide.as_flattened_mut() });
        let mut rest: [&[f32]; TILE] = [&[]; TILE];
        for (rest, left) in rest.iter_mut().zip(left) {
            *rest = &left[chunk * WIDENED..];
        }
        accumulate_rows(&rest[..left.len()], wide, out);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{PANEL, TILE};
    use pulp::cast;
    use std::arch::x86_64::{
        __m256, __m512, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_set1_ps, _mm256_setzero_ps,
        _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_set1_ps, _mm512_setzero_ps,
    };

    /// Calls a function for as many rows as there are.
    macro_rules! by_rows {
        ($strip:ident, $left:ident, $panel:ident, $out:ident, $($rows:literal)*) => {
            match $left.len() {
                $($rows => $strip::<$rows>($left, $panel, $out),)*
                rows => unreachable!("there are never {rows} rows"),
            }
        };
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn sixteens(left: &[&[f32]], panel: &[[u16; PANEL]], out: &mut [[f32; PANEL]]) {
        by_rows!(wide, left, panel, out, 1 2 3 4 5 6 7 8 9 10 11 12);
    }

    #[target_feature(enable = "avx512f")]
    fn wide<const R: usize>(left: &[&[f32]], panel: &[[u16; PANEL]], out: &mut [[f32; PANEL]]) {
        let (left, out) = cut::<R>(left, panel.len(), out);
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for (sums, out) in sums.iter_mut().zip(&*out) {
            *sums = cast::<[f32; PANEL], [[f32; 16]; 2]>(*out).map(cast::<[f32; 16], __m512>);
        }
        for (step, bits) in panel.iter().enumerate() {
            let halves = cast::<[u16; PANEL], [[u16; 16]; 2]>(*bits);
            let right = [_mm512_cvtph_ps(cast(halves[0])), _mm512_cvtph_ps(cast(halves[1]))];
            for (sums, left) in sums.iter_mut().zip(&left) {
                let left = _mm512_set1_ps(left[step]);
                sums[0] = _mm512_fmadd_ps(left, right[0], sums[0]);
                sums[1] = _mm512_fmadd_ps(left, right[1], sums[1]);
            }
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            *out = cast(sums.map(cast::<__m512, [f32; 16]>));
        }
    }

    /// With 16 registers, half as many rows and columns at once.
    #[target_feature(enable = "avx,f16c,fma")]
    pub(super) fn eights(left: &[&[f32]], panel: &[[u16; PANEL]], out: &mut [[f32; PANEL]]) {
        for (left, out) in left.chunks(TILE / 2).zip(out.chunks_mut(TILE / 2)) {
            by_rows!(narrow, left, panel, out, 1 2 3 4 5 6);
        }
    }

    #[target_feature(enable = "avx,f16c,fma")]
    fn narrow<const R: usize>(left: &[&[f32]], panel: &[[u16; PANEL]], out: &mut [[f32; PANEL]]) {
        let (left, out) = cut::<R>(left, panel.len(), out);
        for half in 0..2 {
            let mut sums = [[_mm256_setzero_ps(); 2]; R];
            for (sums, out) in sums.iter_mut().zip(&*out) {
                let quarters = cast::<[f32; PANEL], [[[f32; 8]; 2]; 2]>(*out);
                *sums = quarters[half].map(cast::<[f32; 8], __m256>);
            }
            for (step, bits) in panel.iter().enumerate() {
                let quarters = cast::<[u16; PANEL], [[[u16; 8]; 2]; 2]>(*bits)[half];
                let right =
                    [_mm256_cvtph_ps(cast(quarters[0])), _mm256_cvtph_ps(cast(quarters[1]))];
                for (sums, left) in sums.iter_mut().zip(&left) {
                    let left = _mm256_set1_ps(left[step]);
                    sums[0] = _mm256_fmadd_ps(left, right[0], sums[0]);
                    sums[1] = _mm256_fmadd_ps(left, right[1], sums[1]);
                }
            }
            for (out, sums) in out.iter_mut().zip(sums) {
                let (halves, _) = out.as_chunks_mut::<{ PANEL / 2 }>();
                halves[half] = cast(sums.map(cast::<__m256, [f32; 8]>));
            }
        }
    }

    /// Rows of one length, and as many to add to: a loop over them needs no checks, and where their number
    /// is known when it is compiled the sums stay in registers.
    #[inline]
    fn cut<'a, 'b, const R: usize>(
        left: &[&'a [f32]],
        length: usize,
        out: &'b mut [[f32; PANEL]],
    ) -> ([&'a [f32]; R], &'b mut [[f32; PANEL]; R]) {
        let out = out.first_chunk_mut().expect("there is a row of sums to each row");
        (std::array::from_fn(|row| &left[row][..length]), out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn a_product_has_the_bits_of_a_plain_sum_whatever_computes_it() {
        let depth = 77;
        let rows: Vec<Vec<f32>> = (0..TILE)
            .map(|row| (0..depth).map(|k| ((row * 91 + k) as f32).sin()).collect())
            .collect();
        let half = |step: usize, column: usize| {
            f16::from_f32(((step * PANEL + column) as f32 * 0.7).cos()).to_bits()
        };
        let panel: Vec<[u16; PANEL]> =
            (0..depth).map(|step| std::array::from_fn(|column| half(step, column))).collect();
        for count in 1..=TILE {
            let left: Vec<&[f32]> = rows[..count].iter().map(Vec::as_slice).collect();
            let mut plain = vec![[0.5_f32; PANEL]; count];
            for (row, sums) in left.iter().zip(&mut plain) {
                for (left, right) in row.iter().zip(&panel) {
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = left.mul_add(f16::from_bits(*right).to_f32(), *sum);
                    }
                }
            }
            let (mut out, mut wide) = (vec![[0.5; PANEL]; count], vec![[0.5; PANEL]; count]);
            accumulate_halves(&left, &panel, &mut out);
            by_widening(&left, &panel, &mut wide);
            assert_eq!((&out, &wide), (&plain, &plain), "{count} rows");
        }
    }
}
