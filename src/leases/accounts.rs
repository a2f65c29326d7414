//! Keys and accounts: what a listing of one shows of a lease that was ordered with another.

use super::{
    LeaseError, Leases,
    giving_back::{find, recognise},
};
use crate::ledger::{Entry, Lease, LedgerError};
use providers::{Label, Marketplace};
use tokio::time::sleep_until;

impl Leases {
    /// Makes sure that the listing of now can show what is owed under `label`. An error where it
    /// was rented with another key, and isn't listed with this one.
    pub async fn recognise(&mut self, label: &Label) -> Result<(), LeaseError> {
        let owed = self.books().lease(label).filter(|lease| lease.state.is_owed());
        let Some(lease) = owed.cloned() else {
            return Ok(());
        };
        let market = self.market(&lease.terms.provider)?.clone();
        if !is_known(&lease, &*market) {
            recognise(&*market, label, &lease, self.shows(label, &*market)).await?;
            self.note_login(label)?;
        }
        Ok(())
    }

    /// Counts as given back from now on what somebody has seen to be gone who sees more than we do.
    /// An error while the listing still shows it.
    pub async fn forget(&mut self, label: &Label) -> Result<(), LeaseError> {
        let owed = self.books().lease(label).filter(|lease| lease.state.is_owed());
        let Some(lease) = owed.cloned() else {
            return Ok(());
        };
        // Without a key there is no listing.
        if let Some(market) = self.markets.get(&lease.terms.provider) {
            if is_known(&lease, &**market) {
                sleep_until(self.shows(label, &**market)).await;
            }
            let listed = find(&**market, label, lease.state.id()).await?;
            if let Some(found) = listed.into_iter().next() {
                return Err(LeaseError::StillListed(found.id));
            }
        }
        self.ledger.record(label, Entry::Releasing)?;
        Ok(self.ledger.record(label, Entry::Released)?)
    }

    /// Notes that the key of now is let in to the account that a lease is on.
    pub(super) fn note_login(&mut self, label: &Label) -> Result<(), LedgerError> {
        let Some(lease) = self.books().lease(label) else { return Ok(()) };
        let market = self.markets.get(&lease.terms.provider);
        match market.and_then(|market| market.login()) {
            Some(login) if lease.terms.login.as_ref() != Some(&login) => {
                self.ledger.record(label, Entry::Login(login))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether the key of now is the one that a lease was last seen with.
pub(super) fn is_known(lease: &Lease, market: &dyn Marketplace) -> bool {
    lease.terms.login.is_none() || lease.terms.login == market.login()
}
