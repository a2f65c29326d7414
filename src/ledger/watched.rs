//! A ledger as its run's guard sees it.

use super::{
    Books, Ledger, LedgerError,
    file::{FileError, LedgerFile, Role, is_at, is_in_use, parse, whole},
};
use crate::label::RunId;
use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// The ledger that was there when somebody came, whatever becomes of its name.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    file: File,
    unwritable: Option<io::ErrorKind>,
}

impl Watched {
    /// The ledger at `path`. None if there is none.
    pub fn open(path: &Path) -> Result<Option<Self>, LedgerError> {
        let opened = OpenOptions::new().read(true).append(true).open(path);
        let (opened, unwritable) = match opened {
            Ok(file) => (Ok(file), None),
            Err(error) => (File::open(path), Some(error.kind())),
        };
        match opened {
            Ok(file) => Ok(Some(Self { path: path.to_owned(), file, unwritable })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FileError::Io { path: path.to_owned(), source }.into()),
        }
    }

    /// Whether another program has it, or what is in its place now, in hand. Not to be asked while
    /// it is taken up by this one, whose lock that would let go.
    pub fn is_in_use(&self) -> bool {
        let looked = self.file.try_lock_shared();
        if looked.is_ok() {
            drop(self.file.unlock());
        }
        matches!(looked, Err(TryLockError::WouldBlock)) || is_in_use(&self.path)
    }

    /// What it says.
    pub fn books(&self) -> Result<Books, LedgerError> {
        let failed = |source| FileError::Io { path: self.path.clone(), source };
        let bytes = self.file.try_clone().and_then(|mut file| whole(&mut file)).map_err(failed)?;
        Books::replay(parse(&self.path, &bytes)?.0)
    }

    /// Takes it up, to give back what is owed and for nothing else. It need not be writable for that.
    pub fn take(&self, run: &RunId) -> Result<Ledger, LedgerError> {
        let failed = |source| FileError::Io { path: self.path.clone(), source };
        let file = self.file.try_clone().map_err(failed)?;
        let (mut taken, lines) = LedgerFile::of(&self.path, file)?;
        let cut = taken.file.set_len(taken.length);
        taken.unwritable = self.unwritable.or(cut.err().map(|error| error.kind()));
        Ledger::of((taken, lines), run, Role::Settle)
    }

    /// What is in its place now, if that is another one.
    pub fn successor(&self) -> Result<Option<Self>, LedgerError> {
        if is_at(&self.file, &self.path) { Ok(None) } else { Self::open(&self.path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    /// The same file, opened once more, though it has no name any more.
    fn reopened(watched: &Watched) -> Watched {
        let file = File::open(format!("/proc/self/fd/{}", watched.file.as_raw_fd()));
        let (path, file) = (watched.path.clone(), file.expect("it is open"));
        Watched { path, file, unwritable: None }
    }

    #[test]
    fn a_file_that_is_moved_or_replaced_is_noticed_and_still_known_to_whoever_watches() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, run) = (folder.path().join("ledger"), "nov24-7kq3".parse().expect("a run"));
        let ledger = Ledger::open(&path, &run).expect("it opens");
        let watched = Watched::open(&path).expect("it can be read").expect("it is there");
        assert!(ledger.check().is_ok() && watched.is_in_use());
        assert!(watched.successor().expect("it can be asked").is_none());
        std::fs::remove_file(&path).expect("it is there");
        let replaced = ledger.check().expect_err("it has no name");
        assert!(matches!(replaced, LedgerError::File(FileError::Replaced { .. })));
        assert!(watched.is_in_use(), "the same program has it");
        std::fs::write(&path, "").expect("it can be written");
        assert!(ledger.check().is_err() && !is_in_use(&path));
        drop(ledger);
        assert!(!watched.is_in_use());
        let taken = watched.take(&run).expect("nobody has it");
        assert_eq!(
            (taken.books().generation(), taken.books().holder().unwrap().role),
            (2, Role::Settle)
        );
        let another = reopened(&watched);
        assert!(another.is_in_use());
        drop(taken);
        assert!(!another.is_in_use(), "what was taken is let go");
        let next = watched.successor().expect("it can be read").expect("it is another");
        assert_eq!(next.books().expect("it is whole").generation(), 0);
    }
}
