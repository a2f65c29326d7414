//! Renting and giving back. [`placing`] alone calls `rent`, and [`giving_back`] `release`.

mod accounts;
mod giving_back;
mod markets;
mod placing;
mod strays;

pub use giving_back::{end_disks, end_owed, end_stray};
pub use markets::Markets;
pub use strays::{Stray, strays};

use crate::{
    event::{Event, Events},
    label::twin,
    ledger::{Books, Entry, LeaseState, Ledger, LedgerError, Terms},
};
use accounts::is_known;
use giving_back::{Giving, Tries, find};
use jiff::Timestamp;
use placing::{Placed, place};
use providers::{
    ErrorKind, Instance, InstanceId, Label, Leftover, Marketplace, Order, Usd, UsdPerHour,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::{Id, JoinSet},
    time::Instant,
};

/// How often a listing is looked at while it may still be behind.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often one is asked for that could tell and fails, before the question is left to settling.
const LOOKS: u32 = 20;

/// How long is waited for what is asked once more when all is over.
const LAST_LOOK: Duration = Duration::from_secs(20);

/// Why an instance could not be had, or not be given back.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The marketplace failed us.
    #[error(transparent)]
    Market(#[from] providers::Error),
    /// The ledger can't be written, and without it nothing may be rented.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The ledger names a marketplace that can't be asked.
    #[error("{0} can't be asked: log in with `piecework login {0}`")]
    NoMarket(String),
    /// The task that rented crashed. Whatever it rented is found by its label.
    #[error("renting was interrupted")]
    Interrupted,
    /// It was asked to go, and is still in the listing.
    #[error("{0} is still listed")]
    StillListed(InstanceId),
    /// The key of now may be another account's.
    #[error(
        "`{label}` was rented at {market} with another key, so this one can't show whether it is \
         gone: log in with that key, or look at the marketplace's console and then say \
         `piecework cleanup --forget {label}`"
    )]
    OtherKey {
        /// The marketplace.
        market: String,
        /// What was rented there.
        label: Label,
    },
    /// It is gone, and its disk isn't.
    #[error("the disk of {0} is still listed, and billed")]
    DiskLeft(Label),
}

/// Something that became of a lease.
#[derive(Debug)]
pub enum News {
    /// An order is answered. After an error nothing is rented, or the ledger says that something
    /// may be.
    Rented(Label, Result<Box<Instance>, LeaseError>),
    /// An instance is gone from the listing, and its disk with it.
    Released(Label),
    /// It was asked for to be given back, once or as often as there was any use, and is owed still.
    Kept(Label, LeaseError),
}

/// What is to be noted of a lease before its request is answered.
type Sighting = (Label, Entry);

#[derive(Debug)]
enum Done {
    Placed(Placed),
    Gone,
    /// It is owed still. Whether it was seen with the key of now.
    Kept {
        error: LeaseError,
        known: bool,
    },
}

/// The leases of one run.
///
/// Requests to marketplaces go on by themselves, for a request whose future is dropped may have
/// been carried out; their answers are entered into the ledger by [`Leases::news`].
#[derive(Debug)]
pub struct Leases {
    markets: Markets,
    ledger: Ledger,
    events: Events,
    under_way: JoinSet<Done>,
    /// Whose each request is that is under way.
    labels: HashMap<Id, Label>,
    /// When the order of each lease was answered, or these leases were taken up. Not by the time of
    /// day, which a clock that is put forward would take for enough.
    answered: BTreeMap<Label, Instant>,
    begun: Instant,
    /// What was seen of leases that are being given back.
    seen: (UnboundedSender<Sighting>, UnboundedReceiver<Sighting>),
}

impl Leases {
    /// Leases on `markets`, accounted for in `ledger`.
    pub fn new(markets: Markets, ledger: Ledger, events: Events) -> Self {
        let (under_way, labels) = (JoinSet::new(), HashMap::new());
        let (answered, begun, seen) = (BTreeMap::new(), Instant::now(), unbounded_channel());
        Self { markets, ledger, events, under_way, labels, answered, begun, seen }
    }

