//! One run on one marketplace, with whoever may have its ledger in hand, and what must hold whatever
//! happens to them.

use jiff::{SignedDuration, Timestamp};
use piecework::{
    cleanup::{self, Found, Kind, Whose},
    clock,
    event::Events,
    label::{Owner, RunId, Stamp},
    leases::{Leases, Markets, News, strays},
    ledger::{Books, FileError, Ledger, LedgerError, Terms},
    run::{Home, RunFolder},
    smoke::Promise,
};
use providers::{
    Billing, Label, Marketplace, Need, Offer, Order, Usd,
    testkit::{Fault, Pace, World},
};
use std::{
    cell::Cell, collections::BTreeSet, fs::OpenOptions, io::Write, sync::Arc, time::Duration,
};
use tempfile::TempDir;
use tokio::time::{Instant, advance, timeout};

/// How late the marketplace admits to be.
pub(crate) const LAG: Duration = Duration::from_mins(1);

/// How many machines the run wants.
pub(crate) const SLOTS: u32 = 2;

/// More than anything takes that has an end.
const EVER: Duration = Duration::from_hours(24 * 30);

const NOW: i64 = 1_795_600_000;

/// What may happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// The program orders a machine for a slot that nothing is owed for.
    Rent(u32),
    /// It begins to give a slot's machine back.
    GiveBack(u32),
    /// It hears what marketplaces answer, for at most so long.
    Hear(Duration),
    /// It gives everything back, or is stopped while it does.
    Settle(Duration),
    /// It is killed, perhaps while it was writing a line.
    Kill { torn: bool },
    /// It is started again and takes over what is there, or is killed while it does.
    Resume(Duration),
    /// The guard of a dead run settles, or is killed while it does.
    Guard(Duration),
    /// `cleanup` runs, or is killed while it does; perhaps somebody resumes the run once it has
    /// looked.
    Cleanup { lasts: Duration, overtaken: bool },
    /// A second program wants the run.
    Rival,
    /// The computer's clock is put forward or back.
    Jump(SignedDuration),
    /// Time passes.
    Wait(Duration),
    /// The marketplace wants a slot's machine back.
    Reclaim(u32),
    /// The marketplace carries the next order out twice.
    Double,
    /// The program looks for what nobody asked for.
    LookOut,
    /// One of the next calls is struck.
    Strike(Fault),
    /// The marketplace gets slower or faster.
    Pace(Pace),
}

/// What ends a dead run's leases.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Net {
    /// The program, started again.
    Resume,
    /// The guard.
    Guard,
    /// `cleanup`.
    Cleanup,
}

thread_local! {
    /// When the story began, and how far the computer's clock is off.
    static CLOCK: Cell<Option<(Instant, SignedDuration)>> = const { Cell::new(None) };
}

/// The time of day in the story: it passes as the runtime's does.
fn time_of_day() -> Timestamp {
    let begun = Timestamp::from_second(NOW).expect("it is a time");
    CLOCK.get().map_or(begun, |(start, off)| clock::after(begun, start.elapsed()) + off)
}

/// One run, its marketplace, and whoever has it in hand.
pub(crate) struct Bench {
    world: Arc<World>,
    markets: Markets,
    offer: Offer,
    home: Home,
    folder: RunFolder,
    owner: Owner,
    run: RunId,
    leases: Option<Leases>,
    /// Instances that are no business of ours.
    others: BTreeSet<Label>,
    attempts: u32,
    /// Whether the clock was put back and nobody was there all along to see it. How long nobody was
    /// there can't be told then.
    lost_time: bool,
    _place: TempDir,
}

impl Bench {
    /// A run that has rented nothing.
    pub(crate) async fn new() -> Self {
        CLOCK.set(Some((Instant::now(), SignedDuration::ZERO)));
        clock::go_by(time_of_day);
        let world = Arc::new(World::with_lag(LAG));
        let place = tempfile::tempdir().expect("a folder");
        let home = Home::open(place.path()).expect("it opens");
        let (owner, run) = (home.owner().expect("it can be written"), RunId::random(clock::now()));
        let folder = home.create(&run).expect("it is new");
        let offer = world.offers(&Need::default()).await.expect("it answers").remove(0);
        let elsewhere = Stamp::new(&Owner::random(), &run, 0, 0, clock::now()).label();
        let others = BTreeSet::from([Label("my-training".into()), elsewhere]);
        for label in &others {
            let order = Order::new(offer.clone(), label.clone(), "a key");
            world.rent(&order).await.expect("it answers");
        }
        let markets = Markets::new([Arc::clone(&world) as Arc<dyn Marketplace>]);
        let mut bench = Self {
            world,
            markets,
            offer,
            home,
            folder,
            owner,
            run,
            leases: None,
            others,
            attempts: 0,
            lost_time: false,
            _place: place,
        };
        bench.leases = bench.take_up().ok();
        bench
    }

