//! Whose everything is that costs money, and whether anybody needs it. Pure.

use super::{Account, Accounts, Doubt, Listing, Listings};
use crate::{
    clock,
    label::{Owner, RunId, Stamp},
    ledger::{Books, Lease, OVERTIME},
};
use jiff::Timestamp;
use providers::{Instance, Label, Leftover, Usd, UsdPerHour};
use std::time::Duration;

/// Whose an instance is, and whether anybody needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Of a run of ours that goes on.
    InUse,
    /// Of a run of ours whose program has it in hand and should have given it back by now.
    Overdue,
    /// Of a run of ours that is dead, and that somebody gives back at this moment.
    Settling,
    /// Of a run of ours that is dead.
    Orphaned,
    /// Owed by our ledger, and not in the listing: over, most likely.
    Missing,
    /// Of another computer's run, or of this one's before it forgot who it is, past its time.
    Abandoned,
    /// Of another computer's run.
    Elsewhere,
    /// Not ours.
    Stranger,
}

impl Kind {
    /// Whether it is ours, and may cost money for nothing.
    pub const fn is_left(self) -> bool {
        matches!(self, Self::Overdue | Self::Settling | Self::Orphaned | Self::Missing)
    }
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
        let is_elsewhere = matches!(found.kind, Kind::Elsewhere | Kind::Abandoned);
        found.kind.is_left() || is_elsewhere && self == Self::Anybodys
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
    /// The disk that it has left, if that is what there is.
    pub disk: Option<Leftover>,
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

/// Tells whose everything is that costs money.
pub fn sort(accounts: &Accounts, listings: &Listings, owner: &Owner, now: Timestamp) -> Vec<Found> {
    let mut found = Vec::new();
    for (provider, listing) in listings {
        for instance in listing.instances.iter().flatten() {
            found.push(of_instance(provider, instance, accounts, owner, now));
        }
        for disk in listing.disks.iter().flatten() {
            found.extend(of_disk(provider, disk, accounts, owner, now));
        }
    }
    for (run, account) in accounts {
        for (label, lease) in account.books.iter().flat_map(Books::owed) {
            let is_it = |found: &Found| {
                let same = found.instance.as_ref().is_some_and(|i| Some(&i.id) == lease.state.id());
                found.label.as_ref() == Some(label)
                    || same && found.provider == lease.terms.provider
            };
            let whole = listings.get(lease.terms.provider.as_str()).is_some_and(Listing::is_whole);
            let kind = match (account.in_use, account.is_being_settled()) {
                (_, true) => Kind::Settling,
                (true, false) => Kind::InUse,
                (false, false) => Kind::Missing,
            };
            // What is in use may not be listed yet.
            if found.iter().any(is_it) || whole && kind == Kind::InUse {
                continue;
            }
            found.push(Found {
                provider: lease.terms.provider.clone(),
                label: Some(label.clone()),
                instance: None,
                disk: None,
                kind,
                run: Some(run.clone()),
                age: Some(clock::between(lease.since, now)),
                price: Some(lease.terms.price),
            });
        }
    }
    found.sort_by(|a, b| (a.kind, &a.provider, &a.label).cmp(&(b.kind, &b.provider, &b.label)));
    found
}

/// What is known of a label, or of an instance.
struct Known<'a> {
    kind: Kind,
    run: Option<RunId>,
    lease: Option<&'a Lease>,
}

fn of_instance(
    provider: &str,
    instance: &Instance,
    accounts: &Accounts,
    owner: &Owner,
    now: Timestamp,
) -> Found {
    let is_it = |label: &Label, lease: &Lease| {
        let same = lease.state.id() == Some(&instance.id) && lease.terms.provider == provider;
        instance.label.as_ref() == Some(label) || same
    };
    let Known { kind, run, lease } = judge(instance.label.as_ref(), is_it, accounts, owner, now);
    let since = lease.map(|lease| lease.since).or(instance.since.map(clock::from_system));
    Found {
        provider: provider.to_owned(),
        label: instance.label.clone(),
        instance: Some(instance.clone()),
        disk: None,
        kind,
        run,
        age: since.map(|since| clock::between(since, now)),
        price: lease.map(|lease| lease.terms.price).or(instance.price),
    }
}

/// A disk that isn't in use: whoever works on a run sees to it when its instance is gone.
fn of_disk(
    provider: &str,
    disk: &Leftover,
    accounts: &Accounts,
    owner: &Owner,
    now: Timestamp,
) -> Option<Found> {
    let label = disk.disk_label()?;
    let Known { kind, run, .. } = judge(Some(&label), |own, _| *own == label, accounts, owner, now);
    // While its lease is owed, that is what is shown.
    let owed = run.as_ref().and_then(|run| accounts.get(run)?.books.as_ref()?.lease(&label));
    if matches!(kind, Kind::InUse | Kind::Stranger) || owed.is_some_and(|l| l.state.is_owed()) {
        return None;
    }
    Some(Found {
        provider: provider.to_owned(),
        label: Some(label),
        instance: None,
        disk: Some(disk.clone()),
        kind,
        run,
        age: None,
        price: disk.price,
    })
}

