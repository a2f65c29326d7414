//! How fast a machine answers once it has come into its stride. Pure: whoever asks says what time
//! it is.

use super::slot::Score;
use crate::cost::Pace as Found;
use std::time::{Duration, Instant};

/// How long it takes until what was seen counts half.
const HALF_LIFE: f64 = 300.0;

/// The least that a speed is told from: so much time, in which a batch is answered too.
const LEAST: Duration = Duration::from_secs(20);

/// What a machine answers in time that counts: after its first batch, for until then it has begun
/// more than it ended, and while it has at least another batch in hand, for otherwise it waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    last: Option<(Instant, Score)>,
    seconds: f64,
    prompts: f64,
    tokens_in: f64,
    tokens_out: f64,
}

impl Pace {
    /// Notes what it has answered by now. `load` is what it has in hand.
    pub(super) fn note(&mut self, now: Instant, score: Score, load: usize, batch: u32) {
        let batch = u64::from(batch.max(1));
        if score.prompts < batch || (load as u64) < batch {
            self.last = None;
            return;
        }
        if let Some((then, before)) = self.last.replace((now, score)) {
            let seconds = now.duration_since(then).as_secs_f64();
            let kept = 0.5_f64.powf(seconds / HALF_LIFE);
            let add = |sum: &mut f64, new: u64, old: u64| {
                *sum = *sum * kept + new.saturating_sub(old) as f64;
            };
            self.seconds = self.seconds * kept + seconds;
            add(&mut self.prompts, score.prompts, before.prompts);
            add(&mut self.tokens_in, score.tokens_in, before.tokens_in);
            add(&mut self.tokens_out, score.tokens_out, before.tokens_out);
        }
    }

    /// What it comes to, once there is enough to tell.
    pub(super) fn found(&self, batch: u32) -> Option<Found> {
        let enough = LEAST.as_secs_f64() <= self.seconds && f64::from(batch.max(1)) <= self.prompts;
        enough.then(|| Found {
            prompts: self.prompts / self.seconds,
            input: self.tokens_in / self.prompts,
            output: self.tokens_out / self.prompts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(prompts: u64) -> Score {
        Score { prompts, tokens_in: 100 * prompts, tokens_out: 10 * prompts }
    }

    /// A pace that was told once a second, from second to (prompts, load).
    fn told(seconds: u64, at: impl Fn(u64) -> (u64, usize)) -> Pace {
        let (begin, mut pace) = (Instant::now(), Pace::default());
        for second in 0..seconds {
            let (prompts, load) = at(second);
            pace.note(begin + Duration::from_secs(second), score(prompts), load, 16);
        }
        pace
    }

    fn rate(pace: &Pace) -> f64 {
        pace.found(16).expect("there is enough to tell").prompts
    }

    #[test]
    fn neither_the_start_nor_the_end_nor_an_outage_counts() {
        // Ten seconds to the first answer, and nothing in hand after the hundredth.
        let pace =
            told(300, |second| (5 * second.clamp(10, 100) - 50, usize::from(second < 100) * 40));
        assert!((rate(&pace) - 5.0).abs() < 0.1, "{pace:?}");
        let outage = |second: u64| {
            let (lost, load) = match second {
                0..50 => (0, 40),
                50..80 => (second - 50, 0),
                _ => (30, 40),
            };
            (5 * (second - lost), load)
        };
        assert!((rate(&told(200, outage)) - 5.0).abs() < 0.1);
        let found = pace.found(16).unwrap();
        assert!((found.input - 100.0).abs() < 1e-6 && (found.output - 10.0).abs() < 1e-6);
    }

    #[test]
    fn little_is_nothing() {
        assert_eq!(told(15, |second| (50 * second, 40)).found(16), None, "too short a time");
        assert_eq!(told(60, |second| (second / 2, 40)).found(32), None, "too few prompts");
        assert!(told(60, |second| (2 * second, 40)).found(16).is_some());
        // From the first batch on, with another in hand.
        assert!(told(22, |second| (16 + 2 * second, 16)).found(16).is_some());
        assert_eq!(told(21, |second| (16 + 2 * second, 16)).found(16), None, "too short a time");
    }

    #[test]
    fn what_was_long_ago_counts_less() {
        let pace = told(1_800, |second| (second.min(600) * 10 + second.saturating_sub(600), 40));
        assert!((1.0..1.8).contains(&rate(&pace)), "{}", rate(&pace));
    }
}
