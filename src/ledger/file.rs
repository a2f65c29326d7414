//! The ledger on disk: an append-only file of lines, each with a checksum, each synced before
//! `append` returns, locked while somebody works with it.
//!
//! ```text
//! 5d1a0b3c {"v":1,"at":"2026-11-24T12:00:00Z","opened":{"run":"nov24-7kq3","pid":4711,…}}
//! 9e2f77a1 {"v":1,"at":"2026-11-24T12:00:01Z","lease":{"label":"pw-…","entry":{"ordered":{…}}}}
//! ```
//!
//! A last line that was cut short by a crash was not yet promised to anybody, and is cut off. Any
//! other damage is an error: the lines after it may say that something is owed.

use super::state::Entry;
use crate::label::RunId;
use jiff::Timestamp;
use providers::{Label, crash};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

/// The version of the lines.
const VERSION: u32 = 1;

/// How long a look at whether a ledger is in use may keep it from whoever wants to work with it.
const A_LOOK: Duration = Duration::from_millis(200);

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    v: u32,
    /// When it was written.
    pub at: Timestamp,
    /// What it says.
    #[serde(flatten)]
    pub fact: Fact,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a line is written down at once, and not kept")]
pub(super) enum Fact {
    /// A program took the ledger up.
    Opened(Holder),
    /// Something happened to a lease.
    Lease {
        /// Which.
        label: Label,
        /// What.
        entry: Entry,
    },
}

/// Who works with a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The run.
    pub run: RunId,
    /// The program's process id.
    pub pid: u32,
    /// The computer's name.
    pub host: String,
    /// What it does with it.
    #[serde(default)]
    pub role: Role,
}

/// What a program does with a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It works on the run.
    #[default]
    Work,
    /// It gives back what the run owes: the run's guard, or a cleanup.
    Settle,
}

/// Why a ledger can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The disk failed, or is full.
    #[error("the ledger {path} can't be read or written")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another program has it.
    #[error("the run is in use by process {pid} on {host}", pid = holder.pid, host = holder.host)]
    InUse {
        /// Who has it.
        holder: Holder,
    },
    /// Another program has it, and hasn't yet said who it is.
    #[error("the run is in use by another program")]
    InUseByUnknown,
    /// A line in the middle is damaged.
    #[error(
        "line {line} of the ledger {path} is damaged; `piecework cleanup` can still find its instances by their labels"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// Its name leads to another file now, or to none.
    #[error(
        "the ledger {path} was moved, replaced or removed under the run's hands; nothing more is rented, and `piecework cleanup` looks for what is left"
    )]
    Replaced {
        /// Where it was.
        path: PathBuf,
    },
    /// It was written by a later version.
    #[error("the ledger {path} was written by a later version of piecework: use that one")]
    TooNew {
        /// The file.
        path: PathBuf,
    },
}

/// A ledger's file, locked.
#[derive(Debug)]
pub(super) struct LedgerFile {
    path: PathBuf,
    pub(super) file: File,
    pub(super) length: u64,
    /// Why it can't be written, where that is so.
    pub(super) unwritable: Option<io::ErrorKind>,
}

impl LedgerFile {
    /// Opens the file at `path`, made if it is missing, and locks it. Returns its lines too.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Line>), FileError> {
        let failed = |source| FileError::Io { path: path.to_owned(), source };
        let (mut opened, lines) = Self::of(path, writable(path).map_err(failed)?)?;
        opened.file.set_len(opened.length).map_err(failed)?;
        opened.file.seek(SeekFrom::End(0)).map_err(failed)?;
        if let Some(folder) = path.parent() {
            // The file's own name must survive a crash too.
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        Ok((opened, lines))
    }

    /// The same, also where it can't be written: what it owes can be given back all the same.
    pub(super) fn open_to_settle(path: &Path) -> Result<(Self, Vec<Line>), FileError> {
        match Self::open(path) {
            Err(FileError::Io { source, .. }) => {
                let failed = |source| FileError::Io { path: path.to_owned(), source };
                let (mut opened, lines) = Self::of(path, File::open(path).map_err(failed)?)?;
                opened.unwritable = Some(source.kind());
                Ok((opened, lines))
            }
            opened => opened,
        }
    }

    /// Locks a file that is open. Appends to it go on with its last whole line only once it has been
    /// cut to that.
    pub(super) fn of(path: &Path, mut file: File) -> Result<(Self, Vec<Line>), FileError> {
        let failed = |source| FileError::Io { path: path.to_owned(), source };
        match lock(&file, A_LOOK) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(path)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let bytes = whole(&mut file).map_err(failed)?;
        let (lines, length) = parse(path, &bytes)?;
        Ok((Self { path: path.to_owned(), file, length, unwritable: None }, lines))
    }

