//! Verda (until 2025 `DataCrunch`): virtual machines in its own data centres.
//!
//! Facts are from its Python and Go packages of 2026. Doubtful ones: that time is charged in
//! steps of ten minutes (taken as yes), and how late the listing is (taken as a minute). A
//! machine holds no credential of its own, so it can't end itself. Start scripts would have to
//! be registered on the account and be forgotten there, so none is run.

mod catalog;
mod token;

use crate::{
    Account, Capabilities, Credential, Endpoint, ErrorKind, Host, Instance, InstanceId,
    InstanceState, Label, Leftover, LeftoverKind, Marketplace, Need, Offer, Order, Provider,
    Remote, Result, Usd, UsdPerHour,
    http::{Http, Reply, Request},
    json::{Number, timestamp},
    keys, leftover,
};
use secrecy::SecretString;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use token::Tokens;

pub(crate) const PROVIDER: Provider = Provider {
    name: "verda",
    title: "Verda",
    credentials: &[
        Credential { name: "client id", variables: &["VERDA_CLIENT_ID", "DATACRUNCH_CLIENT_ID"] },
        Credential {
            name: "client secret",
            variables: &["VERDA_CLIENT_SECRET", "DATACRUNCH_CLIENT_SECRET"],
        },
    ],
    open_offers: false,
    url: "https://api.verda.com/v1",
    url_variable: "PIECEWORK_VERDA_URL",
    keys_page: "https://console.verda.com/dashboard/keys",
    console: "https://console.verda.com/dashboard",
    connect: |provider, access| {
        let tokens = Tokens::new(&access);
        Ok(Arc::new(Verda { http: access.http(provider, refusal), tokens }))
    },
};

const RENTING: &str = "rent";
const RELEASING: &str = "release";
const LISTING_LEFTOVERS: &str = "list what is left";
const REMOVING: &str = "remove what is left";

/// The least that it makes a system disk of, in GB.
const SMALLEST_DISK: u64 = 50;

/// A Verda project.
#[derive(Debug)]
struct Verda {
    http: Http,
    tokens: Tokens,
}

impl Verda {
    /// Sends a request with a token, and once more with a new one if the old one has run out:
    /// who isn't let in has had nothing done.
    async fn send<'h>(&'h self, request: impl Fn(&'h Http) -> Request<'h>) -> Result<Reply> {
        let token = self.tokens.current(&self.http).await?;
        let reply = request(&self.http).bearer(&token)?.send().await?;
        if reply.status != 401 {
            return Ok(reply);
        }
        let token = self.tokens.renewed(&self.http).await?;
        request(&self.http).bearer(&token)?.send().await
    }

    async fn read<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T> {
        self.send(|http| http.get(operation, path).query(query)).await?.read()
    }

    /// The keys on the account.
    async fn keys(&self, operation: &'static str) -> Result<Vec<keys::Known>> {
        self.read(operation, "/sshkeys", &[]).await
    }

    /// The account's id for a key, which it has or is given.
    async fn key(&self, public_key: &str) -> Result<String> {
        if let Some(key) = keys::find(&self.keys(RENTING).await?, public_key) {
            return Ok(key.id.clone());
        }
        let body = json!({ "name": keys::name(public_key), "key": public_key });
        let reply = self.send(|http| http.post(RENTING, "/sshkeys").json(&body)).await?;
        bare_id(&reply)
    }
}

