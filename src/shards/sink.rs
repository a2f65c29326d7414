//! Completions to disk as they come, and word of when they are safe there.
//!
//! [`Sink::put`] hands results to a thread that appends them to the run's files. It syncs the files
//! at once when it has been idle, and every [`SYNC_EVERY`] under load. Only what is synced is
//! reported as durable, and only then may the worker be told to forget it. After an error of the
//! file system the thread never tries again: what a failed sync left unwritten can't be known.

use super::{
    Bits, Record, ResultsError, RunFiles,
    error::is_full,
    record::{Dialect, Kind},
    scan::{Scan, scan, sync_folder},
};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, watch};

/// The time between two syncs under load.
pub const SYNC_EVERY: Duration = Duration::from_millis(200);

/// KiB of results that wait to be written, before [`Sink::put`] waits too.
const BACKLOG_KIB: u32 = 16 << 10;

/// Bytes written at once, at least when so many are waiting.
const WRITE_BYTES: usize = 4 << 20;

/// What earlier sessions of the run left.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// The prompts that have a completion.
    pub completed: Bits,
    /// The prompts that have an error and no completion.
    pub failed: Bits,
    /// Tokens of the completed prompts.
    pub tokens_in: u64,
    /// Tokens of their answers.
    pub tokens_out: u64,
    /// Lines left out, as their prompt has an earlier one.
    pub repeated: u64,
    /// Lines left out, as they aren't results.
    pub damaged: u64,
    /// Bytes of unfinished last lines, which were cut off.
    pub torn: u64,
}

impl Resumed {
    /// The prompts that need no more work.
    pub fn done(&self) -> Bits {
        let mut done = self.completed.clone();
        done.extend(&self.failed);
        done
    }
}

/// Names a batch of results, and with it all that were put before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Where results go.
#[derive(Debug)]
pub struct Sink {
    outlet: Mutex<Outlet>,
    backlog: Arc<Semaphore>,
    durable: Durable,
    thread: thread::JoinHandle<()>,
}

#[derive(Debug)]
struct Outlet {
    batches: Sender<Batch>,
    last: u64,
}

#[derive(Debug)]
struct Batch {
    records: Vec<Record>,
    permits: u32,
}

/// Tells what is on disk for good.
#[derive(Clone, Debug)]
pub struct Durable(watch::Receiver<Progress>);

#[derive(Debug, Default)]
struct Progress {
    through: u64,
    failed: Option<ResultsError>,
}

impl Sink {
    /// Opens a run's files, cutting off a line that was being written when an earlier session
    /// died. With `retry_failed` the errors of earlier sessions are thrown away, so that their
    /// prompts are done again.
    ///
    /// Blocks while it reads what is there, at the speed of the disk.
    pub fn open(files: &RunFiles, retry_failed: bool) -> Result<(Self, Resumed), ResultsError> {
        let (completions, completed) = Appender::open(files, Kind::Completions, false)?;
        let (errors, erred) = Appender::open(files, Kind::Errors, retry_failed)?;
        sync_folder(files, &files.folder)?;
        let mut failed = Bits::new(files.prompts);
        let only_failed =
            |index: &u64| erred.found.contains(*index) && !completed.found.contains(*index);
        for index in (0..files.prompts).filter(only_failed) {
            failed.insert(index);
        }
        let resumed = Resumed {
            failed,
            tokens_in: completed.tokens.0,
            tokens_out: completed.tokens.1,
            repeated: completed.repeated + erred.repeated,
            damaged: completed.damaged + erred.damaged,
            torn: completed.torn + erred.torn,
            completed: completed.found,
        };
        let lines = resumed.completed.count() + resumed.failed.count();
        let (progress, durable) = watch::channel(Progress::default());
        let (sender, batches) = channel();
        let backlog = Arc::new(Semaphore::new(BACKLOG_KIB as usize));
        let writer = Writer {
            files: files.clone(),
            dialect: files.dialect(),
            completions,
            errors,
            lines,
            through: 0,
        };
        let permits = Arc::clone(&backlog);
        let thread = thread::Builder::new()
            .name("results".into())
            .spawn(move || writer.run(&batches, &permits, &progress))
            .expect("the system has room for a thread");
        let outlet = Mutex::new(Outlet { batches: sender, last: 0 });
        Ok((Self { outlet, backlog, durable: Durable(durable), thread }, resumed))
    }

    /// Hands over results. Waits only while too many are waiting to be written.
    ///
    /// An error means that these aren't kept and that no others will be.
    pub async fn put(&self, records: Vec<Record>) -> Result<Ticket, ResultsError> {
        let kib = records.iter().map(Record::bytes).sum::<usize>().div_ceil(1024);
        let permits = u32::try_from(kib).unwrap_or(u32::MAX).min(BACKLOG_KIB);
        match self.backlog.acquire_many(permits).await {
            Ok(acquired) => acquired.forget(),
            Err(_) => return Err(self.durable.error()),
        }
        // Numbered and sent under one lock, so that a ticket covers all before it.
        let mut outlet = self.outlet.lock().unwrap_or_else(PoisonError::into_inner);
        if outlet.batches.send(Batch { records, permits }).is_err() {
            return Err(self.durable.error());
        }
        outlet.last += 1;
        Ok(Ticket(outlet.last))
    }

