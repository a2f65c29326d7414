//! Lambda Cloud: virtual machines in its own data centres, of few kinds, at one price everywhere.
//!
//! Facts are from its API description 1.10. Doubtful ones: how late the listing is (taken as a
//! minute), and how long a machine can't be ended while it boots (the error then says to wait).
//! A machine holds no credential of its own, so it can't end itself.

use crate::{
    Account, Arch, Billing, Capabilities, Credential, Endpoint, ErrorKind, Gpus, Host, Instance,
    InstanceId, InstanceState, Label, Leftover, Marketplace, Mib, Need, Offer, OfferId, Order,
    Provider, Remote, Result, Trust, UsdPerHour,
    http::{Http, Pace, Reply},
    keys, leftover,
};
use reqwest::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

pub(crate) const PROVIDER: Provider = Provider {
    name: "lambda",
    title: "Lambda Cloud",
    credentials: &[Credential {
        name: "API key",
        variables: &["LAMBDA_API_KEY", "LAMBDA_LABS_API_KEY", "LAMBDA_CLOUD_API_TOKEN"],
    }],
    open_offers: false,
    url: "https://cloud.lambda.ai/api/v1",
    url_variable: "PIECEWORK_LAMBDA_URL",
    keys_page: "https://cloud.lambda.ai/api-keys",
    console: "https://cloud.lambda.ai/instances",
    connect: |provider, access| {
        let http = access.http(provider, refusal);
        let http = http.with_key(AUTHORIZATION, "Bearer ", access.key())?;
        Ok(Arc::new(Lambda { http }))
    },
};

const ANY: Pace = Pace::every("any", Duration::from_secs(1)).burst(2);
const LAUNCH: Pace = Pace::every("launch", Duration::from_secs(12));

/// `user_data` may have a megabyte.
const START_SCRIPT: usize = 900_000;

const RENTING: &str = "rent";
const RELEASING: &str = "release";
const LISTING_LEFTOVERS: &str = "list what is left";
const REMOVING: &str = "remove what is left";

/// A Lambda Cloud account.
#[derive(Debug)]
struct Lambda {
    http: Http,
}

/// Every answer is wrapped in one of these.
#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

impl Lambda {
    /// The keys on the account.
    async fn keys(&self, operation: &'static str) -> Result<Vec<keys::Known>> {
        let known: Data<Vec<keys::Known>> =
            self.http.get(operation, "/ssh-keys").pace(ANY).read().await?;
        Ok(known.data)
    }

    /// The account's name for a key, which it has or is given.
    async fn key(&self, public_key: &str) -> Result<String> {
        if let Some(key) = keys::find(&self.keys(RENTING).await?, public_key) {
            return Ok(key.name.clone());
        }
        let name = keys::name(public_key);
        let body = json!({ "name": name, "public_key": public_key });
        let reply = self.http.post(RENTING, "/ssh-keys").pace(ANY).json(&body).send().await?;
        // A repeat after a lost reply finds its own name taken.
        if !reply.says(&["global/duplicate"]) {
            reply.accept()?;
        }
        Ok(name)
    }

    /// One instance, if it is still known.
    async fn look(&self, id: &InstanceId) -> Result<Option<Row>> {
        let path = format!("/instances/{id}");
        let reply = self.http.get(RELEASING, &path).pace(ANY).send().await?;
        if reply.status == 404 {
            return Ok(None);
        }
        Ok(Some(reply.read::<Data<Row>>()?.data))
    }
}

