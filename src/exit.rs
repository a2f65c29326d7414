//! How the program ends, as a number that scripts can act on.

use std::process::{ExitCode, Termination};

/// An exit code. The numbers are part of the interface, and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Everything asked for was done, and nothing is left running.
    Done,
    /// It could not be done; the reason is on standard error, and nothing is left running.
    Failed,
    /// The command line or the settings make no sense.
    Usage,
    /// No offer fits what was asked for.
    NoOffer,
    /// The budget or the deadline would not have been kept, so nothing was begun.
    Refused,
    /// The run is over, and some prompts could not be answered.
    SomeFailed,
    /// The run was stopped before its end; `piecework resume` goes on with it.
    Stopped,
    /// Something may still be billed. What, and how to end it, is on standard error.
    MayBeBilled,
}

impl Exit {
    /// Every exit code, its number and what it means, for people.
    pub const TABLE: [(Self, u8, &str); 8] = [
        (Self::Done, 0, "done"),
        (Self::Failed, 1, "failed; the reason is on standard error"),
        (Self::Usage, 2, "the command line or the settings make no sense"),
        (Self::NoOffer, 3, "no offer fits"),
        (Self::Refused, 4, "refused by the budget or the deadline"),
        (Self::SomeFailed, 5, "finished, but some prompts could not be answered"),
        (Self::Stopped, 6, "stopped; `piecework resume` goes on"),
        (Self::MayBeBilled, 70, "SOMETHING MAY STILL BE BILLED; see standard error"),
    ];

    /// Its number.
    pub fn number(self) -> u8 {
        Self::TABLE[self as usize].1
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_codes() {
        for (at, (exit, ..)) in Exit::TABLE.iter().enumerate() {
            assert_eq!(*exit as usize, at);
        }
        assert_eq!((Exit::Done.number(), Exit::MayBeBilled.number()), (0, 70));
    }
}
