//! What may still be spent, and for how long that lasts. Pure.
//!
//! A budget is a promise on the total. Each lease is accounted for at what it may come to if
//! everything that ends it sooner fails, so that the sum of them never exceeds the budget; and
//! while it goes on, it is stopped early enough that what comes after the stop fits as well.

use super::stop::Stop;
use crate::{
    clock,
    ledger::{Books, Lease, LeaseState},
};
use jiff::Timestamp;
use providers::{Billing, Label, Traffic, Usd, UsdPerHour};
use std::{collections::BTreeMap, time::Duration};

/// How long it takes at most from the decision to give a machine back until it isn't billed any
/// more: one request that hangs for as long as it may, and another that is answered.
pub(super) const RELEASE: Duration = Duration::from_mins(1);

/// The share of a budget, in hundredths, that is left for finishing what was begun.
const DRAIN: u64 = 5;

/// And what it pays for at most: for longer than this nobody waits for what was begun.
pub(super) const DRAIN_LIMIT: Duration = Duration::from_mins(2);

/// How many hundredths dearer than it was quoted an instance may be.
const TOLERANCE: u64 = 2;

/// Gigabytes of an image, and of all else that isn't told.
const IMAGE_GB: u64 = 12;

/// Whether a price is more than the tolerance above the one that was quoted.
pub(super) fn is_dearer(price: UsdPerHour, quoted: UsdPerHour) -> bool {
    tolerated(quoted) < price
}

/// The highest price that counts as the one that was quoted.
fn tolerated(quoted: UsdPerHour) -> UsdPerHour {
    UsdPerHour(quoted.0.saturating_mul(100 + TOLERANCE) / 100)
}

/// What a machine comes to at most that is kept for `time`.
pub fn worst(quoted: UsdPerHour, billing: Billing, time: Duration, traffic: Usd) -> Usd {
    Usd(tolerated(quoted).over(billing.charged(time)).0.saturating_add(traffic.0))
}

/// What the traffic of a machine may cost at most: image and model in, all prompts in and all
/// answers out, and as much again for what is sent twice. `model` and `prompts` are bytes.
pub fn traffic(prices: Traffic, model: u64, prompts: u64) -> Usd {
    let gb = |bytes: u64| bytes.div_ceil(1_000_000_000);
    let sent = prompts.saturating_mul(2);
    let inbound = prices.inbound.0.saturating_mul(gb(model.saturating_add(sent)) + IMAGE_GB);
    let outbound = prices.outbound.0.saturating_mul(gb(sent) + 1);
    Usd(inbound.saturating_add(outbound))
}

/// What a lease may have cost by `now`, at the highest price that was accepted, and with all of its
/// traffic.
fn spent(lease: &Lease, now: Timestamp) -> u64 {
    match lease.state {
        LeaseState::Refused => 0,
        LeaseState::Absent
        | LeaseState::Ordered
        | LeaseState::Held(_)
        | LeaseState::Releasing(_)
        | LeaseState::Gone(_)
        | LeaseState::Released => {
            let cost = lease.cost(now).0;
            (cost + cost * TOLERANCE / 100).saturating_add(lease.terms.traffic.0)
        }
    }
}

/// What all leases together may have cost by `now`.
pub fn spent_by(books: &Books, now: Timestamp) -> Usd {
    let all = books.leases().map(|(_, lease)| spent(lease, now));
    Usd(all.fold(0, u64::saturating_add))
}

/// What is left of `budget` for leases that aren't ordered yet.
pub(super) fn left(books: &Books, budget: Usd, now: Timestamp) -> Usd {
    left_of(books, None, budget, now)
}

/// The same, once this lease is given back.
pub(super) fn left_without(books: &Books, label: &Label, budget: Usd, now: Timestamp) -> Usd {
    left_of(books, Some(label), budget, now)
}

