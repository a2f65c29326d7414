//! Where this program is.

use std::{env, io, os::unix::ffi::OsStrExt, path::PathBuf};

/// What Linux calls a program behind whose back its file was replaced.
const REPLACED: &[u8] = b" (deleted)";

/// This program's file. Where it was replaced since it was started, the one in its place: two
/// installations of the same worker on one machine end with the same file, whoever came last.
pub(crate) fn program() -> io::Result<PathBuf> {
    let path = env::current_exe()?;
    let name = path.as_os_str().as_bytes();
    let kept = name.strip_suffix(REPLACED).map(std::ffi::OsStr::from_bytes).map(PathBuf::from);
    Ok(kept.filter(|kept| kept.exists()).unwrap_or(path))
}
