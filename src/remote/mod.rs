//! Another computer over SSH: connect, run a command, talk to it, put the worker on it.
//!
//! ```text
//! Dial (endpoint, key, pins) ─connect▶ Session ─exec▶ Channel (stdin, stdout, exit)
//! ```
//!
//! Whether a failure is worth another [`Dial::connect`] is told by [`RemoteError::is_temporary`].

mod channel;
mod error;
mod install;
mod key;
mod link;
mod pin;
mod russh;
mod script;

pub use self::{
    channel::{Channel, Ended, Exit, Status, Stdin, Stdout},
    error::RemoteError,
    install::{InstallError, Installed, install},
    key::RunKey,
    pin::{HostKeyChanged, Pins},
    russh::{Dial, Output, Patience, Session},
    script::{answers, ask, quote, under_sh},
};
