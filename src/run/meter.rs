//! How fast something goes, of late. Pure: whoever asks says what time it is.

use crate::event::Latency;
use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

/// How far back the rate looks.
const SPAN: Duration = Duration::from_secs(20);

/// Readings closer together than this are one.
const GRAIN: Duration = Duration::from_millis(250);

/// The shortest while that a rate is told of: many at once, such as a batch that ends together, are
/// taken for no more a second than they are.
const LEAST: f64 = 1.0;

/// A rate over the last while.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    readings: VecDeque<(Instant, f64)>,
}

impl Meter {
    /// Notes that the count has come to `count`.
    pub(super) fn note(&mut self, now: Instant, count: f64) {
        // Behind the last but one, so that a busy counter doesn't push its own start out.
        let close = |(at, _): &(Instant, f64)| now.duration_since(*at) < GRAIN;
        if 1 < self.readings.len() && self.readings.back().is_some_and(close) {
            self.readings.pop_back();
        }
        self.readings.push_back((now, count));
        while 2 < self.readings.len() && SPAN < now.duration_since(self.readings[1].0) {
            self.readings.pop_front();
        }
    }

    /// Counts per second; 0 before there is anything to go by.
    pub(super) fn rate(&self) -> f64 {
        let (Some((begin, first)), Some((end, last))) =
            (self.readings.front(), self.readings.back())
        else {
            return 0.0;
        };
        let seconds = end.duration_since(*begin).as_secs_f64();
        ((last - first) / seconds.max(LEAST)).max(0.0)
    }
}

/// How many prompts are timed at once. Whether one is doesn't depend on how long it takes, so they
/// stand for all.
const TIMED: usize = 4096;

/// Times prompts from when they are handed out to when they are done.
#[derive(Clone, Debug, Default)]
pub(super) struct Stopwatch {
    begun: HashMap<u64, Instant>,
    pub(super) latency: Latency,
}

impl Stopwatch {
    /// A prompt is handed out; perhaps not for the first time.
    pub(super) fn begin(&mut self, index: u64, now: Instant) {
        if self.begun.len() < TIMED {
            self.begun.entry(index).or_insert(now);
        }
    }

    /// A prompt is done.
    pub(super) fn end(&mut self, index: u64, now: Instant) {
        if let Some(begun) = self.begun.remove(&index) {
            let milliseconds = now.duration_since(begun).as_millis();
            self.latency.note(u64::try_from(milliseconds).unwrap_or(u64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_while() {
        let (begin, mut meter) = (Instant::now(), Meter::default());
        let mut count = 0.0;
        for second in 0..100 {
            count += if second < 50 { 1000.0 } else { 10.0 };
            meter.note(begin + Duration::from_secs(second), count);
        }
        assert!((meter.rate() - 10.0).abs() < 0.5, "{}", meter.rate());
    }

    #[test]
    fn a_prompt_that_is_handed_out_again_has_taken_since_the_first_time() {
        let (begin, mut watch) = (Instant::now(), Stopwatch::default());
        watch.begin(7, begin);
        watch.begin(7, begin + Duration::from_millis(50));
        watch.end(7, begin + Duration::from_millis(100));
        watch.end(7, begin + Duration::from_millis(200));
        watch.end(8, begin);
        assert_eq!(watch.latency.0.into_iter().collect::<Vec<_>>(), [(112, 1)]);
    }

    #[test]
    fn a_batch_that_ends_at_once_is_no_rate_of_thousands() {
        let (begin, mut meter) = (Instant::now(), Meter::default());
        meter.note(begin, 1.0);
        meter.note(begin + Duration::from_millis(3), 64.0);
        assert!((meter.rate() - 63.0).abs() < f64::EPSILON, "{}", meter.rate());
    }

    #[test]
    fn one_reading_is_no_rate() {
        let mut meter = Meter::default();
        meter.note(Instant::now(), 5.0);
        assert!(meter.rate() < f64::EPSILON);
    }

    #[test]
    fn many_readings_take_little_room() {
        let (begin, mut meter) = (Instant::now(), Meter::default());
        for millisecond in 0..60_000 {
            meter.note(begin + Duration::from_millis(millisecond), 1.0);
        }
        assert!(meter.readings.len() < 100);
    }
}
