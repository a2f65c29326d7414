//! Products of bytes by AVX-512's dot products, the inner loop of [`int8`](super::int8).
//!
//! One instruction adds, for each of 16 columns, four products of an unsigned code of a weight with a
//! signed byte of an activation. Its functions can be called without further ado only where the compiler
//! knows that the processor has the instructions.

use super::{
    bytes::{Group, STEP, STEPS, TILE},
    int8::{Codes, Panel},
    kernel::PANEL,
};
use pulp::cast;
use std::arch::x86_64::{
    __m128i, __m512, __m512i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_dpbusd_epi32, _mm_set1_epi8,
    _mm_setzero_si128, _mm_shuffle_epi32, _mm512_and_si512, _mm512_cvtepi32_ps, _mm512_cvtph_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_mul_ps, _mm512_set1_epi8, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_srli_epi16,
};

/// The product of a tile with a panel: a row of `out` for each row of the tile. Where it is `continued`,
/// it is added to what stands there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn multiply(
    panel: Panel<'_>,
    tile: &[Group],
    continued: bool,
    out: &mut [[f32; PANEL]],
) {
    match (out.len(), panel.halves) {
        (1, false) => strip::<1, STEPS>(panel, tile, continued, out),
        (2, false) => strip::<2, STEPS>(panel, tile, continued, out),
        (4, false) => strip::<4, STEPS>(panel, tile, continued, out),
        (TILE, false) => strip::<TILE, STEPS>(panel, tile, continued, out),
        (1, true) => strip::<1, { STEPS / 2 }>(panel, tile, continued, out),
        (2, true) => strip::<2, { STEPS / 2 }>(panel, tile, continued, out),
        (4, true) => strip::<4, { STEPS / 2 }>(panel, tile, continued, out),
        (TILE, true) => strip::<TILE, { STEPS / 2 }>(panel, tile, continued, out),
        (width, _) => unreachable!("no tile is {width} wide"),
    }
}

/// The sum of a group's bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
pub(super) fn sum(codes: &[[i8; STEP]; STEPS]) -> i16 {
    let ones = _mm_set1_epi8(1);
    // Halves, as they were written: what spans two writes must wait for both to reach the cache.
    let [low, high] = cast::<[[i8; STEP]; STEPS], [__m128i; 2]>(*codes);
    let four = _mm_dpbusd_epi32(_mm_setzero_si128(), ones, low);
    let four = _mm_dpbusd_epi32(four, ones, high);
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
    let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b0001>(two));
    let [low, high, ..] = _mm_cvtsi128_si32(one).to_le_bytes();
    i16::from_le_bytes([low, high])
}

/// `R` rows of a tile; the codes of a group are in `S` rows of bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn strip<const R: usize, const S: usize>(
    panel: Panel<'_>,
    tile: &[Group],
    continued: bool,
    out: &mut [[f32; PANEL]],
) {
    let (groups, _) = tile.as_chunks::<R>();
    let (codes, _) = panel.codes.as_chunks::<S>();
    let mut offsets = panel.offsets.iter();
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    if continued {
        for (sums, out) in sums.iter_mut().zip(&*out) {
            *sums = cast::<[f32; PANEL], [[f32; 16]; 2]>(*out).map(cast::<[f32; 16], __m512>);
        }
    }
    for ((rows, codes), scales) in groups.iter().zip(codes).zip(panel.scales) {
        let mut whole = [[_mm512_setzero_si512(); 2]; R];
        for (whole, row) in whole.iter_mut().zip(rows) {
            *whole = [_mm512_set1_epi32(row.start); 2];
        }
        for (step, codes) in codes.iter().enumerate() {
            if S == STEPS {
                add(&mut whole, rows, step, load(codes));
            } else {
                let [left, right] = load(codes);
                let low = _mm512_set1_epi8(15);
                let lower = [_mm512_and_si512(left, low), _mm512_and_si512(right, low)];
                let [left, right] = [_mm512_srli_epi16::<4>(left), _mm512_srli_epi16::<4>(right)];
                let upper = [_mm512_and_si512(left, low), _mm512_and_si512(right, low)];
                add(&mut whole, rows, step, lower);
                add(&mut whole, rows, step + S, upper);
            }
        }
        let scales = widen(scales);
        for ((sums, whole), row) in sums.iter_mut().zip(whole).zip(rows) {
            let scale = _mm512_set1_ps(row.scale);
            for half in 0..2 {
                let scale = _mm512_mul_ps(scales[half], scale);
                sums[half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[half]), scale, sums[half]);
            }
        }
        if let Some(offsets) = offsets.next() {
            let offsets = widen(offsets);
            for (sums, row) in sums.iter_mut().zip(rows) {
                let total = _mm512_set1_ps(row.total);
                for half in 0..2 {
                    sums[half] = _mm512_fmadd_ps(offsets[half], total, sums[half]);
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        *out = cast::<[[f32; 16]; 2], [f32; PANEL]>(sums.map(cast));
    }
}

/// Adds one step to the sums of integers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn add<const R: usize>(
    sums: &mut [[__m512i; 2]; R],
    rows: &[Group; R],
    step: usize,
    codes: [__m512i; 2],
) {
    for (sums, row) in sums.iter_mut().zip(rows) {
        let bytes = _mm512_set1_epi32(cast(row.codes[step]));
        sums[0] = _mm512_dpbusd_epi32(sums[0], codes[0], bytes);
        sums[1] = _mm512_dpbusd_epi32(sums[1], codes[1], bytes);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn load(codes: &Codes) -> [__m512i; 2] {
    [cast(codes[0]), cast(codes[1])]
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn widen(bits: &[u16; PANEL]) -> [__m512; 2] {
    let halves = cast::<[u16; PANEL], [[u16; 16]; 2]>(*bits);
    [_mm512_cvtph_ps(cast(halves[0])), _mm512_cvtph_ps(cast(halves[1]))]
}
