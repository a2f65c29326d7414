//! What can be wrong with an input as a whole, and with one line of it.

use std::{io, path::PathBuf};

/// Why an input can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PromptsError {
    /// There is no such file.
    #[error("there is no file `{}`; check its name and the folder you are in", .0.display())]
    Missing(PathBuf),
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
    /// The file system failed.
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
