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
        ledger::{Entry, Terms},
        run::Home,
    };
    use jiff::Timestamp;
    use providers::{Marketplace, Need, Order, UsdPerHour, testkit::World};
    use std::sync::Arc;

    const NOW: i64 = 1_795_600_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("it is a time")
    }

    fn terms(provider: &str) -> Terms {
        Terms::example(provider, UsdPerHour(1), at(NOW))
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_ledger_does_not_owe_is_ended_with_what_it_does() {
        let world = Arc::new(World::default());
        let offer = world.offers(&Need::default()).await.expect("it answers").remove(0);
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::open(folder.path()).expect("it opens");
        let (run, owner) = (RunId::random(at(NOW)), Owner::random());
        let ours = home.create(&run).expect("it is new");
        let labels = [0, 1].map(|slot| Stamp::new(&owner, &run, slot, 0, at(NOW)).label());
        for label in &labels {
            let order = Order::new(offer.clone(), label.clone(), "ssh-ed25519 key");
            world.rent(&order).await.expect("it is for rent");
        }
        let mut ledger = Ledger::open(&ours.ledger(), &run).expect("it opens");
        ledger.record(&labels[0], Entry::Ordered(terms("world"))).expect("it is the first");
        drop(ledger);

        let markets = Markets::new([world.clone() as Arc<dyn Marketplace>]);
        let listings = listings(&markets).await;
        let accounts = accounts(&home).expect("they can be read");
        let found = sort(&accounts, &listings, &owner, at(NOW));
        assert_eq!(found.len(), 2);
        // Where somebody has taken the run up since then, nothing of it is touched.
        let in_hand = Ledger::open(&ours.ledger(), &run).expect("it opens");
        let errors = end(&found, Whose::Ours, &accounts, &markets, &Events::unheard()).await;
        assert!(errors.len() == 1 && errors[0].may_be_billed(), "{errors:?}");
        assert_eq!(world.billed(), 2);
        drop(in_hand);
        let errors = end(&found, Whose::Ours, &accounts, &markets, &Events::unheard()).await;
        assert!(errors.iter().all(|error| !error.may_be_billed()), "{errors:?}");
        assert_eq!(world.billed(), 0);
    }
}
