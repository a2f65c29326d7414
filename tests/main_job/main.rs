//! The main job on this computer, by the real program and the real worker with its echo.

mod bad_input;
mod interrupts;
mod kills;
mod links;
mod whole;

#[path = "../support/program.rs"]
mod program;

#[path = "../support/proxy.rs"]
mod proxy;
