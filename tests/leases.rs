//! Renting and giving back against a marketplace that fails on purpose: what is owed is never
//! forgotten, and nothing is rented twice. Time is the runtime's own, and passes at once.

use piecework::{
    event::Events,
    label::RunId,
    leases::{Leases, Markets, News},
    ledger::{Ledger, Terms},
    ready::{NotReady, ready},
};
use providers::{
    Access, ErrorKind, Instance, InstanceState, Label, Marketplace, Mib, Need, Offer, Order,
    Provider, Rental, Timing, Transport, Usd,
    testkit::{
        Fault, Pace, World,
        cloud::{self, Call, Cloud, Mishap, Planned},
    },
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::Instant;

/// The key that is let in.
const KEY: &str = "ssh-ed25519 AAAA of a run";

/// One lease on a marketplace in memory, accounted for in a real file.
struct Bench {
    world: Arc<World>,
    market: Arc<dyn Marketplace>,
    leases: Leases,
    label: Label,
    _folder: TempDir,
}

impl Bench {
    fn new(world: World) -> Self {
        let world = Arc::new(world);
        Self { world: Arc::clone(&world), ..Self::with(world) }
    }

    /// On another marketplace.
    fn with(market: Arc<dyn Marketplace>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run: RunId = "nov24-7kq3".parse().expect("it is a run");
        let ledger = Ledger::open(&folder.path().join("ledger"), &run).unwrap();
        let markets = Markets::new([Arc::clone(&market)]);
        let leases = Leases::new(markets, ledger, Events::unheard());
        let label = Label("piecework-1".into());
        Self { world: Arc::default(), market, leases, label, _folder: folder }
    }

    /// Orders, and waits for the answer.
    async fn order(&mut self) -> News {
        // Asked of another world, so that no fault of this one is used up.
        let offers = World::default().offers(&Need::default()).await;
        self.order_of(offers.unwrap().remove(0)).await
    }

    async fn order_of(&mut self, offer: Offer) -> News {
        let terms = Terms {
            provider: self.market.capabilities().name.into(),
            offer: offer.id.clone(),
            machine: None,
            billing: providers::Billing::default(),
            traffic: providers::Usd(0),
            price: offer.price,
            worst: Usd(1),
            expires: jiff::Timestamp::UNIX_EPOCH,
            promise: piecework::smoke::Promise::default(),
        };
        let order = Order::new(offer, self.label.clone(), KEY);
        self.leases.order(order, terms).unwrap();
        self.leases.news().await.expect("a request is under way").unwrap()
    }

    async fn rented(&mut self) -> Instance {
        match self.order().await {
            News::Rented(_, Ok(instance)) => *instance,
            other @ (News::Rented(..) | News::Released(_)) => panic!("{other:?}"),
        }
    }

    /// Gives back until it is over.
    async fn released(&mut self) {
        self.leases.release(&self.label).unwrap();
        let news = self.leases.news().await.expect("a request is under way").unwrap();
        assert!(matches!(news, News::Released(_)), "{news:?}");
        assert_eq!(self.leases.books().owed().count(), 0);
    }
}

/// A marketplace on which these calls go wrong, one after the other, once one has gone well.
fn after_renting(faults: impl IntoIterator<Item = Fault>) -> World {
    let calm = World::default().strike(0, Fault::None);
    faults.into_iter().fold(calm, |world, fault| world.strike(0, fault))
}

const DOWN: Fault = Fault::Refuse(ErrorKind::Unavailable);

#[tokio::test(start_paused = true)]
async fn a_listing_that_failed_proves_no_instance_gone() {
    // It says that it has ended it, hasn't, and then can't list.
    let mut bench = Bench::new(after_renting([Fault::Pretend, DOWN]));
    bench.rented().await;
    bench.released().await;
    assert_eq!(bench.world.billed(), 0, "it is taken for gone, and billed");
}

#[tokio::test(start_paused = true)]
async fn what_will_not_go_is_asked_to_go_until_it_does() {
    let mut bench = Bench::new(after_renting([DOWN; 300]));
    let began = Instant::now();
    bench.rented().await;
    bench.released().await;
    assert_eq!(bench.world.billed(), 0, "it is taken for gone, and billed");
    assert!(Duration::from_hours(4) < began.elapsed(), "the faults were not met");
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_looked_for_and_no_second_one_is_rented() {
    let world = World::with_lag(Duration::from_mins(1)).strike(0, Fault::LoseReply);
    let mut bench = Bench::new(world.strike(0, DOWN));
    let found = bench.rented().await;
    assert_eq!((found.label.as_ref(), bench.world.rented()), (Some(&bench.label), 1));
    bench.released().await;
    assert_eq!(bench.world.billed(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_order_is_refused_only_once_a_whole_listing_shows_nothing() {
    // Nothing was rented, but for a while that can't be known.
    let lost = Fault::Refuse(ErrorKind::Uncertain);
    let mut bench = Bench::new(World::default().strike(0, lost).strike(0, DOWN).strike(0, DOWN));
    let news = bench.order().await;
    assert!(matches!(news, News::Rented(_, Err(_))), "{news:?}");
    assert_eq!(bench.leases.books().owed().count(), 0);
    assert_eq!(bench.world.calls(), 4, "one order and three listings");
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_known_stays_owed() {
    let lost = World::default().strike(0, Fault::LoseReply);
    let mut bench = Bench::new((0..20).fold(lost, |world, _| world.strike(0, DOWN)));
    let news = bench.order().await;
    assert!(matches!(news, News::Rented(_, Err(_))), "{news:?}");
    assert_eq!((bench.leases.books().owed().count(), bench.world.billed()), (1, 1));
    bench.released().await;
    assert_eq!(bench.world.billed(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_never_runs_is_waited_for_until_its_limit() {
    let mut bench = Bench::new(World::default());
    let instance = bench.rented().await;
    let limit = bench.world.capabilities().boot_limit;
    // A day is far beyond any limit, so that a wait without one is an end of this test too.
    let wait = tokio::time::timeout(Duration::from_hours(24), ready(&*bench.world, &instance.id));
    let began = Instant::now();
    let error = wait.await.expect("the wait has an end").expect_err("it never runs");
    assert!(matches!(error, NotReady::TooSlow(_)), "{error}");
    assert!((limit..limit * 2).contains(&began.elapsed()));
    assert!(matches!(instance.state, InstanceState::Pending));
}

#[tokio::test(start_paused = true)]
async fn only_what_no_listing_has_shown_yet_may_still_be_late() {
    let lag = Duration::from_mins(1);
    for (listed, waits) in [(Duration::ZERO, Duration::ZERO), (lag, lag)] {
        let world = World::with_lag(lag);
        world.go_at(Pace { answer: Duration::ZERO, listed });
        let mut bench = Bench::new(world);
        bench.rented().await;
        let began = Instant::now();
        bench.released().await;
        assert_eq!(began.elapsed().as_secs(), waits.as_secs());
    }
}

/// A marketplace that takes keys by their names and gives disks a life of their own.
fn verda(cloud: &Cloud) -> Arc<dyn Marketplace> {
    let provider = Provider::find("verda").expect("it has a row");
    let secrets = provider.credentials.iter().map(|_| cloud::KEY.into()).collect();
    let transport = Transport::new().expect("HTTPS can be set up");
    let url = Some(cloud.url(provider.name));
    let access = Access { transport, url, secrets, timing: Timing::loopback() };
    provider.connect(access).expect("a key is given")
}

#[tokio::test]
async fn once_nothing_is_owed_nothing_of_the_run_is_left_on_the_account() {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let cloud = Cloud::start(listen, 0, None).await.expect("loopback can be listened on");
    cloud.put_key("verda", "piecework-0123456789abcdef", "ssh-ed25519 BBBB of another run");
    cloud.plan(vec![Planned {
        call: Some(Call::Rent),
        ..Planned::next(cloud::Fault::Rental(Mishap::LeavesDisk))
    }]);
    let mut bench = Bench::with(verda(&cloud));
    let need = Need { disk: Mib::from_gib(60), ..Need::default() };
    let offers = bench.market.offers(&need).await.unwrap();
    let offer = offers.into_iter().find(|offer| offer.rental == Rental::OnDemand).unwrap();
    let news = bench.order_of(offer).await;
    assert!(matches!(news, News::Rented(_, Ok(_))), "{news:?}");
    let keys = || cloud.truth("verda")["keys"].as_array().map_or(0, Vec::len);
    bench.leases.sweep(KEY).await.unwrap();
    assert_eq!(keys(), 2, "it may still be needed");
    bench.released().await;
    assert_eq!((keys(), cloud.billed("verda")), (2, 0), "its disk would be billed on");
    bench.leases.sweep(KEY).await.unwrap();
    assert_eq!((keys(), cloud.billed("verda")), (1, 0));
}
