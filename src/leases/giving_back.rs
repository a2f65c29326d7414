//! Giving back, until a listing proves it.

use super::{LAST_LOOK, LOOK_EVERY, LOOKS, LeaseError, Sighting, describe};
use crate::{
    event::{Event, Events},
    ledger::{Entry, Lease},
};
use providers::{Instance, InstanceId, Label, Marketplace};
use std::{collections::BTreeSet, time::Duration};
use tokio::{
    sync::mpsc::UnboundedSender,
    time::{Instant, sleep, sleep_until, timeout},
};

/// How long after a listing that shows nothing another has to, where listings can be behind.
const CONFIRMED_AFTER: Duration = Duration::from_secs(10);

/// The shortest and the longest pause between two attempts to give back.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_mins(1));

/// How often a marketplace is asked to take an instance back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tries {
    UntilGone,
    Once,
}

/// A lease that is given back.
pub(super) struct Giving<'a> {
    pub(super) market: &'a dyn Marketplace,
    pub(super) label: &'a Label,
    pub(super) lease: &'a Lease,
    /// From when on a listing shows it.
    pub(super) shows: Instant,
    pub(super) events: &'a Events,
    /// Takes what is to be in the ledger before it is over.
    pub(super) seen: &'a UnboundedSender<Sighting>,
}

