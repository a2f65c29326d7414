//! Ending what is left.

use super::{Account, Accounts, Found, Kind, Whose};
use crate::{
    event::Events,
    label::RunId,
    leases::{LeaseError, Leases, Markets, end_disks, end_stray},
    ledger::{Books, FileError, Ledger, LedgerError},
    run::sweep,
};
use providers::{ErrorKind, Label};
use std::{collections::BTreeSet, path::Path, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// How long something is tried to be ended, and how long a guard is waited for that tries it.
const LIMIT: Duration = Duration::from_mins(2);

/// The shortest and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Why something could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// A run's ledger can't be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A marketplace, or the ledger, failed.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Its instances are gone, and something else of theirs is not.
    #[error("the instances are gone, and the run's key may be left on the account: {0}")]
    LeftBehind(String),
}

impl CleanupError {
    /// Whether something may still be billed.
    pub const fn may_be_billed(&self) -> bool {
        match self {
            Self::Ledger(_) | Self::Lease(_) => true,
            Self::LeftBehind(_) => false,
        }
    }
}

/// Ends what is left, all runs at once, and then what has only its label. Returns once all of it is
/// gone from the listings, or says what could not be ended for some minutes.
pub async fn end(
    found: &[Found],
    whose: Whose,
    accounts: &Accounts,
    markets: &Markets,
    events: &Events,
) -> Vec<CleanupError> {
    let (mut errors, mut in_hand, mut owed) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut settling = JoinSet::new();
    for (run, account) in accounts {
        // What a program has in hand that is past its time is ended under its hands.
        let is_dead = |found: &Found| {
            found.run.as_ref() == Some(run)
                && whose.is_to_end(found)
                && !matches!(found.kind, Kind::Overdue | Kind::Elsewhere | Kind::Abandoned)
        };
        if account.books.is_some() && found.iter().any(is_dead) {
            let (run, account) = (run.clone(), account.clone());
            let (markets, events) = (markets.clone(), events.clone());
            settling.spawn(async move {
                let settled = settle(&run, &account, &markets, &events).await;
                (run, settled)
            });
        }
    }
    for (run, failed) in settling.join_all().await {
        let books = accounts.get(&run).and_then(|account| account.books.as_ref());
        let labels = books.into_iter().flat_map(Books::owed).map(|(label, _)| label.clone());
        match failed.first() {
            // Somebody has it in hand again, and with it its instances.
            Some(CleanupError::Ledger(LedgerError::File(
                FileError::InUse { .. } | FileError::InUseByUnknown,
            ))) => {
                in_hand.insert(run);
            }
            // What can't be settled can be ended.
            Some(CleanupError::Ledger(_)) => {}
            Some(_) | None => owed.extend(labels),
        }
        errors.extend(failed);
    }
    let is_stray = |found: &&Found| {
        let settled = found.label.as_ref().is_some_and(|label| owed.contains(label));
        let in_hand = found.run.as_ref().is_some_and(|run| in_hand.contains(run));
        whose.is_to_end(found) && (found.kind == Kind::Overdue || !settled && !in_hand)
    };
    errors.extend(end_strays(found.iter().filter(is_stray), markets).await);
    errors
}

async fn end_strays<'a>(
    strays: impl Iterator<Item = &'a Found>,
    markets: &Markets,
) -> Vec<CleanupError> {
    let mut ending: JoinSet<Result<(), LeaseError>> = JoinSet::new();
    for stray in strays {
        let Some(market) = markets.get(&stray.provider).cloned() else { continue };
        let (instance, label): (_, Option<Label>) = (stray.instance.clone(), stray.label.clone());
        let has_disk = stray.disk.is_some();
        ending.spawn(async move {
            match (instance, label) {
                (Some(instance), _) => end_stray(&*market, &instance).await,
                (None, Some(label)) if has_disk => end_disks(&*market, &label).await,
                (None, _) => Ok(()),
            }
        });
    }
    let ended = ending.join_all().await;
    ended.into_iter().filter_map(Result::err).map(CleanupError::from).collect()
}

