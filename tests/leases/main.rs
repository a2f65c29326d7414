//! Renting and giving back against a marketplace that fails on purpose: what is owed is never
//! forgotten, and nothing is rented twice. Time is the runtime's own, and passes at once.

mod accounts;
mod disks;
mod strays;

use piecework::{
    clock,
    event::Events,
    label::RunId,
    leases::{Leases, Markets, News, describe, end_owed},
    ledger::{LeaseState, Ledger, Terms},
    ready::{NotReady, Seen, Waiting},
};
use providers::{
    Capabilities, ErrorKind, Instance, InstanceId, InstanceState, Label, Marketplace, Need, Offer,
    Order, Usd, UsdPerHour,
    testkit::{Fault, Pace, World},
};
use std::{cell::Cell, path::Path, sync::Arc, time::Duration};
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
    folder: TempDir,
}

impl Bench {
    fn new(world: World) -> Self {
        let world = Arc::new(world);
        Self { world: Arc::clone(&world), ..Self::with(world) }
    }

    /// On another marketplace.
    fn with(market: Arc<dyn Marketplace>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let leases = take_up(&market, folder.path());
        let label = Label("piecework-1".into());
        Self { world: Arc::default(), market, leases, label, folder }
    }

    /// The program dies, with all of its requests, and is started again.
    fn restarted(self) -> Self {
        let Self { world, market, leases, label, folder } = self;
        drop(leases);
        let leases = take_up(&market, folder.path());
        Self { world, market, leases, label, folder }
    }

    /// The same, with a key that is let in to another account.
    fn restarted_at(self, other: &Arc<World>) -> Self {
        let market = Arc::clone(other) as Arc<dyn Marketplace>;
        Self { market, ..self }.restarted()
    }

