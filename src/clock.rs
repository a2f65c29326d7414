//! The time of day, and the only place that asks for it.
//!
//! Durations are measured with [`std::time::Instant`]; this is for what is written down: a
//! deadline must mean the same to a machine elsewhere, and to this one after it slept.
//!
//! Money is time, so [`now`] never goes back: where the computer's clock is put back it goes on as
//! it went. It is never behind that clock, and so ahead of it from then on. To others [`shown`] is
//! told, which is what that clock says: it is the earlier of both, and a machine that ends itself
//! too early costs less than one that does too late.

use jiff::Timestamp;
use std::{
    cell::RefCell,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// How far the computer's clock may seem to go back in between, as the two clocks aren't read in the
/// same moment.
const JITTER: Duration = Duration::from_secs(1);

/// The time as this process tells it.
static TOLD: Mutex<Option<(Instant, Course)>> = Mutex::new(None);

/// Another clock than the computer's, since when it is asked, and the time that is told by it.
type Other = (fn() -> Timestamp, tokio::time::Instant, Course);

thread_local! {
    /// What this thread asks instead of the computer's clock.
    static OTHER: RefCell<Option<Other>> = const { RefCell::new(None) };
}

/// How the time has gone on so far.
#[derive(Clone, Copy, Debug)]
struct Course {
    /// What it was at the start, by what it was later at the earliest.
    start: Timestamp,
    /// How far it is ahead of the computer's clock.
    ahead: Duration,
}

impl Course {
    const fn new(start: Timestamp) -> Self {
        Self { start, ahead: Duration::ZERO }
    }

    /// What the time is when the computer's clock shows this, and so long has `gone` by from the start.
    fn at(&mut self, shown: Timestamp, gone: Duration) -> Timestamp {
        let (told, least) = (after(shown, self.ahead), after(self.start, gone));
        if told < least {
            let back = between(told, least);
            if JITTER < back {
                self.ahead = self.ahead.saturating_add(back);
            }
            return least;
        }
        // Put forward, or the computer slept.
        self.start = after(self.start, between(least, told));
        told
    }
}

/// What the time is, and what the computer's clock shows when it is `ahead` less.
fn tell() -> (Timestamp, Duration) {
    let other = OTHER.with_borrow_mut(|other| {
        let (source, since, course) = other.as_mut()?;
        Some((course.at(source(), since.elapsed()), course.ahead))
    });
    other.unwrap_or_else(|| {
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = Timestamp::now();
        let (since, course) = told.get_or_insert_with(|| (Instant::now(), Course::new(shown)));
        (course.at(shown, since.elapsed()), course.ahead)
    })
}

/// Now, to the second.
pub fn now() -> Timestamp {
    let (now, _) = tell();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Now, to the millisecond.
pub fn exactly_now() -> Timestamp {
    let (now, _) = tell();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// What the computer's clock shows at a moment of ours: what others are told.
pub fn shown(ours: Timestamp) -> Timestamp {
    let (_, ahead) = tell();
    ours.checked_sub(ahead).unwrap_or(Timestamp::MIN)
}

/// The moment of ours at which the computer's clock shows this.
pub fn ours(shown: Timestamp) -> Timestamp {
    let (_, ahead) = tell();
    after(shown, ahead)
}

/// Makes this thread ask another clock than the computer's, as tests do that put it wrong. What was
/// told before is forgotten, as it is by another process.
pub fn go_by(source: fn() -> Timestamp) {
    OTHER.set(Some((source, tokio::time::Instant::now(), Course::new(source()))));
}

/// A moment that lies this far ahead.
pub fn after(start: Timestamp, time: Duration) -> Timestamp {
    start.checked_add(time).unwrap_or(Timestamp::MAX)
}

/// The time from one moment to another; zero if they are the other way round.
pub fn between(start: Timestamp, end: Timestamp) -> Duration {
    end.duration_since(start).try_into().unwrap_or(Duration::ZERO)
}

/// A moment as a marketplace is told it.
pub fn to_system(time: Timestamp) -> SystemTime {
    let seconds = u64::try_from(time.as_second()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A moment as a marketplace tells it.
pub fn from_system(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static SHOWN: Cell<i64> = const { Cell::new(10_000) };
    }

    /// The time at the end of a story of what the computer's clock showed after so many seconds.
    fn told(story: &[(i64, u64)]) -> i64 {
        let second = |second| Timestamp::from_second(second).expect("it is a time");
        let mut course = Course::new(second(story[0].0));
        let times = story
            .iter()
            .map(|(shown, gone)| course.at(second(*shown), Duration::from_secs(*gone)).as_second());
        let times: Vec<i64> = times.collect();
        assert!(times.is_sorted(), "{times:?}");
        times[times.len() - 1]
    }

    #[test]
    fn the_time_goes_on_whatever_becomes_of_the_clock() {
        let hour = 3_600;
        assert_eq!(told(&[(10_000, 0), (10_060, 60)]), 10_060);
        assert_eq!(told(&[(10_000, 0), (6_460, 60), (6_520, 120)]), 10_120, "put back");
        assert_eq!(told(&[(10_000, 0), (13_660, 60)]), 13_660, "put forward");
        let and_back = [(10_000, 0), (13_660, 60), (10_120, 120), (10_180, 180)];
        assert_eq!(told(&and_back), 10_180 + hour, "and back");
        let slept = [(10_000, 0), (6_460, 60), (6_460 + hour, 60)];
        assert_eq!(told(&slept), 10_060 + hour, "put back, and slept for an hour");
        let often = [(10_000, 0), (9_000, 10), (8_000, 20), (7_000, 30)];
        assert_eq!(told(&often), 10_030, "put back again and again");
    }

    #[test]
    fn clocks_that_are_not_read_at_once_make_no_time() {
        let millis = |millis| Timestamp::from_millisecond(millis).expect("it is a time");
        let mut course = Course::new(millis(0));
        for second in 1..10_000_i64 {
            // Up to a whole second, which is what may lie in between.
            let (shown, gone) = (second * 1_000 - second % 11 * 100, second.unsigned_abs());
            course.at(millis(shown), Duration::from_secs(gone));
        }
        assert_eq!(course.at(millis(10_000_000), Duration::from_secs(10_000)), millis(10_000_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_is_written_down_and_money_is_reckoned_more_exactly() {
        let millis = |millis| Timestamp::from_millisecond(millis).expect("it is a time");
        go_by(|| Timestamp::new(10_000, 750_999_999).expect("it is a time"));
        assert_eq!((now(), exactly_now()), (millis(10_000_000), millis(10_000_750)));
    }

    #[test]
    fn a_moment_is_the_same_to_a_marketplace() {
        let system = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_600_000);
        let ours = Timestamp::from_second(1_795_600_000).expect("it is a time");
        assert_eq!((to_system(ours), from_system(system)), (system, ours));
    }

    #[tokio::test(start_paused = true)]
    async fn others_are_told_what_the_clock_shows() {
        go_by(|| Timestamp::from_second(SHOWN.get()).expect("it is a time"));
        assert_eq!(shown(now()).as_second(), 10_000);
        SHOWN.set(6_400);
        assert_eq!((now().as_second(), shown(now()).as_second()), (10_000, 6_400));
        assert_eq!(ours(shown(now())), now());
    }
}
