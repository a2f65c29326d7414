//! What runs that died have left behind: ledgers × listings → what to end (pure), and ending it.
//!
//! Ended is only what one of our ledgers owes, or what a label proves to be ours and expired.
//! Another computer's instances are shown, and strangers' are never touched.

use crate::{
    clock,
    event::Events,
    label::{Owner, RunId, Stamp},
    leases::{LeaseError, Leases, Markets, describe, end_stray},
    ledger::{self, Books, Ledger, LedgerError},
    remote::RunKey,
    run::{FolderError, Home, RunFolder, sweep},
};
use jiff::Timestamp;
use providers::{Instance, Label, Leftover, Usd, UsdPerHour};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::task::JoinSet;

/// What a run's folder tells about its leases.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its folder.
    pub folder: RunFolder,
    /// Its ledger; none where it can't be read.
    pub books: Option<Books>,
    /// Whether a program works on it now.
    pub in_use: bool,
}

/// Every run's account.
pub type Accounts = BTreeMap<RunId, Account>;

/// What each marketplace says, or why it doesn't.
pub type Listings = BTreeMap<&'static str, providers::Result<Vec<Instance>>>;

/// Whose an instance is, and whether anybody needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Of a run of ours that goes on.
    InUse,
    /// Of a run of ours that is dead, or past its time.
    Orphaned,
    /// Owed by our ledger, and not in the listing: over, most likely.
    Missing,
    /// Of another computer's run.
    Elsewhere,
    /// Not ours.
    Stranger,
}

/// Whose instances are to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those that this computer's dead runs have left.
    Ours,
    /// Those of other computers' runs too, of which can't be told whether they are dead.
    Anybodys,
}

impl Whose {
    /// Whether this is one of them. Strangers' never are.
    pub fn is_to_end(self, found: &Found) -> bool {
        match found.kind {
            Kind::Orphaned | Kind::Missing => true,
            Kind::Elsewhere => self == Self::Anybodys,
            Kind::InUse | Kind::Stranger => false,
        }
    }
}

/// Something that costs money, or may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The marketplace.
    pub provider: String,
    /// Its label, if it has one.
    pub label: Option<Label>,
    /// As it is listed.
    pub instance: Option<Instance>,
    /// Whose it is.
    pub kind: Kind,
    /// Its run, if it is one of ours.
    pub run: Option<RunId>,
    /// How long it has been there, as far as is known.
    pub age: Option<Duration>,
    /// What an hour of it costs, as far as is known.
    pub price: Option<UsdPerHour>,
}

impl Found {
    /// What it has cost so far, as far as is known.
    pub fn spent(&self) -> Option<Usd> {
        Some(self.price?.over(self.age?))
    }
}

/// Reads the ledgers of all runs. To be read after [`listings`]: what is listed by then was in a
/// ledger before.
pub fn accounts(home: &Home) -> Result<Accounts, FolderError> {
    let runs = home.all()?.into_iter().map(|(run, folder)| {
        let path = folder.ledger();
        // Looked at before it is read, so that a run that ends meanwhile counts as in use.
        let in_use = ledger::is_in_use(&path);
        let books = Books::read(&path).map(Option::unwrap_or_default).ok();
        (run, Account { folder, books, in_use })
    });
    Ok(runs.collect())
}

/// Asks every marketplace at once for all its instances.
pub async fn listings(markets: &Markets) -> Listings {
    let mut asking = JoinSet::new();
    for (name, market) in markets.iter() {
        let market = market.clone();
        asking.spawn(async move { (name, market.instances().await) });
    }
    asking.join_all().await.into_iter().collect()
}

