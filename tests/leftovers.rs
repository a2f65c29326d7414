//! What renting leaves on an account beside instances: the run's key, and disks.

use jiff::Timestamp;
use piecework::{
    cleanup::{Whose, accounts, end, keys_left, listings, remove_keys, sort},
    event::Events,
    label::{Owner, RunId, Stamp},
    leases::{Leases, Markets, News},
    ledger::{Entry, Ledger, Terms},
    remote::RunKey,
    run::{Home, RunFolder},
};
use providers::{
    Access, Label, Marketplace, Mib, Need, Offer, Order, Provider, Rental, Timing, Transport, Usd,
    testkit::cloud::{self, Call, Cloud, Fault, Mishap, Planned},
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tempfile::TempDir;

/// A marketplace that takes keys by their names and gives disks a life of their own.
fn verda(cloud: &Cloud) -> Arc<dyn Marketplace> {
    let provider = Provider::find("verda").expect("it has a row");
    let secrets = provider.credentials.iter().map(|_| cloud::KEY.into()).collect();
    let transport = Transport::new().expect("HTTPS can be set up");
    let url = Some(cloud.url(provider.name));
    let access = Access { transport, url, secrets, timing: Timing::loopback() };
    provider.connect(access).expect("a key is given")
}

/// Its stand-in, and runs on it.
struct Bench {
    cloud: Cloud,
    markets: Markets,
    offer: Offer,
    home: Home,
    _place: TempDir,
}

impl Bench {
    async fn new() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let cloud = Cloud::start(listen, 0, None).await.expect("loopback can be listened on");
        cloud.put_key("verda", "piecework-0123456789abcdef", "ssh-ed25519 BBBB of another run");
        let market = verda(&cloud);
        let need = Need { disk: Mib::from_gib(60), ..Need::default() };
        let offers = market.offers(&need).await.unwrap();
        let offer = offers.into_iter().find(|offer| offer.rental == Rental::OnDemand).unwrap();
        let place = tempfile::tempdir().unwrap();
        let home = Home::open(place.path()).unwrap();
        Self { cloud, markets: Markets::new([market]), offer, home, _place: place }
    }

    /// A run that has rented an instance.
    async fn rented(&self, run: &str) -> (Leases, RunFolder) {
        let run: RunId = run.parse().expect("it is a run");
        let folder = self.home.create(&run).unwrap();
        let ledger = Ledger::open(&folder.ledger(), &run).unwrap();
        let mut leases = Leases::new(self.markets.clone(), ledger, Events::unheard());
        let label = Label(format!("piecework-{}", run.as_str()));
        let order = Order::new(self.offer.clone(), label, public_key(&folder));
        leases.order(order, self.terms("verda")).unwrap();
        let news = leases.news().await.expect("a request is under way").unwrap();
        assert!(matches!(news, News::Rented(_, Ok(_))), "{news:?}");
        (leases, folder)
    }

    fn terms(&self, provider: &str) -> Terms {
        Terms {
            provider: provider.into(),
            login: None,
            offer: self.offer.id.clone(),
            machine: None,
            billing: providers::Billing::default(),
            traffic: Usd(0),
            price: self.offer.price,
            worst: Usd(1),
            expires: Timestamp::UNIX_EPOCH,
            promise: piecework::smoke::Promise::default(),
        }
    }

    /// How many keys are on the account, one of another computer's run among them.
    fn keys(&self) -> usize {
        self.cloud.truth("verda")["keys"].as_array().map_or(0, Vec::len)
    }

    fn billed(&self) -> usize {
        self.cloud.billed("verda")
    }
}

fn public_key(folder: &RunFolder) -> String {
    RunKey::open(&folder.key()).unwrap().public_line()
}

#[tokio::test]
async fn once_nothing_is_owed_nothing_of_the_run_is_left_on_the_account() {
    let bench = Bench::new().await;
    bench.cloud.plan(vec![Planned {
        call: Some(Call::Rent),
        ..Planned::next(Fault::Rental(Mishap::LeavesDisk))
    }]);
    let (mut leases, folder) = bench.rented("nov24-7kq3").await;
    let key = public_key(&folder);
    leases.sweep(&key).await.unwrap();
    assert_eq!(bench.keys(), 2, "it may still be needed");
    leases.settle().await.unwrap();
    assert_eq!((bench.keys(), bench.billed()), (2, 0), "its disk would be billed on");
    leases.sweep(&key).await.unwrap();
    assert_eq!((bench.keys(), bench.billed()), (1, 0));
}

