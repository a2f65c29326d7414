//! Rents GPUs by the hour to do work that is priced by the piece.

pub mod catalogue;
pub mod prompts;
pub mod remote;
pub mod shards;
