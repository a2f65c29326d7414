//! Prompts out to workers, completions back to disk.
//!
//! ```text
//! reader ─▶ Queue ─▶ worker ─▶ Queue::finish ─▶ Sink (synced) ─▶ "forget it" ─▶ worker
//!                                                 └▶ partial files ─▶ order ─▶ --out
//! ```

mod bits;
mod error;
mod export;
mod order;
mod queue;
mod reasons;
mod record;
mod scan;
mod sink;
mod talk;
mod writer;

pub use bits::Bits;
pub use error::ResultsError;
pub use export::{Layout, OutFormat, Packing};
pub use order::{Ordered, Out, check_writable, finished, order, ordered_at, reopen, so_far};
pub use queue::{Counts, Finish, Item, Queue, WorkerId};
pub use reasons::{Reason, reasons};
pub use record::{Cause, Record};
pub use scan::RunFiles;
pub use sink::{Durable, Resumed, SYNC_EVERY, Sink, Ticket};
pub use talk::{Loss, Said, Say, Talk, talk};