    /// Whether its name still leads to it.
    pub(super) fn check(&self) -> Result<(), FileError> {
        if is_at(&self.file, &self.path) {
            return Ok(());
        }
        Err(FileError::Replaced { path: self.path.clone() })
    }

    /// Appends a line, and returns once it is on disk.
    pub(super) fn append(&mut self, at: Timestamp, fact: Fact) -> Result<Line, FileError> {
        if let Some(kind) = self.unwritable {
            return Err(FileError::Io { path: self.path.clone(), source: kind.into() });
        }
        let line = Line { v: VERSION, at, fact };
        let json = serde_json::to_string(&line).expect("a line has only plain values");
        let text = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        crash::point("ledger: before a line");
        let written = self.file.write_all(text.as_bytes());
        crash::point("ledger: a line that isn't synced");
        let written = written.and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // What is half there would damage the next line.
            drop(self.file.set_len(self.length));
            return Err(FileError::Io { path: self.path.clone(), source });
        }
        self.length += text.len() as u64;
        crash::point("ledger: after a line");
        Ok(line)
    }
}

impl Drop for LedgerFile {
    fn drop(&mut self) {
        // Another handle on the same opening of it may live on.
        drop(self.file.unlock());
    }
}

fn writable(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).open(path)
}

/// All that is in a file, which is at its end then.
pub(super) fn whole(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether `path` leads to this open file.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let place = |about: io::Result<Metadata>| about.ok().map(|about| (about.dev(), about.ino()));
    place(fs::metadata(path)) == place(file.metadata())
}

/// The lines of the file at `path`, without locking it. None if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<Line>>, FileError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(parse(path, &bytes)?.0)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError::Io { path: path.to_owned(), source }),
    }
}

/// Whether a program has the ledger at `path` in use. In doubt, it has not.
pub(super) fn is_in_use(path: &Path) -> bool {
    // Shared, so that two who look don't take each other for somebody who works with it.
    let looked = File::open(path).map(|file| file.try_lock_shared());
    matches!(looked, Ok(Err(TryLockError::WouldBlock)))
}

/// Locks a ledger, and waits so long for it: whoever looks whether it is in use has it for a moment.
fn lock(file: &File, patience: Duration) -> Result<(), TryLockError> {
    let begin = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if begin.elapsed() < patience => sleep(A_LOOK / 10),
            locked => return locked,
        }
    }
}

fn in_use(path: &Path) -> FileError {
    let lines = read(path).ok().flatten().unwrap_or_default();
    let holder = lines.into_iter().rev().find_map(|line| match line.fact {
        Fact::Opened(holder) => Some(holder),
        Fact::Lease { .. } => None,
    });
    holder.map_or(FileError::InUseByUnknown, |holder| FileError::InUse { holder })
}

/// The lines in `bytes`, and how many bytes of them are whole.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<(Vec<Line>, u64), FileError> {
    let mut lines = Vec::new();
    let mut whole = 0;
    for (number, text) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match parse_line(text) {
            Some(line) if line.v <= VERSION => lines.push(line),
            Some(_) => return Err(FileError::TooNew { path: path.to_owned() }),
            // Only the last can have no end.
            None if !text.ends_with(b"\n") => break,
            None => return Err(FileError::Damaged { path: path.to_owned(), line: number + 1 }),
        }
        whole += text.len();
    }
    Ok((lines, whole as u64))
}