fn left_of(books: &Books, given_back: Option<&Label>, budget: Usd, now: Timestamp) -> Usd {
    let committed = books.leases().map(|(label, lease)| {
        if given_back == Some(label) {
            return spent(lease, clock::after(now, RELEASE));
        }
        committed(lease, now)
    });
    Usd(budget.0.saturating_sub(committed.sum()))
}

/// What a lease counts as by `now`: what it may come to, while it isn't over.
fn committed(lease: &Lease, now: Timestamp) -> u64 {
    let spent = spent(lease, now);
    // One that its own end has failed costs more than it should have come to.
    if lease.state.costs() { spent.max(lease.terms.worst.0) } else { spent }
}

/// How long a machine of an earlier session may be kept from now on, where all of them together may
/// come to more than `budget` says now. None where they don't.
pub(super) fn stays(books: &Books, label: &Label, budget: Usd, now: Timestamp) -> Option<Duration> {
    let lease = books.lease(label)?;
    let all = books.leases().map(|(_, lease)| committed(lease, now)).sum::<u64>();
    if all <= budget.0 {
        return None;
    }
    let owed = books.owed().filter(|(_, lease)| lease.state.costs()).count().max(1) as u64;
    let more = budget.0.saturating_sub(spent_by(books, now).0) / owed;
    let terms = &lease.terms;
    let money = Usd(spent(lease, now).saturating_add(more));
    let whole = time_for(money, terms.price, terms.billing, terms.traffic);
    Some(whole.saturating_sub(clock::between(lease.since, now)))
}

/// How long a machine may be kept for this money, with what its traffic may cost set aside.
pub(super) fn time_for(money: Usd, price: UsdPerHour, billing: Billing, traffic: Usd) -> Duration {
    let Some(money) = money.0.checked_sub(traffic.0) else {
        return Duration::ZERO;
    };
    if price.0 == 0 {
        return Duration::MAX;
    }
    let time = lasts(Usd(money), tolerated(price));
    if time < billing.minimum {
        return Duration::ZERO;
    }
    match billing.step.as_micros() {
        0 => time,
        step => {
            let whole = u64::try_from(time.as_micros() / step * step).unwrap_or(u64::MAX);
            Duration::from_micros(whole)
        }
    }
}

