//! Keeps what can be read only once in a file, so that a run can be resumed.

use super::PromptsError;
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Copies a stream into a file that appears only when it is whole and on disk. Returns its bytes.
pub fn spool(mut stream: impl Read, path: &Path) -> Result<u64, PromptsError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let copied = (|| {
        let mut file = File::create(&partial)?;
        let bytes = io::copy(&mut stream, &mut file)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        Ok(bytes)
    })();
    copied.map_err(|source| {
        drop(fs::remove_file(&partial));
        PromptsError::Io { path: path.to_owned(), act: "written", source }
    })
}