    /// What the ledger says.
    pub fn books(&self) -> &Books {
        self.ledger.books()
    }

    /// The time by which they cost money.
    pub fn now(&self) -> Timestamp {
        self.ledger.now()
    }

    /// Sees whether whoever looks for the ledger still finds it. An error if not.
    pub fn check(&self) -> Result<(), LedgerError> {
        self.ledger.check()
    }

    /// Begins to rent what `order` names. It is in the ledger when this returns.
    pub fn order(&mut self, order: Order, terms: Terms) -> Result<(), LeaseError> {
        self.check()?;
        let market = self.market(&terms.provider)?.clone();
        let label = order.label.clone();
        // Whoever comes later is to know whether their key is the one that it was rented with.
        let terms = Terms { login: market.login(), ..terms };
        self.ledger.record(&label, Entry::Ordered(terms))?;
        let task = async move { Done::Placed(place(&*market, &order).await) };
        self.labels.insert(self.under_way.spawn(task).id(), label);
        Ok(())
    }

    /// Notes that an instance is billed at more than was agreed to, so that its cost is right.
    pub fn priced(&mut self, label: &Label, price: UsdPerHour) -> Result<(), LeaseError> {
        Ok(self.ledger.record(label, Entry::Priced(price))?)
    }

    /// Has an instance be over sooner than was agreed to with its order, at `worst` in all. It is told
    /// so by whoever talks to it.
    pub fn shorten(
        &mut self,
        label: &Label,
        expires: Timestamp,
        worst: Usd,
    ) -> Result<(), LeaseError> {
        Ok(self.ledger.record(label, Entry::Shortened { expires, worst })?)
    }

    /// Notes that a machine can't run the engine, so that whoever goes on takes another.
    pub fn unable(&mut self, label: &Label) -> Result<(), LeaseError> {
        Ok(self.ledger.record(label, Entry::Unable)?)
    }

    /// Begins to give back what is owed under `label`, which goes on until the listing says that
    /// it is gone, or can't say so. One that is over, or has a request under way, is `Ok`.
    pub fn release(&mut self, label: &Label) -> Result<(), LeaseError> {
        self.begin_to_release(label, Tries::UntilGone)
    }

    fn begin_to_release(&mut self, label: &Label, tries: Tries) -> Result<(), LeaseError> {
        let Some(lease) = self.books().lease(label).cloned() else {
            return Ok(());
        };
        if !lease.state.is_owed() || self.is_under_way(label) {
            return Ok(());
        }
        let market = self.market(&lease.terms.provider)?.clone();
        // With a full disk the ledger goes on saying that it is owed, which is never too little.
        let recorded = if matches!(lease.state, LeaseState::Releasing(_) | LeaseState::Gone(_)) {
            Ok(())
        } else {
            self.ledger.record(label, Entry::Releasing)
        };
        let shows = self.shows(label, &*market);
        let mut known = is_known(&lease, &*market);
        let (events, seen, label) = (self.events.clone(), self.seen.0.clone(), label.clone());
        let named = label.clone();
        let task = async move {
            let (market, label, lease) = (&*market, &label, &lease);
            let giving = Giving { market, label, lease, shows, events: &events, seen: &seen };
            let released = giving.give_back(&mut known, tries).await;
            released.map_or_else(|error| Done::Kept { error, known }, |()| Done::Gone)
        };
        self.labels.insert(self.under_way.spawn(task).id(), named);
        Ok(recorded?)
    }

