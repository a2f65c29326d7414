//! Prompts and completions that aren't files of this computer.

use super::CommandError;
use crate::{
    exit::Exit,
    objects::{ObjectError, Place, is_object},
    prompts::{Source, Typed},
    report,
    run::errors_beside,
};
use std::path::{Path, PathBuf};

impl From<ObjectError> for CommandError {
    fn from(error: ObjectError) -> Self {
        let exit = match error {
            ObjectError::Address { .. } | ObjectError::ReadOnly(_) => Exit::Usage,
            ObjectError::Missing(_)
            | ObjectError::Refused { .. }
            | ObjectError::Store { .. }
            | ObjectError::Changed(_)
            | ObjectError::File { .. } => Exit::Failed,
        };
        Self::new(exit, error)
    }
}

/// The address of an object, where that is what was typed.
pub(super) fn address(typed: &Path) -> Option<&str> {
    typed.to_str().filter(|text| is_object(text))
}

/// Fetches what was typed that is elsewhere, each object to the file that `to` has for its number.
pub(super) async fn bring(
    typed: &[PathBuf],
    to: impl Fn(usize) -> PathBuf,
) -> Result<Vec<Typed>, CommandError> {
    let mut all = Vec::new();
    for path in typed {
        let Some(url) = address(path) else {
            all.push(Typed::File(path.clone()));
            continue;
        };
        for place in Place::new(url)?.matching().await? {
            report::note(&format!("fetching {}", place.url()));
            let path = to(all.len());
            place.fetch(&path).await?;
            all.push(Typed::Fetched(Source { name: place.url().to_owned(), path }));
        }
    }
    Ok(all)
}

/// Sees, before anything costs money, that the completions can be written to an object.
pub(super) async fn usable(url: &str, force: bool) -> Result<PathBuf, CommandError> {
    let place = Place::new(url)?;
    place.try_out().await?;
    for url in [url.to_owned(), errors_beside(Path::new(url)).display().to_string()] {
        if !force && Place::new(&url)?.exists().await? {
            let error = CommandError::new(Exit::Usage, format!("`{url}` is there already"));
            return Err(
                error.hint("name another object with `--out`, or overwrite it with `--force`")
            );
        }
    }
    Ok(url.into())
}
