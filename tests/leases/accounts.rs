//! Keys that are let in to other accounts, and people who know more than a listing.

use super::{Bench, DOWN, logged_in, run};
use piecework::{
    event::Events,
    leases::{Leases, Markets},
    ledger::{LeaseState, Ledger},
};
use providers::{
    Marketplace,
    testkit::{Fault, World},
};
use std::{sync::Arc, time::Duration};

#[tokio::test(start_paused = true)]
async fn the_listing_of_another_account_proves_nothing_gone() {
    let lag = Duration::from_mins(1);
    // What was rented, and what may have been.
    for lost in [false, true] {
        let (one, other) = (logged_in(lag, "one"), logged_in(lag, "other"));
        let mut bench = Bench::with(Arc::clone(&one) as Arc<dyn Marketplace>);
        if lost {
            one.strike_next(Fault::LoseReply);
            (0..20).for_each(|_| one.strike_next(DOWN));
        }
        bench.order().await;
        let mut bench = bench.restarted_at(&other);
        let adopted = bench.leases.adopt(&bench.label).await.expect_err("it is elsewhere");
        let said = "`piecework-1` was rented at world with another key, so this one can't show \
                    whether it is gone: log in with that key, or look at the marketplace's \
                    console and then say `piecework cleanup --forget piecework-1`";
        assert_eq!(adopted.to_string(), said);
        let settling = tokio::time::timeout(Duration::from_hours(24), bench.leases.settle());
        let settled = settling.await.expect("it has an end").expect_err("it is owed");
        assert_eq!(settled.to_string(), said);
        assert_eq!((bench.leases.books().owed().count(), one.billed()), (1, 1), "lost: {lost}");

        one.calm();
        let mut bench = bench.restarted_at(&one);
        bench.released().await;
        assert_eq!((bench.leases.books().owed().count(), one.billed()), (0, 0), "lost: {lost}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_key_of_the_same_account_is_as_good_once_it_has_shown_the_instance() {
    for adopts in [false, true] {
        let world = logged_in(Duration::from_mins(1), "one");
        let mut bench = Bench::with(Arc::clone(&world) as Arc<dyn Marketplace>);
        bench.rented().await;
        world.log_in("new");
        let mut bench = bench.restarted();
        if adopts {
            // The marketplace takes it back while it is at work.
            assert!(bench.leases.adopt(&bench.label).await.unwrap().is_some());
            world.reclaim(&bench.label);
        } else {
            // It doesn't go at once.
            world.strike_next(Fault::None);
            world.strike_next(Fault::None);
            world.strike_next(Fault::Pretend);
        }
        bench.released().await;
        assert_eq!(world.billed(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_another_key_could_not_get_is_asked_for_again() {
    let world = logged_in(Duration::ZERO, "one");
    let mut bench = Bench::with(Arc::clone(&world) as Arc<dyn Marketplace>);
    bench.rented().await;
    world.log_in("new");
    (0..5).for_each(|_| world.strike_next(DOWN));
    let mut bench = bench.restarted();
    bench.released().await;
    assert_eq!(world.billed(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_person_says_is_gone_is_forgotten_unless_it_is_listed() {
    let lag = Duration::from_mins(1);
    let world = logged_in(lag, "one");
    let mut bench = Bench::with(Arc::clone(&world) as Arc<dyn Marketplace>);
    bench.rented().await;
    let error = bench.leases.forget(&bench.label).await.expect_err("it is listed by then");
    assert_eq!(error.to_string(), "instance-1 is still listed");
    world.strike_next(DOWN);
    bench.leases.forget(&bench.label).await.expect_err("it may be listed");
    assert_eq!((bench.leases.books().owed().count(), world.billed()), (1, 1));

    let mut bench = bench.restarted_at(&logged_in(lag, "other"));
    bench.leases.forget(&bench.label).await.unwrap();
    assert_eq!((bench.state(), world.billed()), (&LeaseState::Released, 1));
    // Nothing is to be forgotten of what is over.
    bench.leases.forget(&bench.label).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_key_a_persons_word_is_all_there_is() {
    let mut bench = Bench::new(World::default());
    bench.rented().await;
    let Bench { leases, label, folder, .. } = bench;
    drop(leases);
    let ledger = Ledger::open(&folder.path().join("ledger"), &run()).unwrap();
    let mut leases = Leases::new(Markets::default(), ledger, Events::unheard());
    let error = leases.release(&label).expect_err("nobody can be asked");
    assert_eq!(error.to_string(), "world can't be asked: log in with `piecework login world`");
    leases.forget(&label).await.unwrap();
    assert_eq!(leases.books().owed().count(), 0);
}
