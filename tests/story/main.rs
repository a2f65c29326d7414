//! What a run leaves of what it did, and the reports that are made of it.

mod browser;
mod made;
mod page;
mod printed;
mod told;

#[path = "../support/program.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod program;
