//! What is true of every marketplace, whatever its dialect.

use providers::{
    Access, Error, ErrorKind, Host, Instance, InstanceId, InstanceState, Label, Mib, Need, Offer,
    Order, Provider, Recall, Remote, Rental, Setup, Timing, Transport, UsdPerHour,
    testkit::cloud::{Call, Cloud, Fault, KEY, Mishap, Planned},
};
use secrecy::SecretString;
use std::{
    collections::BTreeSet,
    error::Error as _,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

const PUBLIC_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFake piecework";

/// A fresh marketplace, and who speaks to it.
struct Bench {
    name: &'static str,
    cloud: Cloud,
    market: Arc<dyn Remote>,
}

impl Bench {
    async fn new(name: &str) -> Self {
        Self::with(name, KEY, 0).await
    }

    async fn with(name: &str, key: &str, many: usize) -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let cloud = Cloud::start(listen, many, None).await.expect("loopback can be listened on");
        let provider = Provider::find(name).expect("it has a row");
        let access = Access {
            transport: Transport::new().expect("HTTPS can be set up"),
            url: Some(cloud.url(name)),
            secrets: provider.credentials.iter().map(|_| SecretString::from(key)).collect(),
            timing: Timing { request: Duration::from_millis(1_500), ..Timing::loopback() },
        };
        let market = provider.connect(access).expect("a key is given");
        Self { name: provider.name, cloud, market }
    }

    fn billed(&self) -> usize {
        self.cloud.billed(self.name)
    }

    fn requests(&self, call: Call) -> u64 {
        self.cloud.requests(self.name, call)
    }

    /// Plans one fault for the first request of a kind.
    fn strike(&self, call: Call, fault: Fault) {
        self.strike_after(Some(call), 0, 1, fault);
    }

    fn strike_after(&self, call: Option<Call>, after: u32, times: u32, fault: Fault) {
        let provider = Some(self.name.to_owned());
        self.cloud.plan(vec![Planned { provider, call, after, times, ..Planned::next(fault) }]);
    }

    async fn offer(&self) -> Offer {
        let offers = self.market.offers(&need()).await.expect("offers can be listed");
        let on_demand = offers.into_iter().filter(|offer| offer.rental == Rental::OnDemand);
        on_demand.min_by_key(|offer| offer.price).expect("something is for rent")
    }

    async fn order(&self, label: &str) -> Order {
        let setup = Setup {
            image: match self.market.capabilities().host {
                Host::Container => "nvidia/cuda:12.8.1-base-ubuntu24.04".to_owned(),
                Host::Vm | Host::ThisComputer => String::new(),
            },
            start: "true".to_owned(),
            disk: need().disk,
            env: [("A".to_owned(), "b".to_owned())].into(),
        };
        Order { setup, ..Order::new(self.offer().await, Label(label.to_owned()), PUBLIC_KEY) }
    }

    async fn rent(&self, label: &str) -> Instance {
        let order = self.order(label).await;
        self.market.rent(&order).await.expect("it is for rent")
    }

    async fn listed(&self) -> Vec<Instance> {
        self.market.instances().await.expect("the listing can be read")
    }

    async fn find(&self, label: &str) -> Option<Instance> {
        let wanted = Some(Label(label.to_owned()));
        self.listed().await.into_iter().find(|instance| instance.label == wanted)
    }
}

fn need() -> Need {
    Need { vram: Mib::from_gib(20), disk: Mib::from_gib(60), ..Need::default() }
}

/// All that a person could get to see of an error.
fn shown(error: &Error) -> String {
    let mut texts = vec![error.to_string(), format!("{error:?}")];
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.extend([error.to_string(), format!("{error:?}")]);
        cause = error.source();
    }
    texts.join(" ")
}

