//! Giving back what nothing but its label tells of: the run's ledger is damaged.

use crate::{
    event::{Event, Events},
    label::{Owner, RunId, Stamp},
    leases::{LeaseError, Markets, describe, end_stray},
};
use futures_util::future::join_all;
use providers::{ErrorKind, Instance, Marketplace};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// The shortest and the longest pause between two attempts at a marketplace.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_mins(1));

/// How often a listing is looked at that may still be behind.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Ends whatever this owner's run has at these marketplaces, each of which is asked until it can say
/// that nothing is left there, or somebody has the run in hand again. The error is of one that rejects
/// the key, and so will never say so.
pub(super) async fn end_labelled(
    run: &RunId,
    owner: &Owner,
    markets: &Markets,
    events: &Events,
    in_hand: impl Fn() -> bool,
) -> Result<(), LeaseError> {
    let ending = markets.iter().map(|(_, market)| end_at(&**market, run, owner, events, &in_hand));
    join_all(ending).await.into_iter().collect()
}

async fn end_at(
    market: &dyn Marketplace,
    run: &RunId,
    owner: &Owner,
    events: &Events,
    in_hand: &impl Fn() -> bool,
) -> Result<(), LeaseError> {
    let mut pause = PAUSES.0;
    // An order may have been sent a moment ago.
    let shows = Instant::now() + market.capabilities().listing_lag;
    loop {
        let is_last = shows <= Instant::now();
        if in_hand() {
            return Ok(());
        }
        match end_listed(market, run, owner, events).await {
            Ok(0) if is_last => return Ok(()),
            Ok(0) => sleep_until(shows.min(Instant::now() + LOOK_EVERY)).await,
            Ok(_) => pause = PAUSES.0,
            Err(LeaseError::Market(error)) if error.kind == ErrorKind::Unauthorized => {
                return Err(error.into());
            }
            Err(_) => {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

/// Ends what is listed now. How many that was.
async fn end_listed(
    market: &dyn Marketplace,
    run: &RunId,
    owner: &Owner,
    events: &Events,
) -> Result<usize, LeaseError> {
    let is_ours = |found: &Instance| {
        let stamp = found.label.as_ref().and_then(Stamp::read);
        stamp.is_some_and(|stamp| stamp.run == *run && stamp.owner == *owner)
    };
    let listed = market.instances().await?;
    let ours: Vec<_> = listed.into_iter().filter(is_ours).collect();
    let ending = ours.iter().map(|instance| async move {
        let ended = end_stray(market, instance).await;
        if let (Err(error), Some(label)) = (&ended, instance.label.clone()) {
            events.send(Event::StillOwed { label, reason: describe(error) });
        }
        ended
    });
    // One that won't go keeps no other from going.
    let ended: Result<Vec<()>, _> = join_all(ending).await.into_iter().collect();
    ended.map(|ended| ended.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use providers::{
        Label, Need, Order,
        testkit::{Fault, World},
    };
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn all_of_a_run_is_ended_by_its_labels_and_nothing_else() {
        let lag = Duration::from_mins(1);
        let world = Arc::new(World::with_lag(lag));
        let run: RunId = "nov26-7kq3".parse().expect("it is a run");
        let [owner, other] = [Owner::random(), Owner::random()];
        let label = |owner: &Owner, run: &str, slot| {
            let run = run.parse().expect("it is a run");
            Stamp::new(owner, &run, slot, 0, Timestamp::UNIX_EPOCH).label()
        };
        let kept =
            [label(&other, "nov26-7kq3", 0), label(&owner, "nov26-7kq4", 0), Label("mine".into())];
        let ours = [label(&owner, "nov26-7kq3", 0), label(&owner, "nov26-7kq3", 1)];
        for label in kept.iter().chain(&ours) {
            let offer = world.offers(&Need::default()).await.expect("it answers").remove(0);
            let order = Order::new(offer, label.clone(), "ssh-ed25519 key");
            world.rent(&order).await.expect("it is for rent");
        }
        for fault in [Fault::Refuse(ErrorKind::Unavailable), Fault::None, Fault::Pretend] {
            world.strike_next(fault);
        }
        let markets = Markets::new([world.clone() as Arc<dyn Marketplace>]);
        let events = Events::unheard();
        end_labelled(&run, &owner, &markets, &events, || false).await.expect("it can be ended");
        assert_eq!(world.labels(), kept);
        // They were ordered a moment ago, and no listing could show them.
        world.strike_next(Fault::Refuse(ErrorKind::Unauthorized));
        let error = end_labelled(&run, &owner, &markets, &events, || false).await;
        error.expect_err("nobody can tell");
        // Whoever has it in hand again sees to it.
        let calls = world.calls();
        end_labelled(&run, &owner, &markets, &events, || true).await.expect("it is nobody's");
        assert_eq!(world.calls(), calls);
    }
}
