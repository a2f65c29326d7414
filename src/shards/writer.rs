//! The thread behind a [`Sink`](super::Sink): appends results to files, syncs them, says so.

use super::{
    Record, ResultsError, RunFiles,
    error::is_full,
    record::{Dialect, Kind},
    scan::{Scan, scan},
};
use providers::crash;
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, watch};

/// Bytes written at once, at least when so many are waiting.
const WRITE_BYTES: usize = 4 << 20;

/// Results that were put together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    /// What they take of the backlog.
    pub(super) permits: u32,
}

/// How far the thread is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The number of the last batch that is on disk for good, from 1.
    pub(super) through: u64,
    /// Why there will be no more.
    pub(super) failed: Option<ResultsError>,
}

/// A file that can be made durable.
pub(super) trait Disk: Write {
    /// Returns when all that was written is on disk for good.
    fn sync(&self) -> io::Result<()>;
}

impl Disk for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// The thread's side of a sink.
pub(super) struct Writer<D> {
    pub(super) files: RunFiles,
    pub(super) completions: Appender<D>,
    pub(super) errors: Appender<D>,
    /// Results in both files.
    pub(super) lines: u64,
    pub(super) batches: Receiver<Batch>,
    pub(super) backlog: Arc<Semaphore>,
    pub(super) progress: watch::Sender<Progress>,
    /// The time between two syncs under load.
    pub(super) sync_every: Duration,
}

type Failed = (PathBuf, io::Error);

impl<D: Disk> Writer<D> {
    /// Works until there are no more batches, or the disk fails.
    pub(super) fn run(mut self) {
        if let Err((path, source)) = self.keep_all() {
            let error = if is_full(&source) {
                let (run, needed) = (self.files.run.clone(), self.needed());
                ResultsError::Full { path, needed, run }
            } else {
                self.files.io(&path, "written", source)
            };
            self.progress.send_modify(|progress| progress.failed = Some(error));
            self.backlog.close();
        }
    }

    fn keep_all(&mut self) -> Result<(), Failed> {
        let dialect = self.files.dialect();
        let (mut written, mut synced, mut synced_at) = (0, 0, None::<Instant>);
        loop {
            let idle = synced_at.map_or(self.sync_every, |at| at.elapsed());
            let next = if synced < written {
                self.batches.recv_timeout(self.sync_every.saturating_sub(idle))
            } else {
                self.batches.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            let (due, over) = match next {
                Ok(batch) => {
                    written += self.write(batch, &dialect)?;
                    (synced_at.is_none_or(|at| self.sync_every <= at.elapsed()), false)
                }
                Err(RecvTimeoutError::Timeout) => (true, false),
                Err(RecvTimeoutError::Disconnected) => (true, true),
            };
            if due && synced < written {
                crash::point("results: before the sync");
                self.completions.sync()?;
                self.errors.sync()?;
                crash::point("results: after the sync");
                (synced, synced_at) = (written, Some(Instant::now()));
                self.progress.send_modify(|progress| progress.through = synced);
            }
            if over {
                return Ok(());
            }
        }
    }

    /// Writes a batch, and with it what else is waiting. Returns how many batches that was.
    fn write(&mut self, batch: Batch, dialect: &Dialect) -> Result<u64, Failed> {
        let (mut next, mut permits, mut batches) = (Some(batch), 0, 0);
        while let Some(batch) = next {
            for record in &batch.records {
                let file = match record {
                    Record::Done { .. } => &mut self.completions,
                    Record::Failed { .. } => &mut self.errors,
                };
                dialect.write(record, &mut file.waiting);
            }
            self.lines += batch.records.len() as u64;
            permits += batch.permits as usize;
            batches += 1;
            let full = WRITE_BYTES <= self.completions.waiting.len() + self.errors.waiting.len();
            next = if full { None } else { self.batches.try_recv().ok() };
        }
        crash::point("results: before they are written");
        self.completions.flush()?;
        self.errors.flush()?;
        self.backlog.add_permits(permits);
        Ok(batches)
    }

    /// Bytes still needed if the rest is like what is there: the rest itself, and a copy of all.
    fn needed(&self) -> u64 {
        let written = self.completions.length + self.errors.length;
        let each = if self.lines == 0 { 1024 } else { written.div_ceil(self.lines) };
        let rest = self.files.prompts.saturating_sub(self.lines) * each;
        written + 2 * rest
    }
}

/// A file that grows.
pub(super) struct Appender<D> {
    path: PathBuf,
    file: D,
    /// Lines to be written.
    waiting: Vec<u8>,
    length: u64,
    synced: u64,
}

impl Appender<File> {
    /// Opens one of a run's files, without what isn't whole; emptied, if `discard` says so. What
    /// it has is then on disk for good, as nobody knows what the session before had synced.
    pub(super) fn open(
        files: &RunFiles,
        kind: Kind,
        discard: bool,
    ) -> Result<(Self, Scan), ResultsError> {
        let path = files.path(kind);
        let failed = |act, source| files.io(&path, act, source);
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.map_err(|source| failed("opened", source))?;
        if discard {
            file.set_len(0).map_err(|source| failed("emptied", source))?;
        }
        let scan = scan(files, kind, |_, _| Ok(()))?;
        if 0 < scan.torn {
            file.set_len(scan.end).map_err(|source| failed("shortened", source))?;
        }
        file.sync_all().map_err(|source| failed("synced", source))?;
        Ok((Self::new(path, file, scan.end), scan))
    }
}

impl<D: Disk> Appender<D> {
    fn new(path: PathBuf, file: D, length: u64) -> Self {
        Self { path, file, waiting: Vec::new(), length, synced: length }
    }

