//! What marketplaces say of machines that are at work: what they cost, and whether they are on their
//! way out. A link that lives says neither; but it does say that a machine is there, whatever a
//! listing leaves out. And what they say of machines that nobody asked for.

use crate::{
    label::twin,
    leases::{Stray, strays},
    ledger::Books,
    ready::NotReady,
    shards::WorkerId,
};
use providers::{Instance, InstanceId, InstanceState, Label, Marketplace, UsdPerHour};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How often a marketplace is asked about what is rented there.
const EVERY: Duration = Duration::from_secs(30);

/// How soon after an order, which may have been carried out twice.
const SOON: Duration = Duration::from_secs(10);

/// How long it is waited for. A listing that fails or takes longer says nothing.
const PATIENCE: Duration = Duration::from_secs(45);

/// When marketplaces are asked.
#[derive(Debug)]
pub(super) struct Lookout(Instant);

impl Default for Lookout {
    /// The first look is as far away as the others: until a machine works it is looked at anyway.
    fn default() -> Self {
        Self(Instant::now() + EVERY)
    }
}

impl Lookout {
    /// Whether it is time, which it is then not for a while.
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.0 <= Instant::now();
        if is_due {
            self.0 = Instant::now() + EVERY;
        }
        is_due
    }

    /// An order was answered.
    pub(super) fn look_soon(&mut self) {
        self.0 = self.0.min(Instant::now() + SOON);
    }
}

/// A machine, as it is known when its marketplace is asked.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) worker: WorkerId,
    pub(super) label: Label,
    pub(super) id: Option<InstanceId>,
}

/// What a listing says.
#[derive(Debug, Default)]
pub(super) struct Sights {
    /// Of each machine.
    pub(super) machines: Vec<Sight>,
    /// Of what nobody asked for.
    pub(super) strays: Vec<Stray>,
}

/// What a listing says of a machine.
#[derive(Debug)]
pub(super) struct Sight {
    pub(super) worker: WorkerId,
    /// What an hour of it costs.
    pub(super) price: Option<UsdPerHour>,
    /// Why it is of no more use, if it is listed as that.
    pub(super) lost: Option<NotReady>,
}

/// Asks once about all machines at a marketplace, and what else there is of what `books` know. Nothing
/// where it fails.
pub(super) async fn look(market: &dyn Marketplace, watched: &[Watched], books: &Books) -> Sights {
    match timeout(PATIENCE, market.instances()).await {
        Ok(Ok(listed)) => Sights {
            machines: watched.iter().map(|machine| see(machine, &listed, books)).collect(),
            strays: strays(books, market.capabilities().name, &listed),
        },
        Ok(Err(_)) | Err(_) => Sights::default(),
    }
}

