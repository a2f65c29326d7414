//! The main job on this computer, by the real program and the real worker with its echo.

mod bad_input;
mod interrupts;
mod kills;
mod whole;

#[path = "../support/program.rs"]
mod program;
