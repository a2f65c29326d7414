//! What can go wrong with a run's results on disk.

use std::{io, path::PathBuf, sync::Arc};

/// Why results can't be kept or put in order. Nothing that was synced before is lost by any of it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResultsError {
    /// No more room.
    #[error(
        "there is no more room for `{}`: about {} more are needed; make room there, then \
         `piecework resume {run}` goes on",
        path.display(),
        size(*needed)
    )]
    Full {
        /// The file that was written to.
        path: PathBuf,
        /// Bytes that the rest of the results and their ordered copy will take, by what those so
        /// far took.
        needed: u64,
        /// The run.
        run: String,
    },
    /// The file system failed otherwise.
    #[error(
        "`{}` could not be {act}; once that is mended, `piecework resume {run}` goes on",
        path.display()
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done to it.
        act: &'static str,
        /// The run.
        run: String,
        /// What the file system said.
        source: Arc<io::Error>,
    },
    /// The completions can't go where they should.
    #[error(
        "`{}` can't be written; choose another place for the completions with `--out`",
        path.display()
    )]
    Unwritable {
        /// Where they should go.
        path: PathBuf,
        /// What the file system said.
        source: Arc<io::Error>,
    },
    /// A file holds a result of a prompt that isn't in the input.
    #[error(
        "`{}` has a result of prompt {index}, but the input has {prompts} prompts; resume with \
         the input that the run began with",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The prompt's position, from 0.
        index: u64,
        /// How many prompts the input has.
        prompts: u64,
    },
    /// The run is over.
    #[error("run {run} is over, and its results are where it put them")]
    Over {
        /// The run.
        run: String,
    },
    /// Some prompts have no result.
    #[error(
        "{missing} of {prompts} prompts have neither a completion nor an error, first of them \
         prompt {first}; `piecework resume {run}` does them"
    )]
    Missing {
        /// How many.
        missing: u64,
        /// The position of the first, from 0.
        first: u64,
        /// How many prompts the input has.
        prompts: u64,
        /// The run.
        run: String,
    },
    /// Whoever read the ordered results stopped.
    #[error("the completions could not be written to the end; they are still in `{}`", kept.display())]
    Outlet {
        /// Where they are.
        kept: PathBuf,
        /// What the stream said.
        source: Arc<io::Error>,
    },
}

/// Whether an error of the file system means that no more fits.
pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    [StorageFull, QuotaExceeded, FileTooLarge].contains(&error.kind())
}

/// Bytes as people write them, rounded up.
fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KB", bytes.div_ceil(1000)),
        0x10_0000..0x4000_0000 => format!("{} MB", bytes.div_ceil(1_000_000)),
        0x4000_0000.. => format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10),
    }
}
