//! The keys that runs have left on accounts, where they cost nothing.

use super::{Accounts, CleanupError};
use crate::{
    leases::{Markets, describe},
    ledger::Books,
    remote::RunKey,
};
use providers::Leftover;

/// The public keys that dead runs have left on accounts, once nothing of theirs is owed; and what
/// could not be asked.
pub async fn keys_left(
    accounts: &Accounts,
    markets: &Markets,
) -> (Vec<(&'static str, Leftover)>, Vec<CleanupError>) {
    let over = accounts.values().filter(|account| {
        let owes = |books: &Books| books.owed().next().is_some();
        !account.in_use && account.books.as_ref().is_some_and(|books| !owes(books))
    });
    let over: Vec<_> = over.filter(|account| account.folder.key().exists()).collect();
    let (mut keys, mut left, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for account in &over {
        match RunKey::open(&account.folder.key()) {
            Ok(key) => keys.push(key.public_line()),
            Err(error) => {
                let path = account.folder.key();
                let why = format!("`{}` can't be read: {}", path.display(), describe(&error));
                errors.push(CleanupError::LeftBehind(why));
            }
        }
    }
    for (name, market) in markets.iter() {
        let leases =
            over.iter().filter_map(|account| account.books.as_ref()).flat_map(Books::leases);
        if !leases.map(|(_, lease)| &lease.terms.provider).any(|provider| provider == name) {
            continue;
        }
        match market.leftovers().await {
            Ok(found) => {
                let ours = |found: &Leftover| keys.iter().any(|key| found.is_key(key));
                left.extend(found.into_iter().filter(ours).map(|found| (name, found)));
            }
            Err(error) => errors.push(CleanupError::LeftBehind(describe(&error))),
        }
    }
    (left, errors)
}

/// Takes these keys off the accounts. Returns what could not be.
pub async fn remove_keys(
    left: &[(&'static str, Leftover)],
    markets: &Markets,
) -> Vec<CleanupError> {
    let mut errors = Vec::new();
    for (name, key) in left {
        let Some(market) = markets.get(name) else { continue };
        let removed = market.remove(key).await;
        errors.extend(removed.err().map(|error| CleanupError::LeftBehind(describe(&error))));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cleanup::accounts,
        ledger::{Entry, Ledger, Terms},
        run::Home,
    };
    use jiff::Timestamp;
    use providers::{Marketplace, UsdPerHour, testkit::World};
    use std::{fs, sync::Arc};

    #[tokio::test]
    async fn a_key_that_can_not_be_read_is_never_passed_over() {
        let place = tempfile::tempdir().expect("a folder");
        let home = Home::open(place.path()).expect("it opens");
        let run = "nov24-7kq3".parse().expect("it is a run");
        let folder = home.create(&run).expect("it is new");
        let mut ledger = Ledger::open(&folder.ledger(), &run).expect("it opens");
        let terms = Terms::example("world", UsdPerHour(1), Timestamp::UNIX_EPOCH);
        let label = providers::Label("pw-1".into());
        ledger.record(&label, Entry::Ordered(terms)).expect("it is the first");
        ledger.record(&label, Entry::Refused).expect("it was ordered");
        drop(ledger);
        let markets = Markets::new([Arc::new(World::default()) as Arc<dyn Marketplace>]);
        let left = async || {
            let accounts = accounts(&home).expect("they can be read");
            let (left, errors) = keys_left(&accounts, &markets).await;
            assert!(left.is_empty(), "{left:?}");
            errors.into_iter().map(|error| error.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(left().await, [""; 0], "it has none");
        fs::write(folder.key(), "garbled").expect("it can be written");
        let [error] = &left().await[..] else { panic!("it can't be read") };
        let named = format!("`{}` can't be read", folder.key().display());
        assert!(error.contains(&named), "{error}");
        fs::remove_file(folder.key()).expect("it is there");
        RunKey::open(&folder.key()).expect("it can be made");
        assert_eq!(left().await, [""; 0], "it is on no account");
    }
}