/// What a whole listing says of a machine.
fn see(machine: &Watched, listed: &[Instance], books: &Books) -> Sight {
    let own = |found: &&Instance| machine.id.as_ref() == Some(&found.id);
    let named = |found: &&Instance| {
        let is_twin = books.lease(&twin(&machine.label, &found.id)).is_some();
        found.label.as_ref() == Some(&machine.label) && !is_twin
    };
    // Another may have the same label; by that it is known if its id was changed.
    let found = listed.iter().find(own).or_else(|| listed.iter().find(named));
    let lost = match found.map(|found| &found.state) {
        None
        | Some(InstanceState::Running(_) | InstanceState::Pending | InstanceState::Unknown(_)) => {
            None
        }
        Some(
            lost @ (InstanceState::Interrupted
            | InstanceState::Stopped
            | InstanceState::Failed(_)
            | InstanceState::Terminating),
        ) => Some(NotReady::Lost(lost.clone())),
    };
    Sight { worker: machine.worker, price: found.and_then(|found| found.price), lost }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Entry, Ledger, Terms};
    use jiff::Timestamp;
    use providers::{
        ErrorKind, Need, Order,
        testkit::{Fault, World},
    };
    use tokio::time::advance;

    /// A world with one machine, and how that is known.
    async fn rented() -> (World, Watched) {
        let world = World::default();
        let offer = world.offers(&Need::default()).await.unwrap().remove(0);
        let label = Label("piecework-1".into());
        let instance = world.rent(&Order::new(offer, label.clone(), "key")).await.unwrap();
        let (worker, id) = (WorkerId(1), Some(instance.id));
        (world, Watched { worker, label, id })
    }

    /// Books in which this instance is the twin of what has this label.
    fn doubled(label: &Label, instance: &Instance) -> Books {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger");
        let mut ledger = Ledger::open(&path, &"nov26-7kq3".parse().unwrap()).unwrap();
        let terms = Terms::example("world", UsdPerHour(1), Timestamp::UNIX_EPOCH);
        let (id, since) = (instance.id.clone(), Timestamp::UNIX_EPOCH);
        let entry = Entry::Doubled { terms, id, since };
        ledger.record(&twin(label, &instance.id), entry).unwrap();
        ledger.books().clone()
    }

    async fn seen(world: &World, machine: &Watched) -> String {
        let sights = look(world, std::slice::from_ref(machine), &Books::default()).await;
        let told =
            sights.machines.iter().map(|sight| format!("{:?} {:?}", sight.price, sight.lost));
        told.collect::<Vec<_>>().concat()
    }

    #[tokio::test(start_paused = true)]
    async fn a_marketplace_is_asked_twice_a_minute() {
        let mut lookout = Lookout::default();
        let mut asked = 0;
        for _ in 0..600 {
            advance(Duration::from_millis(500)).await;
            asked += u32::from(lookout.is_due());
        }
        assert_eq!(asked, 10);
        lookout.look_soon();
        advance(SOON).await;
        assert!(lookout.is_due(), "an order was answered");
        advance(EVERY.saturating_sub(SOON)).await;
        lookout.look_soon();
        advance(SOON).await;
        assert!(lookout.is_due(), "it is no later for that");
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_is_told_from_its_twin_by_its_id() {
        let (world, machine) = rented().await;
        let mut offer = world.offers(&Need::default()).await.unwrap().remove(0);
        offer.price = UsdPerHour(7);
        world.rent(&Order::new(offer, machine.label.clone(), "key")).await.unwrap();
        let mut listed = world.instances().await.unwrap();
        for _ in 0..2 {
            assert_eq!(
                see(&machine, &listed, &Books::default()).price,
                Some(UsdPerHour(310_000)),
                "{listed:?}"
            );
            listed.reverse();
        }
        // Once its id is another, its label is all that it is known by.
        listed.retain(|found| Some(&found.id) == machine.id.as_ref());
        listed[0].id = InstanceId("moved".into());
        assert_eq!(see(&machine, &listed, &Books::default()).price, Some(UsdPerHour(310_000)));
        let books = doubled(&machine.label, &listed[0]);
        assert_eq!(see(&machine, &listed, &books).price, None, "it is its twin");
        listed[0].label = None;
        assert_eq!(see(&machine, &listed, &Books::default()).price, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_price_that_rises_is_seen_and_a_machine_that_is_stopped() {
        let (world, machine) = rented().await;
        let id = machine.id.clone().expect("it was rented");
        assert_eq!(seen(&world, &machine).await, "Some(UsdPerHour(310000)) None");
        world.reprice(&id, UsdPerHour(3_100_000));
        assert_eq!(seen(&world, &machine).await, "Some(UsdPerHour(3100000)) None");
        world.turn(&id, &InstanceState::Unknown("dreaming".into()));
        assert_eq!(seen(&world, &machine).await, "Some(UsdPerHour(3100000)) None");
        for lost in [InstanceState::Stopped, InstanceState::Interrupted] {
            world.turn(&id, &lost);
            assert_eq!(
                seen(&world, &machine).await,
                format!("Some(UsdPerHour(3100000)) Some(Lost({lost:?}))")
            );
        }
        world.reclaim(&machine.label);
        // Once it is gone its link tells.
        assert_eq!(seen(&world, &machine).await, "None None", "a listing may leave it out");
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_that_fails_or_hangs_says_nothing() {
        let (world, machine) = rented().await;
        world.reclaim(&machine.label);
        world.strike_next(Fault::Refuse(ErrorKind::Unavailable));
        assert_eq!(seen(&world, &machine).await, "");
        let hour = Duration::from_hours(1);
        world.go_at(providers::testkit::Pace { answer: hour, listed: Duration::ZERO });
        assert_eq!(seen(&world, &machine).await, "");
    }
}
