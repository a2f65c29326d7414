//! Why a run's work ends before its end.

use super::limit::Limit;
use crate::{
    catalog::Silence,
    leases::LeaseError,
    objects::ObjectError,
    prompts::PromptsError,
    report::words,
    shards::{Loss, ResultsError},
    template::TemplateError,
};
use providers::{Usd, UsdPerHour};

/// Why a run's work ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// Somebody stopped it, or its deadline did.
    #[error("{0}")]
    Stopped(String),
    /// What it may cost is spent, but for what it takes to end it.
    #[error("{0} is spent, but for what finishing takes")]
    Spent(Limit),
    /// No instance could be had or kept.
    #[error("no instance could be had: {0}")]
    NoInstance(String),
    /// No offer fits.
    #[error(transparent)]
    NoOffer(#[from] NoOffer),
    /// No marketplace has answered.
    #[error(transparent)]
    Silence(Silence),
    /// What it may cost has no room for a machine.
    #[error("{} of {limit} are left, which is too little for a machine at {price}", words::left(*left))]
    Budget {
        /// What it may cost.
        limit: Limit,
        /// What is left, with what is rented already set aside.
        left: Usd,
        /// What the machine would cost.
        price: UsdPerHour,
    },
    /// An instance turned out to be dearer than it was quoted, and was given back.
    #[error("it costs {price} and was offered for {quoted}")]
    Dearer {
        /// What was quoted.
        quoted: UsdPerHour,
        /// What it would have cost.
        price: UsdPerHour,
    },
    /// The engine can't be put on such a machine.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The run's file of host keys can't be written.
    #[error("the file of host keys can't be written; see to the run's folder: {0}")]
    HostKeys(String),
    /// The work can't be done anywhere.
    #[error(transparent)]
    Work(Loss),
    /// Results can't be kept.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// Results can't be sent to where they were meant for. They are complete, and here.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Prompts can't be read any more.
    #[error(transparent)]
    Prompts(#[from] PromptsError),
    /// The ledger can't be written.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A bug.
    #[error("piecework crashed; please report it")]
    Crashed,
}

impl Why {
    /// Whether the work was stopped that could have gone on.
    pub(super) const fn is_stop(&self) -> bool {
        matches!(self, Self::Stopped(_) | Self::Spent(_))
    }
}

/// No offer fits.
#[derive(Debug, thiserror::Error)]
#[error("{} {} no offer that fits{}", providers.join(" and "), if providers.len() == 1 { "has" } else { "have" }, why.as_ref().map_or_else(String::new, |why| format!(": {why}")))]
pub struct NoOffer {
    /// The marketplaces that were asked.
    pub providers: Vec<String>,
    /// What is wrong with the first of their offers.
    pub why: Option<String>,
}