    /// Waits for the next answer of a marketplace. None where nothing is under way. Cancel-safe.
    pub async fn news(&mut self) -> Option<Result<News, LedgerError>> {
        let ended = loop {
            tokio::select! {
                // First what was seen before it ended.
                biased;
                Some((label, entry)) = self.seen.1.recv() => self.note(&label, entry),
                ended = self.under_way.join_next_with_id() => break ended?,
            }
        };
        let (id, done) = match ended {
            Ok((id, done)) => (id, Some(done)),
            Err(crashed) => (crashed.id(), None),
        };
        let label = self.labels.remove(&id).expect("every task is noted when it is spawned");
        Some(self.enter(label, done))
    }

    /// Notes what was seen of a lease, if that is news.
    fn note(&mut self, label: &Label, entry: Entry) {
        let Some(lease) = self.books().lease(label) else { return };
        if lease.state.next(&entry).is_ok_and(|next| next != lease.state) {
            // A full disk keeps nobody from giving back, and what is unknown is owed.
            drop(self.ledger.record(label, entry));
        }
    }

    fn enter(&mut self, label: Label, done: Option<Done>) -> Result<News, LedgerError> {
        self.answered.entry(label.clone()).or_insert_with(Instant::now);
        let answer = match done {
            Some(Done::Gone) => {
                self.ledger.record(&label, Entry::Released)?;
                let cost = self.books().lease(&label).map(|lease| lease.cost(self.now()));
                let cost = cost.unwrap_or_default();
                self.events.send(Event::Released { label: label.clone(), cost });
                return Ok(News::Released(label));
            }
            Some(Done::Kept { error, known }) => {
                if known {
                    self.note_login(&label)?;
                }
                return Ok(News::Kept(label, error));
            }
            Some(Done::Placed(Placed::Rented(instance))) => {
                self.ledger.record(&label, Entry::Rented(instance.id.clone()))?;
                Ok(instance)
            }
            Some(Done::Placed(Placed::Refused(error))) => {
                if error.kind == ErrorKind::Uncertain {
                    // It may have been rented, and taken back before a listing showed it. So it
                    // costs, at most, from the order until now.
                    self.ledger.record(&label, Entry::Releasing)?;
                    self.ledger.record(&label, Entry::Released)?;
                } else {
                    self.ledger.record(&label, Entry::Refused)?;
                }
                Err(error.into())
            }
            Some(Done::Placed(Placed::Unknown(error))) => Err(error.into()),
            None => Err(LeaseError::Interrupted),
        };
        Ok(News::Rented(label, answer))
    }

    /// Looks for the instance of a lease that an earlier session left, and takes it over if it is
    /// there and not on its way out. With another key than it was rented with, one that isn't
    /// there is an error.
    pub async fn adopt(&mut self, label: &Label) -> Result<Option<Instance>, LeaseError> {
        let Some(lease) = self.books().lease(label).cloned() else {
            return Ok(None);
        };
        let market = self.market(&lease.terms.provider)?.clone();
        self.recognise(label).await?;
        let mut found = find(&*market, label, lease.state.id()).await?;
        found.retain(|found| self.books().lease(&twin(label, &found.id)).is_none());
        let found = own(found, lease.state.id());
        Ok(match (lease.state, found) {
            (LeaseState::Held(_), Some(instance)) => {
                self.note(label, Entry::Listed(instance.id.clone()));
                Some(instance)
            }
            (LeaseState::Ordered, Some(instance)) => {
                self.ledger.record(label, Entry::Rented(instance.id.clone()))?;
                Some(instance)
            }
            _ => None,
        })
    }

