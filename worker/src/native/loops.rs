//! The loops between the products.
#![expect(clippy::inline_always, reason = "only inlined is a loop compiled for the processor")]

use super::{
    kernel::PANEL,
    rope::rotate,
    simd::{Loop, exp, sum_of_squares},
};
use std::{iter::StepBy, slice::Iter};

/// RMS normalisation with weights.
pub(super) struct Normalise<'a> {
    /// What is normalised.
    pub(super) values: &'a [f32],
    /// What each value is multiplied by.
    pub(super) weights: &'a [f32],
    /// Added to the mean square.
    pub(super) epsilon: f32,
    /// Where the result goes.
    pub(super) out: &'a mut [f32],
}

impl Loop for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { values, weights, epsilon, out } = self;
        let scale = 1.0 / (sum_of_squares(values) / values.len() as f32 + epsilon).sqrt();
        for ((out, value), weight) in out.iter_mut().zip(values).zip(weights) {
            *out = value * scale * weight;
        }
    }
}

/// Normalises heads where there are weights for it, turns them by their position, and scales them.
pub(super) struct TurnHeads<'a> {
    /// The heads of one token.
    pub(super) heads: &'a mut [f32],
    /// The weights of the normalisation of each head.
    pub(super) weights: Option<&'a [f32]>,
    /// Added to the mean square.
    pub(super) epsilon: f32,
    /// The angles of the token's position, as [`angles`](super::rope::angles) wrote them.
    pub(super) turn: &'a [f32],
    /// What the result is multiplied by.
    pub(super) scale: f32,
}

impl Loop for TurnHeads<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for head in self.heads.chunks_mut(self.turn.len()) {
            if let Some(weights) = self.weights {
                let mean = sum_of_squares(head) / head.len() as f32;
                let norm = 1.0 / (mean + self.epsilon).sqrt();
                for (value, weight) in head.iter_mut().zip(weights) {
                    *value *= norm * weight;
                }
            }
            rotate(head, self.turn);
            for value in head {
                *value *= self.scale;
            }
        }
    }
}

/// Gates numbers in place, by gates that go through the sigmoid linear unit.
pub(super) struct SwiGlu<'a> {
    /// The gates, a row of a panel each.
    pub(super) gates: &'a [[f32; PANEL]],
    /// What they gate.
    pub(super) values: &'a mut [[f32; PANEL]],
}

impl Loop for SwiGlu<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (gates, values) in self.gates.iter().zip(self.values) {
            for (gate, value) in gates.iter().zip(values) {
                *value *= gate / (1.0 + exp(-gate));
            }
        }
    }
}

/// Adds the pieces of a row, a panel's each, to numbers.
pub(super) struct AddPieces<'a> {
    /// The pieces, and maybe more behind them.
    pub(super) pieces: StepBy<Iter<'a, [f32; PANEL]>>,
    /// What they are added to.
    pub(super) out: &'a mut [f32],
}

impl Loop for AddPieces<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (out, piece) in self.out.chunks_mut(PANEL).zip(self.pieces) {
            for (out, value) in out.iter_mut().zip(piece) {
                *out += value;
            }
        }
    }
}

/// Widens IEEE 754's 16-bit floats.
pub(super) struct WidenF16<'a> {
    /// Their bits.
    pub(super) bits: &'a [u16],
    /// Where the result goes.
    pub(super) out: &'a mut [f32],
}

impl Loop for WidenF16<'_> {
    type Output = ();

    /// The library's own conversion is a call for each eight numbers; this is a few instructions.
    #[inline(always)]
    fn run(self) {
        /// 2¹¹², the difference between the two exponents' biases as a factor: it also makes
        /// subnormal numbers normal.
        const REBIASED: f32 = f32::from_bits((127 + 112) << 23);
        const INFINITE: u16 = 0x7c00;
        for (out, bits) in self.out.iter_mut().zip(self.bits) {
            let magnitude = f32::from_bits(u32::from(*bits & 0x7fff) << 13) * REBIASED;
            let unbounded = if *bits & INFINITE == INFINITE { 0x7f80_0000 } else { 0 };
            let sign = u32::from(*bits & 0x8000) << 16;
            *out = f32::from_bits(magnitude.to_bits() | unbounded | sign);
        }
    }
}

/// Widens the upper halves of 32-bit floats.
pub(super) struct WidenBf16<'a> {
    /// Their bits.
    pub(super) bits: &'a [u16],
    /// Where the result goes.
    pub(super) out: &'a mut [f32],
}

impl Loop for WidenBf16<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (out, bits) in self.out.iter_mut().zip(self.bits) {
            *out = f32::from_bits(u32::from(*bits) << 16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::simd::vectorized;
    use half::{bf16, f16};

    #[test]
    fn every_sixteen_bit_float_is_widened_exactly() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let mut out = vec![0.0; bits.len()];
        let same = |got: f32, want: f32| {
            got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan())
        };
        vectorized(WidenF16 { bits: &bits, out: &mut out });
        for (bits, got) in bits.iter().zip(&out) {
            assert!(same(*got, f16::from_bits(*bits).to_f32()), "{bits:#x} became {got}");
        }
        vectorized(WidenBf16 { bits: &bits, out: &mut out });
        for (bits, got) in bits.iter().zip(&out) {
            assert!(same(*got, bf16::from_bits(*bits).to_f32()), "{bits:#x} became {got}");
        }
    }
}
