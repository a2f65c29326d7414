//! What we owe, written down before we owe it.
//!
//! An entry that announces an act is recorded before the act, and one that states a fact after it.
//! So after a crash the ledger never says less than we owe.

mod books;
mod file;
mod state;
mod watched;

pub use books::{Books, Lease, OVERTIME};
pub use file::{FileError, Holder, Role};
pub use state::{Entry, IllegalEntry, LeaseState, Terms};
pub use watched::Watched;

use crate::{clock, label::RunId};
use file::{Fact, LedgerFile, Line};
use jiff::Timestamp;
use providers::Label;
use std::{path::Path, time::Duration};
use tokio::time::{Instant, sleep};

/// Why an entry could not be made, or a ledger not be read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The entry makes no sense, which is a bug.
    #[error("the ledger is out of step")]
    Illegal(#[from] IllegalEntry),
}

/// How often it is looked whether a ledger is still in somebody's hands.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A ledger that we have in our hands. Nobody else can take it meanwhile.
#[derive(Debug)]
pub struct Ledger {
    file: LedgerFile,
    books: Books,
    /// How far its time is ahead of ours: its last line was written by a clock that was.
    ahead: Duration,
}

impl Ledger {
    /// Takes up the ledger at `path`, made if it is missing, and notes that we did.
    pub fn open(path: &Path, run: &RunId) -> Result<Self, LedgerError> {
        Self::of(LedgerFile::open(path)?, run, Role::Work)
    }

    /// The same, to give back what is owed and for nothing else. It need not be writable for that.
    pub fn open_to_settle(path: &Path, run: &RunId) -> Result<Self, LedgerError> {
        Self::of(LedgerFile::open_to_settle(path)?, run, Role::Settle)
    }

    fn of(
        (file, lines): (LedgerFile, Vec<Line>),
        run: &RunId,
        role: Role,
    ) -> Result<Self, LedgerError> {
        let books = Books::replay(lines)?;
        let now = clock::now();
        let ahead = books.latest.map_or(Duration::ZERO, |latest| clock::between(now, latest));
        let holder = Holder { run: run.clone(), pid: std::process::id(), host: host(), role };
        let mut ledger = Self { file, books, ahead };
        match ledger.file.append(ledger.second(), Fact::Opened(holder)) {
            Ok(opened) => ledger.books.enter(&opened)?,
            // What is owed can be given back without a word of it.
            Err(_) if role == Role::Settle => {}
            Err(error) => return Err(error.into()),
        }
        Ok(ledger)
    }

    /// The time by which its leases cost money: ours, from its last line on. Were it earlier than
    /// that line, they would cost nothing until it came.
    pub fn now(&self) -> Timestamp {
        clock::after(clock::exactly_now(), self.ahead)
    }

    /// The same, as it is written down: the second that has begun.
    fn second(&self) -> Timestamp {
        clock::after(clock::now(), self.ahead)
    }

    /// Adds an entry to a lease's history, if it may follow. It is on disk when this returns.
    pub fn record(&mut self, label: &Label, entry: Entry) -> Result<(), LedgerError> {
        // Asked first, so that no illegal line is ever written.
        self.books.state(label).next(&entry)?;
        let fact = Fact::Lease { label: label.clone(), entry };
        Ok(self.books.enter(&self.file.append(self.second(), fact)?)?)
    }

    /// What it says.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// Sees whether whoever looks for it still finds it. An error if its file was moved, replaced or
    /// removed: what is written from then on is known to nobody else.
    pub fn check(&self) -> Result<(), LedgerError> {
        Ok(self.file.check()?)
    }
}

/// Whether whoever has the ledger at `path` in hand only gives back what it owes.
fn is_being_settled(path: &Path) -> bool {
    let settles = |books: Books| books.holder().is_some_and(|holder| holder.role == Role::Settle);
    is_in_use(path) && Books::read(path).ok().flatten().is_some_and(settles)
}

