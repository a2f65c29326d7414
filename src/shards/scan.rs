//! Reads the results that are on disk, fast and without looking into them.

use super::{
    Bits, ResultsError,
    record::{Dialect, Kind, tokens},
};
use crate::prompts::Lines;
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where a run keeps its results while it goes on, and what it needs to know to read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFiles {
    /// The run's folder.
    pub folder: PathBuf,
    /// The run's name; a part of every result's `id`.
    pub run: String,
    /// How many prompts the input has.
    pub prompts: u64,
    /// The names of the input's files, where errors must say which is meant.
    pub inputs: Vec<String>,
}

impl RunFiles {
    /// The completions so far, in the order in which they came.
    pub fn completions(&self) -> PathBuf {
        self.folder.join("completions.partial.jsonl")
    }

    /// The errors so far, in the order in which they came.
    pub fn errors(&self) -> PathBuf {
        self.folder.join("errors.partial.jsonl")
    }

    pub(super) fn path(&self, kind: Kind) -> PathBuf {
        match kind {
            Kind::Completions => self.completions(),
            Kind::Errors => self.errors(),
        }
    }

    pub(super) fn dialect(&self) -> Dialect {
        Dialect::new(&self.run, &self.inputs)
    }

    pub(super) fn io(&self, path: &Path, act: &'static str, source: io::Error) -> ResultsError {
        let (path, run) = (path.to_owned(), self.run.clone());
        ResultsError::Io { path, act, run, source: Arc::new(source) }
    }
}

/// What a file of results holds.
#[derive(Debug)]
pub(super) struct Scan {
    /// The prompts that it has a result of.
    pub(super) found: Bits,
    /// Lines of prompts that an earlier line is of already.
    pub(super) repeated: u64,
    /// Lines that aren't results, and are left out.
    pub(super) damaged: u64,
    /// Tokens of the results' prompts and answers.
    pub(super) tokens: (u64, u64),
    /// Where its last line that has an end ends.
    pub(super) end: u64,
    /// Bytes after that.
    pub(super) torn: u64,
}

/// Reads one of a run's files. `each` gets the position and the offset of every result that is the
/// first of its prompt. A file that isn't there holds nothing.
pub(super) fn scan(
    files: &RunFiles,
    kind: Kind,
    mut each: impl FnMut(u64, u64) -> Result<(), ResultsError>,
) -> Result<Scan, ResultsError> {
    let (path, dialect) = (files.path(kind), files.dialect());
    let found = Bits::new(files.prompts);
    let mut scan = Scan { found, repeated: 0, damaged: 0, tokens: (0, 0), end: 0, torn: 0 };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(scan),
        Err(error) => return Err(files.io(&path, "opened", error)),
    };
    let mut lines = Lines::new(file, usize::MAX);
    while let Some(line) = lines.next_line().map_err(|error| files.io(&path, "read", error))? {
        let bytes = line.bytes.expect("there is no limit to a line");
        if !line.ended {
            scan.torn = bytes.len() as u64;
            break;
        }
        scan.end = line.offset + bytes.len() as u64 + 1;
        match dialect.index(bytes, kind) {
            Some(index) if files.prompts <= index => {
                return Err(ResultsError::Foreign { path, index, prompts: files.prompts });
            }
            Some(index) if scan.found.insert(index) => {
                if kind == Kind::Completions {
                    let (tokens_in, tokens_out) = tokens(bytes);
                    scan.tokens.0 += tokens_in;
                    scan.tokens.1 += tokens_out;
                }
                each(index, line.offset)?;
            }
            Some(_) => scan.repeated += 1,
            None => scan.damaged += 1,
        }
    }
    Ok(scan)
}

/// Makes the names in a folder durable. Windows does so by itself, and has no call for it.
pub(super) fn sync_folder(files: &RunFiles, folder: &Path) -> Result<(), ResultsError> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| files.io(folder, "synced", error))?;
    }
    Ok(())
}
