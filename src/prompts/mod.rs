//! Readers of every input format: files in, numbered prompts out, in bounded memory.
//!
//! [`survey()`] looks through an input once before anything is rented: how many prompts, how long,
//! which lines are bad, and whether it is still the file that a run began with. [`spawn_reader`]
//! then reads it again as the work goes on. Both number the prompts alike: a prompt's index counts
//! the lines before its own that aren't blank. A bad line has an index too; it becomes an
//! [`Entry::Bad`] and stops nothing.

mod csv;
mod error;
mod format;
mod gather;
mod ids;
mod lines;
mod parquet;
mod parse;
mod reader;
mod rows;
mod sample;
mod shape;
mod spool;
mod stream;
mod survey;
mod walk;

pub use error::{Columns, PromptsError, Reason};
pub use gather::{Typed, gather};
pub use lines::{Line, Lines};
pub use reader::{Reader, spawn_reader};
pub use sample::Sample;
pub use shape::check_template;
pub use spool::spool;
pub use survey::{BadLine, Fingerprint, Survey, survey};

use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
};
use wire::Prompt;

/// The most bytes that a line may have, where nothing else is said.
pub const LINE_LIMIT: usize = 16 << 20;

/// An input, and how to read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Its files, in the order of their prompts.
    pub sources: Vec<Source>,
    /// How to read them.
    pub options: Options,
}

/// One file of an input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// As the user knows it; its end tells how it is written.
    pub name: String,
    /// Where it is. What can be read only once is spooled to a file first ([`spool()`]).
    pub path: PathBuf,
}

/// Where in an input something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which of its files, from 0.
    pub file: u32,
    /// The number of the line there, from 1, with blank lines counted; of the row, in Parquet.
    pub line: u64,
}

/// How the rows of an input are written. Lines and CSV may be compressed with gzip or zstd, which
/// their first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON object a line: `{"prompt": …}`, `{"messages": […]}`, or a request of `OpenAI`'s batch
    /// format, `{"custom_id": …, "method": "POST", "url": …, "body": {…}}`. Each line for itself.
    Jsonl,
    /// A prompt a line.
    Text,
    /// A table as RFC 4180 has it, its first row naming the columns.
    Csv,
    /// A table in Apache Parquet.
    Parquet,
}

/// How an input is to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// How its rows are written. None: as its names and first lines say.
    pub format: Option<Format>,
    /// The field of a row that is its prompt. None: as the row says.
    pub prompt_column: Option<String>,
    /// The field of a row that is its id. None: `custom_id` or `id`.
    pub id_column: Option<String>,
    /// What makes a prompt of a row's fields, in the language of Jinja. Counts before
    /// `prompt_column`.
    pub template: Option<String>,
    /// Whether a bare prompt goes to the model as it is, without the model's chat template.
    pub raw: bool,
    /// The most bytes that a line may have. A longer one is a bad line.
    pub line_limit: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            format: None,
            prompt_column: None,
            id_column: None,
            template: None,
            raw: false,
            line_limit: LINE_LIMIT,
        }
    }
}

impl Input {
    /// The names of its files, where there is more than one to tell apart.
    pub fn names(&self) -> Vec<String> {
        match self.sources.as_slice() {
            [_] => Vec::new(),
            several => several.iter().map(|source| source.name.clone()).collect(),
        }
    }
}

impl Source {
    /// A file of this computer, by the name that was typed.
    pub fn file(typed: &Path) -> io::Result<Self> {
        Ok(Self { name: typed.display().to_string(), path: std::path::absolute(typed)? })
    }
}

fn io_error(path: &Path, act: &'static str, source: io::Error) -> PromptsError {
    PromptsError::Io { path: path.to_owned(), act, source }
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
        /// Where it is.
        line: Place,
    },
    /// A line that can't be done.
    Bad {
        /// Its position among the prompts.
        index: u64,
        /// Where it is.
        line: Place,
        /// The line's own id, where it could be read.
        custom_id: Option<String>,
        /// Why it can't be done.
        reason: Reason,
    },
}

/// The id of a prompt that brings none: `prompt-` and its index, from 0.
///
/// It is like the ids that people choose. Of two lines that come to have the same, only the first
/// is done.
pub fn default_id(index: u64) -> String {
    format!("prompt-{index}")
}

/// The index of which this would be the [`default_id`].
fn index_of_default(id: &str) -> Option<u64> {
    let index = id.strip_prefix("prompt-")?.parse().ok()?;
    (default_id(index) == id).then_some(index)
}