#[async_trait::async_trait]
impl Marketplace for Verda {
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
            boot_limit: Duration::from_mins(20),
            listing_lag: self.http.listing_lag(Duration::from_mins(1)),
            release_interval: Duration::ZERO,
        }
    }

    fn login(&self) -> Option<String> {
        self.http.login()
    }

    async fn offers(&self, need: &Need) -> Result<Vec<Offer>> {
        catalog::offers(self, need).await
    }

    async fn rent(&self, order: &Order) -> Result<Instance> {
        let Some(choice) = catalog::Choice::parse(&order.offer.id.0) else {
            let why = format!("{} is not an offer of this marketplace", order.offer.id);
            return Err(self.http.error(RENTING, ErrorKind::Unexpected, &why));
        };
        let key = self.key(&order.public_key).await.map_err(keys::before_renting)?;
        let body = body(order, &choice, &key);
        let patience = Duration::from_mins(1);
        let reply = self.send(|http| {
            let request = http.post(RENTING, "/instances").once().patient(patience);
            request.standing(&order.standing).json(&body)
        });
        let id = bare_id(&reply.await?)?;
        Ok(Instance {
            price: Some(order.offer.price),
            ..Instance::new(InstanceId(id), Some(order.label.clone()), InstanceState::Pending)
        })
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        let rows: Vec<Row> = self.read("list instances", "/instances", &[]).await?;
        let owed = rows.into_iter().filter(|row| row.status != "discontinued");
        Ok(owed.map(Row::instance).collect())
    }

    async fn release(&self, id: &InstanceId) -> Result<()> {
        if !is_id(&id.0) {
            let why = format!("{id} is not an instance of this marketplace");
            return Err(self.http.error(RELEASING, ErrorKind::Unexpected, &why));
        }
        let path = format!("/instances/{id}");
        let reply = self.send(|http| http.get(RELEASING, &path)).await?;
        if reply.status == 404 {
            return Ok(());
        }
        let row: Row = reply.read()?;
        if row.status == "discontinued" {
            return Ok(());
        }
        // A disk that isn't named here stays, and is billed on.
        let body = json!({
            "id": [id.0],
            "action": "delete",
            "volume_ids": row.volumes(),
            "delete_permanently": true,
        });
        let reply = self.send(|http| http.put(RELEASING, "/instances").json(&body)).await?;
        released(reply)
    }

    async fn disks(&self) -> Result<Vec<Leftover>> {
        #[derive(Deserialize)]
        struct Volume {
            id: String,
            #[serde(default)]
            name: String,
            instance_id: Option<String>,
            base_hourly_cost: Option<Number>,
        }
        let volumes: Vec<Volume> = self.read(LISTING_LEFTOVERS, "/volumes", &[]).await?;
        let ours = |volume: &Volume| {
            volume.name.starts_with("piecework-")
                && volume.instance_id.as_ref().is_none_or(String::is_empty)
        };
        let left = |volume: Volume| Leftover {
            kind: LeftoverKind::Disk,
            price: volume.base_hourly_cost.and_then(|cost| UsdPerHour::from_dollars(cost.0)),
            id: volume.id,
            name: volume.name,
        };
        Ok(volumes.into_iter().filter(ours).map(left).collect())
    }

    async fn leftovers(&self) -> Result<Vec<Leftover>> {
        let mut left = Leftover::keys(self.keys(LISTING_LEFTOVERS).await?);
        left.extend(self.disks().await?);
        Ok(left)
    }

    async fn remove(&self, leftover: &Leftover) -> Result<()> {
        let strange = |why: &str| self.http.error(REMOVING, ErrorKind::Unexpected, why);
        let id = leftover::plain(&leftover.id, strange)?;
        let (path, body) = match leftover.kind {
            LeftoverKind::PublicKey => ("/sshkeys".to_owned(), json!({ "keys": [id] })),
            // Otherwise it goes to the trash, and is billed there.
            LeftoverKind::Disk => (format!("/volumes/{id}"), json!({ "is_permanent": true })),
        };
        leftover::removed(self.send(|http| http.delete(REMOVING, &path).json(&body)).await?)
    }
}

#[async_trait::async_trait]
impl Remote for Verda {
    async fn account(&self) -> Result<Account> {
        #[derive(Deserialize)]
        struct Balance {
            amount: Number,
            currency: Option<String>,
        }
        let balance: Balance = self.read("read the account", "/balance", &[]).await?;
        let dollars = balance.currency.is_none_or(|unit| unit.eq_ignore_ascii_case("usd"));
        let left = balance.amount.0.max(0.0);
        let balance = dollars.then(|| Usd::from_dollars(left)).flatten();
        Ok(Account { name: None, balance })
    }
}

/// The order in its words.
fn body(order: &Order, choice: &catalog::Choice, key: &str) -> Value {
    let label = &order.label.0;
    let image = match order.setup.image.as_str() {
        "" => &order.offer.terms,
        image => image,
    };
    let disk = order.setup.disk.to_gib().max(SMALLEST_DISK);
    let mut volume = json!({ "name": leftover::disk_name(&order.label), "size": disk });
    if choice.spot {
        // Otherwise the disk of a machine that was taken away stays, and is billed on.
        volume["on_spot_discontinue"] = json!("delete_permanently");
    }
    json!({
        "instance_type": choice.kind,
        "image": image,
        "hostname": label.to_ascii_lowercase(),
        "description": label,
        "ssh_key_ids": [key],
        "location_code": choice.location,
        "is_spot": choice.spot,
        "contract": if choice.spot { "SPOT" } else { "PAY_AS_YOU_GO" },
        // The other kind drifts while it runs.
        "pricing": "FIXED_PRICE",
        "os_volume": volume,
    })
}

fn is_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !text.is_empty() && text.len() <= 64 && text.bytes().all(plain)
}

/// An id that is the whole answer, with quotes or without.
fn bare_id(reply: &Reply) -> Result<String> {
    if !reply.is_success() {
        return Err(reply.clone().refused());
    }
    let id = reply.body.trim().trim_matches('"');
    if is_id(id) { Ok(id.to_owned()) } else { Err(reply.unreadable("it is no id")) }
}

