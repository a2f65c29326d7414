//! Random stories of a run that rents and gives back, on the real code: the leases, the ledger in a
//! real file, the guard's way and `cleanup`'s. Whoever acts may be killed at any moment, as every
//! request takes its time and is carried out in the middle of it.

use crate::bench::{Bench, LAG, Net, SLOTS, Step};
use jiff::SignedDuration;
use proptest::{
    prelude::{Just, Strategy, prop_oneof},
    sample::select,
    test_runner::{Config, TestError, TestRunner},
};
use providers::{
    ErrorKind,
    testkit::{Fault, Pace},
};
use std::{cell::Cell, time::Duration};

/// How many stories are told where `PROPTEST_CASES` doesn't say.
const CASES: u32 = 200;

const FAULTS: [Fault; 6] = [
    Fault::LoseReply,
    Fault::Pretend,
    Fault::Refuse(ErrorKind::Unavailable),
    Fault::Refuse(ErrorKind::Uncertain),
    Fault::Refuse(ErrorKind::OfferGone),
    Fault::None,
];

fn seconds(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_secs)
}

/// Times that end in the middle of a request, of a wait, or after everything.
fn lasts() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (0..20_000_u64).prop_map(Duration::from_millis),
        seconds(20..200),
        Just(Duration::from_hours(48)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let clock = prop_oneof![-7200..7200_i64, Just(1_000_000_000), -100..100_i64];
    let pace = (0..20_000_u64, 0..40_000_u64).prop_map(|(answer, listed)| Pace {
        answer: Duration::from_millis(answer),
        listed: Duration::from_millis(listed),
    });
    prop_oneof![
        6 => (0..SLOTS).prop_map(Step::Rent),
        3 => (0..SLOTS).prop_map(Step::GiveBack),
        4 => lasts().prop_map(Step::Hear),
        1 => lasts().prop_map(Step::Settle),
        2 => proptest::bool::ANY.prop_map(|torn| Step::Kill { torn }),
        3 => lasts().prop_map(Step::Resume),
        1 => lasts().prop_map(Step::Guard),
        2 => (lasts(), proptest::bool::weighted(0.2))
            .prop_map(|(lasts, overtaken)| Step::Cleanup { lasts, overtaken }),
        1 => Just(Step::Rival),
        1 => clock.prop_map(|by| Step::Jump(SignedDuration::from_secs(by))),
        2 => seconds(0..LAG.as_secs() * 2).prop_map(Step::Wait),
        1 => (0..SLOTS).prop_map(Step::Reclaim),
        2 => Just(Step::Double),
        2 => Just(Step::LookOut),
        5 => select(&FAULTS[..]).prop_map(Step::Strike),
        2 => pace.prop_map(Step::Pace),
    ]
}

fn tell(story: &[Step], net: Net) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let mut bench = Bench::new().await;
        for step in story {
            bench.take(*step).await;
        }
        bench.end_by(net).await;
    });
}

#[test]
#[expect(clippy::print_stdout, reason = "a figure for whoever asks how much was tried")]
fn whatever_happens_the_ledger_owes_what_is_billed_and_each_net_alone_ends_it() {
    // What is found is told below as a story of its own, so no file of seeds is kept.
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    let nets = select(&[Net::Resume, Net::Guard, Net::Cleanup][..]);
    let stories = (proptest::collection::vec(step(), 1..40), nets);
    let (told, steps) = (Cell::new(0), Cell::new(0));
    let outcome = TestRunner::new(config).run(&stories, |(story, net)| {
        told.set(told.get() + 1);
        steps.set(steps.get() + story.len());
        tell(&story, net);
        Ok(())
    });
    println!("{} stories of {} steps told", told.get(), steps.get());
    if let Err(TestError::Fail(why, (story, net))) = outcome {
        panic!("{why}\n{story:#?}\n{net:?}");
    }
    assert!(outcome.is_ok(), "{outcome:?}");
}

#[test]
fn a_clock_that_was_put_forward_makes_no_listing_late_enough() {
    // The program dies before it hears that it has rented, and what it rented isn't listed yet.
    let pace = Pace { answer: Duration::from_secs(10), listed: Duration::from_secs(40) };
    let story = [
        Step::Pace(pace),
        Step::Rent(0),
        Step::Wait(Duration::from_secs(6)),
        Step::Jump(SignedDuration::from_hours(1)),
    ];
    for net in [Net::Resume, Net::Guard, Net::Cleanup] {
        tell(&story, net);
    }
}

#[test]
fn a_clock_that_is_put_back_makes_nothing_cheaper() {
    let long = Duration::from_mins(5);
    let jump = Step::Jump(SignedDuration::from_hours(-1));
    let begun = [Step::Rent(0), Step::Hear(long), Step::Wait(long)];
    let ends = [Step::Wait(long), Step::GiveBack(0), Step::Hear(long)];
    tell(&[&begun[..], &[jump], &ends[..]].concat(), Net::Resume);
    let forth = Step::Jump(SignedDuration::from_hours(1));
    tell(&[&begun[..], &[forth, Step::Wait(long), jump], &ends[..]].concat(), Net::Resume);
}

#[test]
fn the_second_in_which_an_instance_went_is_counted_too() {
    let (tenths, long) = (Duration::from_millis(900), Duration::from_mins(5));
    let story = [
        Step::Rent(0),
        Step::Hear(long),
        Step::Wait(long + tenths),
        Step::GiveBack(0),
        Step::Hear(long),
    ];
    tell(&story, Net::Resume);
}

#[test]
fn what_is_taken_back_before_anybody_sees_it_is_counted() {
    let story = [
        Step::Strike(Fault::LoseReply),
        Step::Rent(0),
        Step::Wait(LAG / 2),
        Step::Reclaim(0),
        Step::Hear(LAG * 2),
    ];
    tell(&story, Net::Resume);
}
