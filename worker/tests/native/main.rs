//! The native engine, from a model's files to the bodies of responses.

mod harness;
mod known_models;
