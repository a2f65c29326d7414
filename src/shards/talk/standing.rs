//! How long is waited before a worker is reached for again, and when it has died too often for that (pure).

use std::time::Duration;

/// The shortest and the longest pause before the link is made again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// How often a worker may die before its instance is given up, if it did no good in between.
const DEATHS: u32 = 6;

/// How long a conversation lasts, at least, that shows that all is well.
const LONG: Duration = Duration::from_secs(30);

/// A conversation that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Talked {
    /// How long it went on.
    pub(super) lasted: Duration,
    /// Whether anything was answered in it.
    pub(super) answered: bool,
    /// Whether it was not the link that ended, but the worker.
    pub(super) died: bool,
}

/// What earlier conversations say of a worker.
#[derive(Debug)]
pub(super) struct Standing {
    pause: Duration,
    deaths: u32,
}

impl Standing {
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        Self { pause: PAUSES.0, deaths: 0 }
    }

    /// Takes a conversation in. Tells how often the worker has died, if that is too often.
    ///
    /// That one lasted is no good by itself: a model that is too large for its machine takes a while to load,
    /// again and again.
    pub(super) fn take_in(&mut self, talked: Talked) -> Option<u32> {
        let lasted = LONG < talked.lasted;
        if lasted && talked.answered {
            self.deaths = 0;
        } else if talked.died {
            self.deaths += 1;
        }
        if lasted || !talked.died {
            self.pause = PAUSES.0;
        }
        (DEATHS <= self.deaths).then_some(self.deaths)
    }

    /// How long to wait now; the next time it is longer.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSES.1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many of such conversations its worker is given up, if it is within a thousand.
    fn given_up_after(talked: &[Talked]) -> Option<usize> {
        let mut standing = Standing::new();
        talked.iter().cycle().take(1000).position(|talked| standing.take_in(*talked).is_some())
    }

    const DIED_LATE: Talked =
        Talked { lasted: Duration::from_mins(2), answered: false, died: true };
    const WORKED: Talked = Talked { answered: true, died: false, ..DIED_LATE };
    const SOON: Duration = Duration::from_secs(3);

    #[test]
    fn a_worker_that_dies_over_and_over_is_given_up_however_long_that_takes() {
        for lasted in [Duration::ZERO, SOON, DIED_LATE.lasted] {
            assert_eq!(given_up_after(&[Talked { lasted, ..DIED_LATE }]), Some(5), "{lasted:?}");
        }
        // Little comes of one that always dies soon after it has begun to answer.
        assert_eq!(given_up_after(&[Talked { lasted: SOON, answered: true, died: true }]), Some(5));
        // Links that break in between say nothing for it.
        let cut = Talked { died: false, ..DIED_LATE };
        assert_eq!(given_up_after(&[DIED_LATE, cut]), Some(10));
    }

    #[test]
    fn a_worker_that_works_is_kept_whatever_its_link_does() {
        assert_eq!(given_up_after(&[Talked { answered: true, ..DIED_LATE }]), None);
        assert_eq!(given_up_after(&[DIED_LATE, DIED_LATE, DIED_LATE, DIED_LATE, WORKED]), None);
        assert_eq!(given_up_after(&[Talked { died: false, ..DIED_LATE }]), None);
        assert_eq!(given_up_after(&[Talked { lasted: SOON, ..WORKED }]), None);
    }

    #[test]
    fn what_cannot_be_reached_is_tried_more_and_more_seldom() {
        let mut standing = Standing::new();
        let pauses: Vec<_> = (0..10).map(|_| standing.pause()).collect();
        assert!(pauses.is_sorted());
        assert_eq!((pauses[0], pauses[9]), PAUSES);
        standing.take_in(WORKED);
        assert_eq!(standing.pause(), PAUSES.0);
    }
}