/// Whose it is: what one of our ledgers knows is ours, whatever its label says.
fn judge<'a>(
    label: Option<&Label>,
    is_it: impl Fn(&Label, &Lease) -> bool,
    accounts: &'a Accounts,
    owner: &Owner,
    now: Timestamp,
) -> Known<'a> {
    let leased = accounts.iter().find_map(|(run, account)| {
        let mut leases = account.books.as_ref()?.leases();
        leases.find(|(label, lease)| is_it(label, lease)).map(|(_, lease)| (run, lease))
    });
    let stamp = label.and_then(Stamp::read);
    let run = leased.map(|(run, _)| run).or(stamp.as_ref().map(|stamp| &stamp.run)).cloned();
    let lease = leased.map(|(_, lease)| lease);
    let expires = lease.map(|lease| lease.terms.expires);
    let expires = expires.or(stamp.as_ref().map(|stamp| stamp.expires));
    let late = expires.is_some_and(|expires| clock::after(expires, OVERTIME) < now);
    let kind = match (lease, &stamp) {
        (None, None) => Kind::Stranger,
        (None, Some(stamp)) if stamp.owner != *owner => {
            if late {
                Kind::Abandoned
            } else {
                Kind::Elsewhere
            }
        }
        _ => match run.as_ref().and_then(|run| accounts.get(run)) {
            Some(account) if account.is_being_settled() => Kind::Settling,
            Some(Account { in_use: true, .. }) => {
                if late {
                    Kind::Overdue
                } else {
                    Kind::InUse
                }
            }
            // Also where its run's ledger is damaged or gone: nobody else will ever end it.
            Some(_) | None => Kind::Orphaned,
        },
    };
    Known { kind, run, lease }
}

/// What a run may owe, and nobody can tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ledger of {run} {why}; what it owes at {} is unknown", providers.join(", "))]
pub struct Unsure {
    /// The run.
    pub run: RunId,
    /// What is wrong with its ledger.
    pub why: String,
    /// The marketplaces that can't be asked.
    pub providers: Vec<String>,
}

