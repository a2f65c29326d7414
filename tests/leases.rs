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
    ErrorKind, Instance, InstanceState, Label, Marketplace, Need, Order, Usd,
    testkit::{Fault, World},
};
use std::{sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::time::Instant;

/// One lease on a marketplace in memory, accounted for in a real file.
struct Bench {
    world: Arc<World>,
    leases: Leases,
    label: Label,
    _folder: TempDir,
}

impl Bench {
    fn new(world: World) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run: RunId = "nov24-7kq3".parse().expect("it is a run");
        let ledger = Ledger::open(&folder.path().join("ledger"), &run).unwrap();
        let world = Arc::new(world);
        let markets = Markets::new([Arc::clone(&world) as Arc<dyn Marketplace>]);
        let leases = Leases::new(markets, ledger, Events::unheard());
        Self { world, leases, label: Label("piecework-1".into()), _folder: folder }
    }

    /// Orders, and waits for the answer.
    async fn order(&mut self) -> News {
        // Asked of another world, so that no fault of this one is used up.
        let mut offers = World::default().offers(&Need::default()).await.unwrap();
        let offer = offers.remove(0);
        let terms = Terms {
            provider: self.world.capabilities().name.into(),
            offer: offer.id.clone(),
            price: offer.price,
            worst: Usd(1),
            expires: jiff::Timestamp::UNIX_EPOCH,
        };
        let order = Order::new(offer, self.label.clone(), "ssh-ed25519 key");
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
