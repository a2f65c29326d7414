//! Readers of every input format: files in, numbered prompts out, in bounded memory.
//!
//! [`survey()`] looks through an input once before anything is rented: how many prompts, how long,
//! which lines are bad, and whether it is still the file that a run began with. [`spawn_reader`]
//! then reads it again as the work goes on. Both number the prompts alike: a prompt's index counts
//! the lines before its own that aren't blank. A bad line has an index too; it becomes an
//! [`Entry::Bad`] and stops nothing.

mod error;
mod format;
mod ids;
mod lines;
mod parse;
mod reader;
mod spool;
mod survey;

pub use error::{PromptsError, Reason};
pub use lines::{Line, Lines};
pub use reader::{Reader, spawn_reader};
pub use spool::{must_be_spooled, spool};
pub use survey::{BadLine, Fingerprint, Input, Sample, Survey, survey};

use serde::{Deserialize, Serialize};
use wire::Prompt;

/// The most bytes that a line may have, where nothing else is said.
pub const LINE_LIMIT: usize = 16 << 20;

/// How the lines of an input are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON object a line: `{"prompt": …}`, `{"messages": […]}`, or a request of `OpenAI`'s batch
    /// format, `{"custom_id": …, "method": "POST", "url": …, "body": {…}}`. Each line for itself.
    Jsonl,
    /// A prompt a line.
    Text,
}

/// How an input is to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// How its lines are written. None: as its name and its first line say.
    pub format: Option<Format>,
    /// Whether a bare prompt goes to the model as it is, without the model's chat template.
    pub raw: bool,
    /// The most bytes that a line may have. A longer one is a bad line.
    pub line_limit: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { format: None, raw: false, line_limit: LINE_LIMIT }
    }
}

/// What one line of the input is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A prompt.
    Good {
        /// The prompt.
        prompt: Prompt,
        /// The line's own id, or else [`default_id`].
        custom_id: String,
        /// The line's number, from 1, with blank lines counted.
        line: u64,
    },
    /// A line that can't be done.
    Bad {
        /// Its position among the prompts.
        index: u64,
        /// The line's number, from 1, with blank lines counted.
        line: u64,
        /// The line's own id, where it could be read.
        custom_id: Option<String>,
        /// Why it can't be done.
        reason: Reason,
    },
}

/// The id of a prompt that brings none: `prompt-` and its index, from 0.
///
/// It is like the ids that people choose, so an input in which only some lines have ids of this
/// very form can hold one of them twice. The results are told apart by their `id` even then.
pub fn default_id(index: u64) -> String {
    format!("prompt-{index}")
}
