//! Rotary position embedding: angles by position, and the rotation of a head.
//!
//! Pairs are half a head apart, as in Hugging Face's layout.

#![expect(clippy::inline_always, reason = "only inlined is a loop compiled for the processor")]

use super::simd::narrowed;

/// How positions become angles.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rope {
    /// The base of the frequencies.
    pub(super) base: f64,
    /// What is done to reach beyond the context of the first training.
    pub(super) scaling: Scaling,
}

/// How frequencies are changed for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scaling {
    /// Not at all.
    None,
    /// All are divided by the factor.
    Linear(f64),
    /// Llama 3's: long waves are divided by the factor, short ones kept, those between blended.
    Llama3 {
        /// What long waves are divided by.
        factor: f64,
        /// Waves longer than `original / low` positions are long.
        low: f64,
        /// Waves shorter than `original / high` positions are short.
        high: f64,
        /// The context of the first training, in positions.
        original: f64,
    },
    /// Each frequency is divided by its own factor, as GGUF's `rope_freqs` has it.
    Each(Vec<f32>),
}

impl Rope {
    /// The angle by which one position turns each pair of a head.
    pub(super) fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let scale = |(pair, frequency): (usize, f64)| match &self.scaling {
            Scaling::None => frequency,
            Scaling::Linear(factor) => frequency / factor,
            Scaling::Each(factors) => {
                frequency / f64::from(factors.get(pair).copied().unwrap_or(1.0))
            }
            Scaling::Llama3 { factor, low, high, original } => {
                let wave = 2.0 * std::f64::consts::PI / frequency;
                let smooth = ((original / wave - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        };
        (0..head_dim / 2)
            .map(|pair| (pair, self.base.powf(-2.0 * pair as f64 / head_dim as f64)))
            .map(|pair| narrowed(scale(pair)))
            .collect()
    }
}

/// Writes the cosines of a position's angles, then the sines, to `out`.
pub(super) fn angles(frequencies: &[f32], position: usize, out: &mut [f32]) {
    let (cosines, sines) = out.split_at_mut(frequencies.len());
    for ((cosine, sine), frequency) in cosines.iter_mut().zip(sines).zip(frequencies) {
        // In 32 bits, as the models were trained.
        let angle = f64::from(position as f32 * frequency);
        (*cosine, *sine) = (narrowed(angle.cos()), narrowed(angle.sin()));
    }
}

/// Turns a head by angles that [`angles`] wrote.
#[inline(always)]
pub(super) fn rotate(head: &mut [f32], angles: &[f32]) {
    let half = head.len() / 2;
    let (first, second) = head.split_at_mut(half);
    let (cosines, sines) = angles.split_at(half);
    for (((a, b), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
        (*a, *b) = (a.mul_add(*cosine, -(*b * sine)), b.mul_add(*cosine, *a * sine));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_lengths_and_depends_on_distance_only() {
        let frequencies = Rope { base: 10_000.0, scaling: Scaling::None }.frequencies(8);
        let turned = |position: usize| {
            let (mut head, mut turn) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [0.0; 8]);
            angles(&frequencies, position, &mut turn);
            rotate(&mut head, &turn);
            head
        };
        let dot = |a: [f32; 8], b: [f32; 8]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        assert!((dot(turned(7), turned(7)) - 204.0).abs() < 1e-3);
        assert!((dot(turned(3), turned(8)) - dot(turned(10), turned(15))).abs() < 1e-3);
        assert!((dot(turned(3), turned(8)) - dot(turned(3), turned(9))).abs() > 1.0);
    }

    #[test]
    fn llama3_scaling_keeps_short_waves_and_stretches_long_ones() {
        let plain = Rope { base: 5e5, scaling: Scaling::None }.frequencies(128);
        let scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        let scaled = Rope { base: 5e5, scaling }.frequencies(128);
        assert!((scaled[0] - plain[0]).abs() < 1e-9);
        assert!((scaled[63] - plain[63] / 8.0).abs() < 1e-12);
        assert!(scaled.iter().zip(&plain).any(|(s, p)| *s < p * 0.9 && p * 0.2 < *s));
    }
}
