//! Prime Intellect: pods and machines of some twenty other clouds, behind one wallet.
//!
//! Facts are from its API description and its own command line of 2026. Doubtful ones: whether
//! its memory figure is for one GPU (the name of the GPU is trusted instead), how a second end of
//! the same pod is answered (the pod is looked at), and from when it bills (taken from the
//! order). It runs no start script, and a pod holds no credential of its own.

mod catalog;

use crate::{
    Account, Capabilities, Credential, Endpoint, ErrorKind, Host, Instance, InstanceId,
    InstanceState, Label, Leftover, Marketplace, Need, Offer, Order, Provider, Remote, Result, Usd,
    UsdPerHour,
    http::{Http, Pace, Reply},
    json::{Number, timestamp},
    keys, leftover,
};
use reqwest::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

pub(crate) const PROVIDER: Provider = Provider {
    name: "prime",
    title: "Prime Intellect",
    credentials: &[Credential { name: "API key", variables: &["PRIME_API_KEY"] }],
    open_offers: false,
    url: "https://api.primeintellect.ai/api/v1",
    url_variable: "PIECEWORK_PRIME_URL",
    keys_page: "https://app.primeintellect.ai/dashboard/tokens",
    console: "https://app.primeintellect.ai/dashboard/instances",
    connect: |provider, access| {
        let http = access.http(provider, refusal);
        let http = http.with_key(AUTHORIZATION, "Bearer ", access.key())?;
        Ok(Arc::new(Prime { http }))
    },
};

/// Its limits are not told.
const ANY: Pace = Pace::every("any", Duration::from_millis(500)).burst(10);

const RENTING: &str = "rent";
const LISTING: &str = "list instances";
const RELEASING: &str = "release";
const LISTING_LEFTOVERS: &str = "list what is left";
const REMOVING: &str = "remove what is left";

/// The server is known to cap a page here, whatever its description says.
const PAGE: usize = 100;

/// A Prime Intellect account.
#[derive(Debug)]
struct Prime {
    http: Http,
}

impl Prime {
    /// The keys on the account.
    async fn keys(&self, operation: &'static str) -> Result<Vec<keys::Known>> {
        #[derive(Deserialize)]
        struct Listed {
            data: Vec<keys::Known>,
        }
        // The slash at the end counts: without it there is a redirect, which we don't follow.
        let request = self.http.get(operation, "/ssh_keys/").pace(ANY);
        Ok(request.read::<Listed>().await?.data)
    }

    /// The account's id for a key, which it has or is given.
    async fn key(&self, public_key: &str) -> Result<String> {
        if let Some(key) = keys::find(&self.keys(RENTING).await?, public_key) {
            return Ok(key.id.clone());
        }
        let body = json!({ "name": keys::name(public_key), "publicKey": public_key });
        let request = self.http.post(RENTING, "/ssh_keys/").pace(ANY);
        Ok(request.json(&body).read::<keys::Known>().await?.id)
    }
}