pub(super) async fn offers_are_whole(name: &str) {
    let bench = Bench::new(name).await;
    let interruptible = bench.market.capabilities().interruptible;
    let need = Need { interruptible, ..need() };
    let offers = bench.market.offers(&need).await.unwrap();
    assert!(3 <= offers.len(), "{offers:?}");
    let ids: BTreeSet<_> = offers.iter().map(|offer| &offer.id).collect();
    assert_eq!(ids.len(), offers.len(), "two offers have one name");
    for offer in &offers {
        let gpus = offer.gpus.as_ref().expect("all of them have a GPU");
        assert!(!gpus.name.is_empty() && 0 < gpus.count, "{offer:?}");
        assert!((Mib::from_gib(16)..Mib::from_gib(300)).contains(&gpus.vram), "{offer:?}");
        let cents = UsdPerHour::from_cents(5)..UsdPerHour::from_cents(5_000);
        assert!(cents.contains(&offer.price), "{offer:?}");
        assert!(!offer.region.is_empty(), "{offer:?}");
        let age = SystemTime::now().duration_since(offer.quoted_at).unwrap();
        assert!(age < Duration::from_mins(1), "{offer:?}");
        if let Rental::Interruptible { floor } = offer.rental {
            assert!(interruptible && floor <= offer.price, "{offer:?}");
        }
    }
    let kept = |offer: &&Offer| offer.rental == Rental::OnDemand;
    assert!(offers.iter().any(|offer| kept(&offer)), "nothing on demand");
    let taken = offers.iter().filter(|offer| !kept(offer)).count();
    assert_eq!(0 < taken, interruptible, "claims to have interruptible offers: {interruptible}");
}

pub(super) async fn offers_are_priced_as_they_are_billed(name: &str) {
    let bench = Bench::new(name).await;
    let order = bench.order("piecework-price").await;
    let quoted = order.offer.price.0;
    bench.market.rent(&order).await.unwrap();
    let listed = bench.find("piecework-price").await.unwrap().price.expect("the price is told");
    // Two that round differently may differ in the last place.
    assert!(listed.0.abs_diff(quoted) <= 10, "quoted {quoted}, billed {listed:?}");
}

pub(super) async fn a_rental_is_listed_under_its_label(name: &str) {
    let bench = Bench::new(name).await;
    let limit = bench.market.capabilities().label_limit.min(60);
    let label = format!("piecework-{}", "a1b2-".repeat(20));
    let label = label[..limit].trim_end_matches('-');
    let rented = bench.rent(label).await;
    let listed = bench.find(label).await.expect("it is listed under its label");
    assert_eq!(listed.id, rented.id);
    let InstanceState::Running(endpoint) = &listed.state else { panic!("{listed:?}") };
    assert!(!endpoint.host.is_empty() && !endpoint.user.is_empty() && 0 < endpoint.port);
    assert_eq!(bench.billed(), 1);
    if let Some(since) = listed.since {
        let age = SystemTime::now().duration_since(since).unwrap_or_default();
        assert!(age < Duration::from_mins(1), "{listed:?}");
    }
}

pub(super) async fn every_page_is_read(name: &str) {
    // More than any page holds at the marketplaces that have pages of a size to reach in a test.
    let bench = Bench::with(name, KEY, 120).await;
    let labels: BTreeSet<_> = (0..105).map(|number| format!("piecework-{number}")).collect();
    for label in &labels {
        bench.rent(label).await;
    }
    let listed = bench.listed().await;
    let found: BTreeSet<_> =
        listed.iter().filter_map(|instance| Some(instance.label.as_ref()?.0.clone())).collect();
    assert_eq!(found, labels);
    assert_eq!(listed.len(), labels.len());
}

/// Strikes the first rental of a fresh marketplace, and returns what came of it.
async fn struck(name: &str, call: Option<Call>, after: u32, fault: Fault) -> Struck {
    let bench = Bench::new(name).await;
    let order = bench.order("piecework-struck").await;
    bench.strike_after(call, after, 1, fault);
    let result = bench.market.rent(&order).await;
    let billed = bench.billed();
    let met = bench.cloud.planned() == 0;
    Struck { bench, result, billed, met }
}

struct Struck {
    bench: Bench,
    result: Result<Instance, Error>,
    billed: usize,
    met: bool,
}

impl Struck {
    /// The contract: one, one or none, or none.
    fn check(&self, what: &str) {
        let (result, billed) = (&self.result, self.billed);
        match result.as_ref().map_err(|error| error.kind) {
            Ok(_) => assert_eq!(billed, 1, "{what}: {result:?}"),
            Err(ErrorKind::Uncertain) => assert!(billed <= 1, "{what}: {result:?}"),
            Err(_) => assert_eq!(billed, 0, "{what}: {result:?}"),
        }
    }
}