/// Tells whose everything is that costs money. Pure.
pub fn sort(accounts: &Accounts, listings: &Listings, owner: &Owner, now: Timestamp) -> Vec<Found> {
    let mut found = Vec::new();
    for (provider, listing) in listings {
        for instance in listing.iter().flatten() {
            found.push(judge(provider, instance, accounts, owner, now));
        }
    }
    for (run, account) in accounts {
        for (label, lease) in account.books.iter().flat_map(Books::owed) {
            let listed = found.iter().any(|found| found.label.as_ref() == Some(label));
            let known = listings.get(lease.terms.provider.as_str()).is_some_and(Result::is_ok);
            if listed || (known && account.in_use) {
                continue;
            }
            found.push(Found {
                provider: lease.terms.provider.clone(),
                label: Some(label.clone()),
                instance: None,
                kind: if account.in_use { Kind::InUse } else { Kind::Missing },
                run: Some(run.clone()),
                age: Some(clock::between(lease.since, now)),
                price: Some(lease.terms.price),
            });
        }
    }
    found.sort_by(|a, b| (a.kind, &a.provider, &a.label).cmp(&(b.kind, &b.provider, &b.label)));
    found
}

fn judge(
    provider: &str,
    instance: &Instance,
    accounts: &Accounts,
    owner: &Owner,
    now: Timestamp,
) -> Found {
    let stamp = instance.label.as_ref().and_then(Stamp::read);
    let account = stamp.as_ref().and_then(|stamp| accounts.get(&stamp.run));
    let books = account.and_then(|account| account.books.as_ref());
    let lease = instance.label.as_ref().and_then(|label| books?.lease(label));
    let in_use = account.is_some_and(|account| account.in_use);
    let kind = match &stamp {
        None => Kind::Stranger,
        // What our ledger knows is ours, whatever its label says.
        Some(stamp) if lease.is_none() && stamp.owner != *owner => Kind::Elsewhere,
        Some(_) if in_use => Kind::InUse,
        // Also where its run's ledger is damaged or gone: nobody else will ever end it.
        Some(_) => Kind::Orphaned,
    };
    let since = lease.map(|lease| lease.since).or(instance.since.map(clock::from_system));
    Found {
        provider: provider.to_owned(),
        label: instance.label.clone(),
        instance: Some(instance.clone()),
        kind,
        run: stamp.map(|stamp| stamp.run),
        age: since.map(|since| clock::between(since, now)),
        price: lease.map(|lease| lease.terms.price).or(instance.price),
    }
}

/// Why something could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// A run's ledger can't be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A marketplace, or the ledger, failed.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Its instances are gone, and something else of theirs is not.
    #[error("the instances are gone, and the run's key may be left on the account: {0}")]
    LeftBehind(String),
}

impl CleanupError {
    /// Whether something may still be billed.
    pub const fn may_be_billed(&self) -> bool {
        match self {
            Self::Ledger(_) | Self::Lease(_) => true,
            Self::LeftBehind(_) => false,
        }
    }
}

