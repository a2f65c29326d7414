//! Completions to disk as they come, and word of when they are safe there.
//!
//! [`Sink::put`] hands results to a thread that appends them to the run's files. It syncs the files
//! at once when it has been idle, and every [`SYNC_EVERY`] under load. Only what is synced is
//! reported as durable, and only then may the worker be told to forget it. After an error of the
//! file system the thread never tries again: what a failed sync left unwritten can't be known.

use super::{
    Bits, Record, ResultsError, RunFiles, finished,
    record::Kind,
    scan::sync_folder,
    writer::{Appender, Batch, Progress, Writer},
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Sender, channel},
    },
    thread,
    time::Duration,
};
use tokio::sync::{Semaphore, watch};

/// The time between two syncs under load.
pub const SYNC_EVERY: Duration = Duration::from_millis(200);

/// KiB of results that wait to be written, before [`Sink::put`] waits too.
const BACKLOG_KIB: u32 = 16 << 10;

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

/// Tells what is on disk for good.
#[derive(Clone, Debug)]
pub struct Durable(watch::Receiver<Progress>);

impl Sink {
    /// Opens a run's files, cutting off a line that was being written when an earlier session
    /// died. With `retry_failed` the errors of earlier sessions are thrown away, so that their
    /// prompts are done again.
    ///
    /// Blocks while it reads what is there, at the speed of the disk. A run whose results were put
    /// in order is over, and an error until [`reopen`](super::reopen) makes it go on.
    pub fn open(files: &RunFiles, retry_failed: bool) -> Result<(Self, Resumed), ResultsError> {
        if finished(files).is_some() {
            return Err(ResultsError::Over { run: files.run.clone() });
        }
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
            completions,
            errors,
            lines,
            batches,
            backlog: Arc::clone(&backlog),
            progress,
            sync_every: SYNC_EVERY,
        };
        let thread = thread::Builder::new()
            .name("results".into())
            .spawn(move || writer.run())
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