pub(super) async fn a_refusal_leaves_nothing_billed(name: &str) {
    for mishap in [Mishap::OfferGone, Mishap::OutOfFunds, Mishap::BidTooLow] {
        let struck = struck(name, Some(Call::Rent), 0, Fault::Rental(mishap.clone())).await;
        assert!(struck.result.is_err(), "{mishap:?}: {:?}", struck.result);
        assert_eq!(struck.billed, 0, "{mishap:?}: {:?}", struck.result);
    }
}

pub(super) async fn a_fault_at_any_request_of_a_rental_is_told_truly(name: &str) {
    let faults = [
        Fault::LoseReply,
        Fault::Drop,
        Fault::Truncate,
        Fault::Garble,
        Fault::Status { code: 400, retry_after: None },
        Fault::Status { code: 401, retry_after: None },
        Fault::Status { code: 404, retry_after: None },
        Fault::Status { code: 429, retry_after: None },
        Fault::Status { code: 500, retry_after: None },
        Fault::Status { code: 503, retry_after: None },
        Fault::Late5xx { code: 502 },
    ];
    for fault in faults {
        // However many requests a rental takes: until one is past the last.
        for step in 0.. {
            let struck = struck(name, None, step, fault.clone()).await;
            struck.check(&format!("{fault:?} at request {step}"));
            if !struck.met {
                break;
            }
        }
    }
}

pub(super) async fn a_lost_reply_is_uncertain_and_can_be_found(name: &str) {
    let faults = [
        Fault::LoseReply,
        Fault::Truncate,
        Fault::Garble,
        Fault::Late5xx { code: 502 },
        Fault::Late5xx { code: 500 },
    ];
    for fault in faults {
        let struck = struck(name, Some(Call::Rent), 0, fault.clone()).await;
        let error = struck.result.expect_err("its reply was lost");
        assert_eq!(error.kind, ErrorKind::Uncertain, "{fault:?}: {error:?}");
        assert_eq!(struck.billed, 1, "{fault:?}");
        let found = struck.bench.find("piecework-struck").await.expect("it can be found");
        struck.bench.market.release(&found.id).await.unwrap();
        assert_eq!(struck.bench.billed(), 0, "{fault:?}");
    }
}

pub(super) async fn a_status_that_nobody_knows_is_uncertain_and_can_be_looked_for(name: &str) {
    for code in [302, 307, 400, 405, 409, 410, 418, 422, 451, 504] {
        let struck = struck(name, Some(Call::Rent), 0, Fault::Late5xx { code }).await;
        let error = struck.result.expect_err("it was answered with no");
        assert_eq!(error.kind, ErrorKind::Uncertain, "{code}: {error:?}");
        assert_eq!(struck.billed, 1, "{code}");
        assert!(struck.bench.find("piecework-struck").await.is_some(), "{code}");
    }
}

pub(super) async fn rent_is_sent_once(name: &str) {
    let faults = [
        Fault::LoseReply,
        Fault::Drop,
        Fault::Late5xx { code: 503 },
        Fault::Status { code: 429, retry_after: Some(0) },
        Fault::Status { code: 500, retry_after: None },
        Fault::Garble,
    ];
    for fault in faults {
        let struck = struck(name, Some(Call::Rent), 0, fault.clone()).await;
        assert!(struck.result.is_err(), "{fault:?}");
        // A broken connection is not counted, an answered request is.
        assert!(struck.bench.requests(Call::Rent) <= 1, "{fault:?}");
        assert!(struck.billed <= 1, "{fault:?}");
    }
}

pub(super) async fn an_order_that_is_called_off_is_not_sent(name: &str) {
    let bench = Bench::new(name).await;
    let recall = Recall::default();
    let order = Order { standing: recall.standing(), ..bench.order("piecework-off").await };
    recall.call_off();
    let error = bench.market.rent(&order).await.expect_err("it isn't wanted any more");
    assert_eq!(error.kind, ErrorKind::CalledOff, "{error:?}");
    assert_eq!((bench.requests(Call::Rent), bench.billed()), (0, 0));
    let order = Order { standing: Recall::default().standing(), ..order };
    let error = bench.market.rent(&order).await.expect_err("nobody is left who wants it");
    assert_eq!(error.kind, ErrorKind::CalledOff, "{error:?}");
    let kept = Recall::default();
    let order = Order { standing: kept.standing(), ..order };
    bench.market.rent(&order).await.unwrap();
    assert_eq!((bench.requests(Call::Rent), bench.billed()), (1, 1));
}

