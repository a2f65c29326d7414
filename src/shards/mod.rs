//! Prompts out to workers, completions back to disk.
//!
//! ```text
//! reader ─▶ Queue ─▶ worker ─▶ Queue::finish ─▶ Sink (synced) ─▶ "forget it" ─▶ worker
//!                                                 └▶ partial files ─▶ order ─▶ --out
//! ```

mod bits;
mod queue;

pub use bits::Bits;
pub use queue::{Counts, Finish, Item, Queue, WorkerId};