fn parse_line(text: &[u8]) -> Option<Line> {
    let text = str::from_utf8(text).ok()?.strip_suffix('\n')?;
    let (checksum, json) = text.split_once(' ')?;
    let checksum = u32::from_str_radix(checksum, 16).ok()?;
    (checksum == crc32fast::hash(json.as_bytes())).then(|| serde_json::from_str(json).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(pid: u32) -> Fact {
        let run = "nov24-7kq3".parse().expect("it is a run");
        Fact::Opened(Holder { run, pid, host: "here".into(), role: Role::Work })
    }

    fn written(folder: &Path, count: u32) -> PathBuf {
        let path = folder.join("ledger");
        let (mut file, _) = LedgerFile::open(&path).expect("it opens");
        for pid in 0..count {
            file.append(Timestamp::UNIX_EPOCH, fact(pid)).expect("it is written");
        }
        path
    }

    #[test]
    fn what_is_appended_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = written(folder.path(), 3);
        let lines = read(&path).expect("it is whole").expect("it is there");
        let facts: Vec<Fact> = lines.into_iter().map(|line| line.fact).collect();
        assert_eq!(facts, [fact(0), fact(1), fact(2)]);
    }

    #[test]
    fn a_ledger_cut_at_any_byte_keeps_its_whole_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = written(folder.path(), 3);
        let bytes = std::fs::read(&path).expect("it is there");
        for end in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..end]).expect("it can be cut");
            let whole = memchr::memchr_iter(b'\n', &bytes[..end]).count();
            let (mut file, lines) = LedgerFile::open(&path).expect("it opens");
            assert_eq!(lines.len(), whole, "cut at {end}");
            file.append(Timestamp::UNIX_EPOCH, fact(9)).expect("it goes on");
            drop(file);
            assert_eq!(read(&path).expect("it is whole").expect("there").len(), whole + 1);
        }
    }

    #[test]
    fn no_file_is_no_ledger_and_one_that_can_not_be_read_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(matches!(read(&folder.path().join("ledger")), Ok(None)));
        assert!(matches!(read(folder.path()), Err(FileError::Io { .. })));
    }

    #[test]
    fn what_a_later_version_has_written_is_left_to_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = written(folder.path(), 1);
        let text = std::fs::read_to_string(&path).expect("it is text");
        let (_, json) = text.trim_end().split_once(' ').expect("a checksum comes first");
        let json = json.replace("\"v\":1", "\"v\":2");
        let later = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        std::fs::write(&path, later).expect("it can be written");
        assert!(matches!(read(&path), Err(FileError::TooNew { .. })));
    }

    #[test]
    fn damage_in_the_middle_is_an_error_that_names_the_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = written(folder.path(), 3);
        let mut bytes = std::fs::read(&path).expect("it is there");
        let second = bytes.iter().position(|byte| *byte == b'\n').expect("a line") + 20;
        bytes[second] ^= 1;
        std::fs::write(&path, bytes).expect("it can be damaged");
        assert!(matches!(read(&path), Err(FileError::Damaged { line: 2, .. })));
    }

    #[test]
    fn a_last_line_that_is_whole_was_promised_and_its_damage_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = written(folder.path(), 3);
        let mut bytes = std::fs::read(&path).expect("it is there");
        let last = bytes.len() - 20;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).expect("it can be damaged");
        assert!(matches!(read(&path), Err(FileError::Damaged { line: 3, .. })));
    }

    #[test]
    fn a_second_program_is_told_who_has_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger");
        let (mut file, _) = LedgerFile::open(&path).expect("it opens");
        file.append(Timestamp::UNIX_EPOCH, fact(4711)).expect("it is written");
        assert!(is_in_use(&path));
        let error = LedgerFile::open(&path).expect_err("it is in use").to_string();
        assert_eq!(error, "the run is in use by process 4711 on here");
        drop(file);
        assert!(!is_in_use(&path));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_line_that_finds_no_room_is_cut_off_and_the_others_are_kept() {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
        let file = memfd_create("ledger", MemfdFlags::ALLOW_SEALING).expect("there is memory");
        let (path, file) = (PathBuf::from("ledger"), File::from(file));
        let mut ledger = LedgerFile { path: path.clone(), file, length: 0, unwritable: None };
        for pid in 0..3 {
            ledger.append(Timestamp::UNIX_EPOCH, fact(pid)).expect("it is written");
        }
        // Half a line, and no room for more.
        ledger.file.write_all(b"5d1a0b3c {").expect("it is written");
        fcntl_add_seals(&ledger.file, SealFlags::GROW).expect("it can be sealed");
        let error = ledger.append(Timestamp::UNIX_EPOCH, fact(3)).expect_err("there is no room");
        assert_eq!(error.to_string(), "the ledger ledger can't be read or written");
        let bytes = whole(&mut ledger.file).expect("it can be read");
        let (lines, length) = parse(&path, &bytes).expect("it is whole");
        assert_eq!((lines.len(), length), (3, bytes.len() as u64));
    }

    #[test]
    fn whoever_only_looks_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = written(folder.path(), 1);
        let (looked, file) = (File::open(&path), File::open(&path));
        let (looked, file) = (looked.expect("it is there"), file.expect("it is there"));
        looked.try_lock_shared().expect("nobody has it");
        // More than any computer takes for what follows.
        let patience = Duration::from_mins(10);
        let waiting = std::thread::spawn(move || lock(&file, patience).is_ok());
        // Long enough that it is most likely tried while it can't be had.
        sleep(A_LOOK / 4);
        drop(looked);
        assert!(waiting.join().expect("it doesn't panic"), "it was not waited for");
    }

    #[test]
    fn a_person_can_read_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = std::fs::read_to_string(written(folder.path(), 1)).expect("it is text");
        assert!(
            text.contains(r#""at":"1970-01-01T00:00:00Z","opened":{"run":"nov24-7kq3""#),
            "{text}"
        );
    }
}