/// How long money lasts at this price, which isn't nothing.
fn lasts(money: Usd, price: UsdPerHour) -> Duration {
    let micros = u128::from(money.0) * 3_600_000_000 / u128::from(price.0);
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// How long it takes until the last of the machines that are kept is asked to end, where a marketplace
/// takes one such request each `interval`.
pub(super) fn queue(books: &Books, interval: impl Fn(&str) -> Duration) -> Duration {
    let mut kept: BTreeMap<&str, u32> = BTreeMap::new();
    for (_, lease) in books.leases().filter(|(_, lease)| is_kept(lease)) {
        *kept.entry(&lease.terms.provider).or_default() += 1;
    }
    kept.into_iter().map(|(name, number)| interval(name) * (number - 1)).max().unwrap_or_default()
}

/// Whether a machine is there, or may be, and isn't being given back: that one no stop ends sooner.
const fn is_kept(lease: &Lease) -> bool {
    matches!(lease.state, LeaseState::Ordered | LeaseState::Held(_))
}

/// How far a budget says to stop. `queue` is how long after the first the last of all machines is
/// asked to end.
pub(super) fn verdict(books: &Books, budget: Usd, now: Timestamp, queue: Duration) -> Stop {
    let by = |time| spent_by(books, clock::after(now, time));
    let release = RELEASE + queue;
    // A budget of nothing is kept by what costs nothing.
    if by(release) == Usd(0) {
        return Stop::No;
    }
    let kept = Usd(budget.0.saturating_mul(DRAIN) / 100);
    let billed = books.leases().filter(|(_, lease)| is_kept(lease));
    let rate = billed.map(|(_, lease)| tolerated(lease.terms.price).0).sum();
    if rate == 0 {
        // Nothing is kept, and the question is whether anything more is to be.
        let is_spent = budget.0 <= by(Duration::ZERO).0.saturating_add(kept.0);
        return if is_spent { Stop::Drain } else { Stop::No };
    }
    // Told by the time that is left and not by what is spent: where time is charged in blocks the
    // last of them is paid for as soon as it begins, and is to be used.
    if budget < by(release) {
        Stop::Kill
    } else if budget < by(release + lasts(kept, UsdPerHour(rate)).min(DRAIN_LIMIT)) {
        Stop::Drain
    } else {
        Stop::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        label::RunId,
        ledger::{Entry, Ledger, Terms},
    };
    use providers::{InstanceId, OfferId, UsdPerGb};

    const NOW: i64 = 1_795_600_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(NOW + second).expect("it is a time")
    }

    /// A dollar a minute, ordered a minute ago by the clock that ledgers go by.
    fn with_lease(worst: u64, test: impl FnOnce(&Books, Timestamp)) {
        let by_the_second = Billing::default();
        with_leases(1, worst, by_the_second, |ledger, since| {
            test(ledger.books(), clock::after(since, Duration::from_mins(1)));
        });
    }

    /// As many at a dollar a minute each, and since when.
    fn with_leases(
        number: usize,
        worst: u64,
        billing: Billing,
        test: impl FnOnce(&mut Ledger, Timestamp),
    ) {
        clock::go_by(|| at(0));
        let folder = tempfile::tempdir().expect("a folder");
        let run = RunId::random(at(0));
        let mut ledger = Ledger::open(&folder.path().join("ledger"), &run).expect("it opens");
        let terms = Terms {
            provider: "acme".into(),
            login: None,
            offer: OfferId("1".into()),
            machine: None,
            price: UsdPerHour(60_000_000),
            billing,
            traffic: providers::Usd(0),
            worst: Usd(worst),
            expires: at(0),
            promise: crate::smoke::Promise::default(),
        };
        let labels: Vec<_> = (0..number).map(|number| Label(number.to_string())).collect();
        for label in &labels {
            ledger.record(label, Entry::Ordered(terms.clone())).expect("it is the first");
            let id = InstanceId(label.to_string());
            ledger.record(label, Entry::Rented(id)).expect("it was ordered");
        }
        let since = ledger.books().lease(&labels[0]).expect("it is there").since;
        test(&mut ledger, since);
    }

    #[test]
    fn a_lease_counts_as_what_it_may_come_to_while_it_is_owed() {
        with_lease(7_000_000, |books, now| {
            assert_eq!(left(books, Usd(10_000_000), now), Usd(3_000_000));
            assert_eq!(left(books, Usd(5_000_000), now), Usd(0));
        });
        // One that is to be given back, for what it costs until then.
        with_lease(5_000_000, |books, now| {
            let label = books.leases().map(|(label, _)| label).next().expect("there is one");
            assert_eq!(left_without(books, label, Usd(10_000_000), now), Usd(7_960_000));
        });
        // And as what it has cost once that is more: a dollar, and the tolerance.
        with_lease(500_000, |books, now| {
            assert_eq!(left(books, Usd(10_000_000), now), Usd(8_980_000));
        });
    }

    #[test]
    fn machines_of_an_earlier_session_stay_as_long_as_a_smaller_budget_lasts() {
        // Two at a dollar a minute, of which either may come to nine, and has cost one.
        with_leases(2, 9_000_000, Billing::default(), |ledger, since| {
            let (books, now) = (ledger.books(), clock::after(since, Duration::from_mins(1)));
            let stays = |budget| stays(books, &Label("0".into()), Usd(budget), now);
            assert_eq!(stays(18_000_000), None);
            // With two hundredths to spare either has its half.
            let Some(stays_on) = stays(17_999_998) else { panic!("it is less") };
            let (least, most) = (Duration::from_secs(469), Duration::from_secs(470));
            assert!(least < stays_on && stays_on < most, "{stays_on:?}");
            assert_eq!(stays(2_040_000), Some(Duration::ZERO));
            assert_eq!(stays(1), Some(Duration::ZERO));
        });
    }

    #[test]
    fn what_is_gone_from_one_listing_is_not_in_the_way_of_another_machine() {
        with_leases(1, 9_000_000, Billing::default(), |ledger, since| {
            let label = Label("0".into());
            ledger.record(&label, Entry::Releasing).expect("it is held");
            ledger.record(&label, Entry::Gone).expect("it is being given back");
            let later = clock::after(since, Duration::from_hours(1));
            // A second or two were paid for.
            let left = left(ledger.books(), Usd(10_000_000), later).0;
            assert!((9_900_000..10_000_000).contains(&left), "{left}");
            assert_eq!(verdict(ledger.books(), Usd(10_000_000), later, Duration::ZERO), Stop::No);
        });
    }

    #[test]
    fn money_lasts_as_long_as_it_is_charged_for() {
        let minute = Duration::from_mins(1);
        let dollar_a_minute = UsdPerHour(60_000_000);
        let blocks = Billing { minimum: minute * 10, step: minute * 10 };
        let by_the_second = Billing::default();
        // The tolerance is kept back: a dollar lasts for a minute less two hundredths.
        for (money, billing, traffic, micros) in [
            (5_000_000, by_the_second, 0, 294_117_647),
            (5_000_000, by_the_second, 2_000_000, 176_470_588),
            (5_000_000, by_the_second, 6_000_000, 0),
            (25_000_000, blocks, 0, 1_200_000_000),
            (20_000_000, blocks, 0, 600_000_000),
            (10_200_000, blocks, 0, 600_000_000),
            (9_000_000, blocks, 0, 0),
        ] {
            let time = time_for(Usd(money), dollar_a_minute, billing, Usd(traffic));
            assert_eq!(time, Duration::from_micros(micros), "{money} with {billing:?}");
            let worst = worst(dollar_a_minute, billing, time, Usd(traffic));
            assert!(time == Duration::ZERO || worst.0 <= money, "{worst} for {money}");
        }
        assert_eq!(time_for(Usd(0), UsdPerHour(0), by_the_second, Usd(0)), Duration::MAX);
        // A minute at the highest price that is accepted, and the traffic.
        let comes_to = worst(dollar_a_minute, by_the_second, minute, Usd(2_000_000));
        assert_eq!(comes_to, Usd(3_020_000));
    }

    #[test]
    fn a_budget_stops_before_it_is_spent() {
        // One dollar is spent, and one more goes while the machine is given back.
        for (budget, expected) in [
            (10_000_000, Stop::No),
            // Just enough is enough: a twentieth for the drain, and then the dollar.
            (2_147_355, Stop::No),
            (2_147_354, Stop::Drain),
            (2_040_000, Stop::Drain),
            (2_039_999, Stop::Kill),
            (1_000_000, Stop::Kill),
        ] {
            with_lease(9_000_000, |books, now| {
                assert_eq!(verdict(books, Usd(budget), now, Duration::ZERO), expected, "{budget}");
            });
        }
    }

    #[test]
    fn the_more_machines_wait_for_their_end_the_earlier_it_begins() {
        with_leases(41, 0, Billing::default(), |ledger, since| {
            let interval = |name: &str| {
                assert_eq!(name, "acme");
                Duration::from_secs(3)
            };
            let wait = queue(ledger.books(), interval);
            assert_eq!(wait, Duration::from_mins(2));
            let now = clock::after(since, Duration::from_mins(1));
            // 41 dollars are spent, and as many go with each of the three minutes that it takes.
            let enough = 4 * (41_000_000 + 820_000);
            let stop = |budget| verdict(ledger.books(), Usd(budget), now, wait);
            assert_eq!([stop(enough), stop(enough - 1)], [Stop::Drain, Stop::Kill]);
            let first = Label("0".into());
            ledger.record(&first, Entry::Releasing).expect("it is held");
            assert_eq!(queue(ledger.books(), interval), Duration::from_secs(117));
        });
        assert_eq!(queue(&Books::default(), |_| Duration::MAX), Duration::ZERO);
    }

    #[test]
    fn what_was_agreed_to_is_enough_for_a_run_that_is_not_disturbed() {
        let (day, ten) = (Duration::from_hours(24), Duration::from_mins(10));
        for billing in [Billing::default(), Billing { minimum: ten, step: ten }] {
            // What is said of two machines at their price, that are given back ten minutes later.
            let price = UsdPerHour(60_000_000);
            let agreed = Usd(2 * worst(price, billing, day + ten, Usd(0)).0);
            with_leases(2, 0, billing, |ledger, since| {
                for hours in [0, 1, 20, 24] {
                    let now = clock::after(since, Duration::from_hours(hours));
                    let stop = verdict(ledger.books(), agreed, now, Duration::ZERO);
                    assert_eq!(stop, Stop::No, "after {hours} h with {billing:?}");
                }
            });
        }
    }

    #[test]
    fn the_last_block_that_a_budget_pays_for_is_used() {
        let ten = Duration::from_mins(10);
        let blocks = Billing { minimum: Duration::ZERO, step: ten };
        // Two machines at ten dollars a block: each budget pays for a block of both, with the
        // tolerance and a little more, or for two blocks and a half.
        for (budget, last) in [(21_000_000, ten), (52_000_000, ten * 2)] {
            with_leases(2, 0, blocks, |ledger, since| {
                let left = |seconds| {
                    let now =
                        clock::after(since, last.saturating_sub(Duration::from_secs(seconds)));
                    verdict(ledger.books(), Usd(budget), now, Duration::ZERO)
                };
                assert_eq!((left(595), left(150)), (Stop::No, Stop::No), "{budget}");
                assert_eq!((left(75), left(45)), (Stop::Drain, Stop::Kill), "{budget}");
            });
        }
    }

    #[test]
    fn with_nothing_billed_a_run_goes_on_until_its_budget_is_spent() {
        with_leases(1, 0, Billing::default(), |ledger, _| {
            let label = Label("0".into());
            ledger.record(&label, Entry::Releasing).expect("it is rented");
            ledger.record(&label, Entry::Released).expect("it is gone");
            let spent = ledger.books().cost(at(0));
            let stop = |budget| verdict(ledger.books(), Usd(budget), at(0), Duration::ZERO);
            assert_eq!((stop(spent.0 * 2), stop(spent.0)), (Stop::No, Stop::Drain));
        });
    }

    #[test]
    fn an_instance_counts_at_what_it_is_billed_whatever_was_quoted() {
        with_leases(1, 0, Billing::default(), |ledger, since| {
            let (label, now) = (Label("0".into()), clock::after(since, Duration::from_mins(1)));
            ledger.record(&label, Entry::Priced(UsdPerHour(180_000_000))).expect("it is rented");
            ledger.record(&label, Entry::Releasing).expect("it is rented");
            assert_eq!(left(ledger.books(), Usd(10_000_000), now), Usd(6_940_000));
            assert_eq!(ledger.books().cost(now), Usd(3_000_000));
        });
    }

    #[test]
    fn a_price_is_dearer_from_two_hundredths_on() {
        let quoted = UsdPerHour(1_000_000);
        assert!(!is_dearer(UsdPerHour(1_020_000), quoted));
        assert!(is_dearer(UsdPerHour(1_020_001), quoted));
    }

    #[test]
    fn traffic_is_reckoned_in_both_directions() {
        let prices = Traffic { inbound: UsdPerGb(10_000), outbound: UsdPerGb(20_000) };
        // 16 GB of model, twice 2 GB of prompts and 12 GB of image in, twice 2 GB and 1 out.
        assert_eq!(traffic(prices, 16_000_000_000, 2_000_000_000), Usd(420_000));
        assert_eq!(traffic(Traffic::default(), u64::MAX, u64::MAX), Usd(0));
    }
}
