//! Instances that nobody asked for: orders that are carried out twice, too late, or although they are
//! refused.

use super::{Bench, DOWN, KEY};
use jiff::ToSpan;
use piecework::{
    label::twin,
    leases::{News, strays},
    ledger::LeaseState,
};
use providers::{
    ErrorKind, Instance, InstanceId, Label, Marketplace, Need, Order, UsdPerHour,
    testkit::{Fault, Pace, World},
};
use std::time::Duration;

impl Bench {
    /// The label is given to another instance.
    async fn doubled(&self) -> Instance {
        let offer = World::default().offers(&Need::default()).await.unwrap().remove(0);
        self.world.rent(&Order::new(offer, self.label.clone(), KEY)).await.unwrap()
    }

    /// What nobody has in hand is begun to be given back. How much that is.
    async fn swept(&mut self) -> usize {
        let listed = self.world.instances().await.unwrap();
        let strays = strays(self.leases.books(), "world", &listed);
        for stray in &strays {
            self.leases.give_back(stray).unwrap();
        }
        strays.len()
    }

    /// What is over next.
    async fn over(&mut self) -> Label {
        match self.leases.news().await.expect("a request is under way").unwrap() {
            News::Released(label) => label,
            other @ (News::Rented(..) | News::Kept(..)) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_twin_of_a_machine_is_given_back_while_that_works_on() {
    let mut bench = Bench::new(World::default());
    let own = bench.rented().await.id;
    let second = bench.doubled().await.id;
    assert_eq!(bench.swept().await, 1);
    assert_eq!(bench.swept().await, 0, "it is being given back");
    let name = twin(&bench.label, &second);
    assert_eq!(bench.over().await, name);
    assert_eq!((bench.state(), bench.world.billed()), (&LeaseState::Held(own), 1));
    // It was billed for as long as the other was, until then.
    let books = bench.leases.books();
    let [own, lease] = [&bench.label, &name].map(|label| books.lease(label).expect("it is there"));
    assert_eq!((lease.since, lease.terms.price), (own.since, own.terms.price));
    let later = bench.leases.now() + 1.hour();
    assert!(lease.cost(later) < UsdPerHour(lease.terms.price.0 / 60).over(Duration::from_hours(1)));
    bench.released().await;
    assert_eq!(bench.world.billed(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_twin_that_has_come_back_is_owed_once_more() {
    let mut bench = Bench::new(World::default());
    bench.rented().await;
    let name = twin(&bench.label, &bench.doubled().await.id);
    // It is said to be ended, isn't, and two listings leave it out.
    for fault in [Fault::None, Fault::Pretend, Fault::Hide, Fault::Hide] {
        bench.world.strike_next(fault);
    }
    for billed in [2, 1] {
        assert_eq!(bench.swept().await, 1);
        assert_eq!((&bench.over().await, bench.world.billed()), (&name, billed));
    }
    assert_eq!((bench.swept().await, bench.leases.books().owed().count()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_to_be_nobodys_and_is_not_any_more_is_left_alone() {
    let mut bench = Bench::new(World::default());
    bench.rented().await;
    bench.doubled().await;
    let listed = bench.world.instances().await.unwrap();
    let seen = strays(bench.leases.books(), "world", &listed);
    // Both are given back, by their label.
    bench.released().await;
    assert_eq!((seen.len(), bench.world.billed()), (1, 0));
    bench.leases.give_back(&seen[0]).unwrap();
    assert_eq!(bench.leases.books().leases().count(), 1, "it is told of twice");
    assert!(bench.leases.news().await.is_none(), "it is asked for again");
}

#[tokio::test(start_paused = true)]
async fn a_twin_that_nobody_saw_is_given_back_with_its_machine_after_a_crash_too() {
    let mut bench = Bench::new(World::default());
    bench.rented().await;
    bench.doubled().await;
    bench.swept().await;
    let mut bench = bench.restarted();
    let name = twin(&bench.label, &InstanceId("instance-2".into()));
    assert!(bench.leases.books().owed().any(|(label, _)| *label == name), "it was forgotten");
    bench.leases.settle().await.unwrap();
    assert_eq!((bench.world.billed(), bench.leases.books().owed().count()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_order_that_was_refused_and_is_carried_out_all_the_same_is_given_back_while_others_work()
{
    let mut bench = Bench::new(World::default());
    bench.world.strike_next(Fault::Refuse(ErrorKind::OfferGone));
    bench.order().await;
    assert_eq!((bench.swept().await, bench.state()), (0, &LeaseState::Refused));
    bench.doubled().await;
    assert_eq!((bench.swept().await, bench.world.billed()), (1, 1));
    assert!(0 < bench.leases.books().cost(bench.leases.now() + 1.hour()).0, "it was billed");
    assert_eq!((bench.over().await, bench.world.billed()), (bench.label, 0));
}

#[tokio::test(start_paused = true)]
async fn a_twin_that_is_on_its_way_out_is_never_taken_over() {
    let mut bench = Bench::new(World::default());
    let own = bench.rented().await.id;
    bench.doubled().await;
    bench.world.strike_next(Fault::None);
    bench.world.strike_next(Fault::Pretend);
    assert_eq!(bench.swept().await, 1);
    tokio::task::yield_now().await;
    // The machine itself is gone meanwhile.
    bench.world.release(&own).await.unwrap();
    let mut bench = bench.restarted();
    let adopted = bench.leases.adopt(&bench.label).await.unwrap();
    assert_eq!((adopted, bench.world.billed()), (None, 1));
    bench.leases.settle().await.unwrap();
    assert_eq!(bench.world.billed(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_machine_that_is_taken_over_is_the_one_that_was_rented_and_not_its_twin() {
    let mut bench = Bench::new(World::default());
    // Listed before it.
    bench.doubled().await;
    let own = bench.rented().await.id;
    let listed = bench.world.instances().await.unwrap();
    assert_ne!(listed[0].id, own);
    let mut bench = bench.restarted();
    let adopted = bench.leases.adopt(&bench.label).await.unwrap();
    assert_eq!(adopted.map(|found| found.id), Some(own));
}

#[tokio::test(start_paused = true)]
async fn an_order_that_is_carried_out_twice_is_given_back_twice() {
    let mut bench = Bench::new(World::default());
    bench.rented().await;
    let offer = World::default().offers(&Need::default()).await.unwrap().remove(0);
    bench.world.rent(&Order::new(offer, bench.label.clone(), KEY)).await.unwrap();
    assert_eq!(bench.world.billed(), 2);
    bench.released().await;
    assert_eq!(bench.world.billed(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_is_carried_out_later_than_any_listing_is_ended_all_the_same() {
    let lag = Duration::from_mins(1);
    let world = World::with_lag(lag);
    // Listed later than it admits to.
    world.go_at(Pace { answer: Duration::ZERO, listed: lag * 2 });
    let mut bench = Bench::new(world.strike(0, Fault::LoseReply));
    let news = bench.order().await;
    assert!(matches!(news, News::Rented(_, Err(_))), "{news:?}");
    assert_eq!((bench.state(), bench.world.billed()), (&LeaseState::Released, 1));
    tokio::time::advance(lag * 2).await;
    let calls = bench.world.calls();
    bench.leases.settle().await.unwrap();
    assert_eq!((bench.state(), bench.world.billed()), (&LeaseState::Released, 0));
    assert_eq!(bench.world.calls() - calls, 4, "it is seen, ended, gone and still gone");
}

#[tokio::test(start_paused = true)]
async fn a_last_look_costs_one_listing_and_one_that_fails_takes_nothing_back() {
    for fault in [Fault::None, DOWN] {
        let mut bench = Bench::new(World::default());
        bench.rented().await;
        bench.released().await;
        let calls = bench.world.calls();
        bench.world.strike_next(fault);
        bench.leases.settle().await.unwrap();
        assert_eq!((bench.world.calls() - calls, bench.leases.books().owed().count()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_only_once_takes_a_last_look_too() {
    let lag = Duration::from_mins(1);
    let world = World::with_lag(lag);
    world.go_at(Pace { answer: Duration::ZERO, listed: lag * 2 });
    let mut bench = Bench::new(world.strike(0, Fault::LoseReply));
    bench.order().await;
    tokio::time::advance(lag * 2).await;
    assert_eq!((bench.leases.books().owed().count(), bench.world.billed()), (0, 1));
    let errors = bench.leases.settle_once().await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!((bench.state(), bench.world.billed()), (&LeaseState::Released, 0));
}
