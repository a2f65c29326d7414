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
    let keys: Vec<_> =
        over.iter().filter_map(|account| RunKey::open(&account.folder.key()).ok()).collect();
    let keys: Vec<_> = keys.iter().map(RunKey::public_line).collect();
    let (mut left, mut errors) = (Vec::new(), Vec::new());
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
