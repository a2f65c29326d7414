//! What can be wrong with an input as a whole, and with one line of it.

use std::{io, path::PathBuf};

/// The columns of a table, as a message lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns(pub Vec<String>);

impl std::fmt::Display for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown: Vec<String> = self.0.iter().take(20).map(|name| format!("`{name}`")).collect();
        write!(f, "{}{}", shown.join(", "), if 20 < self.0.len() { ", …" } else { "" })
    }
}

/// Why an input can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PromptsError {
    /// There is no such file.
    #[error("there is no file `{}`; check its name and the folder you are in", .0.display())]
    Missing(PathBuf),
    /// Nothing has a name that matches.
    #[error("no file matches `{}`; check it and the folder you are in", .0.display())]
    NoMatch(PathBuf),
    /// Something that can't be read as a pattern of names.
    #[error("`{}` is no pattern of file names: {why}", pattern.display())]
    Pattern {
        /// What was typed.
        pattern: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file whose name can't be kept.
    #[error("`{}` is not valid UTF-8; give it another name", .0.display())]
    NotText(PathBuf),
    /// The template can't be understood.
    #[error("the template can't be understood: {0}")]
    Template(String),
    /// A table without a column that is asked for.
    #[error("`{}` has no column `{column}`; it has {columns}", path.display())]
    NoColumn {
        /// The input.
        path: PathBuf,
        /// The column that is missing.
        column: String,
        /// Those that are there.
        columns: Columns,
    },
    /// A table of which nothing says where its prompts are.
    #[error(
        "`{}` has no column `prompt`; name the one that is meant with `--prompt-column`, or make \
         prompts of several with `--template`: it has {columns}",
        path.display()
    )]
    NoPromptColumn {
        /// The input.
        path: PathBuf,
        /// The columns that are there.
        columns: Columns,
    },
    /// Columns of something that has none.
    #[error("`{}` is plain lines, which have no columns; `--template` can use a line as `text`", .0.display())]
    NoColumns(PathBuf),
    /// It has no prompts.
    #[error("`{}` has no prompts: it is empty, or all its lines are blank", .0.display())]
    Empty(PathBuf),
    /// It isn't text, one prompt a line.
    #[error("`{}` is {what}; {remedy}", path.display())]
    Unsupported {
        /// The input.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
        /// What makes lines of it.
        remedy: &'static str,
    },
    /// It isn't what it was when the run began.
    #[error(
        "`{}` has changed since the run began, so its prompts may not be those whose completions \
         are here; put the old file back and resume, or start a new run with the new file",
        .0.display()
    )]
    Changed(PathBuf),
    /// The file system failed, or what is in the file is damaged.
    #[error("`{}` could not be {act}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done to it.
        act: &'static str,
        /// What the file system said.
        source: io::Error,
    },
}

/// Why a line can't be done. The line is at fault, never the run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It has more bytes than a line may have.
    #[error("the line is longer than {0} bytes")]
    TooLong(usize),
    /// It isn't UTF-8.
    #[error("the line is not valid UTF-8 at byte {0}")]
    NotUtf8(usize),
    /// A byte of it is 0.
    #[error("the line has a NUL at byte {0}")]
    Nul(usize),
    /// It isn't JSON.
    #[error("the line is not valid JSON: {0}")]
    NotJson(String),
    /// It is JSON, and no object.
    #[error("the line is JSON, but not an object")]
    NotAnObject,
    /// Nothing in it is a prompt.
    #[error("the line has no `prompt`, no `messages` and no `body`")]
    NoPrompt,
    /// It has two keys of which one is allowed.
    #[error("the line has both `{0}` and `{1}`; which one is meant can't be told")]
    Both(&'static str, &'static str),
    /// It has a key twice.
    #[error("the line has `{0}` twice")]
    Twice(&'static str),
    /// A value is of the wrong kind.
    #[error("`{key}` must be {kind}")]
    WrongKind {
        /// Its key.
        key: &'static str,
        /// What it must be.
        kind: &'static str,
    },
    /// There is nothing to answer.
    #[error("`{0}` is empty")]
    Empty(&'static str),
    /// A value is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A field that is to be the prompt or its id, and can't.
    #[error("the field `{column}` {fault}")]
    Field {
        /// Its name.
        column: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The template can't be filled in.
    #[error("the template can't be filled in: {0}")]
    Template(String),
    /// A row of a table that has cells without a column, or columns without a cell.
    #[error("the row has {found} cells, and the table {columns} columns")]
    Cells {
        /// How many it has.
        found: usize,
        /// How many it should have.
        columns: usize,
    },
    /// A request that isn't for a completion.
    #[error("`url` is `{0}`; it can be `/v1/chat/completions` or `/v1/completions`")]
    UnknownUrl(String),
    /// A request that isn't a POST.
    #[error("`method` is `{0}`; it can only be `POST`")]
    UnknownMethod(String),
    /// An earlier line has the same id, so their results could not be told apart.
    #[error("an earlier line has the same id")]
    DuplicateId,
}