    /// Lets something happen, and looks whether everything is as it must be.
    pub(crate) async fn take(&mut self, step: Step) {
        match step {
            Step::Rent(slot) => self.rent(slot),
            Step::GiveBack(slot) => self.give_back(slot),
            Step::Hear(lasts) => self.hear(lasts).await,
            Step::Settle(lasts) => {
                if let Some(leases) = &mut self.leases {
                    settle(leases, lasts).await.then(|| self.nothing_is_left());
                }
            }
            Step::Kill { torn } => self.kill(torn),
            Step::Resume(lasts) => self.resume(lasts).await,
            Step::Guard(lasts) => self.guard(lasts).await,
            Step::Cleanup { lasts, overtaken } => self.cleanup(lasts, overtaken).await,
            Step::Rival => self.rival(),
            Step::Jump(by) => {
                CLOCK.set(CLOCK.get().map(|(start, off)| (start, off + by)));
                self.lost_time |= by.is_negative() && self.leases.is_none();
            }
            Step::Wait(time) => advance(time).await,
            Step::Reclaim(slot) => {
                for label in self.owed_for(slot) {
                    self.world.reclaim(&label);
                }
            }
            Step::Double => self.world.double_next(),
            Step::LookOut => self.look_out().await,
            Step::Strike(fault) => self.world.strike_next(fault),
            Step::Pace(pace) => self.world.go_at(pace),
        }
        // A task that was cancelled is gone once the runtime has had a look at it.
        tokio::task::yield_now().await;
        self.look();
    }

    /// Kills whoever is there, and lets one net alone end everything with nothing to hinder it.
    pub(crate) async fn end_by(&mut self, net: Net) {
        self.world.calm();
        self.take(Step::Kill { torn: false }).await;
        match net {
            Net::Resume => {
                self.take(Step::Resume(EVER)).await;
                self.take(Step::Settle(EVER)).await;
            }
            Net::Guard => self.take(Step::Guard(EVER)).await,
            Net::Cleanup => self.take(Step::Cleanup { lasts: EVER, overtaken: false }).await,
        }
        self.nothing_is_left();
    }

    fn take_up(&self) -> Result<Leases, LedgerError> {
        let ledger = Ledger::open(&self.folder.ledger(), &self.run)?;
        Ok(Leases::new(self.markets.clone(), ledger, Events::unheard()))
    }

    fn rent(&mut self, slot: u32) {
        if !self.owed_for(slot).is_empty() {
            return;
        }
        let Some(leases) = &mut self.leases else { return };
        let expires = clock::after(clock::now(), Duration::from_hours(1));
        let label = Stamp::new(&self.owner, &self.run, slot, self.attempts, expires).label();
        self.attempts += 1;
        let terms = Terms {
            provider: "world".into(),
            login: None,
            offer: self.offer.id.clone(),
            machine: None,
            price: self.offer.price,
            billing: Billing::default(),
            traffic: Usd(0),
            worst: Usd(0),
            expires,
            promise: Promise::default(),
        };
        let order = Order::new(self.offer.clone(), label, "a key");
        leases.order(order, terms).expect("the ledger can be written");
    }

    fn give_back(&mut self, slot: u32) {
        let owed = self.owed_for(slot);
        if let Some(leases) = &mut self.leases {
            for label in &owed {
                leases.release(label).expect("it can be written");
            }
        }
    }

    async fn look_out(&mut self) {
        let Some(leases) = &mut self.leases else { return };
        let books = leases.books().clone();
        let Ok(listed) = self.world.instances().await else { return };
        for stray in strays(&books, "world", &listed) {
            leases.give_back(&stray).expect("it can be written");
        }
    }

    async fn hear(&mut self, lasts: Duration) {
        let Some(leases) = &mut self.leases else { return };
        let hearing = async {
            while let Some(news) = leases.news().await {
                if let News::Rented(label, Ok(instance)) = news.expect("it can be written") {
                    assert_eq!(instance.label, Some(label), "another's instance");
                }
            }
        };
        drop(timeout(lasts, hearing).await);
    }

    fn kill(&mut self, torn: bool) {
        let had = self.leases.take();
        // Another process begins with what the clock shows.
        self.lost_time |= clock::shown(clock::now()) < clock::now();
        clock::go_by(time_of_day);
        if had.is_some() && torn {
            let ledger = OpenOptions::new().append(true).open(self.folder.ledger());
            let half = br#"5d1a0b3c {"v":1,"at":"2026-11-24T12:0"#;
            ledger.and_then(|mut file| file.write_all(half)).expect("it can be written");
        }
    }

    async fn resume(&mut self, lasts: Duration) {
        if self.leases.is_some() {
            return;
        }
        let mut leases = self.take_up().expect("nobody has it");
        let owed: Vec<Label> = leases.books().owed().map(|(label, _)| label.clone()).collect();
        let adopting = async {
            for label in owed {
                // As the run does; with a listing that fails it ends there, and settles.
                match leases.adopt(&label).await {
                    Ok(Some(_)) => {}
                    Ok(None) => leases.release(&label).expect("it can be written"),
                    Err(_) => return,
                }
            }
        };
        if timeout(lasts, adopting).await.is_ok() {
            self.leases = Some(leases);
        }
    }

