//! What a run did, as it is kept beside its results, and what is made of it.
//!
//! ```text
//! events ─▶ write ─▶ story.jsonl ─▶ read ─▶ trace ─▶ life, series ─▶ Account
//! ```
//!
//! [`keep`] listens to events and keeps them, thinned out, in the run's folder, a line each as
//! `--json` prints them. [`account()`] puts them together with the plan, the ledger and the results.
//! The story may have holes: the ledger says what was rented, the results say what is done, and
//! what is missing from the story only makes a report poorer.

mod account;
mod axis;
mod life;
mod read;
mod series;
mod trace;
mod write;

pub use account::{
    Account, Bucket, Elsewhere, LatencyAccount, Machine, Money, Prompts, Source, State, Tokens,
    account,
};
pub use life::{Phase, PhaseTotal};
pub use read::read;
pub use series::Speed;
pub use trace::{Ending, Session};
pub use write::{Scribe, keep};

/// The story's name in a run's folder.
pub const FILE: &str = "story.jsonl";