pub(super) async fn an_offer_that_is_gone_is_gone(name: &str) {
    let struck = struck(name, Some(Call::Rent), 0, Fault::Rental(Mishap::OfferGone)).await;
    assert_eq!(struck.result.unwrap_err().kind, ErrorKind::OfferGone);
}

pub(super) async fn an_empty_account_is_out_of_funds(name: &str) {
    let struck = struck(name, Some(Call::Rent), 0, Fault::Rental(Mishap::OutOfFunds)).await;
    assert_eq!(struck.result.unwrap_err().kind, ErrorKind::OutOfFunds);
}

pub(super) async fn a_late_listing_is_within_what_is_claimed(name: &str) {
    let bench = Bench::new(name).await;
    let lag = bench.market.capabilities().listing_lag;
    let order = bench.order("piecework-late").await;
    let millis = u64::try_from(lag.as_millis()).unwrap() / 2;
    bench.strike(Call::Rent, Fault::Rental(Mishap::Late { millis }));
    bench.market.rent(&order).await.unwrap();
    assert_eq!(bench.find("piecework-late").await, None, "the fault was not met");
    let began = tokio::time::Instant::now();
    while bench.find("piecework-late").await.is_none() {
        assert!(began.elapsed() < lag, "it is missing for longer than is claimed");
        tokio::task::yield_now().await;
    }
}

pub(super) async fn release_twice_is_fine(name: &str) {
    let bench = Bench::new(name).await;
    let rented = bench.rent("piecework-twice").await;
    for _ in 0..3 {
        bench.market.release(&rented.id).await.unwrap();
        assert_eq!(bench.billed(), 0);
        assert_eq!(bench.find("piecework-twice").await, None);
    }
}

pub(super) async fn a_release_is_repeated_until_it_is_answered(name: &str) {
    let faults = [
        Fault::LoseReply,
        Fault::Drop,
        Fault::Truncate,
        Fault::Status { code: 429, retry_after: Some(0) },
        Fault::Status { code: 500, retry_after: None },
        Fault::Late5xx { code: 502 },
    ];
    for fault in faults {
        let bench = Bench::new(name).await;
        let rented = bench.rent("piecework-again").await;
        bench.strike_after(Some(Call::Release), 0, 2, fault.clone());
        let result = bench.market.release(&rented.id).await;
        assert!(result.is_ok(), "{fault:?}: {result:?}");
        assert_eq!(bench.billed(), 0, "{fault:?}");
    }
}

async fn failing_listing(name: &str, fault: Fault, kind: ErrorKind) {
    let bench = Bench::new(name).await;
    bench.rent("piecework-hidden").await;
    bench.strike_after(Some(Call::List), 0, u32::MAX, fault);
    // Patience is short here, but it has to end for every request of the listing.
    let error = bench.market.instances().await.expect_err("half an answer is an error");
    assert_eq!(error.kind, kind, "{error:?}");
}

pub(super) async fn a_truncated_listing_is_an_error(name: &str) {
    failing_listing(name, Fault::Truncate, ErrorKind::Unavailable).await;
}

pub(super) async fn a_garbled_listing_is_an_error(name: &str) {
    failing_listing(name, Fault::Garble, ErrorKind::Unexpected).await;
}

pub(super) async fn a_listing_that_fails_is_an_error(name: &str) {
    let fault = Fault::Status { code: 502, retry_after: None };
    failing_listing(name, fault, ErrorKind::Unavailable).await;
}

pub(super) async fn a_listing_that_fails_once_is_asked_again(name: &str) {
    let faults = [Fault::Drop, Fault::Truncate, Fault::Status { code: 500, retry_after: None }];
    for fault in faults {
        let bench = Bench::new(name).await;
        bench.rent("piecework-there").await;
        bench.strike(Call::List, fault.clone());
        assert!(bench.find("piecework-there").await.is_some(), "{fault:?}");
    }
}

