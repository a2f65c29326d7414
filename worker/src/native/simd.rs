//! Loops compiled for the processor that runs them.
//!
//! The default x86-64 target has neither FMA nor wide registers. [`vectorized`] runs a [`Loop`] with
//! whatever the processor has; inside it plain loops over arrays become vector instructions.
//! Every sum here has a fixed order, so a result depends on its inputs only: not on the
//! processor, and not on what is computed beside it.

#![expect(clippy::inline_always, reason = "only inlined is a loop compiled for the processor")]

use pulp::{Arch, Simd, WithSimd};

/// Floats that a loop handles at once, and the width of every fixed-order sum.
const LANES: usize = 16;

/// Work that is compiled once for each kind of processor.
///
/// `run`, and all that it calls, must be marked `#[inline(always)]`: what isn't inlined is compiled for
/// the default target, where a fused multiply-add is a call to a library. That is also why this is no
/// closure and no function: neither the one nor the other's `call_once` can be so marked.
pub(super) trait Loop {
    /// What comes of it.
    type Output;

    /// Does the work.
    fn run(self) -> Self::Output;
}

/// Does `work` with the widest instructions that the processor has.
pub(super) fn vectorized<L: Loop>(work: L) -> L::Output {
    Arch::new().dispatch(Dispatched(work))
}

struct Dispatched<L>(L);

impl<L: Loop> WithSimd for Dispatched<L> {
    type Output = L::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> L::Output {
        self.0.run()
    }
}

/// e to the power of `x`, to within 2 units in the last place; 0 below -87, where it would be
/// subnormal.
///
/// Range reduction by powers of two and the minimax polynomial of the Cephes library.
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the published constants")]
pub(super) fn exp(x: f32) -> f32 {
    /// 1.5 · 2²³: adding it rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let power = shifted - ROUND;
    let r = power.mul_add(-0.693_359_375, clamped);
    let r = power.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_15e-4_f32;
    p = p.mul_add(r, 1.398_199_95e-3);
    p = p.mul_add(r, 8.333_451_9e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_55e-1);
    p = p.mul_add(r, 5.000_000_1e-1);
    p = p.mul_add(r * r, r) + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { p * scale }
}

/// Joins the upper half of the numbers, a power of two, with the lower, and so on until one is left.
#[inline(always)]
pub(super) fn halved<const N: usize>(mut numbers: [f32; N], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = N / 2;
    while 0 < half {
        let (low, high) = numbers.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            *low = join(*low, *high);
        }
        half /= 2;
    }
    numbers[0]
}

/// The sum of the squares.
#[inline(always)]
pub(super) fn sum_of_squares(values: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = value.mul_add(*value, *lane);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = value.mul_add(*value, *lane);
    }
    lanes.into_iter().sum()
}

/// The nearest 32-bit float.
#[expect(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
pub(super) fn narrowed(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_libraries_everywhere_and_zero_far_below() {
        for step in -870_000..880_000 {
            let x = step as f32 * 1e-4;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got - want).abs() <= want * 3e-7, "exp({x}) = {got}, not {want}");
        }
        assert!(exp(-1000.0) == 0.0 && exp(f32::NEG_INFINITY) == 0.0);
    }

    #[test]
    fn numbers_are_joined_in_halves_until_one_is_left() {
        let numbers = [1.0, 64.0, 2.0, 8.0, 32.0, 16.0, 4.0, 128.0_f32];
        assert_eq!(halved(numbers, |low, high| low + high).to_bits(), 255_f32.to_bits());
        assert_eq!(halved(numbers, f32::max).to_bits(), 128_f32.to_bits());
    }

    struct Sum<'a>(&'a [f32]);

    impl Loop for Sum<'_> {
        type Output = f32;

        #[inline(always)]
        fn run(self) -> f32 {
            sum_of_squares(self.0)
        }
    }

    #[test]
    fn a_sum_is_the_same_in_and_out_of_wide_registers() {
        let values: Vec<f32> = (0..1003_u16).map(|i| f32::from(i).sin()).collect();
        let wide = vectorized(Sum(&values));
        assert_eq!(wide.to_bits(), sum_of_squares(&values).to_bits());
        assert!((wide - values.iter().map(|v| v * v).sum::<f32>()).abs() < 1e-3);
    }
}
