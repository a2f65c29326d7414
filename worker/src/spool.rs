//! Completions that the controller hasn't yet said are on its disk.
//!
//! They are kept in memory to be sent, and in a file so that a worker that dies loses none. The
//! file is a log of frames ([`wire::codec`]), each with the completions of one append. It isn't
//! synced: it outlives a process, not a machine, and a machine that is lost takes its prompts
//! back to the queue anyway.

use std::{
    collections::{HashSet, VecDeque},
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};
use wire::{CodecError, Completion, codec};

/// Bytes of forgotten completions that the file may hold before it is written anew.
const SLACK: u64 = 64 << 20;

/// Why the spool can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The disk failed, or is full.
    #[error("the spool {path} can't be written: free some disk space on the worker's machine")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A completion is too large to be sent.
    #[error("a completion is too large to be kept")]
    Codec(#[from] CodecError),
}

/// The spool of one worker.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: File,
    file_bytes: u64,
    kept: VecDeque<Kept>,
    indices: HashSet<u64>,
    last: u64,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    bytes: u64,
    completion: Completion,
}

impl Spool {
    /// Opens the spool at `path`, with what an earlier worker left in it.
    pub fn open(path: &Path) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError::Io { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => drop(file.read_to_end(&mut bytes).map_err(failed)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let (kept, whole) = replay(&bytes);
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        // A frame that was being written when the worker died is cut off.
        file.set_len(whole).map_err(failed)?;
        let last = kept.back().map_or(0, |kept| kept.number);
        let indices = kept.iter().map(|kept| kept.completion.index).collect();
        Ok(Self { path: path.to_owned(), file, file_bytes: whole, kept, indices, last })
    }

    /// Keeps completions, numbered on from the last.
    pub fn append(&mut self, completions: Vec<Completion>) -> Result<(), SpoolError> {
        let first = self.last + 1;
        let frame = codec::encode(&completions, first)?;
        self.write(&frame)?;
        let share = frame.len() as u64 / completions.len().max(1) as u64;
        for completion in completions {
            self.last += 1;
            self.indices.insert(completion.index);
            self.kept.push_back(Kept { number: self.last, bytes: share, completion });
        }
        Ok(())
    }

    /// Forgets everything up to and including the number `through`.
    pub fn forget(&mut self, through: u64) -> Result<(), SpoolError> {
        while self.kept.front().is_some_and(|kept| kept.number <= through) {
            let kept = self.kept.pop_front().expect("it was just looked at");
            self.indices.remove(&kept.completion.index);
        }
        let live: u64 = self.kept.iter().map(|kept| kept.bytes).sum();
        if self.kept.is_empty() && 0 < self.file_bytes {
            self.file.set_len(0).map_err(|source| self.failed(source))?;
            self.file_bytes = 0;
        } else if live + SLACK < self.file_bytes {
            self.rewrite()?;
        }
        Ok(())
    }

    /// Whether it keeps a completion of the prompt at this position.
    pub fn holds(&self, index: u64) -> bool {
        self.indices.contains(&index)
    }

    /// The positions of the prompts whose completions it keeps.
    pub fn indices(&self) -> impl Iterator<Item = u64> + '_ {
        self.indices.iter().copied()
    }

    /// The number of the last completion, kept or forgotten.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Completions after the number `after`, as many as `limit` bytes of text allow but at least
    /// one, and the number of the last of them. None if there are none.
    pub fn batch(&self, after: u64, limit: usize) -> Option<(u64, Vec<Completion>)> {
        let start = self.kept.partition_point(|kept| kept.number <= after);
        let mut bytes = 0;
        let (mut through, mut completions) = (after, Vec::new());
        for kept in self.kept.range(start..) {
            bytes += kept.completion.size();
            if !completions.is_empty() && limit < bytes {
                break;
            }
            through = kept.number;
            completions.push(kept.completion.clone());
        }
        (!completions.is_empty()).then_some((through, completions))
    }

    fn write(&mut self, frame: &[u8]) -> Result<(), SpoolError> {
        if let Err(source) = self.file.write_all(frame) {
            // What was half written would hide whatever comes after it.
            drop(self.file.set_len(self.file_bytes));
            return Err(self.failed(source));
        }
        self.file_bytes += frame.len() as u64;
        Ok(())
    }