#[tokio::test]
async fn a_disk_that_no_ledger_names_is_ended_by_its_label() {
    let bench = Bench::new().await;
    bench.cloud.plan(vec![Planned {
        call: Some(Call::Rent),
        ..Planned::next(Fault::Rental(Mishap::LeavesDisk))
    }]);
    let (owner, run) = (Owner::random(), RunId::random(Timestamp::UNIX_EPOCH));
    let label = Stamp::new(&owner, &run, 0, 0, Timestamp::UNIX_EPOCH).label();
    let market = verda(&bench.cloud);
    let order = Order::new(bench.offer.clone(), label, "ssh-ed25519 AAAA of a run");
    let instance = market.rent(&order).await.unwrap();
    market.release(&instance.id).await.unwrap();
    assert_eq!(bench.billed(), 1, "its disk");

    let listings = listings(&bench.markets).await;
    let accounts = accounts(&bench.home).unwrap();
    let found = sort(&accounts, &listings, &owner, Timestamp::UNIX_EPOCH);
    assert!(found.len() == 1 && found[0].disk.is_some(), "{found:?}");
    let events = Events::unheard();
    let errors = end(&found, Whose::Ours, &accounts, &bench.markets, &events).await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(bench.billed(), 0);
}

#[tokio::test]
async fn the_keys_of_runs_that_are_over_are_taken_off_and_no_others() {
    let bench = Bench::new().await;
    // One is over, one owes something, one has a program at work.
    let (mut over, folder) = bench.rented("nov24-aaaa").await;
    over.settle().await.unwrap();
    drop(over);
    let (owing, _) = bench.rented("nov24-bbbb").await;
    drop(owing);
    let (mut in_use, _) = bench.rented("nov24-cccc").await;
    in_use.settle().await.unwrap();
    assert_eq!((bench.keys(), bench.billed()), (4, 1));

    let accounts = accounts(&bench.home).unwrap();
    let (left, errors) = keys_left(&accounts, &bench.markets).await;
    assert!(errors.is_empty(), "{errors:?}");
    let [(provider, key)] = &left[..] else { panic!("{left:?}") };
    assert!(*provider == "verda" && key.is_key(&public_key(&folder)), "{key:?}");
    assert!(remove_keys(&left, &bench.markets).await.is_empty());
    assert_eq!((bench.keys(), bench.billed()), (3, 1));
    let again = keys_left(&accounts, &bench.markets).await;
    assert!(again.0.is_empty() && again.1.is_empty(), "{again:?}");
}

#[tokio::test]
async fn a_key_may_be_left_where_a_run_has_rented_and_the_account_is_not_to_be_asked() {
    let bench = Bench::new().await;
    for (run, provider, asked) in [("nov24-aaaa", "elsewhere", 0), ("nov24-bbbb", "verda", 1)] {
        let run: RunId = run.parse().expect("it is a run");
        let folder = bench.home.create(&run).unwrap();
        public_key(&folder);
        let (label, mut ledger) =
            (Label("a".into()), Ledger::open(&folder.ledger(), &run).unwrap());
        ledger.record(&label, Entry::Ordered(bench.terms(provider))).unwrap();
        ledger.record(&label, Entry::Refused).unwrap();
        drop(ledger);
        let rejected = Fault::Status { code: 400, retry_after: None };
        bench.cloud.plan(vec![Planned { call: Some(Call::Keys), ..Planned::next(rejected) }]);
        let accounts = accounts(&bench.home).unwrap();
        let (left, errors) = keys_left(&accounts, &bench.markets).await;
        assert_eq!((left.len(), errors.len()), (0, asked), "{errors:?}");
        // A key costs nothing.
        assert!(errors.iter().all(|error| !error.may_be_billed()), "{errors:?}");
    }
}
