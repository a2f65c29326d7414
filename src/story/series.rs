//! Readings of counters → how fast something was. Pure.

use super::{axis::Axis, trace::Count};
use jiff::Timestamp;
use serde::Serialize;

/// Points of a series, at most.
const POINTS: f64 = 120.0;

/// Seconds that a point stands for, at least.
const STEP: f64 = 0.5;

/// How fast something was, in steps of equal length.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Speed {
    /// Prompts a second in each step.
    pub prompts_per_second: Vec<f64>,
    /// Tokens a second in each step, in and out.
    pub tokens_per_second: Vec<f64>,
}

/// The length of a step, and how many there are.
pub(super) fn steps(axis: &Axis) -> (f64, usize) {
    let length = axis.length();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is bounded")]
    let count = (length / STEP).ceil().clamp(1.0, POINTS) as usize;
    (length / count as f64, count)
}

/// How fast the counters went. Between two readings they went evenly; `begin` is when they were 0.
pub(super) fn speed(axis: &Axis, begin: Timestamp, readings: &[(Timestamp, Count)]) -> Speed {
    let (step, count) = steps(axis);
    let known: Vec<(f64, Count)> = std::iter::once((begin, Count::default()))
        .chain(readings.iter().copied())
        .map(|(at, count)| (axis.seconds(at), count))
        .collect();
    let rates = |of: fn(Count) -> u64| {
        let by = |edge: usize| reached(&known, edge as f64 * step, of);
        let rate = |at: usize| rounded((by(at + 1) - by(at)) / step.max(f64::MIN_POSITIVE));
        (0..count).map(rate).collect()
    };
    Speed {
        prompts_per_second: rates(|count| count.prompts),
        tokens_per_second: rates(Count::tokens),
    }
}

/// Where a counter stood at a moment.
fn reached(known: &[(f64, Count)], at: f64, of: fn(Count) -> u64) -> f64 {
    let after = known.partition_point(|(seconds, _)| *seconds <= at);
    let Some((begin, from)) = after.checked_sub(1).map(|before| known[before]) else { return 0.0 };
    let from = of(from) as f64;
    known
        .get(after)
        .map_or(from, |(end, to)| from + (of(*to) as f64 - from) * (at - begin) / (end - begin))
}

/// Four digits are enough for a picture.
pub(super) fn rounded(rate: f64) -> f64 {
    if rate <= 0.0 || !rate.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powf(3.0 - rate.log10().floor());
    (rate * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn every_prompt_is_somewhere_in_the_series() {
        let axis = Axis::over([(at(0), at(600))]);
        let count = |prompts| Count { prompts, tokens_in: 2 * prompts, tokens_out: prompts };
        let readings = [(at(100), count(0)), (at(101), count(40)), (at(400), count(9000))];
        let speed = speed(&axis, at(10), &readings);
        let (step, points) = steps(&axis);
        assert_eq!((points, speed.prompts_per_second.len()), (120, 120));
        let sum = |rates: &[f64]| rates.iter().sum::<f64>() * step;
        assert!((sum(&speed.prompts_per_second) - 9000.0).abs() < 5.0);
        assert!((sum(&speed.tokens_per_second) - 27_000.0).abs() < 15.0);
        assert!(sum(&speed.prompts_per_second[..20]) < 1e-9);
        assert!(sum(&speed.prompts_per_second[81..]) < 1e-9);
    }

    #[test]
    fn a_rate_has_four_digits() {
        for (rate, shown) in [(0.0, 0.0), (12_345.6, 12_350.0), (0.012_345, 0.012_35), (-1.0, 0.0)]
        {
            assert!((rounded(rate) - shown).abs() < 1e-9, "{rate}");
        }
        assert!(rounded(f64::NAN) < 1e-9);
    }
}