pub(super) async fn a_rejected_key_is_unauthorized_and_not_retried(name: &str) {
    let bench = Bench::with(name, "another-key", 0).await;
    let error = bench.market.instances().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthorized, "{error:?}");
    let asked = bench.requests(Call::List) + bench.requests(Call::Token);
    assert_eq!(asked, 1, "it was asked again");
    let id = InstanceId("12345".into());
    let error = bench.market.release(&id).await.expect_err("nobody was let in to end anything");
    assert_eq!(error.kind, ErrorKind::Unauthorized, "{error:?}");
}

pub(super) async fn a_rate_limit_is_waited_out(name: &str) {
    let bench = Bench::new(name).await;
    let busy = Fault::Status { code: 429, retry_after: Some(1) };
    bench.strike(Call::List, busy);
    let began = tokio::time::Instant::now();
    assert_eq!(bench.listed().await, []);
    assert!(Duration::from_secs(1) <= began.elapsed(), "it didn't wait as it was told");
    let forever = Fault::Status { code: 429, retry_after: Some(3_600) };
    bench.strike(Call::List, forever);
    let error = bench.market.instances().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::RateLimited, "{error:?}");
}

pub(super) async fn an_unknown_state_is_kept(name: &str) {
    let bench = Bench::new(name).await;
    let order = bench.order("piecework-odd").await;
    bench.strike(Call::Rent, Fault::Rental(Mishap::State { word: "dreaming".into() }));
    bench.market.rent(&order).await.unwrap();
    let found = bench.find("piecework-odd").await.expect("it is listed all the same");
    assert_eq!(found.state, InstanceState::Unknown("dreaming".into()));
}

pub(super) async fn an_interruption_is_seen(name: &str) {
    let bench = Bench::new(name).await;
    if !bench.market.capabilities().interruptible {
        return;
    }
    let offers = bench.market.offers(&Need { interruptible: true, ..need() }).await.unwrap();
    let offer = offers.into_iter().find(|offer| offer.rental != Rental::OnDemand);
    let order = Order {
        offer: offer.expect("it claims to have some"),
        ..bench.order("piecework-outbid").await
    };
    bench.strike(Call::Rent, Fault::Rental(Mishap::Outbid { millis: 0 }));
    bench.market.rent(&order).await.unwrap();
    // It is told as taken back, or is on its way out.
    let state = bench.find("piecework-outbid").await.map(|instance| instance.state);
    let over = matches!(state, Some(InstanceState::Interrupted | InstanceState::Terminating));
    assert!(over, "{state:?}");
}

pub(super) async fn an_instance_that_never_runs_stays_pending(name: &str) {
    let bench = Bench::new(name).await;
    let order = bench.order("piecework-slow").await;
    bench.strike(Call::Rent, Fault::Rental(Mishap::NeverReady));
    let rented = bench.market.rent(&order).await.unwrap();
    assert_eq!(rented.state, InstanceState::Pending);
    let found = bench.find("piecework-slow").await.unwrap();
    assert_eq!(found.state, InstanceState::Pending);
    bench.market.release(&found.id).await.unwrap();
    assert_eq!(bench.billed(), 0);
}

pub(super) async fn a_higher_price_than_quoted_is_told(name: &str) {
    let bench = Bench::new(name).await;
    let order = bench.order("piecework-dear").await;
    bench.strike(Call::Rent, Fault::Rental(Mishap::Dearer { percent: 50 }));
    bench.market.rent(&order).await.unwrap();
    let found = bench.find("piecework-dear").await.unwrap();
    assert!(order.offer.price < found.price.expect("the price is told"));
}

pub(super) async fn secrets_never_show(name: &str) {
    const SECRET: &str = "key-that-nobody-may-see";
    let bench = Bench::with(name, SECRET, 0).await;
    assert!(!format!("{:?}", bench.market).contains(SECRET));
    for fault in [
        Fault::Garble,
        Fault::Drop,
        Fault::Status { code: 401, retry_after: None },
        Fault::Status { code: 500, retry_after: None },
    ] {
        bench.strike_after(None, 0, u32::MAX, fault);
        let errors = [
            bench.market.offers(&need()).await.map(drop).unwrap_err(),
            bench.market.instances().await.map(drop).unwrap_err(),
            bench.market.account().await.map(drop).unwrap_err(),
            bench.market.release(&InstanceId("12345".into())).await.unwrap_err(),
        ];
        for error in errors {
            assert!(!shown(&error).contains(SECRET), "{error:?}");
        }
    }
    // What they hand out is nobody's business either.
    let struck = struck(name, Some(Call::Rent), 0, Fault::Garble).await;
    let text = shown(&struck.result.unwrap_err());
    assert!(!text.contains("own-key-of") && !text.contains(KEY), "{text}");
}

