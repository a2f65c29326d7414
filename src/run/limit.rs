//! The sum that a run keeps to.

use providers::Usd;
use std::fmt;

/// What a run may cost in all, and by whose word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Its budget.
    Budget(Usd),
    /// The most that was said, and agreed to, before anything was rented.
    Agreed(Usd),
}

impl Limit {
    /// The lower of the two, for both are promises.
    pub(super) fn lower(budget: Option<Usd>, agreed: Option<Usd>) -> Option<Self> {
        match (budget, agreed) {
            (Some(budget), Some(agreed)) if agreed < budget => Some(Self::Agreed(agreed)),
            (Some(budget), _) => Some(Self::Budget(budget)),
            (None, agreed) => agreed.map(Self::Agreed),
        }
    }

    /// How much it is.
    pub const fn usd(self) -> Usd {
        match self {
            Self::Budget(usd) | Self::Agreed(usd) => usd,
        }
    }

    /// What to do about it, to follow the command that goes on with a run.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Budget(_) => "and a larger `--budget`",
            Self::Agreed(_) => "which says what more it may cost and asks anew",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget(_) => f.write_str("the budget"),
            Self::Agreed(usd) => write!(f, "the {usd} that was agreed to at most"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_of_what_was_said_and_what_was_agreed_to_counts() {
        let (one, two) = (Some(Usd(1)), Some(Usd(2)));
        assert_eq!(Limit::lower(None, None), None);
        assert_eq!(Limit::lower(one, None), Some(Limit::Budget(Usd(1))));
        assert_eq!(Limit::lower(None, two), Some(Limit::Agreed(Usd(2))));
        assert_eq!(Limit::lower(one, two), Some(Limit::Budget(Usd(1))));
        assert_eq!(Limit::lower(two, one), Some(Limit::Agreed(Usd(1))));
        assert_eq!(Limit::lower(two, two), Some(Limit::Budget(Usd(2))));
    }
}