/// Gives back what a run owes. What could not be given back, and why.
async fn settle(
    run: &RunId,
    account: &Account,
    markets: &Markets,
    events: &Events,
) -> Vec<CleanupError> {
    // Taking the ledger up is also the last look at whether somebody else has it.
    let path = account.folder.ledger();
    let ledger = match take(&path, run, account.is_being_settled()).await {
        Ok(ledger) => ledger,
        Err(error) => return vec![error.into()],
    };
    let mut leases = Leases::new(markets.clone(), ledger, events.clone());
    let (begun, mut pause) = (Instant::now(), PAUSES.0);
    loop {
        let errors = leases.settle_once().await;
        if errors.is_empty() {
            let swept = sweep(&leases, &account.folder).await;
            return swept.err().map(CleanupError::LeftBehind).into_iter().collect();
        }
        if errors.iter().all(is_final) || LIMIT <= begun.elapsed() {
            return errors.into_iter().map(CleanupError::from).collect();
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Takes a ledger up; waits for whoever has it, if that is only for as long as a try takes.
async fn take(path: &Path, run: &RunId, wait: bool) -> Result<Ledger, LedgerError> {
    let begun = Instant::now();
    loop {
        let taken = Ledger::open_to_settle(path, run);
        let in_use = matches!(
            taken,
            Err(LedgerError::File(FileError::InUse { .. } | FileError::InUseByUnknown))
        );
        if !(in_use && wait && begun.elapsed() < LIMIT) {
            return taken;
        }
        sleep(PAUSES.0).await;
    }
}

/// Whether it would fail again, whatever time passes.
fn is_final(error: &LeaseError) -> bool {
    match error {
        LeaseError::Market(error) => error.kind == ErrorKind::Unauthorized,
        LeaseError::Ledger(_) | LeaseError::NoMarket(_) | LeaseError::OtherKey { .. } => true,
        LeaseError::Interrupted | LeaseError::StillListed(_) | LeaseError::DiskLeft(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cleanup::{accounts, listings, sort},
        label::{Owner, Stamp},
        ledger::{Entry, Role, Terms},
        run::Home,
    };
    use jiff::Timestamp;
    use providers::{
        Instance, Marketplace, Need, Order, UsdPerHour,
        testkit::{Fault, World},
    };
    use std::sync::Arc;
    use tempfile::TempDir;

    const NOW: i64 = 1_795_600_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("it is a time")
    }

    fn terms(provider: &str) -> Terms {
        Terms::example(provider, UsdPerHour(1), at(NOW))
    }

    /// A marketplace, and what was rented there from one computer.
    struct Bench {
        world: Arc<World>,
        home: Home,
        owner: Owner,
        _place: TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let place = tempfile::tempdir().expect("a folder");
            let home = Home::open(place.path()).expect("it opens");
            Self { world: Arc::default(), home, owner: Owner::random(), _place: place }
        }

        /// Rents for a run of `owner`.
        async fn rent(&self, run: &RunId, owner: &Owner) -> Instance {
            let offer = World::default().offers(&Need::default()).await;
            let offer = offer.expect("it answers").remove(0);
            let label = Stamp::new(owner, run, 0, 0, at(NOW)).label();
            let order = Order::new(offer, label, "ssh-ed25519 key");
            self.world.rent(&order).await.expect("it is for rent")
        }

        /// A run that has rented an instance; its ledger, taken up like this; and the instance's label.
        async fn run(&self, role: Role) -> (RunId, Ledger, Label) {
            let run = RunId::random(at(NOW));
            let path = self.home.create(&run).expect("it is new").ledger();
            let instance = self.rent(&run, &self.owner).await;
            let ledger = match role {
                Role::Work => Ledger::open(&path, &run),
                Role::Settle => Ledger::open_to_settle(&path, &run),
            };
            let (mut ledger, label) =
                (ledger.expect("it opens"), instance.label.expect("it has one"));
            ledger.record(&label, Entry::Ordered(terms("world"))).expect("it is the first");
            ledger.record(&label, Entry::Rented(instance.id)).expect("it was ordered");
            (run, ledger, label)
        }

        fn markets(&self) -> Markets {
            Markets::new([self.world.clone() as Arc<dyn Marketplace>])
        }

        /// What there is, and whose, so many seconds after the end of every lease.
        async fn look(&self, late: i64) -> (Vec<Found>, Accounts) {
            let listings = listings(&self.markets()).await;
            let accounts = accounts(&self.home).expect("they can be read");
            (sort(&accounts, &listings, &self.owner, at(NOW + late)), accounts)
        }

        /// Ends it, and says what could not be ended, and how long that took.
        async fn end(&self, found: &[Found], whose: Whose, accounts: &Accounts) -> Ended {
            let began = Instant::now();
            let errors = end(found, whose, accounts, &self.markets(), &Events::unheard()).await;
            (errors.into_iter().map(|error| error.to_string()).collect(), began.elapsed())
        }
    }

    type Ended = (Vec<String>, Duration);

    const NOTHING_LEFT: Ended = (Vec::new(), Duration::ZERO);
    const DOWN: Fault = Fault::Refuse(ErrorKind::Unavailable);

    #[tokio::test(start_paused = true)]
    async fn only_dead_runs_are_settled_and_each_instance_is_asked_for_once() {
        let bench = Bench::new();
        let ((_, dead, _), (_, at_work, kept)) =
            (bench.run(Role::Work).await, bench.run(Role::Work).await);
        drop(dead);
        let (found, accounts) = bench.look(0).await;
        let calls = bench.world.calls();
        assert_eq!(bench.end(&found, Whose::Ours, &accounts).await, NOTHING_LEFT);
        assert_eq!(bench.world.labels(), [kept]);
        let made = bench.world.calls() - calls;
        assert_eq!(made, 4, "a request, two listings after it, and a last look");
        drop(at_work);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_past_its_time_is_ended_under_the_hands_of_whoever_has_it() {
        let bench = Bench::new();
        let (_, at_work, _) = bench.run(Role::Work).await;
        let (found, accounts) = bench.look(3_600).await;
        assert_eq!(found[0].kind, Kind::Overdue);
        assert_eq!(bench.end(&found, Whose::Ours, &accounts).await, NOTHING_LEFT);
        assert_eq!(bench.world.billed(), 0);
        drop(at_work);
    }

    #[tokio::test(start_paused = true)]
    async fn another_computers_instance_of_the_same_run_is_ended_on_request_only() {
        let bench = Bench::new();
        let (run, at_work, ours) = bench.run(Role::Work).await;
        let theirs = bench.rent(&run, &Owner::random()).await.label.expect("it has one");
        for (whose, left) in
            [(Whose::Ours, vec![ours.clone(), theirs]), (Whose::Anybodys, vec![ours])]
        {
            let (found, accounts) = bench.look(0).await;
            assert_eq!(bench.end(&found, whose, &accounts).await, NOTHING_LEFT);
            assert_eq!(bench.world.labels(), left);
        }
        drop(at_work);
    }

    #[tokio::test(start_paused = true)]
    async fn a_marketplace_that_is_down_is_asked_for_two_minutes() {
        for (failures, errors) in [(20, 0), (1_000, 1)] {
            let bench = Bench::new();
            drop(bench.run(Role::Work).await);
            let (found, accounts) = bench.look(0).await;
            let calls = bench.world.calls();
            (0..failures).for_each(|_| bench.world.strike_next(DOWN));
            let (said, time) = bench.end(&found, Whose::Ours, &accounts).await;
            assert_eq!((said.len(), bench.world.billed()), (errors, errors), "{said:?}");
            let times = if errors == 0 { LIMIT / 4..LIMIT } else { LIMIT..LIMIT + PAUSES.1 };
            assert!(times.contains(&time), "after {time:?}");
            assert!(bench.world.calls() - calls < 60, "it is asked without a pause");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_fail_again_is_said_at_once() {
        let bench = Bench::new();
        drop(bench.run(Role::Work).await);
        let (found, accounts) = bench.look(0).await;
        (0..2).for_each(|_| bench.world.strike_next(Fault::Refuse(ErrorKind::Unauthorized)));
        let (said, time) = bench.end(&found, Whose::Ours, &accounts).await;
        assert_eq!((said.len(), time), (1, Duration::ZERO), "{said:?}");
        assert!(said[0].starts_with("world could not release"), "{said:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_that_gives_back_is_waited_for_and_its_run_settled_after_it() {
        let bench = Bench::new();
        let (_, at_it, _) = bench.run(Role::Settle).await;
        let (found, accounts) = bench.look(0).await;
        assert_eq!(found[0].kind, Kind::Settling);
        let pause = PAUSES.0 * 3;
        tokio::spawn(async move {
            sleep(pause).await;
            drop(at_it);
        });
        let (said, time) = bench.end(&found, Whose::Ours, &accounts).await;
        assert_eq!((said, bench.world.billed()), (Vec::new(), 0));
        assert!((pause..pause * 3).contains(&time), "after {time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_ledger_does_not_owe_is_ended_with_what_it_does() {
        let bench = Bench::new();
        let (run, ledger, _) = bench.run(Role::Work).await;
        drop(ledger);
        bench.rent(&run, &bench.owner).await;
        let (found, accounts) = bench.look(0).await;
        assert_eq!(found.len(), 2);
        // Where somebody has taken the run up since then, nothing of it is touched.
        let in_hand = Ledger::open(&accounts[&run].folder.ledger(), &run).expect("it opens");
        let (said, _) = bench.end(&found, Whose::Ours, &accounts).await;
        assert!(said.len() == 1 && said[0].contains("in use by process"), "{said:?}");
        assert_eq!(bench.world.billed(), 2);
        drop(in_hand);
        assert_eq!(bench.end(&found, Whose::Ours, &accounts).await, NOTHING_LEFT);
        assert_eq!(bench.world.billed(), 0);
    }

    #[test]
    fn a_key_that_is_left_is_not_billed() {
        assert!(!CleanupError::LeftBehind("a key".into()).may_be_billed());
        assert!(CleanupError::from(LeaseError::Interrupted).may_be_billed());
    }
}
