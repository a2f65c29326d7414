//! What runs that died have left behind: ledgers × listings → what to end ([`sort()`], pure), and
//! ending it ([`end()`]).
//!
//! Ended is only what one of our ledgers owes, or what a label proves to be ours while nobody is at
//! work on its run, or past its time. Another computer's instances are shown, and strangers' are
//! never touched.

mod end;
mod keys;
mod sort;

pub use end::{CleanupError, end};
pub use keys::{keys_left, remove_keys};
pub use sort::{Found, Kind, Unsure, Whose, sort, unsure};

use crate::{
    label::RunId,
    leases::{Markets, describe},
    ledger::{self, Books, Role},
    run::{FolderError, Home, RunFolder},
};
use providers::{Instance, Leftover, PROVIDERS};
use std::collections::BTreeMap;
use tokio::task::JoinSet;

/// What a run's folder tells about its leases.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its folder.
    pub folder: RunFolder,
    /// Its ledger; none where it can't be read.
    pub books: Option<Books>,
    /// What can't be told of what it owes, if its ledger isn't whole.
    pub doubt: Option<Doubt>,
    /// Whether a program has it in hand now.
    pub in_use: bool,
}

/// A ledger that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// What is wrong with it.
    pub why: String,
    /// The marketplaces at which it may owe something.
    pub providers: Vec<String>,
}

impl Account {
    /// Whether whoever has it in hand only gives back what it owes.
    pub fn is_being_settled(&self) -> bool {
        let holder = self.books.as_ref().and_then(Books::holder);
        self.in_use && holder.is_some_and(|holder| holder.role == Role::Settle)
    }
}

/// Every run's account.
pub type Accounts = BTreeMap<RunId, Account>;

/// What a marketplace says that there is.
#[derive(Debug)]
pub struct Listing {
    /// Instances, whoever's.
    pub instances: providers::Result<Vec<Instance>>,
    /// Disks of ours that have outlived their instances.
    pub disks: providers::Result<Vec<Leftover>>,
}

impl Listing {
    /// Whether all of it is known.
    pub const fn is_whole(&self) -> bool {
        self.instances.is_ok() && self.disks.is_ok()
    }

    /// Why it isn't.
    pub fn errors(&self) -> impl Iterator<Item = &providers::Error> {
        self.instances.as_ref().err().into_iter().chain(self.disks.as_ref().err())
    }
}

/// What each marketplace says, or why it doesn't.
pub type Listings = BTreeMap<&'static str, Listing>;

/// Reads the ledgers of all runs. To be read after [`listings`]: what is listed by then was in a
/// ledger before.
pub fn accounts(home: &Home) -> Result<Accounts, FolderError> {
    let runs = home.all()?.into_iter().map(|(run, folder)| {
        let path = folder.ledger();
        // Looked at before it is read, so that a run that ends meanwhile counts as in use.
        let in_use = ledger::is_in_use(&path);
        let (books, why) = match Books::read(&path) {
            Ok(Some(books)) => (Some(books), None),
            // A run that has no plan either was never begun.
            Ok(None) if folder.has_plan() => (None, Some("is gone".to_owned())),
            Ok(None) => (Some(Books::default()), None),
            Err(error) => (None, Some(format!("can't be read: {}", describe(&error)))),
        };
        let doubt = why.map(|why| Doubt { why, providers: meant(&folder) });
        (run, Account { folder, books, doubt, in_use })
    });
    Ok(runs.collect())
}

/// The marketplaces that a run may have rented at: all of them, where its plan can't be read.
fn meant(folder: &RunFolder) -> Vec<String> {
    let all = || PROVIDERS.iter().map(|provider| provider.name.to_owned()).collect();
    folder.plan().map_or_else(|_| all(), |plan| plan.search.providers)
}

/// Asks every marketplace at once for everything that may be ours.
pub async fn listings(markets: &Markets) -> Listings {
    let mut asking = JoinSet::new();
    for (name, market) in markets.iter() {
        let market = market.clone();
        asking.spawn(async move {
            let (instances, disks) = tokio::join!(market.instances(), market.disks());
            (name, Listing { instances, disks })
        });
    }
    asking.join_all().await.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_run_that_was_begun_and_has_no_whole_ledger_may_owe_something_anywhere() {
        let place = tempfile::tempdir().expect("a folder");
        let home = Home::open(place.path()).expect("it opens");
        let run: RunId = "nov24-7kq3".parse().expect("it is a run");
        let folder = home.create(&run).expect("it is new");
        let account =
            || accounts(&home).expect("they can be read").remove(&run).expect("it is there");
        let owes = |account: &Account| account.books.as_ref().map(|books| books.owed().count());
        let never_begun = account();
        assert_eq!((owes(&never_begun), never_begun.doubt), (Some(0), None));
        let doubt = |account: Account| {
            let Doubt { why, providers } = account.doubt.clone().expect("it isn't whole");
            assert_eq!((owes(&account), providers.len()), (None, PROVIDERS.len()));
            assert!(PROVIDERS.iter().all(|row| providers.iter().any(|name| name == row.name)));
            why
        };
        fs::write(folder.path().join("plan.json"), "{").expect("it can be written");
        assert_eq!(doubt(account()), "is gone");
        fs::write(folder.ledger(), "garbled\n").expect("it can be written");
        let why = doubt(account());
        assert!(why.starts_with("can't be read: line 1 of the ledger "), "{why}");
    }

    #[test]
    fn a_listing_is_whole_if_both_of_its_halves_are() {
        let failed = |operation| {
            let kind = providers::ErrorKind::Unavailable;
            providers::Error { provider: "anywhere", operation, kind, source: None }
        };
        for (instances, disks) in [(true, true), (true, false), (false, true), (false, false)] {
            let listing = Listing {
                instances: if instances { Ok(vec![]) } else { Err(failed("list instances")) },
                disks: if disks { Ok(vec![]) } else { Err(failed("list disks")) },
            };
            let said: Vec<_> = listing.errors().map(|error| error.operation).collect();
            let wanted =
                [(!instances).then_some("list instances"), (!disks).then_some("list disks")];
            assert!(said.into_iter().eq(wanted.into_iter().flatten()));
            assert_eq!(listing.is_whole(), instances && disks);
        }
    }
}