#[async_trait::async_trait]
impl Marketplace for Prime {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: PROVIDER.name,
            host: Host::Vm,
            // Others may take it, but nobody bids.
            interruptible: true,
            label_limit: 60,
            start_script: 0,
            expiry: false,
            self_release: None,
            boot_limit: Duration::from_mins(30),
            listing_lag: self.http.listing_lag(Duration::from_mins(1)),
            release_interval: self.http.interval(ANY),
        }
    }

    fn login(&self) -> Option<String> {
        self.http.login()
    }

    async fn offers(&self, need: &Need) -> Result<Vec<Offer>> {
        catalog::offers(&self.http, need).await
    }

    async fn rent(&self, order: &Order) -> Result<Instance> {
        let Ok(mut pod) = serde_json::from_str::<Value>(&order.offer.terms) else {
            let why = format!("{} is not an offer of this marketplace", order.offer.id);
            return Err(self.http.error(RENTING, ErrorKind::Unexpected, &why));
        };
        let key = self.key(&order.public_key).await.map_err(keys::before_renting)?;
        let provider = pod["provider"].take();
        let pod = body(order, pod["pod"].take(), &key);
        let body = json!({ "pod": pod, "provider": { "type": provider } });
        let request = self.http.post(RENTING, "/pods/").once().pace(ANY);
        let request = request.standing(&order.standing);
        let request = request.patient(Duration::from_secs(75)).json(&body);
        Ok(request.read::<Pod>().await?.instance())
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        #[derive(Deserialize)]
        struct Page {
            total_count: usize,
            data: Vec<Pod>,
        }
        let mut pods: Vec<Pod> = Vec::new();
        let mut offset = 0;
        loop {
            let query = [("offset", &*offset.to_string()), ("limit", &*PAGE.to_string())];
            let request = self.http.get(LISTING, "/pods/").pace(ANY).query(&query);
            let page: Page = request.read().await?;
            let count = page.data.len();
            offset += count;
            pods.extend(page.data);
            if page.total_count <= offset {
                break;
            }
            if count == 0 {
                let why = "the listing ends before it has shown as many as it counts";
                return Err(self.http.error(LISTING, ErrorKind::Unexpected, why));
            }
        }
        // A pod that ends while we read moves the others up, so that one may be on two pages.
        pods.sort_by(|one, other| one.id.cmp(&other.id));
        pods.dedup_by(|one, other| one.id == other.id);
        let owed = pods.into_iter().filter(|pod| pod.status != "TERMINATED");
        Ok(owed.map(Pod::instance).collect())
    }

    async fn release(&self, id: &InstanceId) -> Result<()> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if id.0.is_empty() || !id.0.bytes().all(plain) {
            let why = format!("{id} is not an instance of this marketplace");
            return Err(self.http.error(RELEASING, ErrorKind::Unexpected, &why));
        }
        let path = format!("/pods/{id}");
        let reply = self.http.delete(RELEASING, &path).pace(ANY.first()).send().await?;
        if reply.is_success() || reply.status == 404 {
            return Ok(());
        }
        let refused = reply.refused();
        if refused.kind == ErrorKind::Unauthorized {
            return Err(refused);
        }
        let seen = self.http.get(RELEASING, &path).pace(ANY).send().await?;
        if seen.status == 404 {
            return Ok(());
        }
        match seen.read::<Pod>()?.status.as_str() {
            "DELETING" | "TERMINATED" => Ok(()),
            _ => Err(refused),
        }
    }

    async fn leftovers(&self) -> Result<Vec<Leftover>> {
        Ok(Leftover::keys(self.keys(LISTING_LEFTOVERS).await?))
    }

    async fn remove(&self, leftover: &Leftover) -> Result<()> {
        let strange = |why: &str| self.http.error(REMOVING, ErrorKind::Unexpected, why);
        let id = leftover::plain(&leftover.id, strange)?;
        let path = format!("/ssh_keys/{id}");
        leftover::removed(self.http.delete(REMOVING, &path).pace(ANY).send().await?)
    }
}

#[async_trait::async_trait]
impl Remote for Prime {
    async fn account(&self) -> Result<Account> {
        #[derive(Deserialize)]
        struct Wallet {
            balance_usd: Option<Number>,
        }
        let wallet = self.http.get("read the account", "/billing/wallet").pace(ANY).send().await?;
        // A key may be good for pods and not for the wallet.
        if wallet.status == 403 {
            let pods = self.http.get("read the account", "/pods/").pace(ANY);
            pods.query(&[("limit", "1")]).send().await?.accept()?;
            return Ok(Account::default());
        }
        let left = wallet.read::<Wallet>()?.balance_usd;
        let balance = left.and_then(|left| Usd::from_dollars(left.0.max(0.0)));
        Ok(Account { name: None, balance })
    }
}

/// The order in its words: the offer's own, and ours.
fn body(order: &Order, mut pod: Value, key: &str) -> Value {
    pod["name"] = json!(order.label.0);
    pod["sshKeyId"] = json!(key);
    pod["autoRestart"] = json!(false);
    // Refused if the price has risen since it was quoted; left out, it was once an error.
    pod["maxPrice"] = json!(order.offer.price.dollars() * 1.02);
    let disk = order.setup.disk.to_gib();
    if pod["diskSize"].as_u64().is_none_or(|least| least < disk) && disk != 0 {
        pod["diskSize"] = json!(disk);
    }
    if !order.setup.image.is_empty() {
        pod["image"] = json!(order.setup.image);
    }
    let env = order.setup.env.iter();
    pod["envVars"] = env.map(|(key, value)| json!({ "key": key, "value": value })).collect();
    pod
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    id: String,
    name: Option<String>,
    status: String,
    installation_status: Option<String>,
    installation_failure: Option<String>,
    /// Dollars an hour for all of it.
    price_hr: Option<Number>,
    is_spot: Option<bool>,
    /// `root@203.0.113.7 -p 22`, or several of them, or nothing yet.
    ssh_connection: Option<Value>,
    created_at: Option<String>,
}

impl Pod {
    fn instance(self) -> Instance {
        Instance {
            state: self.state(),
            price: self.price_hr.and_then(|price| UsdPerHour::from_dollars(price.0)),
            since: self.created_at.as_deref().and_then(timestamp),
            note: self.installation_failure.filter(|note| !note.is_empty()),
            ..Instance::new(
                InstanceId(self.id),
                self.name.filter(|name| !name.is_empty()).map(Label),
                InstanceState::Pending,
            )
        }
    }

