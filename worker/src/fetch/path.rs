//! A model that is already on this machine.

use super::SourceError;
use std::path::PathBuf;

/// The path that a user gave, if something is there. `~/` is this machine's home.
pub(super) fn find(text: &str) -> Result<PathBuf, SourceError> {
    let path = match (text.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    };
    if path.exists() { Ok(path) } else { Err(SourceError::MissingPath) }
}
