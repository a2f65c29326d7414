//! The life of a lease.
//!
//! ```text
//! Absent ─ordered─▶ Ordered ─rented─▶ Held ─releasing─▶ Releasing ─gone─▶ Gone ─released─▶ Released
//!                      ├────refused────────────────────────────────────────────────────▶ Refused
//!                      └────releasing─────────────────────▶┘◀──listed──┘
//! ```
//!
//! What is over and is listed after all is released once more. What is listed beside a lease's own
//! instance, though it was ordered once, is a lease of its own, which begins with being released.
//!
//! There is no failed state: a lease is over when it is gone from the marketplace's listing, and a
//! later one shows the same. It is owed until then, though it costs nothing from the first on.

use crate::smoke::Promise;
use jiff::Timestamp;
use providers::{Billing, InstanceId, OfferId, Usd, UsdPerHour};
use serde::{Deserialize, Serialize};

/// What was ordered, and what it may come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The marketplace's name.
    pub provider: String,
    /// The short name of the key that it was ordered with, where there is one. Whoever orders enters
    /// it.
    #[serde(default)]
    pub login: Option<String>,
    /// The offer.
    pub offer: OfferId,
    /// The physical machine, where it has a name.
    #[serde(default)]
    pub machine: Option<String>,
    /// What an hour costs.
    pub price: UsdPerHour,
    /// How time becomes money.
    #[serde(default)]
    pub billing: Billing,
    /// What its traffic may cost beside that. Nobody tells what it did cost, so it is counted whole.
    #[serde(default)]
    pub traffic: Usd,
    /// What it costs at most, if everything that ends it sooner fails.
    pub worst: Usd,
    /// When it is over in any case.
    pub expires: Timestamp,
    /// What the machine was said to be.
    #[serde(default)]
    pub promise: Promise,
}

#[cfg(test)]
impl Terms {
    /// What tests order.
    pub(crate) fn example(provider: &str, price: UsdPerHour, expires: Timestamp) -> Self {
        Self {
            provider: provider.to_owned(),
            login: None,
            offer: OfferId("1".into()),
            machine: None,
            price,
            billing: Billing::default(),
            traffic: Usd(0),
            worst: Usd(1),
            expires,
            promise: Promise::default(),
        }
    }
}

/// A line of the ledger about one lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// We are about to rent.
    Ordered(Terms),
    /// Another lease's order was carried out twice, and this is what came of it besides.
    Doubled {
        /// What was ordered.
        terms: Terms,
        /// The instance.
        id: InstanceId,
        /// When it was ordered: billing may have begun then.
        since: Timestamp,
    },
    /// The marketplace gave us this instance.
    Rented(InstanceId),
    /// It is billed at this price, which is more than was agreed to.
    Priced(UsdPerHour),
    /// It is over sooner than was agreed to with its order, and comes to less.
    Shortened {
        /// When it is over in any case.
        expires: Timestamp,
        /// What it costs at most, if everything that ends it sooner fails.
        worst: Usd,
    },
    /// It is listed, under this id: another than was told, or though it was gone.
    Listed(InstanceId),
    /// It was seen with this key of now, whose fingerprint this is: it is on the same account.
    Login(String),
    /// It can't run the engine, and couldn't the next time.
    Unable,
    /// The marketplace said no, and has nothing of ours.
    Refused,
    /// We are about to release. May be repeated.
    Releasing,
    /// It is gone from a listing, which a later one has to confirm.
    Gone,
    /// It is gone from the listing.
    Released,
}

impl Entry {
    /// What was ordered and when, if a lease begins with this entry, which is made at `at`.
    pub(super) const fn ordered(&self, at: Timestamp) -> Option<(&Terms, Timestamp)> {
        match self {
            Self::Ordered(terms) => Some((terms, at)),
            Self::Doubled { terms, since, .. } => Some((terms, *since)),
            Self::Rented(_)
            | Self::Priced(_)
            | Self::Shortened { .. }
            | Self::Listed(_)
            | Self::Login(_)
            | Self::Unable
            | Self::Refused
            | Self::Releasing
            | Self::Gone
            | Self::Released => None,
        }
    }
}

/// Where a lease stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LeaseState {
    /// Never heard of.
    #[default]
    Absent,
    /// Perhaps rented.
    Ordered,
    /// Rented.
    Held(InstanceId),
    /// Being given back, by its id where we ever learned it.
    Releasing(Option<InstanceId>),
    /// Gone from one listing.
    Gone(Option<InstanceId>),
    /// Never rented.
    Refused,
    /// Given back.
    Released,
}

/// An entry that makes no sense where it stands.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lease that is {state:?} cannot become {entry:?}")]
pub struct IllegalEntry {
    state: LeaseState,
    entry: Box<Entry>,
}