    fn rewrite(&mut self) -> Result<(), SpoolError> {
        let fresh = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(&fresh)
            .map_err(|source| self.failed(source))?;
        let mut bytes = 0;
        for kept in &mut self.kept {
            let frame = codec::encode(&[&kept.completion].as_slice(), kept.number)?;
            file.write_all(&frame)
                .map_err(|source| SpoolError::Io { path: fresh.clone(), source })?;
            kept.bytes = frame.len() as u64;
            bytes += kept.bytes;
        }
        std::fs::rename(&fresh, &self.path).map_err(|source| self.failed(source))?;
        self.file = OpenOptions::new()
            .append(true)
            .open(&self.path)
            .map_err(|source| self.failed(source))?;
        self.file_bytes = bytes;
        Ok(())
    }

    fn failed(&self, source: io::Error) -> SpoolError {
        SpoolError::Io { path: self.path.clone(), source }
    }
}

/// The completions in a log, and how many bytes of it are whole.
fn replay(bytes: &[u8]) -> (VecDeque<Kept>, u64) {
    let (mut kept, mut whole) = (VecDeque::new(), 0);
    while let Ok(Some((first, completions, length))) =
        codec::decode::<Vec<Completion>>(&bytes[whole..])
    {
        let share = length as u64 / completions.len().max(1) as u64;
        for (number, completion) in (first..).zip(completions) {
            kept.push_back(Kept { number, bytes: share, completion });
        }
        whole += length;
    }
    (kept, whole as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Outcome;

    fn completion(index: u64) -> Completion {
        let body = format!("{{\"answer\":{index}}}");
        Completion { index, outcome: Outcome::Done { body, tokens_in: 1, tokens_out: 1 } }
    }

    fn indices(spool: &Spool, after: u64) -> Vec<u64> {
        let batch = spool.batch(after, usize::MAX).map(|(_, batch)| batch).unwrap_or_default();
        batch.iter().map(|completion| completion.index).collect()
    }

    #[test]
    fn what_was_not_forgotten_outlives_the_worker() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("spool");
        let mut spool = Spool::open(&path).expect("it opens");
        spool.append((10..15).map(completion).collect()).expect("it is kept");
        spool.append((15..18).map(completion).collect()).expect("it is kept");
        drop(spool);
        let mut spool = Spool::open(&path).expect("it opens again");
        assert_eq!(indices(&spool, 0), (10..18).collect::<Vec<_>>());
        assert_eq!(indices(&spool, 6), [16, 17]);
        spool.forget(6).expect("it forgets");
        assert!(spool.holds(16) && !spool.holds(15));
        spool.append(vec![completion(99)]).expect("it is kept");
        assert_eq!((indices(&spool, 0), spool.last()), (vec![16, 17, 99], 9));
    }

    #[test]
    fn a_spool_cut_at_any_byte_keeps_every_whole_append() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("spool");
        let mut spool = Spool::open(&path).expect("it opens");
        spool.append(vec![completion(1), completion(2)]).expect("it is kept");
        let first = std::fs::read(&path).expect("it is there").len();
        spool.append(vec![completion(3)]).expect("it is kept");
        let bytes = std::fs::read(&path).expect("it is there");
        for end in first..bytes.len() {
            std::fs::write(&path, &bytes[..end]).expect("it can be cut");
            let mut spool = Spool::open(&path).expect("it opens");
            assert_eq!(indices(&spool, 0), [1, 2], "cut at {end}");
            spool.append(vec![completion(4)]).expect("it is kept");
            assert_eq!(indices(&Spool::open(&path).expect("it opens"), 0), [1, 2, 4]);
        }
    }

    #[test]
    fn an_empty_spool_takes_no_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("spool");
        let mut spool = Spool::open(&path).expect("it opens");
        spool.append(vec![completion(1)]).expect("it is kept");
        spool.forget(1).expect("it forgets");
        assert_eq!(std::fs::metadata(&path).expect("it is there").len(), 0);
    }

    #[test]
    fn a_batch_is_bounded_but_never_empty() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::open(&folder.path().join("spool")).expect("it opens");
        spool.append((0..10).map(completion).collect()).expect("it is kept");
        let (through, batch) = spool.batch(3, 1).expect("there are some");
        assert_eq!((through, batch.len()), (4, 1));
    }

    #[test]
    fn a_rewritten_spool_holds_what_it_held() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("spool");
        let mut spool = Spool::open(&path).expect("it opens");
        spool.append((0..100).map(completion).collect()).expect("it is kept");
        spool.forget(97).expect("it forgets");
        spool.rewrite().expect("it is written anew");
        spool.append(vec![completion(100)]).expect("it is kept");
        assert_eq!(indices(&Spool::open(&path).expect("it opens"), 0), [97, 98, 99, 100]);
    }
}
