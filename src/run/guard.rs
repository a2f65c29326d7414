//! The second process: it gives back what a run has rented when the run's program dies.
//!
//! The program starts it before it rents anything, and starts it again should it die. It knows no
//! more than the run's folder: while somebody has the ledger in hand it waits, and once nobody has
//! had it for a while, in which `resume` may take over, it takes the ledger up itself and settles.
//! It ends when nothing is owed any more, or what is owed can't be shown with its keys, which come
//! from where the program's come from. What a program keeps past its time, it ends under its hands.

use super::{RunFolder, labelled::end_labelled, sweep};
use crate::{
    clock,
    event::{Event, Events},
    label::Owner,
    leases::{LeaseError, Leases, Markets, describe, end_owed},
    ledger::{Books, FileError, LedgerError, Watched},
};
use jiff::Timestamp;
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
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

/// How long a dead run is left alone, so that it can be resumed.
pub const GRACE: Duration = Duration::from_secs(30);

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often it looks whether its program keeps something past its time.
const OVERDUE_EVERY: Duration = Duration::from_secs(10);

/// The shortest and the longest pause between two attempts to give everything back.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_mins(1));

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
    let Some(_lock) = lock(&folder.guard_lock())? else {
        return Ok(());
    };
    let Some(mut ledger) = Watched::open(&folder.ledger()).map_err(io::Error::other)? else {
        return Ok(());
    };
    let (mut abandoned, mut pause, mut looked) = (false, PAUSES.0, Instant::now());
    let mut is_over = false;
    loop {
        sleep(LOOK_EVERY).await;
        if ledger.is_in_use() {
            (abandoned, pause, is_over) = (false, PAUSES.0, false);
            if OVERDUE_EVERY <= looked.elapsed() {
                // One that can't be read now can be later.
                let books = ledger.books().unwrap_or_default();
                end_overdue(&books, markets, clock::now(), events).await;
                looked = Instant::now();
            }
            continue;
        }
        let books = match ledger.books() {
            Ok(books) => books,
            Err(LedgerError::File(FileError::Io { .. })) => {
                // A disk may be back later.
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
                continue;
            }
            // One that is damaged may owe anything that has the run's label.
            Err(error) => {
                if is_left_alone(&ledger, grace).await {
                    end_by_label(folder, owner, markets, events).await?;
                    return Err(io::Error::other(error));
                }
                continue;
            }
        };
        let Some(holder) = books.holder() else { return Ok(()) };
        if books.owed().next().is_none() {
            if let Some(successor) = ledger.successor().map_err(io::Error::other)? {
                ledger = successor;
            } else if is_over || !look_later(&ledger, &books, markets, events).await {
                return Ok(());
            } else {
                is_over = true;
            }
            continue;
        }
        abandoned = abandoned || is_left_alone(&ledger, grace).await;
        if !abandoned {
            continue;
        }
        let taken = match ledger.take(&holder.run) {
            Ok(taken) => taken,
            // Somebody has taken it up just now, and then it isn't ours to settle.
            Err(LedgerError::File(FileError::InUse { .. } | FileError::InUseByUnknown)) => continue,
            Err(error) => return Err(io::Error::other(error)),
        };
        let mut leases = Leases::new(markets.clone(), taken, events.clone());
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
        if errors.iter().all(|error| matches!(error, LeaseError::Ledger(_))) {
            // All of it is gone, of which no word can be written.
            return Err(io::Error::other(describe(&errors[0])));
        }
        drop(leases);
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Looks once more for what is over, long after its listings: an order may be carried out late, and a
/// marketplace can forget an instance for a while. What is there is owed again. False where listings
/// are never behind, or somebody has taken the run up meanwhile.
async fn look_later(ledger: &Watched, books: &Books, markets: &Markets, events: &Events) -> bool {
    let at = books.leases().filter_map(|(_, lease)| markets.get(&lease.terms.provider));
    let lag = at.map(|market| market.capabilities().listing_lag).max().unwrap_or_default();
    let Some(holder) = books.holder().filter(|_| !lag.is_zero()) else { return false };
    let begun = Instant::now();
    while begun.elapsed() < lag * 2 {
        sleep(LOOK_EVERY).await;
        if ledger.is_in_use() {
            return true;
        }
    }
    if let Ok(taken) = ledger.take(&holder.run) {
        // What can't be written can't be owed either; `cleanup` finds it by its label.
        drop(Leases::new(markets.clone(), taken, events.clone()).look_again().await);
    }
    true
}

/// Ends what a program has in hand and should have given back: it is stopped, or hangs.
async fn end_overdue(books: &Books, markets: &Markets, now: Timestamp, events: &Events) {
    for (label, lease) in books.owed().filter(|(_, lease)| lease.is_overdue(now)) {
        let Some(market) = markets.get(&lease.terms.provider) else { continue };
        let label = label.clone();
        match end_owed(&**market, &label, lease).await {
            Ok(0) => {}
            Ok(_) => events.send(Event::EndedOverdue { label }),
            Err(error) => {
                events.send(Event::StillOwed { label, reason: describe(&error) });
            }
        }
    }
}

/// Ends what a run has rented, wherever its plan lets it or can't say.
async fn end_by_label(
    folder: &RunFolder,
    owner: &Owner,
    markets: &Markets,
    events: &Events,
) -> io::Result<()> {
    let name = folder.path().file_name().unwrap_or_default().to_string_lossy();
    let run = name.parse().map_err(io::Error::other)?;
    let known = |name: &&String| markets.get(name).is_some();
    let meant = folder.plan().map(|plan| plan.search.providers).unwrap_or_default();
    let meant: Vec<_> = meant.iter().filter(known).cloned().collect();
    let chosen = markets.only(&meant).ok().filter(|_| !meant.is_empty());
    let chosen = chosen.unwrap_or_else(|| markets.clone());
    end_labelled(&run, owner, &chosen, events).await.map_err(io::Error::other)
}

/// Whether nobody takes the run up for as long as `grace`.
async fn is_left_alone(ledger: &Watched, grace: Duration) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < grace {
        sleep(LOOK_EVERY.min(grace)).await;
        if ledger.is_in_use() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Entry, Ledger, OVERTIME, Terms};
    use providers::{Label, Marketplace, Need, Order, UsdPerHour, testkit::World};
    use std::{os::unix::fs::PermissionsExt, sync::Arc};

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

    #[tokio::test(start_paused = true)]
    async fn what_a_hung_program_keeps_past_its_time_is_ended_under_its_hands() {
        let world = Arc::new(World::default());
        let offer = world.offers(&Need::default()).await.expect("it answers").remove(0);
        let label = Label("pw-1".into());
        let order = Order::new(offer, label.clone(), "ssh-ed25519 key");
        let id = world.rent(&order).await.expect("it is for rent").id;
        let folder = tempfile::tempdir().expect("a folder");
        let (path, run) = (folder.path().join("ledger"), "nov26-7kq3".parse().expect("a run"));
        let mut ledger = Ledger::open(&path, &run).expect("it opens");
        let expires = Timestamp::from_second(1_795_600_000).expect("it is a time");
        let terms = Terms::example("world", UsdPerHour(1), expires);
        ledger.record(&label, Entry::Ordered(terms)).expect("it is the first");
        ledger.record(&label, Entry::Rented(id)).expect("it follows");
        let markets = Markets::new([world.clone() as Arc<dyn Marketplace>]);
        let events = Events::unheard();
        let soon = clock::after(expires, OVERTIME);
        end_overdue(ledger.books(), &markets, soon, &events).await;
        assert_eq!(world.billed(), 1, "it may be on its way out");
        let late = clock::after(soon, Duration::from_secs(1));
        end_overdue(ledger.books(), &markets, late, &events).await;
        assert_eq!(world.billed(), 0);
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