/// Whether the end was agreed to: nothing at all means yes, a list is looked through.
fn released(reply: Reply) -> Result<()> {
    #[derive(Deserialize)]
    struct Item {
        error: Option<String>,
        #[serde(rename = "statusCode")]
        status_code: Option<u16>,
    }
    let gone = ["invalid instance id", "can't discontinue a discontinued instance"];
    if reply.says(&gone) {
        return Ok(());
    }
    // It can't be ended while it is made, which takes some minutes.
    if reply.says(&["can't discontinue a provisioning"]) {
        return Err(reply.into_error(ErrorKind::Unavailable));
    }
    let items: Vec<Item> = serde_json::from_str(&reply.body).unwrap_or_default();
    let refused = |item: &Item| {
        item.error.as_deref().is_some_and(|error| !error.is_empty())
            || item.status_code.is_some_and(|status| 400 <= status)
    };
    if reply.is_success() && items.iter().any(refused) {
        return Err(reply.into_error(ErrorKind::Unexpected));
    }
    reply.accept()
}

#[derive(Deserialize)]
struct Row {
    id: String,
    ip: Option<String>,
    status: String,
    description: Option<String>,
    price_per_hour: Option<Number>,
    is_spot: Option<bool>,
    os_volume_id: Option<String>,
    volume_ids: Option<Vec<String>>,
    created_at: Option<String>,
}

impl Row {
    fn volumes(&self) -> Vec<&String> {
        let mut volumes: Vec<_> = self.os_volume_id.iter().collect();
        volumes.extend(self.volume_ids.iter().flatten());
        volumes.sort();
        volumes.dedup();
        volumes
    }

    fn instance(self) -> Instance {
        Instance {
            price: self.price_per_hour.and_then(|price| UsdPerHour::from_dollars(price.0)),
            since: self.created_at.as_deref().and_then(timestamp),
            state: state(&self.status, self.ip, self.is_spot == Some(true)),
            ..Instance::new(
                InstanceId(self.id),
                self.description.filter(|label| !label.is_empty()).map(Label),
                InstanceState::Pending,
            )
        }
    }
}

fn state(status: &str, ip: Option<String>, spot: bool) -> InstanceState {
    match (status, ip) {
        ("running", Some(address)) => {
            InstanceState::Running(Endpoint::of_machine(&address, "root"))
        }
        ("new" | "ordered" | "provisioning" | "validating" | "pending" | "running", _) => {
            InstanceState::Pending
        }
        ("offline", _) if spot => InstanceState::Interrupted,
        // Billed as if it ran.
        ("offline", _) => InstanceState::Stopped,
        ("no_capacity", _) => InstanceState::Failed("there was no capacity after all".into()),
        ("error", _) => InstanceState::Failed("the marketplace gave it up".into()),
        ("deleting", _) => InstanceState::Terminating,
        (other, _) => InstanceState::Unknown(other.to_owned()),
    }
}

/// What its refusals mean. For lack of hosts it uses the status of an outage; no other word of an
/// outage counts, which may be a gateway's: its time limit is exceeded as well.
fn refusal(reply: &Reply) -> Option<ErrorKind> {
    if reply.says(&["not enough resources"]) {
        return Some(ErrorKind::OfferGone);
    }
    if 500 <= reply.status {
        return None;
    }
    let kinds: [(&[&str], ErrorKind); 4] = [
        (&["limit exceeded"], ErrorKind::OfferGone),
        (&["insufficient_funds"], ErrorKind::OutOfFunds),
        (&["unauthorized_request"], ErrorKind::Unauthorized),
        (&["invalid_request", "not_found", "forbidden_action"], ErrorKind::Unexpected),
    ];
    kinds.iter().find(|(words, _)| reply.says(words)).map(|(_, kind)| *kind)
}

/// A secret as text for a body that is sent nowhere else.
fn exposed(secret: &SecretString) -> &str {
    use secrecy::ExposeSecret;
    secret.expose_secret()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_tell_a_refusal_from_what_may_have_rented() {
        for (status, body, kind) in [
            (503, "Not enough resources to deploy a 1 GPU instance", Some(ErrorKind::OfferGone)),
            (400, "instance limit exceeded", Some(ErrorKind::OfferGone)),
            (400, r#"{"code":"invalid_request"}"#, Some(ErrorKind::Unexpected)),
            (504, "time limit exceeded", None),
            (409, "conflict", None),
        ] {
            assert_eq!(refusal(&Reply::said(status, body)), kind, "{status} {body}");
        }
    }

    #[test]
    fn every_disk_of_a_machine_goes_with_it() {
        let row: Row = serde_json::from_str(
            r#"{"id":"a","status":"running","os_volume_id":"v1","volume_ids":["v2","v1"]}"#,
        )
        .unwrap();
        assert_eq!(row.volumes(), ["v1", "v2"]);
    }

    #[test]
    fn a_state_without_a_word_for_it_is_kept() {
        assert_eq!(state("hibernating", None, false), InstanceState::Unknown("hibernating".into()));
        assert_eq!(state("offline", None, true), InstanceState::Interrupted);
    }
}
