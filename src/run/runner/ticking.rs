//! What is looked after whatever else happens: the deadline, the money, the guard and the ledger.

use super::Runner;
use crate::{
    clock,
    leases::LeaseError,
    run::{
        guard::Guard,
        purse::{self, DRAIN_LIMIT},
        stop::Stop,
        why::Why,
    },
};
use jiff::Timestamp;
use std::time::Duration;

impl Runner<'_> {
    pub(super) fn tick(&mut self) -> Result<(), Why> {
        self.leases.check().map_err(LeaseError::from)?;
        self.progress();
        self.review();
        self.look_out();
        self.see_to_the_guard();
        let (plan, time_left) = (&self.tools.setting.plan, self.time_left());
        let mut end = |stop: Stop, why: Why| {
            self.why.get_or_insert(why);
            self.tools.ladder.raise(stop);
        };
        if time_left == Duration::ZERO {
            end(Stop::Drain, Why::Stopped("the deadline has come".to_owned()));
        }
        if let Some(limit) = plan.limit() {
            let (books, now) = (self.leases.books(), self.leases.now());
            let interval = |name: &str| {
                let market = self.tools.setting.markets.get(name);
                market.map_or(Duration::ZERO, |market| market.capabilities().release_interval)
            };
            let queue = purse::queue(books, interval);
            let verdict = purse::verdict(books, limit.usd(), now, queue);
            if verdict != Stop::No {
                end(verdict, Why::Spent(limit));
            }
        }
        if self.draining_since.is_some_and(|since| DRAIN_LIMIT <= since.elapsed()) {
            end(Stop::Kill, Why::Stopped("stopped".to_owned()));
        }
        Ok(())
    }

    /// How long this session may go on. By the time of day too, which goes on while a computer sleeps.
    pub(super) fn time_left(&self) -> Duration {
        let deadline = self.tools.setting.plan.deadline;
        left(deadline, self.tools.begun.elapsed(), self.until, clock::now())
    }

    fn see_to_the_guard(&mut self) {
        if let Some(event) = self.tools.guard.as_mut().and_then(Guard::look) {
            self.tools.events.send(event);
        }
    }
}

/// What is left of a deadline of which `awake` has gone by, and is at `until`.
fn left(deadline: Duration, awake: Duration, until: Timestamp, now: Timestamp) -> Duration {
    deadline.saturating_sub(awake).min(clock::between(now, until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_computer_that_slept_stretches_no_deadline() {
        let (hour, begun) = (Duration::from_hours(1), Timestamp::UNIX_EPOCH);
        let until = clock::after(begun, hour);
        let at = |minutes| clock::after(begun, Duration::from_mins(minutes));
        let awake = Duration::from_mins(10);
        assert_eq!(left(hour, awake, until, at(10)), Duration::from_mins(50));
        assert_eq!(left(hour, awake, until, at(55)), Duration::from_mins(5), "it slept");
        assert_eq!(left(hour, awake, until, at(90)), Duration::ZERO);
        assert_eq!(left(hour, hour, until, begun), Duration::ZERO, "its clock was put back");
    }
}