    /// Gives back everything owed, however long it takes. Whoever calls may drop this at any
    /// point, and must then say what is still owed. After an error something still is.
    pub async fn settle(&mut self) -> Result<(), LeaseError> {
        let (mut settled, mut failed, mut looked) = (Ok(()), None, false);
        let mut kept = BTreeSet::new();
        loop {
            let owed: Vec<Label> = self.books().owed().map(|(label, _)| label.clone()).collect();
            // With a ledger that can't be written, what was tried once would be tried for ever.
            let untried = |label: &&Label| failed.is_none() && !kept.contains(*label);
            for label in owed.iter().filter(untried) {
                // One that fails doesn't keep the next from being tried. One whose order is under
                // way has no id yet, and its turn comes once that is answered.
                settled = settled.and(self.release(label));
            }
            match self.news().await {
                Some(Ok(News::Kept(label, error))) => {
                    settled = settled.and(Err(error));
                    kept.insert(label);
                }
                Some(Ok(News::Rented(..) | News::Released(_))) => {}
                // The others are waited for all the same.
                Some(Err(error)) => drop(failed.get_or_insert(error)),
                None if looked || failed.is_some() => {
                    return failed.map_or(settled, |error| Err(error.into()));
                }
                None => {
                    looked = true;
                    failed = self.look_again().await.err();
                }
            }
        }
    }

    /// Asks once for everything owed to be given back. Returns what could not be, and why; none of it
    /// is owed any more after an empty answer.
    pub async fn settle_once(&mut self) -> Vec<LeaseError> {
        let errors = self.ask_once().await;
        if !errors.is_empty() {
            return errors;
        }
        match self.look_again().await {
            Ok(()) => self.ask_once().await,
            Err(error) => vec![error.into()],
        }
    }

    async fn ask_once(&mut self) -> Vec<LeaseError> {
        let owed: Vec<Label> = self.books().owed().map(|(label, _)| label.clone()).collect();
        let asked = owed.iter().map(|label| self.begin_to_release(label, Tries::Once));
        let mut errors: Vec<_> = asked.filter_map(Result::err).collect();
        while let Some(news) = self.news().await {
            match news {
                Ok(News::Kept(_, error)) => errors.push(error),
                Ok(News::Rented(..) | News::Released(_)) => {}
                Err(error) => errors.push(error.into()),
            }
        }
        errors
    }

    /// Takes off the accounts what these leases have left there beside instances: the key that they
    /// let in, and disks of theirs. Does nothing while something is owed, for an order may need
    /// the key. After an error the rest has been tried, and it may be done again.
    pub async fn sweep(&self, public_key: &str) -> Result<(), LeaseError> {
        if self.books().owed().next().is_some() {
            return Ok(());
        }
        let mut swept = Ok(());
        let providers: BTreeSet<_> =
            self.books().leases().map(|(_, lease)| lease.terms.provider.as_str()).collect();
        for provider in providers {
            swept = swept.and(self.sweep_one(provider, public_key).await);
        }
        swept
    }

    async fn sweep_one(&self, provider: &str, public_key: &str) -> Result<(), LeaseError> {
        let market = self.market(provider)?;
        let ours = |left: &Leftover| {
            left.is_key(public_key)
                || self.books().leases().any(|(label, _)| left.is_disk_of(label))
        };
        let mut swept = Ok(());
        for leftover in market.leftovers().await?.into_iter().filter(ours) {
            swept = swept.and(market.remove(&leftover).await);
        }
        Ok(swept?)
    }

    /// When a listing shows what was ordered under this label.
    fn shows(&self, label: &Label, market: &dyn Marketplace) -> Instant {
        let ordered = self.answered.get(label).unwrap_or(&self.begun);
        *ordered + market.capabilities().listing_lag
    }

    fn is_under_way(&self, label: &Label) -> bool {
        self.labels.values().any(|other| other == label)
    }

    fn market(&self, name: &str) -> Result<&Arc<dyn Marketplace>, LeaseError> {
        self.markets.get(name).ok_or_else(|| LeaseError::NoMarket(name.to_owned()))
    }
}

/// What is a lease's own of what is listed of it: by its id where that is there.
fn own(mut listed: Vec<Instance>, id: Option<&InstanceId>) -> Option<Instance> {
    let at = listed.iter().position(|found| Some(&found.id) == id).unwrap_or_default();
    (at < listed.len()).then(|| listed.swap_remove(at))
}

/// An error with its causes, on one line.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // A transparent error and its cause say the same.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
