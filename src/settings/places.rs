//! Where things are kept on this computer.

use super::SettingsError;
use etcetera::{BaseStrategy, base_strategy::choose_base_strategy};
use std::path::{Path, PathBuf};

/// Where piecework keeps what must outlive it, unless a folder is named.
pub fn home(named: Option<&Path>) -> Result<PathBuf, SettingsError> {
    if let Some(folder) = named {
        return Ok(folder.to_owned());
    }
    let base = choose_base_strategy()?;
    Ok(base.state_dir().unwrap_or_else(|| base.data_dir()).join("piecework"))
}

/// Where models and workers are kept between runs on this computer.
pub fn cache() -> Result<PathBuf, SettingsError> {
    let named = std::env::var_os("PIECEWORK_CACHE").filter(|folder| !folder.is_empty());
    let cache = named.map_or_else(
        || choose_base_strategy().map(|base| base.cache_dir().join("piecework")),
        |folder| Ok(PathBuf::from(folder)),
    )?;
    // An instance works in a folder of its own, where a relative one would be another.
    std::path::absolute(&cache).map_err(|source| SettingsError::File { path: cache, source })
}

/// The worker's binary: the one that is named, or the one beside this program.
pub fn worker(named: Option<&Path>) -> Result<PathBuf, SettingsError> {
    let beside = || {
        let own = std::env::current_exe().unwrap_or_default();
        own.with_file_name(format!("piecework-worker{}", std::env::consts::EXE_SUFFIX))
    };
    let path = named.map_or_else(beside, Path::to_owned);
    if path.is_file() { Ok(path) } else { Err(SettingsError::NoWorker(path)) }
}
