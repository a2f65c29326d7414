//! Whether a request is sent again, and what its failure means.

use crate::ErrorKind;
use std::time::Duration;

/// What a second sending of a request would do. The dialect says so, not the HTTP method: one
/// marketplace rents with a PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: it only reads.
    Read,
    /// Nothing more than the first: it may be repeated.
    Repeatable,
    /// Perhaps rent a second time: it is sent once.
    Once,
}

/// How patiently a marketplace is asked.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For one attempt, answer included.
    pub attempt: Duration,
    /// For one request with all its attempts and the waits between them.
    pub request: Duration,
    /// Before the second attempt. It doubles with each one.
    pub pause: Duration,
    /// Whether the marketplace's own limits on how often it may be asked are kept.
    pub paced: bool,
    /// How long a new instance may be missing from a listing, if it isn't as long as is known of
    /// the marketplace.
    pub listing_lag: Option<Duration>,
}

impl Default for Timing {
    /// What the real marketplaces need.
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(30),
            request: Duration::from_secs(90),
            pause: Duration::from_millis(500),
            paced: true,
            listing_lag: None,
        }
    }
}

impl Timing {
    /// For a server on this computer, which has no limits and answers at once.
    pub const fn loopback() -> Self {
        Self {
            attempt: Duration::from_secs(5),
            request: Duration::from_secs(20),
            pause: Duration::from_millis(5),
            paced: false,
            listing_lag: Some(Duration::from_secs(1)),
        }
    }
}

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// It never reached the marketplace.
    Unsent,
    /// It may have reached it, and no whole answer came.
    Silent,
    /// It was answered with this status, and this wish to be left alone.
    Answered(u16, Option<Duration>),
}

/// How long to wait before a request is sent again after attempt number `count` (from one),
/// `spent` after the first one began. `None`: it is over.
pub(crate) fn again(
    attempt: Attempt,
    effect: Effect,
    count: u32,
    spent: Duration,
    timing: &Timing,
) -> Option<Duration> {
    let wish = match attempt {
        Attempt::Answered(408 | 425 | 429 | 500..=599, wish) => wish,
        Attempt::Answered(..) => return None,
        Attempt::Unsent | Attempt::Silent => None,
    };
    let doubled = timing.pause.saturating_mul(1 << (count - 1).min(6));
    let wait = wish.unwrap_or(doubled);
    (effect != Effect::Once && spent + wait < timing.request).then_some(wait)
}

/// What it means that no answer came.
pub(crate) const fn unanswered(sent: bool, effect: Effect) -> ErrorKind {
    match effect {
        Effect::Repeatable | Effect::Once if sent => ErrorKind::Uncertain,
        Effect::Read | Effect::Repeatable | Effect::Once => ErrorKind::Unavailable,
    }
}

/// What a refusal means where the dialect has no word of its own for it. Of a request that may rent
/// only a status that says so is taken for a no: any other may come from whatever is in between, and
/// after the marketplace has agreed.
pub(crate) const fn refusal(status: u16, effect: Effect) -> ErrorKind {
    match status {
        401 | 403 => ErrorKind::Unauthorized,
        402 => ErrorKind::OutOfFunds,
        425 | 429 => ErrorKind::RateLimited,
        404 => ErrorKind::Unexpected,
        408 | 500..=599 => match effect {
            Effect::Read => ErrorKind::Unavailable,
            // A gateway's error says nothing about what happened behind it.
            Effect::Repeatable | Effect::Once => ErrorKind::Uncertain,
        },
        _ => match effect {
            Effect::Read | Effect::Repeatable => ErrorKind::Unexpected,
            Effect::Once => ErrorKind::Uncertain,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(attempt: Attempt, effect: Effect, count: u32, spent: u64) -> Option<Duration> {
        again(attempt, effect, count, Duration::from_secs(spent), &Timing::default())
    }

    #[test]
    fn a_request_that_may_rent_twice_is_never_sent_again() {
        let attempts = [
            Attempt::Unsent,
            Attempt::Silent,
            Attempt::Answered(429, None),
            Attempt::Answered(503, None),
        ];
        for attempt in attempts {
            assert_eq!(after(attempt, Effect::Once, 1, 0), None);
        }
        assert_eq!(unanswered(true, Effect::Once), ErrorKind::Uncertain);
        assert_eq!(unanswered(false, Effect::Once), ErrorKind::Unavailable);
    }

    #[test]
    fn of_what_may_rent_only_a_known_no_is_one() {
        for (status, kind) in [
            (401, ErrorKind::Unauthorized),
            (402, ErrorKind::OutOfFunds),
            (403, ErrorKind::Unauthorized),
            (404, ErrorKind::Unexpected),
            (425, ErrorKind::RateLimited),
            (429, ErrorKind::RateLimited),
        ] {
            assert_eq!(refusal(status, Effect::Once), kind, "{status}");
        }
        for status in [200, 302, 307, 400, 405, 408, 409, 410, 413, 418, 422, 451, 500, 504, 599] {
            assert_eq!(refusal(status, Effect::Once), ErrorKind::Uncertain, "{status}");
        }
        assert_eq!(refusal(409, Effect::Read), ErrorKind::Unexpected);
        assert_eq!(refusal(307, Effect::Repeatable), ErrorKind::Unexpected);
    }

    #[test]
    fn others_are_sent_again_after_twice_the_wait_each_time() {
        let pause = Timing::default().pause;
        for attempt in [Attempt::Unsent, Attempt::Silent, Attempt::Answered(502, None)] {
            assert_eq!(after(attempt, Effect::Read, 1, 0), Some(pause));
            assert_eq!(after(attempt, Effect::Repeatable, 3, 0), Some(pause * 4));
        }
    }

    #[test]
    fn the_marketplace_says_how_long_to_wait_unless_that_is_too_long() {
        let wish = |seconds| Attempt::Answered(429, Some(Duration::from_secs(seconds)));
        assert_eq!(after(wish(7), Effect::Read, 1, 0), Some(Duration::from_secs(7)));
        assert_eq!(after(wish(700), Effect::Read, 1, 0), None);
    }

    #[test]
    fn an_answer_that_will_not_change_is_taken() {
        for status in [200, 301, 400, 401, 404, 409, 410, 422] {
            assert_eq!(after(Attempt::Answered(status, None), Effect::Read, 1, 0), None);
        }
    }

    #[test]
    fn patience_ends() {
        for attempt in [Attempt::Silent, Attempt::Answered(500, None)] {
            assert_eq!(after(attempt, Effect::Read, 3, 90), None);
        }
        assert_eq!(unanswered(true, Effect::Read), ErrorKind::Unavailable);
        assert_eq!(unanswered(true, Effect::Repeatable), ErrorKind::Uncertain);
    }
}
