//! The second process: it gives back what a run has rented when the run's program dies.
//!
//! The program starts it before it rents anything, and starts it again should it die. It knows no
//! more than the run's folder: while somebody has the ledger in hand it waits, and once nobody has
//! had it for a while, in which `resume` may take over, it takes the ledger up itself and settles.
//! It ends when nothing is owed any more, or what is owed can't be shown with its keys, which come
//! from where the program's come from. What a program keeps past its time, it ends under its hands.

mod labelled;
mod watch;

use super::RunFolder;
use crate::{
    event::{Event, Events},
    label::Owner,
    leases::Markets,
};
use providers::crash;
use rustix::process::Signal;
use std::{
    ffi::OsStr,
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

/// How long a dead run is left alone, so that it can be resumed.
pub const GRACE: Duration = Duration::from_secs(30);

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often it is looked whether one stands that was started.
const STANDS_EVERY: Duration = Duration::from_millis(5);

/// How long a guard may take until it stands.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A run's guard, as its program sees it.
#[derive(Debug)]
pub(super) struct Guard {
    program: PathBuf,
    folder: RunFolder,
    child: Option<Child>,
    /// Since when one is started that doesn't stand yet.
    started: Option<Instant>,
    /// Why there is none, as it was told last.
    missing: Option<String>,
}

/// What there is of a run's guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// It stands, as it did.
    Stands,
    /// One was started, and doesn't stand yet.
    Starts,
    /// One stands that was started since the last look.
    Replaced,
}

impl Guard {
    /// Sees to it that the run has a guard, and returns once it stands.
    pub(super) async fn post(program: &Path, folder: &RunFolder) -> io::Result<Self> {
        let (program, folder) = (program.to_owned(), folder.clone());
        let mut guard = Self { program, folder, child: None, started: None, missing: None };
        while guard.ensure()? == Watch::Starts {
            sleep(STANDS_EVERY).await;
        }
        Ok(guard)
    }

    /// Sees to it that there is one, as often as it is called, and tells what is new of it: that there
    /// is another, or that there is none and why.
    pub(super) fn look(&mut self) -> Option<Event> {
        match self.ensure() {
            Ok(Watch::Starts) => None,
            Ok(Watch::Stands) => {
                self.missing = None;
                None
            }
            Ok(Watch::Replaced) => {
                self.missing = None;
                Some(Event::GuardReplaced)
            }
            Err(error) => {
                let reason = error.to_string();
                let is_new = self.missing.as_ref() != Some(&reason);
                self.missing = Some(reason.clone());
                is_new.then_some(Event::Unguarded { reason })
            }
        }
    }

    /// Looks whether there is one, and starts one where there is none. Waits for nothing: whoever
    /// calls has more to do, and looks again. After an error another is started at the next look.
    fn ensure(&mut self) -> io::Result<Watch> {
        if stands(&self.folder) {
            if self.started.take().is_none() {
                return Ok(Watch::Stands);
            }
            crash::point("guard: it stands");
            return Ok(Watch::Replaced);
        }
        let Some(started) = self.started else {
            self.start()?;
            return Ok(Watch::Starts);
        };
        let ended = self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
        if ended || START_LIMIT < started.elapsed() {
            self.started = None;
            let why = format!("it doesn't stand; see `{}`", self.folder.guard_log().display());
            return Err(io::Error::other(why));
        }
        Ok(Watch::Starts)
    }

    fn start(&mut self) -> io::Result<()> {
        crash::point("guard: before it is started");
        let failed = |what: &Path, error| {
            io::Error::other(format!("`{}` can't be used: {error}", what.display()))
        };
        let path = self.folder.guard_log();
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(|error| failed(&path, error))?;
        let child = Command::new(&self.program)
            .args([OsStr::new("guard"), self.folder.path().as_os_str()])
            .current_dir(self.folder.path())
            // Not in the terminal's group from the very first moment.
            .process_group(0)
            // What is to end the program is not meant for this one.
            .env_remove(crash::VARIABLE)
            // It fetches no model.
            .env_remove("HF_TOKEN")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| failed(&self.program, error))?;
        (self.child, self.started) = (Some(child), Some(Instant::now()));
        Ok(())
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
    owner: &Owner,
    markets: &Markets,
    grace: Duration,
    events: &Events,
) -> io::Result<()> {
    // A session of its own: the end of the terminal is the program's, not its.
    let _ = rustix::process::setsid();
    // And so is its hanging up, which the system also says to whom the program's end leaves alone.
    drop(signal(SignalKind::hangup())?);
    // Whoever stops a service tells all of its processes at once, and the program may yet fail.
    drop(signal(SignalKind::terminate())?);
    // A file that may not grow is a write that fails, and no end.
    drop(signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?);
    let Some(_lock) = lock(&folder.guard_lock())? else {
        return Ok(());
    };
    watch::watch(folder, owner, markets, grace, events).await
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A program that does this.
    fn program(folder: &Path, script: &str) -> PathBuf {
        let path = folder.join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("it can be written");
        let all = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, all).expect("it is ours");
        path
    }

    fn told(guard: &mut Guard) -> Option<String> {
        guard.look().map(|event| {
            let Event::Unguarded { reason } = event else { panic!("{event:?}") };
            reason
        })
    }

    #[test]
    fn a_guard_that_can_not_be_started_is_told_of_once_for_each_reason() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = RunFolder::at(place.path().join("run"));
        std::fs::create_dir(folder.path()).expect("it is new");
        let program = place.path().join("nowhere");
        let mut guard =
            Guard { program, folder: folder.clone(), child: None, started: None, missing: None };
        let reason = told(&mut guard).expect("it is told");
        assert!(reason.contains("nowhere` can't be used"), "{reason}");
        assert_eq!(told(&mut guard), None, "it was told");
        std::fs::rename(folder.path(), place.path().join("moved")).expect("it can be moved");
        let reason = told(&mut guard).expect("it is told");
        assert!(reason.contains("guard.log` can't be used"), "{reason}");
    }

    #[test]
    fn a_guard_that_does_not_stand_keeps_nobody_waiting_and_is_tried_again() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = RunFolder::at(place.path().to_owned());
        // Its end is waited for below, so that it is seen while it goes on.
        let program = program(place.path(), "cat >/dev/null <go");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            place.path().join("go"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .expect("a pipe can be made");
        let mut guard =
            Guard { program, folder: folder.clone(), child: None, started: None, missing: None };
        assert_eq!(guard.ensure().expect("it starts"), Watch::Starts);
        assert_eq!(guard.ensure().expect("it goes on"), Watch::Starts);
        std::fs::write(place.path().join("go"), "").expect("it listens");
        guard.child.as_mut().expect("it was started").wait().expect("it ends");
        let reason = told(&mut guard).expect("it is told");
        assert!(reason.contains("guard.log"), "{reason}");
        assert_eq!(guard.ensure().expect("it starts again"), Watch::Starts);
        let _stands = lock(&folder.guard_lock()).expect("it can be locked").expect("nobody has it");
        assert_eq!(guard.look(), Some(Event::GuardReplaced));
        assert_eq!(guard.look(), None);
        std::fs::write(place.path().join("go"), "").expect("it listens");
    }
}