/// Which ledgers that aren't whole may owe something at marketplaces of which there is no listing. At
/// all others it is found by its label.
pub fn unsure(accounts: &Accounts, listings: &Listings) -> Vec<Unsure> {
    let unknown = |name: &&String| !listings.get(name.as_str()).is_some_and(Listing::is_whole);
    let unsure = accounts.iter().filter_map(|(run, account)| {
        let Doubt { why, providers } = account.doubt.clone()?;
        let providers: Vec<_> = providers.iter().filter(unknown).cloned().collect();
        (!providers.is_empty()).then(|| Unsure { run: run.clone(), why, providers })
    });
    unsure.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cleanup::accounts,
        ledger::{Entry, Ledger, Terms},
        run::{Home, RunFolder},
    };
    use providers::{InstanceId, InstanceState, LeftoverKind};
    use std::path::PathBuf;

    const NOW: i64 = 1_795_600_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("it is a time")
    }

    fn terms(provider: &str) -> Terms {
        Terms::example(provider, UsdPerHour(1), at(NOW))
    }

    fn listed(label: Option<Label>) -> Instance {
        Instance::new(InstanceId("i".into()), label, InstanceState::Pending)
    }

    fn listing(instances: providers::Result<Vec<Instance>>) -> Listing {
        Listing { instances, disks: Ok(Vec::new()) }
    }

    fn kinds(instances: Vec<Instance>, accounts: &Accounts, owner: &Owner) -> Vec<Kind> {
        let listings = Listings::from([("anywhere", listing(Ok(instances)))]);
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

    /// Something of this kind, of which nothing else is known.
    fn found(kind: Kind) -> Found {
        let (label, instance, disk, run) = (None, None, None, None);
        let (age, price) = (None, None);
        Found { provider: "anywhere".into(), label, instance, disk, kind, run, age, price }
    }

    #[test]
    fn what_is_left_is_to_be_ended_and_what_is_elsewhere_only_if_anybodys_is() {
        for (kind, left, ours, anybodys) in [
            (Kind::InUse, false, false, false),
            (Kind::Overdue, true, true, true),
            (Kind::Settling, true, true, true),
            (Kind::Orphaned, true, true, true),
            (Kind::Missing, true, true, true),
            (Kind::Abandoned, false, false, true),
            (Kind::Elsewhere, false, false, true),
            (Kind::Stranger, false, false, false),
        ] {
            let ends = [Whose::Ours, Whose::Anybodys].map(|whose| whose.is_to_end(&found(kind)));
            assert_eq!((kind.is_left(), ends), (left, [ours, anybodys]), "{kind:?}");
        }
    }

    #[test]
    fn what_is_found_has_cost_its_price_for_its_age_if_both_are_known() {
        let (age, price) = (Some(Duration::from_secs(2)), Some(UsdPerHour(3_600_000)));
        for (age, price, spent) in
            [(age, price, Some(Usd(2_000))), (None, price, None), (age, None, None)]
        {
            assert_eq!(Found { age, price, ..found(Kind::Missing) }.spent(), spent);
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
            .record(&Label("a".into()), Entry::Ordered(terms("anywhere")))
            .expect("it is the first");
        let owner = Owner::random();
        let failed = || {
            let kind = providers::ErrorKind::Unavailable;
            Err(providers::Error { provider: "anywhere", operation: "list", kind, source: None })
        };
        for (alive, instances, kinds) in [
            (true, failed(), vec![Kind::InUse]),
            (true, Ok(Vec::new()), vec![]),
            (false, failed(), vec![Kind::Missing]),
            (false, Ok(Vec::new()), vec![Kind::Missing]),
        ] {
            let mut accounts = accounts(&home).expect("they can be read");
            accounts.get_mut(&run).expect("it is there").in_use = alive;
            let listings = Listings::from([("anywhere", listing(instances))]);
            let found = sort(&accounts, &listings, &owner, at(NOW));
            assert_eq!(found.iter().map(|found| found.kind).collect::<Vec<_>>(), kinds);
        }
    }

    /// An account with one lease, whose ledger was taken up as this.
    fn account(label: &Label, id: &str, work: bool) -> (RunId, Account) {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, run) = (folder.path().join("ledger"), RunId::random(at(NOW)));
        let open = if work { Ledger::open } else { Ledger::open_to_settle };
        let mut ledger = open(&path, &run).expect("it opens");
        ledger.record(label, Entry::Ordered(terms("anywhere"))).expect("it is the first");
        ledger.record(label, Entry::Rented(InstanceId(id.into()))).expect("it follows");
        let books = Some(ledger.books().clone());
        let folder = RunFolder::at(PathBuf::from("/nowhere"));
        (run, Account { folder, books, doubt: None, in_use: true })
    }

    #[test]
    fn what_is_in_hand_is_in_use_until_its_time_is_over_or_it_is_being_given_back() {
        let label = Label("not-a-label-of-ours".into());
        let owner = Owner::random();
        let due = clock::after(at(NOW), OVERTIME);
        let late = clock::after(due, Duration::from_secs(1));
        for (work, now, kind) in [
            (true, at(NOW), Kind::InUse),
            (true, due, Kind::InUse),
            (true, late, Kind::Overdue),
            (false, at(NOW), Kind::Settling),
            (false, late, Kind::Settling),
        ] {
            let (run, account) = account(&label, "i", work);
            let accounts = Accounts::from([(run.clone(), account)]);
            // By its id, where the marketplace tells no label or another one.
            let listings = Listings::from([("anywhere", listing(Ok(vec![listed(None)])))]);
            let found = sort(&accounts, &listings, &owner, now);
            assert_eq!((found.len(), found[0].kind, &found[0].run), (1, kind, &Some(run)));
        }
    }

    #[test]
    fn another_computers_is_abandoned_once_its_time_is_over() {
        let (owner, other, run) = (Owner::random(), Owner::random(), RunId::random(at(NOW)));
        let label = Stamp::new(&other, &run, 0, 0, at(NOW)).label();
        let listings =
            || Listings::from([("anywhere", listing(Ok(vec![listed(Some(label.clone()))])))]);
        let late = clock::after(at(NOW), OVERTIME + Duration::from_mins(1));
        for (now, kind) in [(at(NOW), Kind::Elsewhere), (late, Kind::Abandoned)] {
            let found = &sort(&Accounts::new(), &listings(), &owner, now)[0];
            assert_eq!(found.kind, kind);
            // It may be another computer's all the same.
            assert!(!Whose::Ours.is_to_end(found) && Whose::Anybodys.is_to_end(found));
        }
    }

    #[test]
    fn nobody_settles_what_the_one_who_did_has_left_behind() {
        let label = Label("not-a-label-of-ours".into());
        let (run, account) = account(&label, "i", false);
        let accounts = Accounts::from([(run, Account { in_use: false, ..account })]);
        let owner = Owner::random();
        assert_eq!(kinds(vec![listed(Some(label))], &accounts, &owner), [Kind::Orphaned]);
        assert_eq!(kinds(vec![], &accounts, &owner), [Kind::Missing]);
    }

    #[test]
    fn an_id_of_one_marketplace_says_nothing_of_another() {
        let (run, account) = account(&Label("not-a-label-of-ours".into()), "i", true);
        let accounts = Accounts::from([(run, Account { in_use: false, ..account })]);
        let (here, there) = (listing(Ok(vec![])), listing(Ok(vec![listed(None)])));
        let listings = Listings::from([("anywhere", here), ("elsewhere", there)]);
        let found = sort(&accounts, &listings, &Owner::random(), at(NOW));
        let found: Vec<_> = found.iter().map(|one| (one.kind, one.provider.as_str())).collect();
        assert_eq!(found, [(Kind::Missing, "anywhere"), (Kind::Stranger, "elsewhere")]);
    }

    #[test]
    fn a_disk_is_not_shown_beside_what_is_owed_or_while_somebody_sees_to_it() {
        let owner = Owner::random();
        let (run, path) = (RunId::random(at(NOW)), tempfile::tempdir().expect("a folder"));
        let label = Stamp::new(&owner, &run, 0, 0, at(NOW)).label();
        let mut ledger = Ledger::open(&path.path().join("ledger"), &run).expect("it opens");
        ledger.record(&label, Entry::Ordered(terms("anywhere"))).expect("it is the first");
        let owed = ledger.books().clone();
        ledger.record(&label, Entry::Releasing).expect("it follows");
        ledger.record(&label, Entry::Released).expect("it follows");
        let over = ledger.books().clone();
        for (books, in_use, kinds) in [
            (&owed, false, vec![(Kind::Missing, false)]),
            (&over, false, vec![(Kind::Orphaned, true)]),
            (&owed, true, vec![]),
            (&over, true, vec![]),
        ] {
            let disk = |name: &str| {
                let (kind, id) = (LeftoverKind::Disk, "d".to_owned());
                Leftover { kind, id, name: format!("piecework-{name}"), price: None }
            };
            let disks = Ok(vec![disk(&label.0), disk("strange")]);
            let listings = Listings::from([("anywhere", Listing { instances: Ok(vec![]), disks })]);
            let (folder, doubt) = (RunFolder::at(PathBuf::from("/nowhere")), None);
            let account = Account { folder, books: Some(books.clone()), doubt, in_use };
            let accounts = Accounts::from([(run.clone(), account)]);
            let found = sort(&accounts, &listings, &owner, at(NOW));
            let found: Vec<_> = found.iter().map(|one| (one.kind, one.disk.is_some())).collect();
            assert_eq!(found, kinds, "in use: {in_use}");
        }
    }

    #[test]
    fn a_disk_that_nobody_needs_is_left_like_an_instance() {
        let (owner, other) = (Owner::random(), Owner::random());
        let run = RunId::random(at(NOW));
        let disk = |owner: &Owner| {
            let label = Stamp::new(owner, &run, 0, 0, at(NOW)).label();
            let (kind, id) = (LeftoverKind::Disk, "d".to_owned());
            Leftover { kind, id, name: format!("piecework-{label}"), price: None }
        };
        let key = Leftover { kind: LeftoverKind::PublicKey, ..disk(&owner) };
        let disks = Ok(vec![disk(&owner), disk(&other), key]);
        let listings = Listings::from([("anywhere", Listing { instances: Ok(vec![]), disks })]);
        let found = sort(&Accounts::new(), &listings, &owner, at(NOW));
        let kinds: Vec<_> = found.iter().map(|found| found.kind).collect();
        assert_eq!(kinds, [Kind::Orphaned, Kind::Elsewhere]);
    }

    #[test]
    fn a_damaged_ledger_leaves_a_doubt_where_nothing_is_listed() {
        let run = RunId::random(at(NOW));
        let providers = vec!["asked".to_owned(), "closed".to_owned(), "down".to_owned()];
        let doubt = Some(Doubt { why: "is gone".into(), providers });
        let folder = RunFolder::at(PathBuf::from("/nowhere"));
        let account = Account { folder, books: None, doubt, in_use: false };
        let accounts = Accounts::from([(run.clone(), account)]);
        let kind = providers::ErrorKind::Unavailable;
        let failed = providers::Error { provider: "down", operation: "list", kind, source: None };
        let mut listings =
            Listings::from([("asked", listing(Ok(vec![]))), ("down", listing(Err(failed)))]);
        let found = unsure(&accounts, &listings);
        assert_eq!(found[0].providers, ["closed", "down"]);
        for name in ["closed", "down"] {
            listings.insert(name, listing(Ok(vec![])));
        }
        assert_eq!(unsure(&accounts, &listings), []);
    }
}
