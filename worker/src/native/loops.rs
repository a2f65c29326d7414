//! The loops between the products.
#![expect(clippy::inline_always, reason = "only inlined is a loop compiled for the processor")]

use super::{
    kernel::PANEL,
    matrix::Panels,
    rope::rotate,
    simd::{Loop, exp, sum_of_squares},
};

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

/// Gates a row: the even panels, through the sigmoid linear unit, times the odd ones.
pub(super) struct SwiGlu<'a> {
    /// Gates and what they gate, panel by panel in turn.
    pub(super) product: &'a Panels,
    /// The row.
    pub(super) row: usize,
    /// Where the result goes.
    pub(super) out: &'a mut [f32],
}

impl Loop for SwiGlu<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (pair, out) in self.out.chunks_mut(PANEL).enumerate() {
            let gate = self.product.piece(self.row, 2 * pair);
            let up = self.product.piece(self.row, 2 * pair + 1);
            let mut gated = [0.0; PANEL];
            for ((gated, gate), up) in gated.iter_mut().zip(gate).zip(up) {
                *gated = gate / (1.0 + exp(-gate)) * up;
            }
            out.copy_from_slice(&gated[..out.len()]);
        }
    }
}
