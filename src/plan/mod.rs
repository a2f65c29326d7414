//! mod
pub mod search;