pub(super) async fn a_strange_id_is_never_sent(name: &str) {
    let bench = Bench::new(name).await;
    bench.rent("piecework-safe").await;
    for id in ["", "../instances", "a/b", "1?x=1", "*", " "] {
        let error = bench.market.release(&InstanceId(id.into())).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unexpected, "{id:?}");
    }
    assert_eq!(bench.requests(Call::Release), 0);
    assert_eq!(bench.billed(), 1);
}

pub(super) async fn an_expiry_ends_what_nobody_else_ends(name: &str) {
    let bench = Bench::new(name).await;
    let expires = Some(SystemTime::now());
    let order = Order { expires, ..bench.order("piecework-expired").await };
    bench.market.rent(&order).await.unwrap();
    let ends = bench.market.capabilities().expiry;
    assert_eq!(
        bench.find("piecework-expired").await.is_none(),
        ends,
        "claims that it ends: {ends}"
    );
    let rental = &bench.cloud.truth(name)["rentals"][0];
    assert_eq!(rental["ended_by"] == "expiry", ends, "{rental}");
}

pub(super) async fn an_expiry_can_be_moved(name: &str) {
    let bench = Bench::new(name).await;
    let expires = Some(SystemTime::now() + Duration::from_hours(1));
    let order = Order { expires, ..bench.order("piecework-moved").await };
    let rented = bench.market.rent(&order).await.unwrap();
    let moved = bench.market.extend(&rented.id, SystemTime::now()).await.unwrap();
    assert_eq!(moved, bench.market.capabilities().expiry, "claims that it ends instances");
    assert_eq!(bench.billed(), usize::from(!moved));
    if moved {
        let error = bench.market.extend(&rented.id, SystemTime::now()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unexpected, "it is over: {error:?}");
    }
}

pub(super) async fn what_renting_leaves_behind_is_found_and_removed(name: &str) {
    let bench = Bench::new(name).await;
    let order = bench.order("piecework-leaving").await;
    bench.strike(Call::Rent, Fault::Rental(Mishap::LeavesDisk));
    let rented = bench.market.rent(&order).await.unwrap();
    assert!(bench.market.leftovers().await.unwrap().iter().all(|left| left.is_key(PUBLIC_KEY)));
    bench.market.release(&rented.id).await.unwrap();
    for leftover in bench.market.leftovers().await.unwrap() {
        assert!(leftover.is_key(PUBLIC_KEY) || leftover.is_disk_of(&order.label), "{leftover:?}");
        for _ in 0..2 {
            bench.market.remove(&leftover).await.unwrap();
        }
    }
    assert_eq!(bench.market.leftovers().await.unwrap(), []);
    // Whatever it has told us.
    let truth = bench.cloud.truth(name);
    assert_eq!(truth["keys"].as_array().map(Vec::len), Some(0), "{truth}");
    assert_eq!(bench.billed(), 0, "{truth}");
}

pub(super) async fn what_others_have_left_is_not_ours(name: &str) {
    let bench = Bench::new(name).await;
    for (number, key) in ["laptop", "piecework", "piecework-laptop"].into_iter().enumerate() {
        bench.cloud.put_key(name, key, &format!("ssh-ed25519 {number}"));
    }
    assert_eq!(bench.market.leftovers().await.unwrap(), []);
    // Where nothing can be left nobody is asked.
    let asks = 0 < bench.requests(Call::Keys);
    bench.strike_after(None, 0, u32::MAX, Fault::Status { code: 500, retry_after: None });
    let answer = bench.market.leftovers().await;
    assert_eq!(answer.is_err(), asks, "half an answer is an error: {answer:?}");
}

pub(super) async fn the_account_can_be_asked_about(name: &str) {
    let bench = Bench::new(name).await;
    bench.market.account().await.unwrap();
    let other = Bench::with(name, "another-key", 0).await;
    let error = other.market.account().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthorized, "{error:?}");
}
