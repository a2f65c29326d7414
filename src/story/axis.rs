//! The time that a run took, without the time in which nothing of it was there. Pure.
//!
//! A run may be stopped for a night: what is counted is the time in which a session went on or
//! something was rented.

use crate::clock;
use jiff::Timestamp;

/// Spans of time, laid end to end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Axis(Vec<(Timestamp, Timestamp)>);

impl Axis {
    /// The time that any of these spans covers.
    pub(super) fn over(spans: impl IntoIterator<Item = (Timestamp, Timestamp)>) -> Self {
        let mut spans: Vec<_> = spans.into_iter().filter(|(begin, end)| begin <= end).collect();
        spans.sort_unstable();
        let mut merged: Vec<(Timestamp, Timestamp)> = Vec::new();
        for (begin, end) in spans {
            match merged.last_mut() {
                Some((_, last)) if begin <= *last => *last = end.max(*last),
                Some(_) | None => merged.push((begin, end)),
            }
        }
        Self(merged)
    }

    /// Seconds on it from its begin to this moment.
    pub(super) fn seconds(&self, at: Timestamp) -> f64 {
        let before = |(begin, end): &(Timestamp, Timestamp)| {
            clock::between(*begin, at.min(*end)).as_secs_f64()
        };
        self.0.iter().map(before).sum()
    }

    /// Seconds in all.
    pub(super) fn length(&self) -> f64 {
        self.seconds(Timestamp::MAX)
    }

    /// The moment that lies so many seconds from its begin.
    pub(super) fn moment(&self, seconds: f64) -> Timestamp {
        let mut left = seconds;
        let mut last = Timestamp::UNIX_EPOCH;
        for (begin, end) in &self.0 {
            let length = clock::between(*begin, *end).as_secs_f64();
            if left <= length {
                return clock::after(*begin, std::time::Duration::from_secs_f64(left.max(0.0)));
            }
            left -= length;
            last = *end;
        }
        last
    }

    /// Seconds from its begin to where time was left out.
    pub(super) fn seams(&self) -> Vec<f64> {
        self.0.iter().skip(1).map(|(begin, _)| self.seconds(*begin)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn time_in_which_nothing_was_there_is_left_out() {
        let axis = Axis::over([(at(110), at(120)), (at(0), at(10)), (at(5), at(20))]);
        let seconds = |second| axis.seconds(at(second)).to_string();
        let expected = ["0", "7", "20", "20", "20", "25", "30"];
        assert_eq!([0, 7, 20, 60, 110, 115, 200].map(seconds), expected);
        assert_eq!([0.0, 7.0, 25.0, 99.0].map(|s| axis.moment(s)), [0, 7, 115, 120].map(at));
        assert_eq!((axis.length().to_string(), axis.seams().len()), ("30".to_owned(), 1));
        assert!(Axis::over([]).length() < f64::EPSILON);
    }
}
