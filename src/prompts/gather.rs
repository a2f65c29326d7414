//! What was typed → the files of an input: patterns become names, streams become files.

use super::{PromptsError, Source, io_error, spool};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// What was typed, with what had to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// A file, a pattern, a pipe, or `-`.
    File(PathBuf),
    /// Something from elsewhere that is here now.
    Fetched(Source),
}

/// Finds every file that is meant, in the order in which they were typed; those of a pattern in the
/// order of their names. What can be read only once is copied to `spooled` with its position there.
///
/// Blocks while it copies.
pub fn gather(
    typed: &[Typed],
    spooled: impl Fn(usize) -> PathBuf,
) -> Result<Vec<Source>, PromptsError> {
    let mut sources = Vec::new();
    for typed in typed {
        let path = match typed {
            Typed::File(path) => path,
            Typed::Fetched(source) => {
                sources.push(source.clone());
                continue;
            }
        };
        for path in matching(path)? {
            if !must_be_spooled(&path) {
                sources.push(Source::file(&path).map_err(|error| io_error(&path, "found", error))?);
                continue;
            }
            let to = spooled(sources.len());
            if path == Path::new("-") {
                spool(io::stdin().lock(), &to)?;
            } else {
                spool(File::open(&path).map_err(|error| io_error(&path, "opened", error))?, &to)?;
            }
            sources.push(Source { name: path.display().to_string(), path: to });
        }
    }
    Ok(sources)
}

/// Whether a path can be read only once: `-`, which is standard input, or a pipe.
fn must_be_spooled(path: &Path) -> bool {
    let stream = |data: fs::Metadata| !data.is_file() && !data.is_dir();
    path == Path::new("-") || fs::metadata(path).is_ok_and(stream)
}

/// The files that a pattern means. One that is a file's name means that file.
fn matching(path: &Path) -> Result<Vec<PathBuf>, PromptsError> {
    let pattern = path.to_str().filter(|text| text.contains(['*', '?', '[']));
    let Some(pattern) = pattern.filter(|_| !path.exists()) else {
        return Ok(vec![path.to_owned()]);
    };
    let found = glob::glob(pattern)
        .map_err(|error| PromptsError::Pattern { pattern: path.to_owned(), why: error.msg })?;
    let mut found = found.collect::<Result<Vec<_>, _>>().map_err(|error| {
        let path = error.path().to_owned();
        io_error(&path, "read", error.into())
    })?;
    found.retain(|path| !path.is_dir());
    found.sort();
    if let Some(odd) = passed_over(path) {
        return Err(PromptsError::NotText(odd));
    }
    if found.is_empty() { Err(PromptsError::NoMatch(path.to_owned())) } else { Ok(found) }
}

/// A file that a pattern seems to mean, and that `glob` passes over since its name isn't text.
fn passed_over(pattern: &Path) -> Option<PathBuf> {
    let name = glob::Pattern::new(pattern.file_name()?.to_str()?).ok()?;
    let folders = match pattern.parent()?.to_str()? {
        "" => ".",
        folder => folder,
    };
    let folders = glob::glob(folders).ok()?.flatten();
    let files = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let mut files = files.map(|file| file.path());
    files.find(|file| {
        let of_file = file.file_name().filter(|name| name.to_str().is_none());
        of_file.is_some_and(|odd| name.matches(&odd.to_string_lossy())) && !file.is_dir()
    })
}
