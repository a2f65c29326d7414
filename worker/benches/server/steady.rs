//! The rate while all slots are taken.

use std::time::Instant;

/// Tokens a second between the answer by which every slot has been used once, and whatever else is
/// waited for has come, and the last whose slot another prompt took.
pub(super) struct Steady {
    at_once: u64,
    left: u64,
    answered: u64,
    tokens: u64,
    first: Option<(Instant, u64)>,
    last: Option<(Instant, u64)>,
}

impl Steady {
    /// Of `count` prompts, so many at once.
    pub(super) fn new(at_once: u32, count: u64) -> Self {
        let at_once = u64::from(at_once);
        Self { at_once, left: count, answered: 0, tokens: 0, first: None, last: None }
    }

    /// A prompt was answered. `ready` is whether what else is waited for has come.
    pub(super) fn answer(&mut self, tokens: u64, ready: bool) {
        (self.answered, self.left) = (self.answered + 1, self.left - 1);
        self.tokens += tokens;
        let now = (Instant::now(), self.tokens);
        if self.first.is_none() && ready && self.at_once <= self.answered {
            self.first = Some(now);
        }
        if self.at_once <= self.left {
            self.last = Some(now);
        }
    }

    /// Tokens a second; no number where there was too little.
    pub(super) fn rate(&self) -> f64 {
        let (Some((begin, before)), Some((end, after))) = (self.first, self.last) else {
            return f64::NAN;
        };
        after.saturating_sub(before) as f64 / end.saturating_duration_since(begin).as_secs_f64()
    }
}
