//! Rents GPUs by the hour to do work that is priced by the piece.
//!
//! ```text
//! model + prompts + flags ─▶ Plan ─▶ (consent) ─▶ run
//! Order ─▶ ledger: ordered ─▶ rent ─▶ ledger: rented ─▶ ready ─▶ Session ─▶ worker
//! prompts ─▶ Queue ─▶ shard ─▶ worker ─▶ Completion ─▶ Sink
//! end, error, ^C or deadline ─▶ settle: release ─▶ absent from the listing ─▶ ledger: released
//! three outlets, three promises:
//!   ledger (never lost, before the act) · sink (never lost, after the fact) · events (may be lost)
//! ```
//!
//! The modules below are in the order of that flow. `ARCHITECTURE.md` has the map and the
//! invariants.

pub mod cli;
pub mod commands;
pub mod secrets;
pub mod settings;

pub mod catalogue;
pub mod objects;
pub mod prompts;
pub mod servers;

pub mod lengths;
pub mod model;
pub mod need;

pub mod catalog;
pub mod engines;
pub mod gpus;
pub mod wish;

pub mod cost;
pub mod measured;

pub mod choose;
pub mod hosted;
pub mod plan;
pub mod shortlist;
pub mod template;

pub mod run;

pub mod label;
pub mod leases;
pub mod ledger;
pub mod ready;
pub mod remote;
pub mod renewal;
pub mod shards;
pub mod smoke;

pub mod cleanup;
pub mod clock;
pub mod event;
pub mod exit;
pub mod report;
pub mod story;
