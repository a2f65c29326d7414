//! The life of a run.
//!
//! ```text
//! Planned ─rent▶ Renting ─attached▶ Working ─drain▶ Draining ─quiet▶ Settling ─settled▶ Over
//!                   └──────────────────┴──── everything done, or killed ────▶┘
//! ```

use super::stop::Stop;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunState {
    /// Nothing was rented yet.
    Planned,
    /// The first instances are being rented and prepared.
    Renting,
    /// Prompts are handed out.
    Working,
    /// No more prompts are handed out; those begun are awaited.
    Draining,
    /// Everything rented is being given back.
    Settling,
    /// Nothing is owed.
    Over,
}

/// What the run's state depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent facts, each asked for once"
)]
pub struct Facts {
    /// How far it was told to stop.
    pub stop: Stop,
    /// Whether an instance is being rented, or is held.
    pub any_instance: bool,
    /// Whether an instance answers.
    pub any_attached: bool,
    /// Whether a worker may still be at a prompt of ours.
    pub any_begun: bool,
    /// Whether every prompt is done or failed.
    pub all_done: bool,
}

impl RunState {
    /// Where the run stands with these facts. It never goes back.
    #[must_use]
    pub fn next(self, facts: Facts) -> Self {
        let next = match facts {
            Facts { all_done: true, .. }
            | Facts { stop: Stop::Kill | Stop::Leave, .. }
            | Facts { stop: Stop::Drain, any_begun: false, .. } => Self::Settling,
            Facts { stop: Stop::Drain, .. } => Self::Draining,
            Facts { any_attached: true, .. } => Self::Working,
            Facts { any_instance: true, .. } => Self::Renting,
            // Nothing to work with, and prompts left: whoever rents has given up.
            _ if Self::Planned < self => Self::Settling,
            _ => Self::Planned,
        };
        self.max(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Facts = Facts {
        stop: Stop::No,
        any_instance: true,
        any_attached: true,
        any_begun: true,
        all_done: false,
    };

    #[test]
    fn a_run_goes_through_its_states_in_order() {
        let none = Facts { any_instance: false, any_attached: false, any_begun: false, ..CALM };
        let story = [
            (none, RunState::Planned),
            (Facts { any_instance: true, ..none }, RunState::Renting),
            (CALM, RunState::Working),
            (Facts { any_attached: false, ..CALM }, RunState::Working),
            (Facts { stop: Stop::Drain, ..CALM }, RunState::Draining),
            (Facts { stop: Stop::Drain, any_begun: false, ..CALM }, RunState::Settling),
            (CALM, RunState::Settling),
        ];
        let mut state = RunState::Planned;
        for (facts, expected) in story {
            state = state.next(facts);
            assert_eq!(state, expected, "{facts:?}");
        }
    }

    #[test]
    fn a_second_stop_does_not_wait_for_what_is_begun() {
        let killed = Facts { stop: Stop::Kill, ..CALM };
        assert_eq!(RunState::Working.next(killed), RunState::Settling);
    }

    #[test]
    fn a_run_that_lost_its_last_instance_settles() {
        let lost = Facts { any_instance: false, any_attached: false, ..CALM };
        assert_eq!(RunState::Working.next(lost), RunState::Settling);
    }
}