    /// Word of what is on disk for good.
    pub fn durable(&self) -> Durable {
        self.durable.clone()
    }

    /// Waits until all that was put is on disk for good, and ends.
    pub async fn close(self) -> Result<(), ResultsError> {
        let Self { outlet, mut durable, thread, .. } = self;
        let Outlet { batches, last } = outlet.into_inner().unwrap_or_else(PoisonError::into_inner);
        drop(batches);
        let synced = durable.wait(Ticket(last)).await;
        // It has nothing left to do but to return.
        drop(thread.join());
        synced
    }
}

impl Durable {
    /// Waits until a batch and all before it are on disk for good.
    ///
    /// Cancel-safe. An error means that this batch may not be.
    pub async fn wait(&mut self, ticket: Ticket) -> Result<(), ResultsError> {
        let reached =
            |progress: &Progress| progress.failed.is_some() || ticket.0 <= progress.through;
        let ended = self.0.wait_for(reached).await;
        let synced = ended.is_ok_and(|progress| ticket.0 <= progress.through);
        if synced { Ok(()) } else { Err(self.error()) }
    }

    /// The last batch that is on disk for good, with all before it.
    pub fn latest(&self) -> Ticket {
        Ticket(self.0.borrow().through)
    }

    fn error(&self) -> ResultsError {
        let failed = self.0.borrow().failed.clone();
        failed.expect("the thread ends early only after it has said why")
    }
}

/// The thread's side.
struct Writer {
    files: RunFiles,
    dialect: Dialect,
    completions: Appender,
    errors: Appender,
    /// Results in both files.
    lines: u64,
    /// The number of the last batch written.
    through: u64,
}

impl Writer {
    fn run(
        mut self,
        batches: &Receiver<Batch>,
        backlog: &Semaphore,
        progress: &watch::Sender<Progress>,
    ) {
        if let Err((path, source)) = self.write_all(batches, backlog, progress) {
            let error = if is_full(&source) {
                let (run, needed) = (self.files.run.clone(), self.needed());
                ResultsError::Full { path, needed, run }
            } else {
                self.files.io(&path, "written", source)
            };
            progress.send_modify(|progress| progress.failed = Some(error));
            backlog.close();
        }
    }

    fn write_all(
        &mut self,
        batches: &Receiver<Batch>,
        backlog: &Semaphore,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), (PathBuf, io::Error)> {
        let (mut synced, mut synced_at) = (0, None::<Instant>);
        loop {
            let waited = synced_at.map_or(SYNC_EVERY, |at| at.elapsed());
            let next = if synced < self.through {
                batches.recv_timeout(SYNC_EVERY.saturating_sub(waited))
            } else {
                batches.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            let (due, over) = match next {
                Ok(batch) => {
                    self.write(batch, batches, backlog)?;
                    (synced_at.is_none_or(|at| SYNC_EVERY <= at.elapsed()), false)
                }
                Err(RecvTimeoutError::Timeout) => (true, false),
                Err(RecvTimeoutError::Disconnected) => (true, true),
            };
            if due && synced < self.through {
                self.completions.sync()?;
                self.errors.sync()?;
                (synced, synced_at) = (self.through, Some(Instant::now()));
                progress.send_modify(|progress| progress.through = synced);
            }
            if over {
                return Ok(());
            }
        }
    }

    /// Writes a batch, and with it what else is waiting.
    fn write(
        &mut self,
        batch: Batch,
        batches: &Receiver<Batch>,
        backlog: &Semaphore,
    ) -> Result<(), (PathBuf, io::Error)> {
        let (mut next, mut permits) = (Some(batch), 0);
        while let Some(batch) = next {
            for record in &batch.records {
                let file = match record {
                    Record::Done { .. } => &mut self.completions,
                    Record::Failed { .. } => &mut self.errors,
                };
                self.dialect.write(record, &mut file.waiting);
            }
            self.lines += batch.records.len() as u64;
            self.through += 1;
            permits += batch.permits as usize;
            let full = WRITE_BYTES <= self.completions.waiting.len() + self.errors.waiting.len();
            next = if full { None } else { batches.try_recv().ok() };
        }
        self.completions.flush()?;
        self.errors.flush()?;
        backlog.add_permits(permits);
        Ok(())
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
struct Appender {
    path: PathBuf,
    file: File,
    /// Lines to be written.
    waiting: Vec<u8>,
    length: u64,
    synced: u64,
}

impl Appender {
    fn open(files: &RunFiles, kind: Kind, discard: bool) -> Result<(Self, Scan), ResultsError> {
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
        let (length, synced) = (scan.end, scan.end);
        Ok((Self { path, file, waiting: Vec::new(), length, synced }, scan))
    }

    fn flush(&mut self) -> Result<(), (PathBuf, io::Error)> {
        self.file.write_all(&self.waiting).map_err(|error| (self.path.clone(), error))?;
        self.length += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), (PathBuf, io::Error)> {
        if self.synced < self.length {
            self.file.sync_data().map_err(|error| (self.path.clone(), error))?;
            self.synced = self.length;
        }
        Ok(())
    }
}
