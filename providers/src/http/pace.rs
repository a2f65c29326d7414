//! How often a marketplace lets itself be asked.

use std::{collections::HashMap, time::Duration};
use tokio::time::Instant;

/// The rate at which one kind of request may be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Requests of one name share one allowance.
    pub(crate) name: &'static str,
    /// The time that one request uses up.
    pub(crate) interval: Duration,
    /// How many may go at once after a rest.
    pub(crate) burst: u32,
    /// Whether it goes before all that wait.
    pub(crate) first: bool,
}

impl Pace {
    /// At most one request in every interval.
    pub(crate) const fn every(name: &'static str, interval: Duration) -> Self {
        Self { name, interval, burst: 1, first: false }
    }

    /// The same allowance, but this many may go at once after a rest.
    pub(crate) const fn burst(self, burst: u32) -> Self {
        Self { burst, ..self }
    }

    /// The same allowance, before all others that wait for it: what ends a machine isn't to wait
    /// while that is billed. Others that have been promised their place keep it, so that for a
    /// moment more may go than should; one that is turned away for it is sent again.
    pub(crate) const fn first(self) -> Self {
        Self { first: true, ..self }
    }
}

/// When a pace is free again.
#[derive(Clone, Copy, Debug)]
struct Free {
    /// For all.
    all: Instant,
    /// For those that go first, which wait for each other only.
    first: Instant,
}

/// When each pace is free again.
#[derive(Debug, Default)]
pub(crate) struct Paces(HashMap<&'static str, Free>);

impl Paces {
    /// Takes the next free place of a pace, and says how long it is until then.
    ///
    /// This is the generic cell rate algorithm (ITU-T I.371) in its form with one time stamp: the
    /// stamp is when the allowance would be whole again, and a request may go once that is less
    /// than the burst ahead.
    pub(crate) fn take(&mut self, pace: Pace, now: Instant) -> Duration {
        let free = self.0.entry(pace.name).or_insert(Free { all: now, first: now });
        let (all, first) = (free.all.max(now), free.first.max(now));
        free.all = all + pace.interval;
        if pace.first {
            free.first = first + pace.interval;
        }
        let ahead = if pace.first { first } else { all } - now;
        ahead.saturating_sub(pace.interval * (pace.burst.max(1) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_request_waits_for_the_one_before() {
        let (mut paces, now) = (Paces::default(), Instant::now());
        let pace = Pace::every("list", SECOND);
        let waits: Vec<_> = (0..3).map(|_| paces.take(pace, now)).collect();
        assert_eq!(waits, [Duration::ZERO, SECOND, SECOND * 2]);
        assert_eq!(paces.take(pace, now + SECOND * 10), Duration::ZERO);
    }

    #[test]
    fn a_burst_goes_at_once_and_then_the_interval_holds() {
        let (mut paces, now) = (Paces::default(), Instant::now());
        let pace = Pace::every("any", SECOND).burst(3);
        let waits: Vec<_> = (0..5).map(|_| paces.take(pace, now)).collect();
        assert_eq!(waits, [Duration::ZERO, Duration::ZERO, Duration::ZERO, SECOND, SECOND * 2]);
    }

    #[test]
    fn what_goes_first_waits_only_for_its_like_and_takes_its_place_all_the_same() {
        let (mut paces, now) = (Paces::default(), Instant::now());
        let pace = Pace::every("any", SECOND).burst(2);
        let mut waits = |pace| (0..3).map(|_| paces.take(pace, now)).collect::<Vec<_>>();
        assert_eq!(waits(pace), [Duration::ZERO, Duration::ZERO, SECOND]);
        assert_eq!(waits(pace.first()), [Duration::ZERO, Duration::ZERO, SECOND]);
        assert_eq!(waits(pace), [SECOND * 5, SECOND * 6, SECOND * 7]);
    }

    #[test]
    fn two_names_have_two_allowances() {
        let (mut paces, now) = (Paces::default(), Instant::now());
        assert_eq!(paces.take(Pace::every("list", SECOND), now), Duration::ZERO);
        assert_eq!(paces.take(Pace::every("release", SECOND), now), Duration::ZERO);
    }
}
