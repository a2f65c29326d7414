//! Where models are kept between runs.

use std::{env, path::PathBuf};

/// `PIECEWORK_CACHE`, else `piecework` in the user's cache folder.
pub fn folder() -> PathBuf {
    let from = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("PIECEWORK_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|folder| folder.join("piecework")))
        .or_else(|| from("HOME").map(|folder| folder.join(".cache/piecework")))
        .unwrap_or_else(|| env::temp_dir().join("piecework"))
}
