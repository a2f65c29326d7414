//! A marketplace in memory, with a plan of faults.

use crate::{
    Capabilities, Error, ErrorKind, Gpus, Host, Instance, InstanceId, InstanceState, Label,
    Marketplace, Mib, Need, Offer, OfferId, Order, Result, Usd, UsdPerHour,
};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    time::{Duration, SystemTime},
};
use tokio::time::{Instant, sleep};

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
    /// It is answered as if there were no instances.
    Hide,
}

/// How long things take. Both together are at most the lag that the world admits to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// From a request to its answer. It is carried out half-way, whether anybody still waits for
    /// the answer or not.
    pub answer: Duration,
    /// From when an instance is rented until it is listed.
    pub listed: Duration,
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
    lives: Vec<Life>,
    faults: VecDeque<Fault>,
    calls: usize,
    pace: Pace,
    login: Option<String>,
    /// Whether the next order is carried out twice.
    doubles: bool,
}

/// One instance, from beginning to end.
#[derive(Clone, Debug)]
struct Life {
    instance: Instance,
    since: Instant,
    listed: Instant,
    until: Option<Instant>,
}

impl Life {
    fn ended(&self, at: Instant) -> bool {
        self.until.is_some_and(|until| until <= at)
    }

    fn end(&mut self, at: Instant) {
        self.until = Some(self.until.map_or(at, |until| until.min(at)));
    }
}

impl World {
    /// A world whose listing shows new instances late.
    pub fn with_lag(lag: Duration) -> Self {
        let world = Self { lag, ..Self::default() };
        world.go_at(Pace { answer: Duration::ZERO, listed: lag });
        world
    }

    /// Takes its time from now on.
    pub fn go_at(&self, pace: Pace) {
        self.facts().pace = pace;
    }

    /// Is looked at with another key from now on, which is let in to the same account.
    pub fn log_in(&self, login: &str) {
        self.facts().login = Some(login.to_owned());
    }

    /// Lets `step` calls pass, then strikes the next one.
    #[must_use]
    pub fn strike(self, step: usize, fault: Fault) -> Self {
        (0..step).for_each(|_| self.strike_next(Fault::None));
        self.strike_next(fault);
        self
    }

    /// Strikes the next call, or the one after those that are to be struck already.
    pub fn strike_next(&self, fault: Fault) {
        self.facts().faults.push_back(fault);
    }

    /// Strikes no more.
    pub fn calm(&self) {
        self.facts().faults.clear();
    }

    /// How many instances are being billed, or will be by a request that is on its way, whatever
    /// anyone has been told.
    pub fn billed(&self) -> usize {
        let (facts, now) = (self.facts(), Instant::now());
        facts.lives.iter().filter(|life| !life.ended(now)).count()
    }

    /// Their labels.
    pub fn labels(&self) -> Vec<Label> {
        let (facts, now) = (self.facts(), Instant::now());
        let billed = facts.lives.iter().filter(|life| !life.ended(now));
        billed.filter_map(|life| life.instance.label.clone()).collect()
    }

    /// What all instances under this label have cost so far, to the second and not a started one more.
    pub fn cost(&self, label: &Label) -> Usd {
        let (facts, now) = (self.facts(), Instant::now());
        let ours = facts.lives.iter().filter(|life| life.instance.label.as_ref() == Some(label));
        let costs = ours.map(|life| {
            let end = life.until.map_or(now, |until| until.min(now));
            let time = end.saturating_duration_since(life.since);
            life.instance.price.unwrap_or_default().over(time).0
        });
        Usd(costs.sum())
    }

    /// Carries the next order out twice, though it answers it once.
    pub fn double_next(&self) {
        self.facts().doubles = true;
    }

    /// How many instances this label was ever given to.
    pub fn ever(&self, label: &Label) -> usize {
        let facts = self.facts();
        facts.lives.iter().filter(|life| life.instance.label.as_ref() == Some(label)).count()
    }

    /// How many calls have been made.
    pub fn calls(&self) -> usize {
        self.facts().calls
    }

    /// How many instances were ever rented.
    pub fn rented(&self) -> usize {
        self.facts().lives.len()
    }

    /// Puts an instance into a state, as the marketplace does on its own. One that isn't there
    /// is left alone.
    pub fn turn(&self, id: &InstanceId, state: &InstanceState) {
        for life in &mut self.facts().lives {
            if life.instance.id == *id {
                life.instance.state = state.clone();
            }
        }
    }

