//! The worker: it answers prompts on a rented machine.
//!
//! ```text
//! controller ─▶ attach ─▶ daemon's socket ─▶ serve ─▶ engine
//!            ◀─        ◀─                 ◀─ spool ◀─
//! ```
//!
//! [`daemon`] is the process and its folder, [`serve`] the one task that owns its state,
//! [`conversation`] a controller's connection, [`spool`] the completions not yet acknowledged,
//! [`bring_up`] the way from a job to a running [`engine`].

pub mod bring_up;
pub mod cache;
pub mod conversation;
pub mod daemon;
pub mod echo;
pub mod engine;
pub mod fetch;
pub mod native;
mod own;
pub mod serve;
pub mod server;
pub mod spool;
pub mod watchdog;
