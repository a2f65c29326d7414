//! What a guard does: it waits, and settles.

use super::{LOOK_EVERY, labelled::end_labelled};
use crate::{
    clock,
    event::{Event, Events},
    label::Owner,
    leases::{LeaseError, Leases, Markets, describe, end_owed},
    ledger::{Books, FileError, LedgerError, Watched},
    run::{RunFolder, sweep},
};
use jiff::Timestamp;
use std::{io, time::Duration};
use tokio::time::{Instant, sleep};

/// How often it looks whether its program keeps something past its time.
const OVERDUE_EVERY: Duration = Duration::from_secs(10);

/// The shortest and the longest pause between two attempts to give everything back.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_mins(1));

/// Watches over the run in `folder` until nothing is owed.
pub(super) async fn watch(
    folder: &RunFolder,
    owner: &Owner,
    markets: &Markets,
    grace: Duration,
    events: &Events,
) -> io::Result<()> {
    let Some(mut ledger) = Watched::open(&folder.ledger()).map_err(io::Error::other)? else {
        return Ok(());
    };
    let (mut abandoned, mut pause, mut looked) = (false, PAUSES.0, Instant::now());
    let mut is_over = false;
    loop {
        sleep(LOOK_EVERY).await;
        if ledger.is_in_use() {
            (abandoned, pause, is_over) = (false, PAUSES.0, false);
            if OVERDUE_EVERY <= looked.elapsed() {
                // One that can't be read now can be later.
                let books = ledger.books().unwrap_or_default();
                // By the computer's clock, as it is written. By a time that never goes back all that is
                // ordered after the clock was put back would be past its time for as long.
                end_overdue(&books, markets, clock::shown(clock::now()), events).await;
                looked = Instant::now();
            }
            continue;
        }
        let books = match ledger.books() {
            Ok(books) => books,
            Err(LedgerError::File(FileError::Io { .. })) => {
                // A disk may be back later.
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
                continue;
            }
            // One that is damaged may owe anything that has the run's label.
            Err(error) => {
                if is_left_alone(&ledger, grace).await {
                    end_by_label(&ledger, folder, owner, markets, events).await?;
                    if ledger.is_in_use() {
                        continue;
                    }
                    if let Some(successor) = ledger.successor().map_err(io::Error::other)? {
                        ledger = successor;
                        continue;
                    }
                    return Err(io::Error::other(error));
                }
                continue;
            }
        };
        let Some(holder) = books.holder() else { return Ok(()) };
        if books.owed().next().is_none() {
            if let Some(successor) = ledger.successor().map_err(io::Error::other)? {
                ledger = successor;
            } else if is_over || !look_later(&ledger, &books, markets, events).await {
                return Ok(());
            } else {
                is_over = true;
            }
            continue;
        }
        abandoned = abandoned || is_left_alone(&ledger, grace).await;
        if !abandoned {
            continue;
        }
        let taken = match ledger.take(&holder.run) {
            Ok(taken) => taken,
            // Somebody has taken it up just now, and then it isn't ours to settle.
            Err(LedgerError::File(FileError::InUse { .. } | FileError::InUseByUnknown)) => continue,
            Err(error) => return Err(io::Error::other(error)),
        };
        let mut leases = Leases::new(markets.clone(), taken, events.clone());
        let errors = leases.settle_once().await;
        if errors.is_empty() {
            // What this leaves behind is no instance, and `cleanup` tries again.
            drop(sweep(&leases, folder).await);
            continue;
        }
        if errors.iter().all(|error| matches!(error, LeaseError::OtherKey { .. })) {
            // Our keys stay what they are, and so does what they can show.
            return Err(io::Error::other("what is owed can't be seen with the keys there are"));
        }
        if errors.iter().all(|error| matches!(error, LeaseError::Ledger(_))) {
            // All of it is gone, of which no word can be written.
            return Err(io::Error::other(describe(&errors[0])));
        }
        drop(leases);
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Looks once more for what is over, long after its listings: an order may be carried out late, and a
/// marketplace can forget an instance for a while. What is there is owed again. False where listings
/// are never behind, or somebody has taken the run up meanwhile.
async fn look_later(ledger: &Watched, books: &Books, markets: &Markets, events: &Events) -> bool {
    let at = books.leases().filter_map(|(_, lease)| markets.get(&lease.terms.provider));
    let lag = at.map(|market| market.capabilities().listing_lag).max().unwrap_or_default();
    let Some(holder) = books.holder().filter(|_| !lag.is_zero()) else { return false };
    let begun = Instant::now();
    while begun.elapsed() < lag * 2 {
        sleep(LOOK_EVERY).await;
        if ledger.is_in_use() {
            return true;
        }
    }
    if let Ok(taken) = ledger.take(&holder.run) {
        // What can't be written can't be owed either; `cleanup` finds it by its label.
        drop(Leases::new(markets.clone(), taken, events.clone()).look_again().await);
    }
    true
}

/// Ends what a program has in hand and should have given back: it is stopped, or hangs.
async fn end_overdue(books: &Books, markets: &Markets, now: Timestamp, events: &Events) {
    for (label, lease) in books.owed().filter(|(_, lease)| lease.is_overdue(now)) {
        let Some(market) = markets.get(&lease.terms.provider) else { continue };
        let label = label.clone();
        match end_owed(&**market, &label, lease).await {
            Ok(0) => {}
            Ok(_) => events.send(Event::EndedOverdue { label }),
            Err(error) => {
                events.send(Event::StillOwed { label, reason: describe(&error) });
            }
        }
    }
}

/// Ends what a run has rented, wherever its plan lets it or can't say.
async fn end_by_label(
    ledger: &Watched,
    folder: &RunFolder,
    owner: &Owner,
    markets: &Markets,
    events: &Events,
) -> io::Result<()> {
    let name = folder.path().file_name().unwrap_or_default().to_string_lossy();
    let run = name.parse().map_err(io::Error::other)?;
    let known = |name: &&String| markets.get(name).is_some();
    let meant = folder.plan().map(|plan| plan.search.providers).unwrap_or_default();
    let meant: Vec<_> = meant.iter().filter(known).cloned().collect();
    let chosen = markets.only(&meant).ok().filter(|_| !meant.is_empty());
    let chosen = chosen.unwrap_or_else(|| markets.clone());
    // Another may be in its place that isn't damaged, and says what is owed.
    let in_hand = || ledger.is_in_use() || ledger.successor().is_ok_and(|next| next.is_some());
    end_labelled(&run, owner, &chosen, events, in_hand).await.map_err(io::Error::other)
}

/// Whether nobody takes the run up for as long as `grace`.
async fn is_left_alone(ledger: &Watched, grace: Duration) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < grace {
        sleep(LOOK_EVERY.min(grace)).await;
        if ledger.is_in_use() {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Entry, Ledger, OVERTIME, Terms};
    use providers::{
        ErrorKind, Label, Marketplace, Need, Order, UsdPerHour,
        testkit::{Fault, Pace, World},
    };
    use std::sync::Arc;

    /// A marketplace where a machine is listed so late that its order is taken for refused, and the
    /// folder of the run that ordered it.
    async fn ordered_in_vain(listed: Duration) -> (Arc<World>, tempfile::TempDir) {
        let world = Arc::new(World::with_lag(Duration::from_mins(1)));
        world.go_at(Pace { answer: Duration::ZERO, listed });
        let folder = tempfile::tempdir().expect("a folder");
        let run = "nov26-7kq3".parse().expect("a run");
        let ledger = Ledger::open(&folder.path().join("ledger"), &run).expect("it opens");
        let markets = Markets::new([world.clone() as Arc<dyn Marketplace>]);
        let mut leases = Leases::new(markets, ledger, Events::unheard());
        let offer = world.offers(&Need::default()).await.expect("it answers").remove(0);
        world.strike_next(Fault::LoseReply);
        let order = Order::new(offer, Label("pw-1".into()), "ssh-ed25519 key");
        let terms = Terms::example("world", UsdPerHour(1), Timestamp::MAX);
        leases.order(order, terms).expect("it can be written");
        leases.news().await.expect("it is under way").expect("it can be written");
        assert_eq!((leases.books().owed().count(), world.billed()), (0, 1));
        (world, folder)
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_looks_once_more_long_after_everything_is_over() {
        // Orders are carried out later than any listing should be, which it waits for, but not for
        // ever.
        for (listed, billed) in [(Duration::from_mins(3), 0), (Duration::from_hours(1), 1)] {
            let (world, folder) = ordered_in_vain(listed).await;
            let markets = Markets::new([world.clone() as Arc<dyn Marketplace>]);
            let (owner, events) = (Owner::random(), Events::unheard());
            let run = RunFolder::at(folder.path().to_owned());
            let begun = Instant::now();
            watch(&run, &owner, &markets, Duration::ZERO, &events).await.expect("it ends");
            assert_eq!(world.billed(), billed);
            assert!(begun.elapsed() < Duration::from_mins(6), "{:?}", begun.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_leaves_a_last_look_to_whoever_takes_the_run_up() {
        let (world, folder) = ordered_in_vain(Duration::from_mins(3)).await;
        let markets = Markets::new([world.clone() as Arc<dyn Marketplace>]);
        let (owner, events) = (Owner::random(), Events::unheard());
        let run = RunFolder::at(folder.path().to_owned());
        let path = run.ledger();
        let resumed = async {
            sleep(Duration::from_mins(1)).await;
            let taken = Ledger::open(&path, &"nov26-7kq3".parse().expect("a run"));
            sleep(Duration::from_mins(30)).await;
            assert_eq!(world.billed(), 1, "it is in somebody's hands");
            drop(taken.expect("nobody has it"));
        };
        let watching = watch(&run, &owner, &markets, Duration::ZERO, &events);
        let (watched, ()) = tokio::join!(watching, resumed);
        watched.expect("it ends");
        assert_eq!(world.billed(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_looks_all_the_time_whether_its_program_hangs() {
        let world = Arc::new(World::default());
        let folder = tempfile::tempdir().expect("a folder");
        let run = RunFolder::at(folder.path().to_owned());
        let name = "nov26-7kq3".parse().expect("a run");
        let ledger = Ledger::open(&run.ledger(), &name).expect("it opens");
        let markets = Markets::new([world.clone() as Arc<dyn Marketplace>]);
        let mut leases = Leases::new(markets.clone(), ledger, Events::unheard());
        let offer = world.offers(&Need::default()).await.expect("it answers").remove(0);
        let order = Order::new(offer, Label("pw-1".into()), "ssh-ed25519 key");
        let terms = Terms::example("world", UsdPerHour(1), Timestamp::UNIX_EPOCH);
        leases.order(order, terms).expect("it can be written");
        leases.news().await.expect("it is under way").expect("it can be written");
        let hanging = async {
            assert_eq!(world.billed(), 1);
            sleep(OVERDUE_EVERY * 2).await;
            assert_eq!(world.billed(), 0, "it is long past its time");
            drop(leases);
        };
        let (owner, events) = (Owner::random(), Events::unheard());
        let watching = watch(&run, &owner, &markets, Duration::ZERO, &events);
        let (watched, ()) = tokio::join!(watching, hanging);
        watched.expect("it ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_marketplace_that_is_down_at_the_last_look_keeps_nobody() {
        let (world, folder) = ordered_in_vain(Duration::from_mins(3)).await;
        let markets = Markets::new([world.clone() as Arc<dyn Marketplace>]);
        world.strike_next(Fault::Refuse(ErrorKind::Unavailable));
        let run = RunFolder::at(folder.path().to_owned());
        let (owner, events) = (Owner::random(), Events::unheard());
        watch(&run, &owner, &markets, Duration::ZERO, &events).await.expect("it ends");
        assert_eq!(world.billed(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_hung_program_keeps_past_its_time_is_ended_under_its_hands() {
        let world = Arc::new(World::default());
        let offer = world.offers(&Need::default()).await.expect("it answers").remove(0);
        let label = Label("pw-1".into());
        let order = Order::new(offer, label.clone(), "ssh-ed25519 key");
        let id = world.rent(&order).await.expect("it is for rent").id;
        let folder = tempfile::tempdir().expect("a folder");
        let (path, run) = (folder.path().join("ledger"), "nov26-7kq3".parse().expect("a run"));
        let mut ledger = Ledger::open(&path, &run).expect("it opens");
        let expires = Timestamp::from_second(1_795_600_000).expect("it is a time");
        let terms = Terms::example("world", UsdPerHour(1), expires);
        ledger.record(&label, Entry::Ordered(terms)).expect("it is the first");
        ledger.record(&label, Entry::Rented(id)).expect("it follows");
        let markets = Markets::new([world.clone() as Arc<dyn Marketplace>]);
        let events = Events::unheard();
        let soon = clock::after(expires, OVERTIME);
        end_overdue(ledger.books(), &markets, soon, &events).await;
        assert_eq!(world.billed(), 1, "it may be on its way out");
        let late = clock::after(soon, Duration::from_secs(1));
        end_overdue(ledger.books(), &markets, late, &events).await;
        assert_eq!(world.billed(), 0);
    }
}
