//! The second process: it gives back what a run has rented when the run's program dies.
//!
//! The program starts it before it rents anything, and starts it again should it die. It knows no
//! more than the run's folder: while somebody has the ledger in hand it waits, and once nobody has
//! had it for a while, in which `resume` may take over, it takes the ledger up itself and settles.
//! It ends when nothing is owed any more, or what is can't be shown with its keys. These come from where the program's come from.

use super::{RunFolder, sweep};
use crate::{
    event::Events,
    leases::{LeaseError, Leases, Markets},
    ledger::{self, Books, Ledger},
};
use providers::crash;
use std::{
    ffi::OsStr,
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// How long a dead run is left alone, so that it can be resumed.
pub const GRACE: Duration = Duration::from_secs(30);

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The shortest and the longest pause between two attempts to give everything back.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_mins(1));

/// How long a guard may take until it stands.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A run's guard, as its program sees it.
#[derive(Debug)]
pub(super) struct Guard {
    program: PathBuf,
    folder: RunFolder,
    child: Option<Child>,
}

impl Guard {
    /// Sees to it that the run has a guard, and returns once it stands.
    pub(super) fn post(program: &Path, folder: &RunFolder) -> io::Result<Self> {
        let (program, folder) = (program.to_owned(), folder.clone());
        let mut guard = Self { program, folder, child: None };
        guard.ensure()?;
        Ok(guard)
    }

    /// Whether there was one all along; if not, there is one now.
    pub(super) fn ensure(&mut self) -> io::Result<bool> {
        if stands(&self.folder) {
            return Ok(true);
        }
        crash::point("guard: before it is started");
        let log = OpenOptions::new().create(true).append(true).open(self.folder.guard_log())?;
        let child = Command::new(&self.program)
            .args([OsStr::new("guard"), self.folder.path().as_os_str()])
            .current_dir(self.folder.path())
            // Not in the terminal's group from the very first moment.
            .process_group(0)
            // What is to end the program is not meant for this one.
            .env_remove(crash::VARIABLE)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        let begin = Instant::now();
        while !stands(&self.folder) {
            let ended =
                self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || START_LIMIT < begin.elapsed() {
                let why = format!("see `{}`", self.folder.guard_log().display());
                return Err(io::Error::other(why));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        crash::point("guard: it stands");
        Ok(false)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It outlives us; one that is over already is taken off the table of processes.
        if let Some(child) = &mut self.child {
            drop(child.try_wait());
        }
    }
}

/// Whether a guard stands over the run.
fn stands(folder: &RunFolder) -> bool {
    let looked = File::open(folder.guard_lock()).map(|file| file.try_lock_shared());
    matches!(looked, Ok(Err(TryLockError::WouldBlock)))
}

/// Is the guard of the run in `folder`, until nothing is owed. There is never a second one.
///
/// It has the ledger in hand only while it asks for things to be given back. So whoever has another
/// key, or more luck, can do it meanwhile.
pub async fn stand(
    folder: &RunFolder,
    markets: &Markets,
    grace: Duration,
    events: &Events,
) -> io::Result<()> {
    // A session of its own: the end of the terminal is the program's, not its.
    let _ = rustix::process::setsid();
    let Some(_lock) = lock(&folder.guard_lock())? else {
        return Ok(());
    };
    let path = folder.ledger();
    let (mut abandoned, mut pause) = (false, PAUSES.0);
    loop {
        sleep(LOOK_EVERY).await;
        if ledger::is_in_use(&path) {
            (abandoned, pause) = (false, PAUSES.0);
            continue;
        }
        // A ledger that can't be read may owe anything; `cleanup` goes by the labels.
        let books = Books::read(&path).map_err(io::Error::other)?.unwrap_or_default();
        let (Some(holder), Some(_)) = (books.holder(), books.owed().next()) else {
            return Ok(());
        };
        abandoned = abandoned || is_left_alone(folder, grace).await;
        // Somebody may have taken it up just now, and then it isn't ours to settle.
        if abandoned && let Ok(ledger) = Ledger::open_to_settle(&path, &holder.run) {
            let mut leases = Leases::new(markets.clone(), ledger, events.clone());
            let errors = leases.settle_once().await;
            if errors.is_empty() {
                // What this leaves behind is no instance, and `cleanup` tries again.
                drop(sweep(&leases, folder).await);
                continue;
            }
            if errors.iter().all(|error| matches!(error, LeaseError::OtherKey { .. })) {
                // Our keys stay what they are, and so does what they can show.
                return Err(io::Error::other("what is owed can't be seen with the keys there are"));
            }
            drop(leases);
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// Whether nobody takes the run up for as long as `grace`.
async fn is_left_alone(folder: &RunFolder, grace: Duration) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < grace {
        sleep(LOOK_EVERY.min(grace)).await;
        if ledger::is_in_use(&folder.ledger()) {
            return false;
        }
    }
    true
}

fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    let begin = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            // Whoever looks whether it stands has it for a moment.
            Err(TryLockError::WouldBlock) if begin.elapsed() < LOOK_EVERY => {
                std::thread::sleep(LOOK_EVERY / 50);
            }
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}
