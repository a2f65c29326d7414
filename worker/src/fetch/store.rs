//! The cache: a folder for each source, a stamp once it is whole, a lock while it is filled.

use super::SourceError;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

/// What a finished fetch leaves beside the files: their names and sizes. It is written last, so
/// a folder without one is not whole.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// The commit, version or the like that the files are of.
    pub(super) origin: String,
    /// Each file's name inside the folder, and its size.
    pub(super) files: Vec<(String, u64)>,
}

impl Stamp {
    /// The stamp at `path`, if all its files are still there in their size. A full checksum
    /// was taken before it was written; sizes tell a folder that somebody has meddled with.
    pub(super) fn of_whole(path: &Path) -> Option<Self> {
        let stamp: Self = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        let folder = path.parent()?;
        let whole = |(name, size): &(String, u64)| {
            fs::metadata(folder.join(name)).is_ok_and(|found| found.len() == *size)
        };
        stamp.files.iter().all(whole).then_some(stamp)
    }

    /// Writes it, whole or not at all.
    pub(super) fn write(&self, path: &Path) -> Result<(), SourceError> {
        let text = serde_json::to_vec(self).expect("names and numbers are always JSON");
        let part = path.with_extension("part");
        fs::write(&part, text).map_err(SourceError::disk(&part, "written"))?;
        fs::rename(&part, path).map_err(SourceError::disk(path, "written"))
    }
}

/// Makes `text` fit to be a file's name: `owner/name` becomes `owner--name`.
pub(super) fn file_name(text: &str) -> String {
    let safe = |letter: char| letter.is_ascii_alphanumeric() || ".-_@".contains(letter);
    let name = text.replace('/', "--");
    name.chars().map(|letter| if safe(letter) { letter } else { '_' }).collect()
}

/// A folder that nobody else fills as long as this lives.
#[derive(Debug)]
pub(super) struct Filling {
    /// Unlocks when it is dropped, and when this process dies.
    _lock: File,
}

impl Filling {
    /// Makes `folder`, and waits for whoever else is filling it. `waiting` is called if so.
    pub(super) fn begin(folder: &Path, waiting: impl FnOnce()) -> Result<Self, SourceError> {
        fs::create_dir_all(folder).map_err(SourceError::disk(folder, "created"))?;
        let path: PathBuf = folder.join(".lock");
        let lock = File::create(&path).map_err(SourceError::disk(&path, "created"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                lock.lock().map_err(SourceError::disk(&path, "locked"))?;
            }
            // A file system without locks: two workers on it download twice, and no worse.
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => {
                return Err(SourceError::disk(&path, "locked")(error));
            }
        }
        Ok(Self { _lock: lock })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_inside_the_cache() {
        assert_eq!(file_name("Qwen/Qwen3-8B@main"), "Qwen--Qwen3-8B@main");
        assert_eq!(file_name("../../etc"), "..--..--etc");
        assert_eq!(file_name("a b:c"), "a_b_c");
    }

    #[test]
    fn a_stamp_holds_until_a_file_changes_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stamp.json");
        fs::write(folder.path().join("weights"), b"1234").unwrap();
        let stamp = Stamp { origin: "abc".into(), files: vec![("weights".into(), 4)] };
        assert_eq!(Stamp::of_whole(&path), None);
        stamp.write(&path).unwrap();
        assert_eq!(Stamp::of_whole(&path), Some(stamp));
        fs::write(folder.path().join("weights"), b"12").unwrap();
        assert_eq!(Stamp::of_whole(&path), None);
    }
}
