//! Marketplaces where disks outlive their instances.

use super::{Bench, KEY};
use piecework::leases::{Markets, end_stray};
use providers::{
    Capabilities, Host, Instance, InstanceId, Label, Leftover, LeftoverKind, Marketplace, Need,
    Offer, Order,
    testkit::{Fault, World},
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;

/// A marketplace where disks have a life of their own.
#[derive(Debug)]
struct WithDisks {
    name: &'static str,
    host: Host,
    world: World,
    disks: Mutex<Vec<Leftover>>,
}

impl WithDisks {
    /// With disks of these instances.
    fn new(name: &'static str, host: Host, labels: &[&str]) -> Arc<Self> {
        let disk = |label: &&str| Leftover {
            kind: LeftoverKind::Disk,
            id: (*label).into(),
            name: format!("piecework-{label}"),
            price: None,
        };
        let disks = Mutex::new(labels.iter().map(disk).collect());
        Arc::new(Self { name, host, world: World::default(), disks })
    }

    /// Rents under this label.
    async fn rented(&self, label: &str) -> Instance {
        let offer = self.offers(&Need::default()).await.unwrap().remove(0);
        self.rent(&Order::new(offer, Label(label.into()), KEY)).await.unwrap()
    }

    /// Whose disks are left.
    fn left(&self) -> Vec<String> {
        self.disks.lock().unwrap().iter().map(|disk| disk.id.clone()).collect()
    }
}

#[async_trait::async_trait]
impl Marketplace for WithDisks {
    fn capabilities(&self) -> Capabilities {
        Capabilities { name: self.name, host: self.host, ..self.world.capabilities() }
    }

    async fn offers(&self, need: &Need) -> providers::Result<Vec<Offer>> {
        self.world.offers(need).await
    }

    async fn rent(&self, order: &Order) -> providers::Result<Instance> {
        self.world.rent(order).await
    }

    async fn instances(&self) -> providers::Result<Vec<Instance>> {
        self.world.instances().await
    }

    async fn release(&self, id: &InstanceId) -> providers::Result<()> {
        self.world.release(id).await
    }

    async fn disks(&self) -> providers::Result<Vec<Leftover>> {
        Ok(self.disks.lock().unwrap().clone())
    }

    async fn remove(&self, leftover: &Leftover) -> providers::Result<()> {
        self.disks.lock().unwrap().retain(|disk| disk != leftover);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn its_disk_goes_with_an_instance_at_once_and_no_other() {
    let market = WithDisks::new("disks", Host::Vm, &["piecework-1", "piecework-2"]);
    let mut bench = Bench::with(Arc::clone(&market) as Arc<dyn Marketplace>);
    bench.rented().await;
    let began = Instant::now();
    bench.released().await;
    assert_eq!((market.left(), began.elapsed()), (vec!["piecework-2".into()], Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_stray_is_over_once_it_and_its_disk_are_gone_whatever_else_is_listed() {
    let market = WithDisks::new("disks", Host::Vm, &["stray", "other"]);
    let (stray, _other) = (market.rented("stray").await, market.rented("other").await);
    // It says that it has ended it, hasn't, and lists nothing for a moment.
    market.world.strike_next(Fault::Pretend);
    market.world.strike_next(Fault::Hide);
    let error = end_stray(&*market, &stray).await.expect_err("it is listed");
    assert_eq!(error.to_string(), "instance-1 is still listed");
    assert_eq!((market.world.billed(), market.left().len()), (2, 2));
    end_stray(&*market, &stray).await.unwrap();
    assert_eq!(market.world.labels(), [Label("other".into())]);
    assert_eq!(market.left(), ["other"]);
}

#[test]
fn marketplaces_are_chosen_by_name_and_nothing_is_rented_of_this_computer() {
    let markets = [("here", Host::ThisComputer), ("b", Host::Vm), ("a", Host::Container)];
    let markets = markets.map(|(name, host)| WithDisks::new(name, host, &[]));
    let markets = Markets::new(markets.map(|market| market as Arc<dyn Marketplace>));
    let names = |markets: &Markets| {
        let pairs = markets.iter().map(|(name, market)| (name, market.capabilities().name));
        pairs.map(|(name, own)| (name == own).then_some(name)).collect::<Option<Vec<_>>>()
    };
    assert_eq!(names(&markets).unwrap(), ["a", "b", "here"]);
    assert_eq!(names(&markets.rented()).unwrap(), ["a", "b"]);
    let wanted = ["here".into(), "a".into()];
    assert_eq!(names(&markets.only(&wanted).unwrap()).unwrap(), ["a", "here"]);
    let unknown = ["a".into(), "c".into()];
    assert_eq!(markets.only(&unknown).unwrap_err(), "c");
}