    /// Where the lease stands.
    fn state(&self) -> &LeaseState {
        &self.leases.books().lease(&self.label).expect("it was ordered").state
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
            login: None,
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
            other @ (News::Rented(..) | News::Released(_) | News::Kept(..)) => panic!("{other:?}"),
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

fn run() -> RunId {
    "nov24-7kq3".parse().expect("it is a run")
}

fn take_up(market: &Arc<dyn Marketplace>, folder: &Path) -> Leases {
    let ledger = Ledger::open(&folder.join("ledger"), &run()).unwrap();
    Leases::new(Markets::new([Arc::clone(market)]), ledger, Events::unheard())
}

/// A marketplace, looked at with this key.
fn logged_in(lag: Duration, login: &str) -> Arc<World> {
    let world = World::with_lag(lag);
    world.log_in(login);
    Arc::new(world)
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
    let mut bench = Bench::new(after_renting([DOWN; 600]));
    let began = Instant::now();
    bench.rented().await;
    bench.released().await;
    assert_eq!(bench.world.billed(), 0, "it is taken for gone, and billed");
    assert!(Duration::from_hours(4) < began.elapsed(), "the faults were not met");
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_shows_nothing_by_mistake_proves_no_instance_gone() {
    let world = World::with_lag(Duration::from_mins(1));
    let mut bench = Bench::new(world);
    bench.rented().await;
    tokio::time::advance(Duration::from_mins(2)).await;
    // It says that it has ended it, hasn't, and lists nothing for a moment.
    bench.world.strike_next(Fault::Pretend);
    bench.world.strike_next(Fault::Hide);
    bench.leases.release(&bench.label).unwrap();
    let news = bench.leases.news().await.unwrap().unwrap();
    assert!(matches!(news, News::Released(_)), "{news:?}");
    assert_eq!(bench.world.billed(), 0, "it is taken for gone, and billed");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_listed_under_another_id_is_given_back_by_that_one_too() {
    let new = InstanceId("moved".into());
    let mut bench = Bench::new(World::default());
    bench.rented().await;
    bench.world.rename(&bench.label, &new);
    // Whoever comes after it knows the new one.
    bench.world.strike_next(Fault::None);
    bench.world.strike_next(Fault::None);
    bench.world.strike_next(DOWN);
    bench.leases.release(&bench.label).unwrap();
    let next = tokio::time::timeout(Duration::from_millis(100), bench.leases.news());
    next.await.expect_err("it is not over yet");
    assert_eq!(bench.state(), &LeaseState::Releasing(Some(new)));
    let news = bench.leases.news().await.unwrap().unwrap();
    assert!(matches!(news, News::Released(_)), "{news:?}");
    assert_eq!(bench.world.billed(), 0, "it is taken for gone, and billed");
}

/// A marketplace that rents, and says no name of it.
#[derive(Debug)]
struct Nameless(World);

#[async_trait::async_trait]
impl Marketplace for Nameless {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn offers(&self, need: &Need) -> providers::Result<Vec<Offer>> {
        self.0.offers(need).await
    }

    async fn rent(&self, order: &Order) -> providers::Result<Instance> {
        let rented = self.0.rent(order).await?;
        Ok(Instance { id: InstanceId(String::new()), ..rented })
    }

    async fn instances(&self) -> providers::Result<Vec<Instance>> {
        self.0.instances().await
    }

    async fn release(&self, id: &InstanceId) -> providers::Result<()> {
        self.0.release(id).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_comes_without_a_name_is_found_by_its_label() {
    let market = Arc::new(Nameless(World::default()));
    let mut bench = Bench::with(market.clone());
    let instance = bench.rented().await;
    assert_eq!(instance.id, InstanceId("instance-1".into()));
    bench.released().await;
    assert_eq!(market.0.billed(), 0);
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
async fn an_order_is_looked_for_until_no_listing_can_be_late_any_more() {
    let lag = Duration::from_mins(10);
    for (fault, rented) in [(Fault::LoseReply, 1), (Fault::Refuse(ErrorKind::Uncertain), 0)] {
        let mut bench = Bench::new(World::with_lag(lag).strike(0, fault));
        let News::Rented(_, answer) = bench.order().await else { panic!("it is an order") };
        assert_eq!((answer.iter().count(), bench.world.billed()), (rented, rented), "{fault:?}");
        assert_eq!(bench.leases.books().owed().count(), rented, "{fault:?}");
    }
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
    let began = Instant::now();
    let mut waiting = Waiting::new(&*bench.world, &instance.id);
    let wait = tokio::time::timeout(Duration::from_hours(24), async {
        waiting.next().await.expect("what it costs is told while it boots");
        assert!(began.elapsed() < Duration::from_secs(5), "after {:?}", began.elapsed());
        waiting.next().await
    });
    let error = wait.await.expect("the wait has an end").expect_err("it never runs");
    assert!(matches!(error, NotReady::TooSlow(_)), "{error}");
    assert!((limit..limit * 2).contains(&began.elapsed()));
    assert!(matches!(instance.state, InstanceState::Pending));
}

#[tokio::test(start_paused = true)]
async fn what_an_instance_costs_is_told_whatever_state_it_is_in() {
    for state in [InstanceState::Pending, InstanceState::Failed("broken".into())] {
        let mut bench = Bench::new(World::default());
        let instance = bench.rented().await;
        bench.world.turn(&instance.id, &state);
        let mut waiting = Waiting::new(&*bench.world, &instance.id);
        let seen = waiting.next().await.expect("it is listed");
        assert_eq!(seen, Seen { price: instance.price, endpoint: None });
        waiting.next().await.expect_err("it never runs");
    }
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
        // And ten seconds more, until another listing shows the same.
        assert_eq!(began.elapsed().as_secs(), waits.as_secs() + 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_believed_and_no_listing_asked_for() {
    let gone = Fault::Refuse(ErrorKind::OfferGone);
    let mut bench = Bench::new(World::default().strike(0, gone));
    let news = bench.order().await;
    assert!(matches!(news, News::Rented(_, Err(_))), "{news:?}");
    assert_eq!((bench.state(), bench.world.calls()), (&LeaseState::Refused, 1));
}

#[tokio::test(start_paused = true)]
async fn a_price_that_turned_out_higher_is_in_the_ledger() {
    let mut bench = Bench::new(World::default());
    bench.rented().await;
    let dearer = UsdPerHour(1_000_000);
    bench.leases.priced(&bench.label, dearer).unwrap();
    let bench = bench.restarted();
    assert_eq!(bench.leases.books().lease(&bench.label).unwrap().terms.price, dearer);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_program_held_is_taken_over_if_it_is_listed() {
    let mut bench = Bench::new(World::default());
    let instance = bench.rented().await;
    let mut bench = bench.restarted();
    let adopted = bench.leases.adopt(&bench.label).await.unwrap();
    assert_eq!(adopted, Some(instance));
    // Under another id it is the same, and is given back by that one.
    let moved = InstanceId("moved".into());
    bench.world.rename(&bench.label, &moved);
    assert!(bench.leases.adopt(&bench.label).await.unwrap().is_some());
    assert_eq!(bench.state(), &LeaseState::Held(moved));
    bench.world.reclaim(&bench.label);
    assert_eq!(bench.leases.adopt(&bench.label).await.unwrap(), None);
    assert_eq!(bench.leases.adopt(&Label("another's".into())).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_program_ordered_is_rented_once_it_is_listed() {
    // Nobody heard what came of the order.
    let orders = [(Fault::LoseReply, 1), (Fault::Refuse(ErrorKind::Uncertain), 0)];
    for (fault, rented) in orders {
        let world = World::default().strike(0, fault);
        let mut bench = Bench::new((0..20).fold(world, |world, _| world.strike(0, DOWN)));
        bench.order().await;
        let mut bench = bench.restarted();
        let adopted = bench.leases.adopt(&bench.label).await.unwrap();
        assert_eq!((bench.world.rented(), adopted.iter().count()), (rented, rented), "{fault:?}");
        let held = adopted.map_or(LeaseState::Ordered, |instance| LeaseState::Held(instance.id));
        assert_eq!(bench.state(), &held, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_out_is_not_taken_over() {
    let mut bench = Bench::new(World::default());
    bench.rented().await;
    bench.leases.release(&bench.label).unwrap();
    // It dies before its request is sent.
    let mut bench = bench.restarted();
    assert_eq!(bench.leases.adopt(&bench.label).await.unwrap(), None);
    assert_eq!(bench.world.billed(), 1, "it is there");
    bench.released().await;
    assert_eq!(bench.world.billed(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_over_or_on_its_way_is_not_asked_for_again() {
    let mut bench = Bench::new(World::default());
    bench.rented().await;
    let calls = bench.world.calls();
    bench.leases.release(&bench.label).unwrap();
    bench.released().await;
    bench.leases.release(&bench.label).unwrap();
    assert!(bench.leases.news().await.is_none(), "it is asked for again");
    assert_eq!(bench.state(), &LeaseState::Released);
    assert_eq!(bench.world.calls() - calls, 3, "one request and two listings");
}

#[tokio::test(start_paused = true)]
async fn a_try_that_fails_like_the_one_before_is_not_written_down() {
    let world = logged_in(Duration::ZERO, "one");
    let mut bench = Bench::with(Arc::clone(&world) as Arc<dyn Marketplace>);
    bench.rented().await;
    let mut written = Vec::new();
    for _ in 0..3 {
        world.strike_next(DOWN);
        assert_eq!(bench.leases.settle_once().await.len(), 1);
        written.push(std::fs::read_to_string(bench.folder.path().join("ledger")).unwrap());
    }
    assert!(written[0] == written[1] && written[0] == written[2], "{written:?}");
}

thread_local! {
    static SHOWN: Cell<i64> = const { Cell::new(1_795_600_000) };
}

#[tokio::test(start_paused = true)]
async fn an_instance_costs_its_price_for_as_long_as_it_is_kept() {
    clock::go_by(|| jiff::Timestamp::from_second(SHOWN.get()).expect("it is a time"));
    let mut bench = Bench::new(World::default());
    let price = bench.rented().await.price.expect("it has one");
    SHOWN.set(SHOWN.get() + 2 * 3_600);
    assert_eq!(bench.leases.books().cost(bench.leases.now()), Usd(price.0 * 2));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_has_in_hand_can_be_ended_and_counted() {
    let mut bench = Bench::new(World::default());
    bench.rented().await;
    let lease = bench.leases.books().lease(&bench.label).unwrap();
    for listed in [1, 0] {
        let ended = end_owed(&*bench.world, &bench.label, lease).await.unwrap();
        assert_eq!((ended, bench.world.billed()), (listed, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn leases_whose_ledger_nobody_would_find_say_so() {
    let bench = Bench::new(World::default());
    bench.leases.check().unwrap();
    std::fs::remove_file(bench.folder.path().join("ledger")).unwrap();
    bench.leases.check().expect_err("it is gone");
}

#[test]
fn an_error_is_told_with_its_causes_and_nothing_twice() {
    let told = |source: &'static str| {
        let (kind, source) = (ErrorKind::Unavailable, Some(source.into()));
        let error = providers::Error { provider: "acme", operation: "rent", kind, source };
        describe(&piecework::leases::LeaseError::from(error))
    };
    let text = "acme could not rent: the service is unavailable";
    assert_eq!(told("the line is down"), format!("{text}: the line is down"));
    assert_eq!(told("the service is unavailable"), text);
}
