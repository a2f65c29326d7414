//! What state an instance is in, from what its folder and the process table say.

use crate::{Endpoint, InstanceState};
use std::time::Duration;

/// How long a new instance's process may take to show itself.
pub(super) const BOOT_LIMIT: Duration = Duration::from_secs(30);

/// The name to log in with. Any would do: only the key counts.
const USER: &str = "piecework";

/// The process that is an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    /// It has not written its number yet.
    NotSeen,
    /// It runs.
    Alive,
    /// It ended without being released.
    Dead,
}

/// The state of an instance of this age whose process is so, and answers on `port`.
pub(super) fn state(process: Process, port: Option<u16>, age: Duration) -> InstanceState {
    match (process, port) {
        (Process::Alive, Some(port)) => {
            InstanceState::Running(Endpoint { host: "127.0.0.1".into(), port, user: USER.into() })
        }
        (Process::Alive, None) => InstanceState::Pending,
        (Process::NotSeen, _) if age <= BOOT_LIMIT => InstanceState::Pending,
        (Process::NotSeen, _) => InstanceState::Failed("its process never started".into()),
        // Its folder is kept, and what it started may still run.
        (Process::Dead, Some(_)) => InstanceState::Stopped,
        (Process::Dead, None) => {
            InstanceState::Failed("its process ended before it answered; see its log".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_living_process_with_a_port_is_running() {
        let young = Duration::from_secs(1);
        assert!(matches!(state(Process::Alive, Some(2222), young), InstanceState::Running(_)));
        assert_eq!(state(Process::Alive, None, young), InstanceState::Pending);
        assert_eq!(state(Process::Dead, Some(2222), young), InstanceState::Stopped);
        assert!(matches!(state(Process::Dead, None, young), InstanceState::Failed(_)));
    }

    #[test]
    fn a_process_that_never_shows_itself_fails_in_the_end() {
        assert_eq!(state(Process::NotSeen, None, BOOT_LIMIT), InstanceState::Pending);
        let late = BOOT_LIMIT + Duration::from_secs(1);
        assert!(matches!(state(Process::NotSeen, None, late), InstanceState::Failed(_)));
    }
}