#[async_trait::async_trait]
impl Marketplace for Lambda {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: PROVIDER.name,
            host: Host::Vm,
            interruptible: false,
            label_limit: 60,
            start_script: START_SCRIPT,
            expiry: false,
            self_release: None,
            boot_limit: Duration::from_mins(20),
            listing_lag: self.http.listing_lag(Duration::from_mins(1)),
            release_interval: self.http.interval(ANY),
        }
    }

    fn login(&self) -> Option<String> {
        self.http.login()
    }

    async fn offers(&self, _need: &Need) -> Result<Vec<Offer>> {
        let request = self.http.get("list offers", "/instance-types").pace(ANY);
        let kinds: Data<BTreeMap<String, Kind>> = request.read().await?;
        let now = SystemTime::now();
        Ok(kinds.data.into_values().flat_map(|kind| kind.offers(now)).collect())
    }

    async fn rent(&self, order: &Order) -> Result<Instance> {
        #[derive(Deserialize)]
        struct Launched {
            instance_ids: Vec<String>,
        }
        let Some((region, kind)) = order.offer.id.0.split_once('/') else {
            let why = format!("{} is not an offer of this marketplace", order.offer.id);
            return Err(self.http.error(RENTING, ErrorKind::Unexpected, &why));
        };
        let key = self.key(&order.public_key).await.map_err(keys::before_renting)?;
        let mut body = json!({
            "region_name": region,
            "instance_type_name": kind,
            // Exactly one.
            "ssh_key_names": [key],
            "name": order.label.0,
            "user_data": keys::with_environment(&order.setup.start, &order.setup.env),
        });
        if !order.setup.image.is_empty() {
            body["image"] = json!({ "family": order.setup.image });
        }
        let request = self.http.post(RENTING, "/instance-operations/launch").once().pace(LAUNCH);
        let request = request.standing(&order.standing);
        let reply = request.patient(Duration::from_mins(1)).json(&body).send().await?;
        let launched: Data<Launched> = reply.clone().read()?;
        let [id] = <[String; 1]>::try_from(launched.data.instance_ids)
            .map_err(|_| reply.unreadable("it names another number of instances than one"))?;
        Ok(Instance {
            price: Some(order.offer.price),
            ..Instance::new(InstanceId(id), Some(order.label.clone()), InstanceState::Pending)
        })
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        let request = self.http.get("list instances", "/instances").pace(ANY);
        let rows: Data<Vec<Row>> = request.read().await?;
        // Ended ones stay in the listing for a while.
        let owed = rows.data.into_iter().filter(|row| row.status != "terminated");
        Ok(owed.map(Row::instance).collect())
    }

    async fn release(&self, id: &InstanceId) -> Result<()> {
        if id.0.is_empty() || !id.0.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            let why = format!("{id} is not an instance of this marketplace");
            return Err(self.http.error(RELEASING, ErrorKind::Unexpected, &why));
        }
        // One bad id in a list of several may fail them all.
        let body = json!({ "instance_ids": [id.0] });
        let request = self.http.post(RELEASING, "/instance-operations/terminate");
        let request = request.pace(ANY.first());
        let reply = request.json(&body).send().await?;
        if reply.is_success() || reply.status == 404 {
            return Ok(());
        }
        let refused = reply.refused();
        if refused.kind == ErrorKind::Unauthorized {
            return Err(refused);
        }
        // Ending what is ending already is answered with an error that says nothing.
        match self.look(id).await?.as_ref().map(|row| row.status.as_str()) {
            None | Some("terminating" | "terminated") => Ok(()),
            Some(_) => Err(refused),
        }
    }

    async fn leftovers(&self) -> Result<Vec<Leftover>> {
        Ok(Leftover::keys(self.keys(LISTING_LEFTOVERS).await?))
    }

    async fn remove(&self, leftover: &Leftover) -> Result<()> {
        let strange = |why: &str| self.http.error(REMOVING, ErrorKind::Unexpected, why);
        let id = leftover::plain(&leftover.id, strange)?;
        let path = format!("/ssh-keys/{id}");
        leftover::removed(self.http.delete(REMOVING, &path).pace(ANY).send().await?)
    }
}

#[async_trait::async_trait]
impl Remote for Lambda {
    /// It bills a card afterwards, so there is no balance, and it tells no name.
    async fn account(&self) -> Result<Account> {
        let request = self.http.get("read the account", "/ssh-keys").pace(ANY);
        let _: Data<serde_json::Value> = request.read().await?;
        Ok(Account::default())
    }
}

#[derive(Deserialize)]
struct Kind {
    instance_type: InstanceType,
    regions_with_capacity_available: Vec<Region>,
}

#[derive(Deserialize)]
struct Region {
    name: String,
}

#[derive(Deserialize)]
struct InstanceType {
    name: String,
    /// `1x A100 (40 GB SXM4)`.
    description: Option<String>,
    /// `A100 (40 GB SXM4)`, in newer answers.
    gpu_description: Option<String>,
    /// For the whole instance, in every region.
    price_cents_per_hour: u64,
    specs: Specs,
}

#[derive(Deserialize)]
struct Specs {
    vcpus: u32,
    memory_gib: u64,
    storage_gib: u64,
    gpus: Option<u32>,
}

impl Kind {
    /// One offer for each region that has some now.
    fn offers(self, quoted_at: SystemTime) -> Vec<Offer> {
        let kind = self.instance_type;
        if kind.price_cents_per_hour == 0 {
            return Vec::new();
        }
        let text = kind.gpu_description.or(kind.description).unwrap_or_default();
        let (name, vram) = gpu(&text);
        let arm = name.starts_with("GH") || name.starts_with("GB");
        let count = kind.specs.gpus.unwrap_or(0);
        let offer = Offer {
            gpus: (0 < count).then(|| Gpus { name: name.to_owned(), count, vram }),
            arch: if arm { Arch::Aarch64 } else { Arch::X86_64 },
            cores: kind.specs.vcpus,
            memory: Mib::from_gib(kind.specs.memory_gib),
            disk: Mib::from_gib(kind.specs.storage_gib),
            price: UsdPerHour::from_cents(kind.price_cents_per_hour),
            billing: Billing { minimum: Duration::ZERO, step: Duration::from_mins(1) },
            host: Host::Vm,
            trust: Trust::Datacenter,
            quoted_at,
            ..Offer::default()
        };
        let regions = self.regions_with_capacity_available.into_iter();
        regions
            .map(|region| Offer {
                id: OfferId(format!("{}/{}", region.name, kind.name)),
                region: region.name,
                ..offer.clone()
            })
            .collect()
    }
}