/// Waits while somebody gives back what the ledger at `path` owes, but not for longer than `patience`.
/// Calls `told` once if there is something to wait for.
pub async fn while_settling(path: &Path, patience: Duration, told: impl FnOnce()) {
    let begun = Instant::now();
    if !is_being_settled(path) {
        return;
    }
    told();
    while is_being_settled(path) && begun.elapsed() < patience {
        sleep(LOOK_EVERY).await;
    }
}

/// Whether a program has the ledger at `path` in its hands.
pub fn is_in_use(path: &Path) -> bool {
    file::is_in_use(path)
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use providers::{InstanceId, Usd, UsdPerHour};
    use std::cell::Cell;

    fn terms() -> Terms {
        Terms::example("anywhere", UsdPerHour(3_600_000), Timestamp::UNIX_EPOCH)
    }

    fn run() -> RunId {
        "nov24-7kq3".parse().expect("it is a run")
    }

    #[test]
    fn what_is_owed_outlives_the_program() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger");
        let (a, b, c) = (Label("a".into()), Label("b".into()), Label("c".into()));
        let mut ledger = Ledger::open(&path, &run()).expect("it opens");
        for label in [&a, &b, &c] {
            ledger.record(label, Entry::Ordered(terms())).expect("it is the first");
        }
        ledger.record(&b, Entry::Rented(InstanceId("i".into()))).expect("it follows");
        ledger.record(&c, Entry::Refused).expect("it follows");
        drop(ledger);
        let ledger = Ledger::open(&path, &run()).expect("it opens again");
        let owed: Vec<_> = ledger.books().owed().map(|(label, _)| label.0.as_str()).collect();
        assert_eq!((owed, ledger.books().generation()), (vec!["a", "b"], 2));
    }

    #[test]
    fn whoever_has_it_is_named_with_the_computer() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger");
        let _ledger = Ledger::open(&path, &run()).expect("it opens");
        let refused = Ledger::open(&path, &run()).expect_err("somebody has it");
        let LedgerError::File(FileError::InUse { holder }) = refused else { panic!("{refused}") };
        let named = std::process::Command::new("uname").arg("-n").output().expect("it runs");
        assert_eq!(holder.host, String::from_utf8_lossy(&named.stdout).trim());
        assert_eq!((holder.run, holder.pid), (run(), std::process::id()));
    }

    #[test]
    fn an_illegal_entry_is_not_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger");
        let mut ledger = Ledger::open(&path, &run()).expect("it opens");
        let error = ledger.record(&Label("a".into()), Entry::Released);
        assert!(matches!(error, Err(LedgerError::Illegal(_))));
        drop(ledger);
        assert_eq!(Books::read(&path).expect("it is whole").expect("there").leases().count(), 0);
    }

    thread_local! {
        static SHOWN: Cell<i64> = const { Cell::new(0) };
    }

    #[test]
    fn a_session_under_a_clock_that_was_put_back_counts_on_from_the_last_line() {
        let set = |second| {
            SHOWN.set(second);
            clock::go_by(|| Timestamp::from_second(SHOWN.get()).expect("it is a time"));
        };
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger");
        let label = Label("a".into());
        set(100_000);
        let mut ledger = Ledger::open(&path, &run()).expect("it opens");
        ledger.record(&label, Entry::Ordered(terms())).expect("it is the first");
        SHOWN.set(100_060);
        let id = InstanceId("i".into());
        ledger.record(&label, Entry::Rented(id)).expect("it was ordered");
        drop(ledger);
        set(50_000);
        let books = Books::read(&path).expect("it is whole").expect("it is there");
        assert_eq!(books.cost(clock::now()), Usd(60_000), "what it had cost when it was heard of");
        let mut ledger = Ledger::open(&path, &run()).expect("it opens again");
        SHOWN.set(50_030);
        assert_eq!(ledger.books().cost(ledger.now()), Usd(90_000));
        ledger.record(&label, Entry::Releasing).expect("it is held");
        ledger.record(&label, Entry::Released).expect("it is gone");
        assert_eq!(ledger.books().cost(ledger.now()), Usd(91_000));
    }

    #[test]
    fn what_is_shortened_is_over_sooner_and_comes_to_less() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger");
        let (label, id) = (Label("a".into()), InstanceId("i".into()));
        let mut ledger = Ledger::open(&path, &run()).expect("it opens");
        let (expires, worst) = (Timestamp::UNIX_EPOCH, Usd(7));
        for entry in
            [Entry::Ordered(terms()), Entry::Rented(id), Entry::Shortened { expires, worst }]
        {
            ledger.record(&label, entry).expect("it may follow");
        }
        drop(ledger);
        let books = Books::read(&path).expect("it is whole").expect("it is there");
        let lease = books.lease(&label).expect("it was ordered");
        assert_eq!((lease.terms.expires, lease.terms.worst), (expires, worst));
        assert_eq!(lease.terms.price, terms().price);
    }

    #[test]
    fn a_machine_that_can_not_run_the_engine_is_known_to_whoever_takes_the_ledger_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger");
        let (a, b) = (Label("a".into()), Label("b".into()));
        let mut ledger = Ledger::open(&path, &run()).expect("it opens");
        for label in [&a, &b] {
            ledger.record(label, Entry::Ordered(terms())).expect("it is the first");
            ledger.record(label, Entry::Rented(InstanceId("i".into()))).expect("it follows");
            ledger.record(label, Entry::Releasing).expect("it follows");
        }
        let releasing = ledger.books().state(&a);
        ledger.record(&a, Entry::Unable).expect("it may be said");
        assert_eq!(ledger.books().state(&a), releasing, "it is owed as before");
        ledger.record(&a, Entry::Released).expect("it follows");
        drop(ledger);
        let ledger = Ledger::open(&path, &run()).expect("it opens again");
        let unable = ledger.books().leases().filter(|(_, lease)| lease.unable);
        assert_eq!(unable.map(|(label, _)| label).collect::<Vec<_>>(), [&a]);
    }

    #[test]
    fn a_lease_costs_nothing_from_the_first_listing_that_does_not_show_it() {
        let set = |second| {
            SHOWN.set(second);
            clock::go_by(|| Timestamp::from_second(SHOWN.get()).expect("it is a time"));
        };
        let folder = tempfile::tempdir().expect("a folder");
        let (label, id) = (Label("a".into()), InstanceId("i".into()));
        set(200_000);
        let mut ledger = Ledger::open(&folder.path().join("ledger"), &run()).expect("it opens");
        for (second, entry, cost) in [
            (0, Entry::Ordered(terms()), 0),
            (1, Entry::Rented(id.clone()), 1_000),
            (5, Entry::Releasing, 5_000),
            (10, Entry::Gone, 11_000),
            // It has come back, and may have cost money all the time.
            (30, Entry::Listed(id), 30_000),
            (40, Entry::Gone, 41_000),
            (50, Entry::Released, 41_000),
        ] {
            SHOWN.set(200_000 + second);
            ledger.record(&label, entry.clone()).expect("it may follow");
            // A moment passes between the two.
            let found = ledger.books().cost(ledger.now()).0;
            assert!((cost..cost + 900).contains(&found), "{entry:?}: {found}");
        }
    }

    #[test]
    fn a_lease_is_overdue_a_while_after_its_time_unless_it_is_gone() {
        let (since, late) = (Timestamp::UNIX_EPOCH, Duration::from_secs(1));
        let due = clock::after(since, OVERTIME);
        let (terms, state, until) = (terms(), LeaseState::Ordered, since);
        let mut lease = Lease { terms, state, since, until, unable: false };
        assert!(!lease.is_overdue(due) && lease.is_overdue(clock::after(due, late)));
        lease.state = LeaseState::Gone(None);
        assert!(!lease.is_overdue(clock::after(due, late)));
    }

    #[test]
    fn whoever_watches_a_ledger_knows_what_it_owes_whatever_becomes_of_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger");
        assert!(Watched::open(&path).expect("it can be looked for").is_none());
        let mut ledger = Ledger::open(&path, &run()).expect("it opens");
        ledger.record(&Label("a".into()), Entry::Ordered(terms())).expect("it is the first");
        assert!(Watched::open(&path.join("in-a-file")).is_err(), "that can't be looked for");
        let watched = Watched::open(&path).expect("it can be read").expect("it is there");
        assert!(watched.is_in_use() && ledger.check().is_ok());
        std::fs::rename(&path, folder.path().join("elsewhere")).expect("it is there");
        let gone = ledger.check().expect_err("nobody else finds it").to_string();
        assert!(gone.contains("was moved, replaced or removed under the run's hands"), "{gone}");
        drop(ledger);
        assert!(!watched.is_in_use());
        assert_eq!(watched.books().expect("it is whole").owed().count(), 1);
        drop(Ledger::open(&path, &run()).expect("another is made"));
        assert!(watched.successor().expect("it can be read").is_some());
        let taken = watched.take(&run()).expect("nobody has it");
        let role = taken.books().holder().map(|holder| holder.role);
        assert_eq!((taken.books().owed().count(), role), (1, Some(Role::Settle)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_ledger_that_can_not_be_written_is_good_enough_to_settle_and_for_nothing_else() {
        use std::os::fd::AsRawFd;
        // A file without a folder that could be synced.
        let file = tempfile::tempfile().expect("there is room");
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let refused = Ledger::open(path.as_ref(), &run()).expect_err("it can't be written");
        assert!(refused.to_string().ends_with("can't be read or written"), "{refused}");
        let settled = Ledger::open_to_settle(path.as_ref(), &run()).expect("it can be read");
        assert_eq!(settled.books().leases().count(), 0);
        drop(settled);
        let read = LedgerFile::open_to_settle(path.as_ref()).expect("it can be read");
        Ledger::of(read, &run(), Role::Work).expect_err("nothing is rented without a word of it");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_back_is_waited_for_and_whoever_works_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger");
        let (patience, told) = (LOOK_EVERY * 10, Cell::new(0));
        let waited = async || {
            let begun = Instant::now();
            while_settling(&path, patience, || told.set(told.get() + 1)).await;
            (begun.elapsed(), told.take())
        };
        let works = Ledger::open(&path, &run()).expect("it opens");
        assert_eq!(waited().await, (Duration::ZERO, 0));
        drop(works);
        let settles = Ledger::open_to_settle(&path, &run()).expect("it opens");
        assert_eq!(waited().await, (patience, 1), "it takes too long");
        tokio::spawn(async move {
            sleep(LOOK_EVERY * 2).await;
            drop(settles);
        });
        let (time, times) = waited().await;
        assert!((LOOK_EVERY * 2..LOOK_EVERY * 4).contains(&time) && times == 1, "{time:?}");
        assert_eq!(waited().await, (Duration::ZERO, 0), "nobody has it");
    }

    #[test]
    fn a_lease_costs_from_the_order_until_it_is_gone() {
        let second = |n| Timestamp::from_second(n).expect("it is a time");
        let mut lease = Lease {
            terms: terms(),
            state: LeaseState::Ordered,
            since: second(0),
            until: second(0),
            unable: false,
        };
        assert_eq!(lease.cost(second(5)), Usd(5_000));
        lease.state = LeaseState::Released;
        lease.until = second(3);
        assert_eq!(lease.cost(second(5)), Usd(4_000), "it may have gone at the end of that second");
        lease.state = LeaseState::Refused;
        assert_eq!(lease.cost(second(5)), Usd(0));
    }
}
