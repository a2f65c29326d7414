//! What the controller and the worker say to each other. The two share this crate and nothing else.
//!
//! A conversation runs over any pair of byte streams (an SSH channel, a Unix socket). The worker's
//! side begins with [`PREAMBLE`], so that whatever a login shell printed before it can be skipped.
//! After it both sides send frames ([`codec`]) that each carry one message ([`message`]).
//!
//! ```text
//! controller                                worker
//!     Hello ─────────────────────────────▶
//!           ◀───────────────────────────── Hello (what it still holds)
//!     Work (engine and model) ───────────▶
//!           ◀───────────────────────────── Status … Ready, or Broken
//!     Prompts ───────────────────────────▶
//!           ◀───────────────────────────── Completions (numbered through n)
//!     Forget { through: n } ─────────────▶       once they are synced to disk
//! ```

pub mod codec;
pub mod message;
pub mod server;

pub use codec::{CodecError, FrameReader, FrameWriter, PREAMBLE};
pub use message::{
    Completion, Device, EngineFacts, EngineKind, Failure, Fault, Form, HubAccess, Job, Limits,
    Model, Outcome, Phase, Precision, Prompt, Source, Status, ToController, ToWorker, VERSION,
};
pub use server::Server;