/// A model and its memory out of `1x Tesla V100 (16 GB)`. The memory is nowhere else.
fn gpu(description: &str) -> (&str, Mib) {
    let text = match description.split_once("x ") {
        Some((count, text)) if count.bytes().all(|byte| byte.is_ascii_digit()) => text,
        _ => description,
    };
    let (name, rest) = text.split_once('(').unwrap_or((text, ""));
    let gib = rest.split_whitespace().next().and_then(|gib| gib.parse().ok()).unwrap_or(0);
    (name.trim(), Mib::from_gib(gib))
}

#[derive(Deserialize)]
struct Row {
    id: String,
    name: Option<String>,
    ip: Option<String>,
    status: String,
    instance_type: Option<Price>,
}

#[derive(Deserialize)]
struct Price {
    price_cents_per_hour: Option<u64>,
}

impl Row {
    fn instance(self) -> Instance {
        let cents = self.instance_type.and_then(|kind| kind.price_cents_per_hour);
        let state = match (self.status.as_str(), self.ip) {
            ("active", Some(address)) => {
                InstanceState::Running(Endpoint::of_machine(&address, "ubuntu"))
            }
            ("booting" | "active", _) => InstanceState::Pending,
            ("unhealthy", _) => InstanceState::Failed("the marketplace calls it unhealthy".into()),
            ("preempted", _) => InstanceState::Interrupted,
            ("terminating", _) => InstanceState::Terminating,
            (other, _) => InstanceState::Unknown(other.to_owned()),
        };
        Instance {
            price: cents.map(UsdPerHour::from_cents),
            ..Instance::new(InstanceId(self.id), self.name.map(Label), state)
        }
    }
}

/// What its refusals mean. The code is to be relied on, the message is not.
fn refusal(reply: &Reply) -> Option<ErrorKind> {
    #[derive(Deserialize)]
    struct Refused {
        error: Reason,
    }
    #[derive(Deserialize)]
    struct Reason {
        code: String,
        #[serde(default)]
        message: String,
    }
    let Refused { error } = serde_json::from_str(&reply.body).ok()?;
    match error.code.as_str() {
        "instance-operations/launch/insufficient-capacity" | "global/quota-exceeded" => {
            Some(ErrorKind::OfferGone)
        }
        "global/invalid-api-key" | "global/forbidden" => Some(ErrorKind::Unauthorized),
        // Mail or payment is not in order.
        "global/account-inactive" | "global/invalid-address" => Some(ErrorKind::OutOfFunds),
        // Somebody removed the key between our finding and using it.
        "global/object-does-not-exist" if error.message.to_lowercase().contains("key") => {
            Some(ErrorKind::Unavailable)
        }
        "global/invalid-parameters"
        | "global/object-does-not-exist"
        | "global/duplicate"
        | "instance-operations/launch/file-system-in-wrong-region" => Some(ErrorKind::Unexpected),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_tell_a_refusal_from_what_may_have_rented() {
        for (status, body, kind) in [
            (400, r#"{"error":{"code":"global/quota-exceeded"}}"#, Some(ErrorKind::OfferGone)),
            (400, r#"{"error":{"code":"global/invalid-parameters"}}"#, Some(ErrorKind::Unexpected)),
            (400, r#"{"error":{"code":"global/unknown"}}"#, None),
            (409, "conflict", None),
        ] {
            assert_eq!(refusal(&Reply::said(status, body)), kind, "{status} {body}");
        }
    }

    #[test]
    fn memory_is_read_out_of_the_description() {
        assert_eq!(gpu("1x A100 (40 GB SXM4)"), ("A100", Mib::from_gib(40)));
        assert_eq!(gpu("GH200 (96 GB)"), ("GH200", Mib::from_gib(96)));
        assert_eq!(gpu("8x Tesla V100 (16 GB)"), ("Tesla V100", Mib::from_gib(16)));
        assert_eq!(gpu("something new"), ("something new", Mib(0)));
    }

    #[test]
    fn every_region_with_capacity_is_an_offer() {
        let kinds: BTreeMap<String, Kind> = serde_json::from_str(
            r#"{"gpu_1x_gh200":{"instance_type":{"name":"gpu_1x_gh200","description":"1x GH200 (96 GB)",
            "price_cents_per_hour":229,"specs":{"vcpus":64,"memory_gib":432,"storage_gib":4096,"gpus":1}},
            "regions_with_capacity_available":[{"name":"us-east-3"},{"name":"us-west-1"}]}}"#,
        )
        .unwrap();
        let offers: Vec<_> =
            kinds.into_values().flat_map(|kind| kind.offers(SystemTime::UNIX_EPOCH)).collect();
        let ids: Vec<_> = offers.iter().map(|offer| offer.id.0.as_str()).collect();
        assert_eq!(ids, ["us-east-3/gpu_1x_gh200", "us-west-1/gpu_1x_gh200"]);
        assert_eq!(offers[0].price, UsdPerHour(2_290_000));
        assert_eq!(offers[0].arch, Arch::Aarch64);
    }
}
