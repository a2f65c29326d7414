//! The native engine, from a model's files to the bodies of responses.

mod formats;
mod gpu;
mod harness;
mod independence;
mod known_models;
mod parameters;
mod reference;
mod small_model;
mod teacher;
