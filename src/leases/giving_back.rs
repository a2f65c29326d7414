//! Giving back, until a listing proves it.

use super::{LOOK_EVERY, LOOKS, LeaseError, describe};
use crate::{
    event::{Event, Events},
    ledger::Lease,
};
use providers::{Instance, InstanceId, Label, Marketplace};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// The shortest and the longest pause between two attempts to give back.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_mins(1));

/// How often a marketplace is asked to take an instance back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tries {
    UntilGone,
    Once,
}

/// Gives back until it is gone, or once. `known` is whether the key of now is let in to the lease's
/// account, which a listing may prove. If none does there is no use in asking again.
pub(super) async fn give_back(
    market: &dyn Marketplace,
    label: &Label,
    lease: &Lease,
    shows: Instant,
    known: &mut bool,
    tries: Tries,
    events: &Events,
) -> Result<(), LeaseError> {
    let mut pause = PAUSES.0;
    loop {
        let recognised = if *known { Ok(()) } else { recognise(market, label, lease, shows).await };
        *known = recognised.is_ok();
        let done = match recognised {
            Ok(()) => give_back_once(market, label, lease, shows).await,
            Err(error) => Err(error),
        };
        let Err(error) = done else { return Ok(()) };
        let reason = describe(&error);
        events.send(Event::StillOwed { label: label.clone(), reason });
        if tries == Tries::Once || matches!(error, LeaseError::OtherKey { .. }) {
            return Err(error);
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
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
        if found.is_some_and(|found| found.label.is_none_or(|own| own == *label)) {
            return Ok(());
        }
        if !late {
            let market = lease.terms.provider.clone();
            return Err(LeaseError::OtherKey { market, label: label.clone() });
        }
        sleep_until(shows).await;
    }
}

/// Gives back once. `Ok` only if a whole listing, late enough to show it, doesn't: from `shows` on,
/// or once one has shown it.
async fn give_back_once(
    market: &dyn Marketplace,
    label: &Label,
    lease: &Lease,
    shows: Instant,
) -> Result<(), LeaseError> {
    let mut late = Instant::now() < shows;
    let id = if let Some(id) = lease.state.id() {
        if late {
            // What has been listed once isn't late any more.
            late = !find(market, label, Some(id)).await.is_ok_and(|found| found.is_some());
        }
        Some(id.clone())
    } else {
        sleep_until(shows).await;
        find(market, label, None).await?.map(|instance| instance.id)
    };
    if let Some(id) = &id {
        market.release(id).await?;
        if late {
            sleep_until(shows).await;
        }
    }
    // Released is what the listing says, not what the answer said.
    match find(market, label, id.as_ref()).await? {
        Some(instance) => Err(LeaseError::StillListed(instance.id)),
        None => end_disks(market, label).await,
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

pub(super) async fn find(
    market: &dyn Marketplace,
    label: &Label,
    id: Option<&InstanceId>,
) -> Result<Option<Instance>, LeaseError> {
    let ours = |found: &Instance| Some(&found.id) == id || found.label.as_ref() == Some(label);
    Ok(market.instances().await?.into_iter().find(ours))
}

/// Ends an instance that only its label proves to be ours, and returns once it is gone from the
/// listing.
pub async fn end_stray(market: &dyn Marketplace, instance: &Instance) -> Result<(), LeaseError> {
    market.release(&instance.id).await?;
    for _ in 0..LOOKS {
        if market.instances().await?.iter().all(|listed| listed.id != instance.id) {
            return match &instance.label {
                Some(label) => end_disks(market, label).await,
                None => Ok(()),
            };
        }
        sleep(LOOK_EVERY).await;
    }
    Err(LeaseError::StillListed(instance.id.clone()))
}