impl Giving<'_> {
    /// Gives back until it is gone, or once. `known` is whether the key of now is let in to the
    /// lease's account, which a listing may prove. If none does there is no use in asking again.
    pub(super) async fn give_back(&self, known: &mut bool, tries: Tries) -> Result<(), LeaseError> {
        let mut pause = PAUSES.0;
        loop {
            let Self { market, label, lease, shows, .. } = *self;
            let recognised =
                if *known { Ok(()) } else { recognise(market, label, lease, shows).await };
            *known = recognised.is_ok();
            let done = match recognised {
                Ok(()) => self.once().await,
                Err(error) => Err(error),
            };
            let Err(error) = done else { return Ok(()) };
            let reason = describe(&error);
            self.events.send(Event::StillOwed { label: label.clone(), reason });
            if tries == Tries::Once || matches!(error, LeaseError::OtherKey { .. }) {
                return Err(error);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Gives back once. `Ok` only if two whole listings don't show it, the first of them late enough
    /// to: from `shows` on, or once one has shown it.
    async fn once(&self) -> Result<(), LeaseError> {
        let id = self.lease.state.id();
        let mut shown = self.shows <= Instant::now();
        let (mut asked, mut refused) = (BTreeSet::new(), None);
        if let Some(id) = id {
            // Asked for whatever a listing says, which may not be had for long, and beside it: whoever
            // stops us may not wait. What has been listed once isn't late any more.
            let look = async { !shown && self.find().await.is_ok_and(|listed| !listed.is_empty()) };
            let (was_listed, released) = tokio::join!(look, self.market.release(id));
            (refused, shown) = (released.err(), shown || was_listed);
            asked.insert(id.clone());
        } else {
            sleep_until(self.shows).await;
            shown = true;
        }
        if !shown {
            if let Some(error) = refused {
                return Err(error.into());
            }
            sleep_until(self.shows).await;
        }
        loop {
            let listed = match (self.find().await, refused.take()) {
                (Err(_), Some(error)) => return Err(error.into()),
                (listed, error) => {
                    refused = error;
                    listed?
                }
            };
            // Released is what the listing says, not what the answer said.
            let Some(first) = listed.first() else { return self.confirm().await };
            self.tell(Entry::Listed(first.id.clone()));
            if listed.iter().all(|found| asked.contains(&found.id)) {
                let still = || LeaseError::StillListed(first.id.clone());
                return Err(refused.map_or_else(still, LeaseError::from));
            }
            // A marketplace may give it another id, or carry an order out twice.
            for found in listed.iter().filter(|found| !asked.contains(&found.id)) {
                refused = self.market.release(&found.id).await.err().or(refused);
            }
            asked.extend(listed.into_iter().map(|found| found.id));
        }
    }

    /// Looks again after a while: a listing can be empty by mistake.
    async fn confirm(&self) -> Result<(), LeaseError> {
        end_disks(self.market, self.label).await?;
        self.tell(Entry::Gone);
        sleep(until_confirmed(self.market)).await;
        match self.find().await?.into_iter().next() {
            None => Ok(()),
            Some(found) => {
                self.tell(Entry::Listed(found.id.clone()));
                Err(LeaseError::StillListed(found.id))
            }
        }
    }

    async fn find(&self) -> Result<Vec<Instance>, LeaseError> {
        find(self.market, self.label, self.lease.state.id()).await
    }

    fn tell(&self, entry: Entry) {
        // Whoever has dropped the leases reads them anew.
        drop(self.seen.send((self.label.clone(), entry)));
    }
}

/// How long after one listing another is asked for that shows the same.
fn until_confirmed(market: &dyn Marketplace) -> Duration {
    market.capabilities().listing_lag.min(CONFIRMED_AFTER)
}

/// Looks whether the listing of another key than a lease was ordered with shows it, which proves that
/// both are let in to the same account. An error if it doesn't, from `shows` on.
pub(super) async fn recognise(
    market: &dyn Marketplace,
    label: &Label,
    lease: &Lease,
    shows: Instant,
) -> Result<(), LeaseError> {
    loop {
        let late = Instant::now() < shows;
        let found = find(market, label, lease.state.id()).await?;
        // Under another label it is another account's, whose ids may be the same.
        let is_it = |found: &Instance| found.label.as_ref().is_none_or(|own| own == label);
        if found.iter().any(is_it) {
            return Ok(());
        }
        if !late {
            let market = lease.terms.provider.clone();
            return Err(LeaseError::OtherKey { market, label: label.clone() });
        }
        sleep_until(shows).await;
    }
}

/// Ends the disks that an instance has left, without which it isn't over: they are billed on.
pub async fn end_disks(market: &dyn Marketplace, label: &Label) -> Result<(), LeaseError> {
    let left = || async {
        let disks = market.disks().await?.into_iter();
        Ok::<Vec<_>, LeaseError>(disks.filter(|disk| disk.is_disk_of(label)).collect())
    };
    let disks = left().await?;
    for disk in &disks {
        market.remove(disk).await?;
    }
    if disks.is_empty() || left().await?.is_empty() {
        return Ok(());
    }
    Err(LeaseError::DiskLeft(label.clone()))
}

/// Everything that is listed under a label or an id: one instance, if all is well.
pub(super) async fn find(
    market: &dyn Marketplace,
    label: &Label,
    id: Option<&InstanceId>,
) -> Result<Vec<Instance>, LeaseError> {
    let ours = |found: &Instance| Some(&found.id) == id || found.label.as_ref() == Some(label);
    Ok(market.instances().await?.into_iter().filter(ours).collect())
}

/// Ends what is listed of a lease that somebody else has in hand, and returns how many instances that
/// were.
pub async fn end_owed(
    market: &dyn Marketplace,
    label: &Label,
    lease: &Lease,
) -> Result<usize, LeaseError> {
    let listed = find(market, label, lease.state.id()).await?;
    for instance in &listed {
        end_stray(market, instance).await?;
    }
    Ok(listed.len())
}

/// Asks once for an instance to be ended of which no ledger can be told: better than not at all.
pub(super) async fn let_go(market: &dyn Marketplace, id: &InstanceId) {
    drop(timeout(LAST_LOOK, market.release(id)).await);
}

/// Ends an instance that only its label proves to be ours, and returns once two listings don't show
/// it any more.
pub async fn end_stray(market: &dyn Marketplace, instance: &Instance) -> Result<(), LeaseError> {
    market.release(&instance.id).await?;
    let mut gone = false;
    for _ in 0..LOOKS {
        let listed = market.instances().await?.iter().any(|listed| listed.id == instance.id);
        if !listed && gone {
            return match &instance.label {
                Some(label) => end_disks(market, label).await,
                None => Ok(()),
            };
        }
        gone = !listed;
        sleep(if gone { until_confirmed(market) } else { LOOK_EVERY }).await;
    }
    Err(LeaseError::StillListed(instance.id.clone()))
}