    fn flush(&mut self) -> Result<(), Failed> {
        if !self.waiting.is_empty() {
            self.file.write_all(&self.waiting).map_err(|error| (self.path.clone(), error))?;
            self.length += self.waiting.len() as u64;
            self.waiting.clear();
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Failed> {
        if self.synced < self.length {
            self.file.sync().map_err(|error| (self.path.clone(), error))?;
            self.synced = self.length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{prompts::Place, shards::Cause};
    use std::sync::{Mutex, mpsc::channel};

    /// Two files on a disk that fails once.
    #[derive(Default)]
    struct Platter {
        files: [Vec<u8>; 2],
        /// Bytes of them that would outlive a power failure.
        synced: [usize; 2],
        /// Calls so far, and the one to fail.
        calls: usize,
        fault: usize,
    }

    impl Platter {
        fn call(&mut self) -> io::Result<()> {
            self.calls += 1;
            assert!(self.calls <= self.fault + 1, "a disk that failed is left alone");
            if self.calls <= self.fault { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
        }
    }

    struct Fake(usize, Arc<Mutex<Platter>>);

    impl Write for Fake {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut platter = self.1.lock().expect("nobody panics");
            let answer = platter.call();
            // Half of it gets there even when it fails.
            let length = if answer.is_ok() { bytes.len() } else { bytes.len() / 2 };
            platter.files[self.0].extend(&bytes[..length]);
            answer.map(|()| length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Disk for Fake {
        fn sync(&self) -> io::Result<()> {
            let mut platter = self.1.lock().expect("nobody panics");
            platter.call()?;
            platter.synced[self.0] = platter.files[self.0].len();
            Ok(())
        }
    }

    const BATCHES: u64 = 12;

    /// Batches large enough that three of them make a write.
    fn batch(number: u64) -> Batch {
        let (custom_id, reason) = (String::new(), "odd".to_owned());
        let body = format!("{{\"text\":\"{}\"}}", "x".repeat(WRITE_BYTES / 3));
        let records = vec![
            Record::Done { index: number, custom_id, body },
            Record::Failed {
                index: number,
                line: Place { file: 0, line: 1 },
                custom_id: None,
                cause: Cause::Engine,
                reason,
            },
        ];
        Batch { records, permits: 1 }
    }

    /// What became of all batches on a disk whose call number `fault` fails.
    fn outcome(fault: usize) -> (Platter, Progress) {
        let platter = Arc::new(Mutex::new(Platter { fault, ..Platter::default() }));
        let (sender, batches) = channel();
        (1..=BATCHES).for_each(|number| sender.send(batch(number)).expect("it is open"));
        drop(sender);
        let (progress, told) = watch::channel(Progress::default());
        let backlog = Arc::new(Semaphore::new(0));
        let appender =
            |at: usize| Appender::new(PathBuf::from("f"), Fake(at, Arc::clone(&platter)), 0);
        let files = RunFiles {
            folder: PathBuf::new(),
            run: "r".into(),
            prompts: BATCHES,
            inputs: Vec::new(),
        };
        let (completions, errors) = (appender(0), appender(1));
        let (lines, sync_every) = (0, Duration::ZERO);
        let seats = Arc::clone(&backlog);
        Writer { files, completions, errors, lines, batches, backlog, progress, sync_every }.run();
        let Progress { through, failed } = &*told.borrow();
        assert_eq!(seats.is_closed(), failed.is_some());
        let progress = Progress { through: *through, failed: failed.clone() };
        let platter = std::mem::take(&mut *platter.lock().expect("nobody panics"));
        (platter, progress)
    }

    #[test]
    fn whichever_call_fails_what_was_called_durable_was_synced() {
        let (calm, progress) = outcome(usize::MAX - 1);
        assert!(progress.failed.is_none() && progress.through == BATCHES);
        assert!(12 < calm.calls, "several writes and several syncs");
        for fault in 0..calm.calls {
            let (platter, progress) = outcome(fault);
            assert!(matches!(progress.failed, Some(ResultsError::Full { .. })), "call {fault}");
            for (file, synced) in platter.files.iter().zip(platter.synced) {
                let lines = memchr::memchr_iter(b'\n', &file[..synced]).count() as u64;
                assert!(progress.through <= lines, "call {fault}");
            }
        }
    }
}
