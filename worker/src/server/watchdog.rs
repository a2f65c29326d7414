//! When a server counts as hung.

use std::time::Duration;
use wire::server::Patience;

/// How many times as long as the slowest answer so far a prompt may take.
const SLOWER: u32 = 8;

/// What is seen of a server that has prompts to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signs {
    /// Since it last answered a prompt or its metrics changed.
    pub(super) since_progress: Duration,
    /// Since it last said that it lives.
    pub(super) since_alive: Duration,
}

/// Why the server must be started anew, if it must: as a clause that follows "the server".
pub(super) fn hung(signs: Signs, patience: &Patience) -> Option<String> {
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    let quiet = signs.since_progress.min(signs.since_alive);
    if seconds(patience.silent) <= quiet {
        return Some(format!("said nothing for {} seconds", quiet.as_secs()));
    }
    let stalled = signs.since_progress;
    (seconds(patience.stalled) <= stalled)
        .then(|| format!("got nowhere for {} seconds", stalled.as_secs()))
}

/// How long one prompt may take, when the slowest so far took `slowest`.
pub(super) fn time_limit(slowest: Duration, patience: &Patience) -> Duration {
    Duration::from_secs(u64::from(patience.stalled)).max(slowest * SLOWER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_hangs_when_it_is_silent_or_gets_nowhere_for_long() {
        let patience = Patience { load: 9, silent: 60, stalled: 900 };
        let signs = |progress, alive| Signs {
            since_progress: Duration::from_secs(progress),
            since_alive: Duration::from_secs(alive),
        };
        for (signs, verdict) in [
            (signs(0, 0), None),
            // Busy, and too busy to say so.
            (signs(3, 500), None),
            // A long prompt, or one that nobody asked for an answer to.
            (signs(500, 3), None),
            (signs(70, 61), Some("said nothing for 61 seconds")),
            (signs(901, 1), Some("got nowhere for 901 seconds")),
        ] {
            assert_eq!(hung(signs, &patience).as_deref(), verdict, "{signs:?}");
        }
    }

    #[test]
    fn a_prompt_may_take_longer_where_others_did() {
        let patience = Patience { load: 9, silent: 60, stalled: 900 };
        assert_eq!(time_limit(Duration::from_secs(5), &patience), Duration::from_mins(15));
        assert_eq!(time_limit(Duration::from_mins(10), &patience), Duration::from_mins(80));
    }
}