/// The public keys that dead runs have left on accounts, once nothing of theirs is owed; and what
/// could not be asked.
pub async fn keys_left(
    accounts: &Accounts,
    markets: &Markets,
) -> (Vec<(&'static str, Leftover)>, Vec<CleanupError>) {
    let over = accounts.values().filter(|account| {
        let owes = |books: &Books| books.owed().next().is_some();
        !account.in_use && account.books.as_ref().is_some_and(|books| !owes(books))
    });
    let over: Vec<_> = over.filter(|account| account.folder.key().exists()).collect();
    let keys: Vec<_> =
        over.iter().filter_map(|account| RunKey::open(&account.folder.key()).ok()).collect();
    let keys: Vec<_> = keys.iter().map(RunKey::public_line).collect();
    let (mut left, mut errors) = (Vec::new(), Vec::new());
    for (name, market) in markets.iter() {
        let leases =
            over.iter().filter_map(|account| account.books.as_ref()).flat_map(Books::leases);
        if !leases.map(|(_, lease)| &lease.terms.provider).any(|provider| provider == name) {
            continue;
        }
        match market.leftovers().await {
            Ok(found) => {
                let ours = |found: &Leftover| keys.iter().any(|key| found.is_key(key));
                left.extend(found.into_iter().filter(ours).map(|found| (name, found)));
            }
            Err(error) => errors.push(CleanupError::LeftBehind(describe(&error))),
        }
    }
    (left, errors)
}

/// Takes these keys off the accounts. Returns what could not be.
pub async fn remove_keys(
    left: &[(&'static str, Leftover)],
    markets: &Markets,
) -> Vec<CleanupError> {
    let mut errors = Vec::new();
    for (name, key) in left {
        let Some(market) = markets.get(name) else { continue };
        let removed = market.remove(key).await;
        errors.extend(removed.err().map(|error| CleanupError::LeftBehind(describe(&error))));
    }
    errors
}

/// Ends what is orphaned or missing, run by run, and then what has only its label. Returns once
/// all of it is gone from the listings, or says what could not be tried.
pub async fn end(
    found: &[Found],
    whose: Whose,
    accounts: &Accounts,
    markets: &Markets,
    events: &Events,
) -> Vec<CleanupError> {
    let (mut errors, mut in_hand, mut owed) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let dead = |found: &&Found| whose.is_to_end(found);
    let mut runs: Vec<&RunId> = found.iter().filter(dead).filter_map(|f| f.run.as_ref()).collect();
    runs.sort();
    runs.dedup();
    for run in runs {
        if let Some(account) = accounts.get(run).filter(|account| account.books.is_some()) {
            match settle(run, account, markets, events).await {
                Ok(()) => {}
                Err(error) => {
                    // Somebody may have it in hand again, and with it its instances.
                    in_hand.insert(run);
                    errors.push(error);
                }
            }
            owed.extend(account.books.iter().flat_map(Books::owed).map(|(label, _)| label));
        }
    }
    for stray in found.iter().filter(dead) {
        let is_settled = stray.label.as_ref().is_some_and(|label| owed.contains(label));
        if is_settled || stray.run.as_ref().is_some_and(|run| in_hand.contains(run)) {
            continue;
        }
        let (Some(instance), Some(market)) = (&stray.instance, markets.get(&stray.provider)) else {
            continue;
        };
        errors.extend(end_stray(&**market, instance).await.err().map(CleanupError::from));
    }
    errors
}

async fn settle(
    run: &RunId,
    account: &Account,
    markets: &Markets,
    events: &Events,
) -> Result<(), CleanupError> {
    // Taking the ledger up is also the last look at whether somebody else has it.
    let ledger = Ledger::open(&account.folder.ledger(), run)?;
    let mut leases = Leases::new(markets.clone(), ledger, events.clone());
    leases.settle().await?;
    sweep(&leases, &account.folder).await.map_err(CleanupError::LeftBehind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use providers::{InstanceId, InstanceState, Marketplace, Need, Order, testkit::World};
    use std::sync::Arc;

    const NOW: i64 = 1_795_600_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("it is a time")
    }

    fn terms(provider: &str) -> ledger::Terms {
        ledger::Terms {
            provider: provider.to_owned(),
            login: None,
            offer: providers::OfferId("1".into()),
            machine: None,
            billing: providers::Billing::default(),
            traffic: providers::Usd(0),
            price: UsdPerHour(1),
            worst: Usd(1),
            expires: at(NOW),
            promise: crate::smoke::Promise::default(),
        }
    }

    fn listed(label: Option<Label>) -> Instance {
        Instance::new(InstanceId("i".into()), label, InstanceState::Pending)
    }

    fn kinds(instances: Vec<Instance>, accounts: &Accounts, owner: &Owner) -> Vec<Kind> {
        let listings = Listings::from([("anywhere", Ok(instances))]);
        let found = sort(accounts, &listings, owner, at(NOW));
        found.into_iter().map(|found| found.kind).collect()
    }

    #[test]
    fn strangers_and_other_computers_instances_are_told_apart_from_ours() {
        let (owner, run) = (Owner::random(), RunId::random(at(NOW)));
        let label = |owner: &Owner, expires| Stamp::new(owner, &run, 0, 0, at(expires)).label();
        for (label, kind) in [
            (None, Kind::Stranger),
            (Some(Label("my-training".into())), Kind::Stranger),
            (Some(label(&Owner::random(), NOW - 1)), Kind::Elsewhere),
            (Some(label(&owner, NOW + 1)), Kind::Orphaned),
            (Some(label(&owner, NOW - 1)), Kind::Orphaned),
        ] {
            let case = format!("{label:?}");
            assert_eq!(kinds(vec![listed(label)], &Accounts::new(), &owner), [kind], "{case}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_ledger_does_not_owe_is_ended_with_what_it_does() {
        let world = Arc::new(World::default());
        let offer = world.offers(&Need::default()).await.expect("it answers").remove(0);
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::open(folder.path()).expect("it opens");
        let (run, owner) = (RunId::random(at(NOW)), Owner::random());
        let ours = home.create(&run).expect("it is new");
        let labels = [0, 1].map(|slot| Stamp::new(&owner, &run, slot, 0, at(NOW)).label());
        for label in &labels {
            let order = Order::new(offer.clone(), label.clone(), "ssh-ed25519 key");
            world.rent(&order).await.expect("it is for rent");
        }
        let mut ledger = Ledger::open(&ours.ledger(), &run).expect("it opens");
        ledger.record(&labels[0], ledger::Entry::Ordered(terms("world"))).expect("it is the first");
        drop(ledger);

        let markets = Markets::new([world.clone() as Arc<dyn Marketplace>]);
        let listings = listings(&markets).await;
        let accounts = accounts(&home).expect("they can be read");
        let found = sort(&accounts, &listings, &owner, at(NOW));
        assert_eq!(found.len(), 2);
        // Where somebody has taken the run up since then, nothing of it is touched.
        let in_hand = Ledger::open(&ours.ledger(), &run).expect("it opens");
        let errors = end(&found, Whose::Ours, &accounts, &markets, &Events::unheard()).await;
        assert!(errors.len() == 1 && errors[0].may_be_billed(), "{errors:?}");
        assert_eq!(world.billed(), 2);
        drop(in_hand);
        let errors = end(&found, Whose::Ours, &accounts, &markets, &Events::unheard()).await;
        assert!(errors.iter().all(|error| !error.may_be_billed()), "{errors:?}");
        assert_eq!(world.billed(), 0);
    }

    #[test]
    fn what_is_found_has_cost_its_price_for_its_age_if_both_are_known() {
        let (age, price) = (Some(Duration::from_secs(2)), Some(UsdPerHour(3_600_000)));
        for (age, price, spent) in
            [(age, price, Some(Usd(2_000))), (None, price, None), (age, None, None)]
        {
            let (label, instance, run) = (None, None, None);
            let (provider, kind) = ("anywhere".into(), Kind::Missing);
            let found = Found { provider, label, instance, kind, run, age, price };
            assert_eq!(found.spent(), spent);
        }
    }

    #[test]
    fn a_listing_that_failed_hides_nothing_that_is_owed() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::open(folder.path()).expect("it opens");
        let run = RunId::random(at(NOW));
        let ours = home.create(&run).expect("it is new");
        let mut ledger = Ledger::open(&ours.ledger(), &run).expect("it opens");
        ledger
            .record(&Label("a".into()), ledger::Entry::Ordered(terms("anywhere")))
            .expect("it is the first");
        let owner = Owner::random();
        let failed = || {
            let kind = providers::ErrorKind::Unavailable;
            Err(providers::Error { provider: "anywhere", operation: "list", kind, source: None })
        };
        for (alive, listing, kinds) in [
            (true, failed(), vec![Kind::InUse]),
            (true, Ok(Vec::new()), vec![]),
            (false, failed(), vec![Kind::Missing]),
            (false, Ok(Vec::new()), vec![Kind::Missing]),
        ] {
            let mut accounts = accounts(&home).expect("they can be read");
            accounts.get_mut(&run).expect("it is there").in_use = alive;
            let listings = Listings::from([("anywhere", listing)]);
            let found = sort(&accounts, &listings, &owner, at(NOW));
            assert_eq!(found.iter().map(|found| found.kind).collect::<Vec<_>>(), kinds);
        }
    }
}