    fn state(&self) -> InstanceState {
        let installed = self.installation_status.as_deref();
        let failed = |otherwise: &str| {
            let reason = self.installation_failure.as_deref().filter(|why| !why.is_empty());
            InstanceState::Failed(reason.unwrap_or(otherwise).to_owned())
        };
        match (self.status.as_str(), installed) {
            ("ACTIVE", Some("ERROR")) => failed("its installation failed"),
            ("ACTIVE", None | Some("FINISHED")) => {
                let endpoint = self.ssh_connection.as_ref().and_then(connection);
                endpoint.map_or(InstanceState::Pending, InstanceState::Running)
            }
            ("PROVISIONING" | "PENDING" | "ACTIVE", _) => InstanceState::Pending,
            ("STOPPED" | "ERROR", _) if self.is_spot == Some(true) => InstanceState::Interrupted,
            ("STOPPED", _) => InstanceState::Stopped,
            ("ERROR", _) => failed("the marketplace gave it up"),
            ("DELETING", _) => InstanceState::Terminating,
            (other, _) => InstanceState::Unknown(other.to_owned()),
        }
    }
}

/// The first way in that is written as `root@203.0.113.7 -p 22`, with or without `ssh` before it.
fn connection(value: &Value) -> Option<Endpoint> {
    let text = match value {
        Value::String(text) => text,
        Value::Array(several) => return several.iter().find_map(connection),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
    };
    let mut words = text.split_whitespace();
    let (user, host) = words.by_ref().find_map(|word| word.split_once('@'))?;
    let mut rest = text.split_whitespace().skip_while(|word| *word != "-p");
    let port = match rest.nth(1) {
        Some(port) => port.parse().ok()?,
        None => 22,
    };
    Some(Endpoint { host: host.to_owned(), port, user: user.to_owned() })
}

/// What its refusals mean. For lack of hosts there are only words, in three shapes.
fn refusal(reply: &Reply) -> Option<ErrorKind> {
    const TAKEN: [&str; 7] = [
        "no capacity",
        "out of stock",
        "not available",
        "insufficient capacity",
        "insufficient resources",
        "quota",
        "limit exceeded",
    ];
    // What is wrong with an order, in two shapes, and what it may not cost.
    const WRONG: [&str; 4] = ["\"param\":", "\"loc\":", "missing field", "max_price"];
    if 500 <= reply.status {
        return None;
    }
    if reply.says(&["insufficient funds", "insufficient balance", "payment required"]) {
        return Some(ErrorKind::OutOfFunds);
    }
    let refused = matches!(reply.status, 400 | 404 | 409 | 422);
    if refused && reply.says(&TAKEN) {
        return Some(ErrorKind::OfferGone);
    }
    let wrong = matches!(reply.status, 400 | 422) && reply.says(&WRONG);
    wrong.then_some(ErrorKind::Unexpected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_tell_a_refusal_from_what_may_have_rented() {
        for (status, body, kind) in [
            (400, r#"{"detail":"it is out of stock"}"#, Some(ErrorKind::OfferGone)),
            (422, r#"{"errors":[{"param":"name","details":"no"}]}"#, Some(ErrorKind::Unexpected)),
            (422, r#"{"detail":[{"loc":["body"],"msg":"no"}]}"#, Some(ErrorKind::Unexpected)),
            (400, r#"{"detail":"the price is above max_price"}"#, Some(ErrorKind::Unexpected)),
            (409, "conflict", None),
            (504, "payment required of whoever runs this gateway", None),
        ] {
            assert_eq!(refusal(&Reply::said(status, body)), kind, "{status} {body}");
        }
    }

    #[test]
    fn a_way_in_is_read_in_every_shape() {
        let endpoint = |user: &str, host: &str, port| {
            Some(Endpoint { host: host.to_owned(), port, user: user.to_owned() })
        };
        let cases = [
            (json!("root@135.23.125.123 -p 2201"), endpoint("root", "135.23.125.123", 2201)),
            (json!("ssh ubuntu@203.0.113.7 -p 2222"), endpoint("ubuntu", "203.0.113.7", 2222)),
            (json!("ubuntu@203.0.113.7"), endpoint("ubuntu", "203.0.113.7", 22)),
            (json!([null, "root@h -p 1"]), endpoint("root", "h", 1)),
            (json!([null]), None),
            (json!("soon"), None),
            (json!("root@h -p many"), None),
        ];
        for (value, read) in cases {
            assert_eq!(connection(&value), read, "{value}");
        }
    }
}
