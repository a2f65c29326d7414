//! A marketplace in memory, with a plan of faults.

use crate::{
    Capabilities, Error, ErrorKind, Gpus, Host, Instance, InstanceId, InstanceState, Label,
    Marketplace, Mib, Need, Offer, OfferId, Order, Result, UsdPerHour,
};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing unusual.
    None,
    /// It isn't carried out, and the caller is told so.
    Refuse(ErrorKind),
    /// It is carried out, and the caller is not told.
    LoseReply,
    /// It isn't carried out, and the caller is told that it was.
    Pretend,
}

/// A marketplace with no network. Engine tests use it as it is, and a provider's stub server
/// answers out of one.
#[derive(Debug, Default)]
pub struct World {
    facts: Mutex<Facts>,
    lag: Duration,
}

#[derive(Clone, Debug, Default)]
struct Facts {
    instances: Vec<(Instant, Instance)>,
    rented: usize,
    faults: VecDeque<Fault>,
    calls: usize,
}

impl World {
    /// A world whose listing shows new instances late.
    pub fn with_lag(lag: Duration) -> Self {
        Self { lag, ..Self::default() }
    }

    /// Lets `step` calls pass, then strikes the next one.
    #[must_use]
    pub fn strike(self, step: usize, fault: Fault) -> Self {
        let calm = std::iter::repeat_n(Fault::None, step);
        self.facts().faults.extend(calm.chain([fault]));
        self
    }

    /// How many instances are being billed, whatever anyone has been told.
    pub fn billed(&self) -> usize {
        self.facts().instances.len()
    }

    /// Who is being billed, whatever anyone has been told.
    pub fn labels(&self) -> Vec<Label> {
        self.facts().instances.iter().filter_map(|(_, found)| found.label.clone()).collect()
    }

    /// How many calls have been made.
    pub fn calls(&self) -> usize {
        self.facts().calls
    }

    /// How many instances were ever rented.
    pub fn rented(&self) -> usize {
        self.facts().rented
    }

    /// Puts an instance into a state, as the marketplace does on its own. One that isn't there
    /// is left alone.
    pub fn turn(&self, id: &InstanceId, state: &InstanceState) {
        for (_, instance) in &mut self.facts().instances {
            if instance.id == *id {
                instance.state = state.clone();
            }
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().expect("no test panics while holding the facts")
    }

    fn call<T>(&self, operation: &'static str, act: impl FnOnce(&mut Facts) -> T) -> Result<T> {
        let mut facts = self.facts();
        facts.calls += 1;
        let failed = |kind| Err(Error { provider: "world", operation, kind, source: None });
        match facts.faults.pop_front().unwrap_or(Fault::None) {
            Fault::None => Ok(act(&mut facts)),
            Fault::Refuse(kind) => failed(kind),
            Fault::LoseReply => {
                act(&mut facts);
                failed(ErrorKind::Uncertain)
            }
            Fault::Pretend => Ok(act(&mut facts.clone())),
        }
    }
}

#[async_trait::async_trait]
impl Marketplace for World {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "world",
            host: Host::Container,
            interruptible: true,
            label_limit: 60,
            start_script: 16 << 10,
            expiry: false,
            self_release: None,
            boot_limit: Duration::from_mins(10),
            listing_lag: self.lag,
        }
    }

    async fn offers(&self, _need: &Need) -> Result<Vec<Offer>> {
        self.call("list offers", |_| {
            vec![Offer {
                id: OfferId("offer-1".into()),
                gpus: Some(Gpus { name: "RTX 4090".into(), count: 1, vram: Mib(24_564) }),
                cores: 16,
                memory: Mib(65_536),
                disk: Mib(102_400),
                price: UsdPerHour(310_000),
                region: "nowhere".into(),
                quoted_at: SystemTime::now(),
                ..Offer::default()
            }]
        })
    }

    async fn rent(&self, order: &Order) -> Result<Instance> {
        self.call("rent", |facts| {
            facts.rented += 1;
            let id = InstanceId(format!("instance-{}", facts.rented));
            let instance = Instance {
                price: Some(order.bid.unwrap_or(order.offer.price)),
                since: Some(SystemTime::now()),
                ..Instance::new(id, Some(order.label.clone()), InstanceState::Pending)
            };
            facts.instances.push((Instant::now(), instance.clone()));
            instance
        })
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        self.call("list instances", |facts| {
            let shown = |(since, _): &&(Instant, Instance)| self.lag <= since.elapsed();
            facts.instances.iter().filter(shown).map(|(_, instance)| instance.clone()).collect()
        })
    }

    async fn release(&self, id: &InstanceId) -> Result<()> {
        self.call("release", |facts| facts.instances.retain(|(_, instance)| instance.id != *id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn order(world: &World, label: &str) -> Order {
        let mut offers = world.offers(&Need::default()).await.unwrap();
        Order::new(offers.remove(0), Label(label.into()), "ssh-ed25519 key")
    }

    #[tokio::test]
    async fn a_lost_reply_rents_and_a_refusal_does_not() {
        let world = World::default().strike(1, Fault::LoseReply);
        let order = order(&world, "run-1").await;
        let lost = world.rent(&order).await.unwrap_err();
        assert_eq!((lost.kind, world.billed()), (ErrorKind::Uncertain, 1));

        let world = World::default().strike(0, Fault::Refuse(ErrorKind::OfferGone));
        assert_eq!(world.rent(&order).await.unwrap_err().kind, ErrorKind::OfferGone);
        assert_eq!(world.billed(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_may_be_late() {
        let world = World::with_lag(Duration::from_secs(30));
        let order = order(&world, "run-1").await;
        world.rent(&order).await.unwrap();
        assert!(world.instances().await.unwrap().is_empty());
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(world.instances().await.unwrap()[0].label, Some(order.label));
    }
}