    /// Bills an instance at this price from now on, and says so. One that isn't there is left alone.
    pub fn reprice(&self, id: &InstanceId, price: UsdPerHour) {
        for life in &mut self.facts().lives {
            if life.instance.id == *id {
                life.instance.price = Some(price);
            }
        }
    }

    /// Ends what is under this label, as a marketplace does that wants its machine back.
    pub fn reclaim(&self, label: &Label) {
        for life in &mut self.facts().lives {
            if life.instance.label.as_ref() == Some(label) {
                life.end(Instant::now());
            }
        }
    }

    /// Lists what is under this label under another id from now on, as a marketplace does that moves
    /// it to another machine.
    pub fn rename(&self, label: &Label, id: &InstanceId) {
        for life in &mut self.facts().lives {
            if life.instance.label.as_ref() == Some(label) {
                life.instance.id = id.clone();
            }
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().expect("no test panics while holding the facts")
    }

    /// Answers a call. What it does is done before this waits, as of the moment that it is given.
    async fn call<T>(
        &self,
        operation: &'static str,
        act: impl FnOnce(&mut Facts, Instant) -> T,
    ) -> Result<T> {
        let (answer, pace) = {
            let mut facts = self.facts();
            facts.calls += 1;
            let pace = facts.pace;
            let at = Instant::now() + pace.answer / 2;
            let failed = |kind| Err(Error { provider: "world", operation, kind, source: None });
            let answer = match facts.faults.pop_front().unwrap_or(Fault::None) {
                Fault::None => Ok(act(&mut facts, at)),
                Fault::Refuse(kind) => failed(kind),
                Fault::LoseReply => {
                    act(&mut facts, at);
                    failed(ErrorKind::Uncertain)
                }
                Fault::Pretend => Ok(act(&mut facts.clone(), at)),
                Fault::Hide => Ok(act(&mut Facts::default(), at)),
            };
            (answer, pace)
        };
        if !pace.answer.is_zero() {
            sleep(pace.answer).await;
        }
        answer
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
            release_interval: Duration::ZERO,
        }
    }

    fn login(&self) -> Option<String> {
        self.facts().login.clone()
    }

    async fn offers(&self, _need: &Need) -> Result<Vec<Offer>> {
        self.call("list offers", |_, _| {
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
        .await
    }

    async fn rent(&self, order: &Order) -> Result<Instance> {
        if order.standing.is_called_off() {
            let kind = ErrorKind::CalledOff;
            return Err(Error { provider: "world", operation: "rent", kind, source: None });
        }
        self.call("rent", |facts, since| {
            let id = InstanceId(format!("instance-{}", facts.lives.len() + 1));
            let instance = Instance {
                price: Some(order.bid.unwrap_or(order.offer.price)),
                since: Some(SystemTime::now()),
                ..Instance::new(id, Some(order.label.clone()), InstanceState::Pending)
            };
            let (listed, until) = (since + facts.pace.listed, None);
            facts.lives.push(Life { instance: instance.clone(), since, listed, until });
            if std::mem::take(&mut facts.doubles) {
                let id = InstanceId(format!("instance-{}", facts.lives.len() + 1));
                let instance = Instance { id, ..instance.clone() };
                facts.lives.push(Life { instance, since, listed, until });
            }
            instance
        })
        .await
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        self.call("list instances", |facts, at| {
            let shown = |life: &&Life| life.listed <= at && !life.ended(at);
            facts.lives.iter().filter(shown).map(|life| life.instance.clone()).collect()
        })
        .await
    }

    async fn release(&self, id: &InstanceId) -> Result<()> {
        self.call("release", |facts, at| {
            facts
                .lives
                .iter_mut()
                .filter(|life| life.instance.id == *id)
                .for_each(|life| life.end(at));
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

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

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_is_carried_out_all_the_same() {
        let world = World::default();
        let order = order(&world, "run-1").await;
        let minute = Duration::from_mins(1);
        world.go_at(Pace { answer: minute, listed: Duration::ZERO });
        timeout(Duration::from_secs(1), world.rent(&order)).await.unwrap_err();
        assert_eq!((world.billed(), world.cost(&order.label)), (1, Usd(0)));
        tokio::time::advance(minute).await;
        let id = world.instances().await.unwrap().remove(0).id;
        timeout(Duration::from_secs(1), world.release(&id)).await.unwrap_err();
        assert_eq!(world.billed(), 1);
        tokio::time::advance(minute).await;
        // Half a minute after the one request until half a minute after the other.
        assert_eq!(
            (world.billed(), world.cost(&order.label)),
            (0, UsdPerHour(310_000).over(Duration::from_secs(121)))
        );
    }
}
