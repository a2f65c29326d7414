//! The time of day, and the only place that asks for it.
//!
//! Durations are measured with [`std::time::Instant`]; this is for what is written down: a
//! deadline must mean the same to a machine elsewhere, and to this one after it slept.

use jiff::Timestamp;
use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

thread_local! {
    /// What is asked for the time.
    static SOURCE: Cell<fn() -> Timestamp> = const { Cell::new(Timestamp::now) };
}

/// Now, to the second.
pub fn now() -> Timestamp {
    let now = SOURCE.get()();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Makes this thread ask another clock than the computer's, as tests do that put it wrong.
pub fn go_by(source: fn() -> Timestamp) {
    SOURCE.set(source);
}

/// Now, to the millisecond.
pub fn exactly_now() -> Timestamp {
    let now = SOURCE.get()();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
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