    async fn guard(&mut self, lasts: Duration) {
        if self.leases.is_none() {
            let mut leases = self.take_up().expect("nobody has it");
            let settled = settle(&mut leases, lasts).await;
            drop(leases);
            settled.then(|| self.nothing_is_left());
        }
    }

    async fn cleanup(&mut self, lasts: Duration, overtaken: bool) {
        let listings = cleanup::listings(&self.markets).await;
        let accounts = cleanup::accounts(&self.home).expect("they can be read");
        let found = cleanup::sort(&accounts, &listings, &self.owner, clock::now());
        let to_end = |found: &&Found| Whose::Ours.is_to_end(found);
        for found in found.iter().filter(to_end) {
            let label = found.label.as_ref().expect("what has none is a stranger's");
            assert!(!self.others.contains(label), "it would end {found:?}");
            let is_late = found.kind == Kind::Overdue;
            assert!(self.leases.is_none() || is_late, "it would end what is in use: {found:?}");
        }
        if self.leases.is_none() {
            for label in self.ours() {
                let shown = |found: &&Found| found.label.as_ref() == Some(&label);
                let kind = found.iter().find(shown).map(|found| found.kind);
                assert!(
                    matches!(kind, Some(Kind::Orphaned | Kind::Missing)),
                    "{label:?}: {kind:?}"
                );
            }
        }
        let late = overtaken && self.leases.is_none();
        if late {
            self.resume(EVER).await;
        }
        let events = Events::unheard();
        let ending = cleanup::end(&found, Whose::Ours, &accounts, &self.markets, &events);
        let Ok(errors) = timeout(lasts, ending).await else { return };
        if late {
            assert_eq!(errors.is_empty(), !found.iter().any(|f| to_end(&f)), "{errors:?}");
        } else if self.leases.is_none() && errors.is_empty() {
            self.nothing_is_left();
        }
    }

    fn rival(&self) {
        if self.leases.is_some() {
            let refused = Ledger::open(&self.folder.ledger(), &self.run);
            let Err(LedgerError::File(FileError::InUse { holder })) = refused else {
                panic!("two have the run in hand: {refused:?}");
            };
            assert_eq!((holder.run, holder.pid), (self.run.clone(), std::process::id()));
        }
    }

    fn books(&self) -> Books {
        Books::read(&self.folder.ledger()).expect("it is whole").unwrap_or_default()
    }

    /// What the ledger owes for a slot.
    fn owed_for(&self, slot: u32) -> Vec<Label> {
        let books = self.books();
        let owed = books.owed().map(|(label, _)| label);
        owed.filter(|label| slot_of(label) == Some(slot)).cloned().collect()
    }

    /// The labels of this run's instances that are billed.
    fn ours(&self) -> Vec<Label> {
        let labels = self.world.labels();
        labels.into_iter().filter(|label| !self.others.contains(label)).collect()
    }

    fn nothing_is_left(&self) {
        assert_eq!(self.ours(), [], "it was said to be gone");
        let books = self.books();
        let owed: Vec<_> = books.owed().collect();
        assert!(owed.is_empty(), "all is said to be settled, and owed is {owed:?}");
    }

    /// What must hold at any time.
    fn look(&self) {
        let (books, ours) = (self.books(), self.ours());
        for label in &ours {
            let lease = books.lease(label);
            assert!(
                lease.is_some_and(|lease| lease.state.is_owed()),
                "{label:?} is billed, and the ledger says {lease:?}"
            );
        }
        // What the marketplace has doubled by itself counts once.
        let ours: BTreeSet<_> = ours.into_iter().collect();
        let slots: BTreeSet<_> = ours.iter().map(slot_of).collect();
        assert_eq!(slots.len(), ours.len(), "rented twice: {ours:?}");
        let now = self.leases.as_ref().map_or_else(clock::exactly_now, Leases::now);
        for (label, lease) in books.leases().filter(|_| !self.lost_time) {
            let of_it = |other: &&Label| other.0.starts_with(&format!("{label}+"));
            let twins = books.leases().filter(|(other, _)| of_it(other));
            let twins: Vec<_> = twins.map(|(_, lease)| lease.cost(now).0).collect();
            // Of a twin that wasn't seen nobody knows.
            if self.world.ever(label) <= 1 + twins.len() {
                let said = Usd(lease.cost(now).0 + twins.iter().sum::<u64>());
                let billed = self.world.cost(label);
                assert!(billed <= said, "{label:?} has cost {billed}, and the ledger says {said}");
            }
        }
        let labels = self.world.labels();
        assert!(self.others.iter().all(|other| labels.contains(other)), "a stranger's was ended");
    }
}

/// Whether everything could be settled in this time.
async fn settle(leases: &mut Leases, lasts: Duration) -> bool {
    timeout(lasts, leases.settle()).await.is_ok_and(|settled| {
        settled.expect("the ledger can be written, and the marketplace is known");
        true
    })
}

fn slot_of(label: &Label) -> Option<u32> {
    Stamp::read(label).map(|stamp| stamp.slot)
}