impl LeaseState {
    /// Where the lease stands after `entry`.
    pub fn next(&self, entry: &Entry) -> Result<Self, IllegalEntry> {
        match (self, entry) {
            (Self::Absent, Entry::Ordered(_)) => Ok(Self::Ordered),
            (Self::Absent, Entry::Doubled { id, .. }) => Ok(Self::Releasing(Some(id.clone()))),
            (Self::Ordered, Entry::Rented(id)) | (Self::Held(_), Entry::Listed(id)) => {
                Ok(Self::Held(id.clone()))
            }
            (
                Self::Held(_) | Self::Releasing(_) | Self::Gone(_),
                Entry::Priced(_) | Entry::Unable,
            )
            | (Self::Held(_), Entry::Shortened { .. })
            | (
                Self::Ordered | Self::Held(_) | Self::Releasing(_) | Self::Gone(_),
                Entry::Login(_),
            ) => Ok(self.clone()),
            (Self::Releasing(_) | Self::Gone(_), Entry::Listed(id)) => {
                Ok(Self::Releasing(Some(id.clone())))
            }
            (Self::Ordered, Entry::Refused) => Ok(Self::Refused),
            (
                Self::Ordered
                | Self::Held(_)
                | Self::Releasing(_)
                | Self::Gone(_)
                // It was carried out too late to be seen, or it has come back.
                | Self::Refused
                | Self::Released,
                Entry::Releasing,
            ) => Ok(Self::Releasing(self.id().cloned())),
            (Self::Releasing(_) | Self::Gone(_), Entry::Gone) => {
                Ok(Self::Gone(self.id().cloned()))
            }
            (Self::Releasing(_) | Self::Gone(_), Entry::Released) => Ok(Self::Released),
            _ => Err(IllegalEntry { state: self.clone(), entry: Box::new(entry.clone()) }),
        }
    }

    /// The instance it is for, once we have been told.
    pub const fn id(&self) -> Option<&InstanceId> {
        match self {
            Self::Held(id) | Self::Releasing(Some(id)) | Self::Gone(Some(id)) => Some(id),
            Self::Absent
            | Self::Ordered
            | Self::Releasing(None)
            | Self::Gone(None)
            | Self::Refused
            | Self::Released => None,
        }
    }

    /// Whether somebody has to see to it. In doubt, somebody has.
    pub const fn is_owed(&self) -> bool {
        match self {
            Self::Ordered | Self::Held(_) | Self::Releasing(_) | Self::Gone(_) => true,
            Self::Absent | Self::Refused | Self::Released => false,
        }
    }

    /// Whether it costs money, as far as is known. In doubt, it does.
    pub const fn costs(&self) -> bool {
        self.is_owed() && !matches!(self, Self::Gone(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        Terms::example("anywhere", UsdPerHour(1), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn only_a_release_follows_the_end() {
        let id = InstanceId("i".into());
        for end in [LeaseState::Refused, LeaseState::Released] {
            for entry in [
                Entry::Ordered(terms()),
                Entry::Rented(id.clone()),
                Entry::Priced(UsdPerHour(2)),
                Entry::Shortened { expires: Timestamp::UNIX_EPOCH, worst: Usd(1) },
                Entry::Login("1".into()),
                Entry::Unable,
                Entry::Listed(id.clone()),
                Entry::Refused,
                Entry::Gone,
                Entry::Released,
            ] {
                assert!(end.next(&entry).is_err(), "{end:?} then {entry:?}");
            }
            let again = end.next(&Entry::Releasing).expect("it was listed after all");
            assert_eq!((again.is_owed(), again), (true, LeaseState::Releasing(None)));
        }
    }

    #[test]
    fn a_lease_whose_reply_was_lost_can_be_released_without_an_id() {
        let ordered = LeaseState::Absent.next(&Entry::Ordered(terms())).expect("it is the first");
        let releasing = ordered.next(&Entry::Releasing).expect("it may be rented");
        assert_eq!(releasing, LeaseState::Releasing(None));
        assert!(releasing.is_owed());
        assert_eq!(releasing.next(&Entry::Released), Ok(LeaseState::Released));
    }

    #[test]
    fn what_is_listed_once_it_was_gone_is_given_back_by_the_id_that_it_has_then() {
        let [old, new] = ["old", "new"].map(|id| InstanceId(id.into()));
        let gone = LeaseState::Gone(Some(old));
        assert!(gone.is_owed() && !gone.costs());
        let listed = gone.next(&Entry::Listed(new.clone())).expect("it has come back");
        assert_eq!((listed.costs(), listed), (true, LeaseState::Releasing(Some(new))));
        assert_eq!(gone.next(&Entry::Released), Ok(LeaseState::Released));
    }

    #[test]
    fn what_is_listed_beside_a_leases_own_instance_is_owed_since_that_was_ordered() {
        let id = InstanceId("twin".into());
        let (since, at) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
        let doubled = Entry::Doubled { terms: terms(), id: id.clone(), since };
        let state = LeaseState::Absent.next(&doubled).expect("nobody ordered it");
        assert_eq!(state, LeaseState::Releasing(Some(id)));
        assert!(state.costs() && state.next(&doubled).is_err());
        assert_eq!(doubled.ordered(at), Some((&terms(), since)));
        assert_eq!(Entry::Ordered(terms()).ordered(at), Some((&terms(), at)));
        assert_eq!(Entry::Releasing.ordered(at), None);
    }

    #[test]
    fn a_lease_is_owed_from_the_order_until_it_is_gone() {
        let story = [
            Entry::Ordered(terms()),
            Entry::Rented(InstanceId("i".into())),
            Entry::Releasing,
            Entry::Releasing,
            Entry::Gone,
        ];
        let mut state = LeaseState::Absent;
        for entry in story {
            state = state.next(&entry).expect("the story is legal");
            assert!(state.is_owed(), "{state:?}");
        }
        assert!(!state.next(&Entry::Released).expect("it is gone").is_owed());
    }
}
