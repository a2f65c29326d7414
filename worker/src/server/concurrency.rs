//! How many prompts a server is given at once: the number that measures best.
//!
//! [`Search`] decides, from measured rates; [`Meter`] measures. Neither looks at a clock.

use std::time::Duration;

/// By how much a rate must be better to count as better: less is noise.
const GAIN: f64 = 1.04;

/// Rounds of answers that a measurement takes.
const ROUNDS: u64 = 2;

/// The least that a measurement takes.
const LEAST: Duration = Duration::from_secs(2);

/// The search for the best number, up by doubling, else down by halving, and then between.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Search {
    /// The most that there may be by the server's description.
    whole: u32,
    /// The same, and by what its memory has shown.
    most: u32,
    start: u32,
    trying: Option<u32>,
    stage: Stage,
    best: u32,
    best_rate: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Up,
    Down,
    /// Half as many more than the best.
    Above,
    /// A quarter fewer.
    Below,
    Held,
}

impl Search {
    /// A search that begins with `start`, and ends at `most` at the latest.
    pub(super) fn new(start: u32, most: u32) -> Self {
        let most = most.max(1);
        let start = start.clamp(1, most);
        let (trying, stage, best) = (Some(start), Stage::Up, start);
        Self { whole: most, most, start, trying, stage, best, best_rate: 0.0 }
    }

    /// The server came up for [`most`](Self::most) prompts: more than that it never gets.
    pub(super) fn launched(&mut self) {
        self.whole = self.most;
    }

    /// What is known of the memory was for another reason: nothing is known any more.
    pub(super) fn start_over(&mut self) {
        *self = Self::new(self.start, self.whole);
    }

    /// How many prompts may be under way.
    pub(super) fn limit(&self) -> usize {
        self.trying.unwrap_or(self.best).min(self.most) as usize
    }

    /// Whether the best is found.
    pub(super) fn found(&self) -> bool {
        self.trying.is_none()
    }

    /// With [`limit`](Self::limit) prompts under way, so many tokens a second were measured.
    pub(super) fn measured(&mut self, rate: f64) {
        let Some(tried) = self.trying else { return };
        let better = self.best_rate * GAIN < rate;
        if better {
            (self.best, self.best_rate) = (tried, rate);
        }
        let goes_on = better && matches!(self.stage, Stage::Up | Stage::Down);
        if !goes_on {
            self.stage = self.next_stage();
        }
        self.trying = loop {
            let candidate = match self.stage {
                Stage::Up => self.best.saturating_mul(2),
                Stage::Down => self.best / 2,
                Stage::Above => self.best + self.best / 2,
                Stage::Below => self.best - self.best / 4,
                Stage::Held => break None,
            };
            let candidate = candidate.min(self.most);
            if 0 < candidate && candidate != self.best {
                break Some(candidate);
            }
            self.stage = self.next_stage();
        };
    }

    fn next_stage(&self) -> Stage {
        match self.stage {
            Stage::Up if self.best == self.start => Stage::Down,
            Stage::Up | Stage::Down => Stage::Above,
            Stage::Above => Stage::Below,
            Stage::Below | Stage::Held => Stage::Held,
        }
    }

    /// The memory didn't do for [`limit`](Self::limit) prompts: from now on there are half as many at most.
    pub(super) fn out_of_memory(&mut self) {
        self.most = u32::try_from(self.limit() / 2).unwrap_or(u32::MAX).max(1);
        self.best = self.best.min(self.most);
        (self.trying, self.stage) = (None, Stage::Held);
    }

    /// The most that may ever be under way.
    pub(super) fn most(&self) -> u32 {
        self.most
    }
}

/// Measures tokens a second at a steady number of prompts under way.
#[derive(Debug, Default)]
pub(super) struct Meter {
    limit: usize,
    /// Answers to begin with that belong to another number of prompts.
    unsettled: u64,
    begin: Duration,
    answers: u64,
    tokens: u64,
}

