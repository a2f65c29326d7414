//! The worker: it answers prompts on a rented machine.

pub mod engine;
pub mod native;