impl Meter {
    /// An answer of so many tokens came at `now`, with `limit` prompts under way. Comes out with
    /// tokens a second once they have been measured at this limit.
    pub(super) fn answer(&mut self, now: Duration, limit: usize, tokens: u64) -> Option<f64> {
        if limit != self.limit {
            // Those that were under way go on, be they more than there may be now.
            let unsettled = self.limit.max(limit) as u64;
            *self = Self { limit, unsettled, ..Self::default() };
        }
        if 0 < self.unsettled {
            self.unsettled -= 1;
            self.begin = now;
            return None;
        }
        self.answers += 1;
        self.tokens += tokens;
        let passed = now.saturating_sub(self.begin);
        // Whole rounds: where answers come in bursts, the time ends with one as it began.
        let rounds = self.answers / limit.max(1) as u64;
        if rounds < ROUNDS || self.answers != rounds * limit as u64 || passed < LEAST {
            return None;
        }
        let rate = self.tokens as f64 / passed.as_secs_f64();
        self.restart(limit);
        self.unsettled = 0;
        self.begin = now;
        Some(rate)
    }

    /// There weren't enough prompts, or the server died: what was measured counts for nothing.
    pub(super) fn restart(&mut self, limit: usize) {
        *self = Self { limit, unsettled: limit as u64, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found on a server whose rate is `rate(prompts)`, and after how many measurements.
    fn find(start: u32, most: u32, rate: impl Fn(f64) -> f64) -> (usize, u32) {
        let mut search = Search::new(start, most);
        for measurements in 0..100 {
            if search.found() {
                return (search.limit(), measurements);
            }
            let limit = search.limit();
            assert!((1..=most as usize).contains(&limit), "{search:?}");
            search.measured(rate(limit as f64));
        }
        panic!("it never ends: {search:?}");
    }

    #[test]
    fn the_best_is_found_wherever_the_search_begins() {
        // Rates rise up to a knee and fall beyond it, as when the cache overflows.
        for knee in [1.0, 3.0, 16.0, 40.0, 200.0, 256.0] {
            let rate = |n: f64| if n <= knee { 100.0 * n } else { 100.0 * knee * knee / n };
            for start in [1, 8, 64, 256] {
                let (found, measurements) = find(start, 256, rate);
                let share = rate(found as f64) / rate(knee);
                assert!(0.75 <= share, "{found} for {knee} from {start}: {share}");
                assert!(measurements <= 13, "{measurements} for {knee} from {start}");
            }
        }
    }

    #[test]
    fn where_more_gains_nothing_there_are_not_more() {
        let (found, _) = find(8, 256, |n| 1000.0 * n.min(32.0));
        assert!((30..=48).contains(&found), "{found}");
        assert_eq!(find(64, 64, |n| n).0, 64);
        assert_eq!(find(1, 1, |n| n).0, 1);
    }

    #[test]
    fn exhausted_memory_halves_the_most_and_ends_the_search() {
        let mut search = Search::new(64, 256);
        search.measured(100.0);
        assert_eq!(search.limit(), 128);
        search.out_of_memory();
        assert_eq!((search.limit(), search.most(), search.found()), (64, 64, true));
        for _ in 0..9 {
            search.out_of_memory();
        }
        assert_eq!(search.limit(), 1);
        search.start_over();
        assert_eq!((search.limit(), search.most(), search.found()), (64, 256, false));
        // A server that only came up for fewer isn't asked for more when it starts over.
        search.out_of_memory();
        search.launched();
        search.out_of_memory();
        search.start_over();
        assert_eq!((search.limit(), search.most(), search.found()), (32, 32, false));
    }

    #[test]
    fn a_rate_is_of_answers_that_were_begun_at_the_same_number() {
        let mut meter = Meter::default();
        let mut rates = Vec::new();
        // Four at once, an answer of ten tokens each quarter of a second.
        for step in 1..=100_u32 {
            rates.extend(meter.answer(Duration::from_millis(250) * step, 4, 10));
        }
        assert!(3 < rates.len());
        assert!(rates.iter().all(|rate| (rate - 40.0).abs() < 1e-9), "{rates:?}");
    }

    #[test]
    fn those_that_were_under_way_at_a_larger_number_count_for_no_smaller_one() {
        let (mut meter, mut rates) = (Meter::default(), Vec::new());
        // Sixteen at once, all answered after a second; then four at once, after half a second each.
        for (second, limit) in [(1, 16), (2, 16), (3, 16), (4, 4)] {
            for _ in 0..16 {
                meter.answer(Duration::from_secs(second), limit, 10);
            }
        }
        for half in 1..=20 {
            let now = Duration::from_secs(4) + Duration::from_millis(500) * half;
            (0..4).for_each(|_| rates.extend(meter.answer(now, 4, 10)));
        }
        assert!(2 < rates.len());
        assert!(rates.iter().all(|rate| (rate - 80.0).abs() < 1e-9), "{rates:?}");
    }
}
