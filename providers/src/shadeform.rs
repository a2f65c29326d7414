//! Shadeform: machines of some twenty other clouds, behind one account.
//!
//! Facts are from its API description and its own tools of 2026. Doubtful ones: how a second end
//! of the same machine is answered (the listing is asked), and whether its `auto_delete` is kept
//! (no report says that it isn't; the other nets don't rely on it). A machine holds no credential
//! of its own, so it can't end itself.

mod catalog;

use crate::{
    Account, Capabilities, Credential, Endpoint, ErrorKind, Host, Instance, InstanceId,
    InstanceState, Label, Leftover, Marketplace, Need, Offer, Order, Provider, Remote, Result,
    UsdPerHour,
    http::{Http, Pace, Reply},
    json::{Number, rfc3339, timestamp},
    keys, leftover,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::header::HeaderName;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

pub(crate) const PROVIDER: Provider = Provider {
    name: "shadeform",
    title: "Shadeform",
    credentials: &[Credential { name: "API key", variables: &["SHADEFORM_API_KEY"] }],
    open_offers: true,
    url: "https://api.shadeform.ai/v1",
    url_variable: "PIECEWORK_SHADEFORM_URL",
    keys_page: "https://platform.shadeform.ai/settings/api",
    console: "https://platform.shadeform.ai/",
    connect: |provider, access| {
        let header = HeaderName::from_static("x-api-key");
        let http = access.http(provider, refusal).with_key(header, "", access.key())?;
        Ok(Arc::new(Shadeform { http }))
    },
};

/// Its limits are not told; one a second is known to be safe.
const ANY: Pace = Pace::every("any", Duration::from_secs(1)).burst(5);

/// Not told; an order of a hundred kilobytes is nowhere too much.
const START_SCRIPT: usize = 60_000;

const RENTING: &str = "rent";
const LISTING: &str = "list instances";
const RELEASING: &str = "release";
const LISTING_LEFTOVERS: &str = "list what is left";
const EXTENDING: &str = "extend";
const REMOVING: &str = "remove what is left";

/// A Shadeform account.
#[derive(Debug)]
struct Shadeform {
    http: Http,
}

impl Shadeform {
    /// The keys on the account.
    async fn keys(&self, operation: &'static str) -> Result<Vec<keys::Known>> {
        #[derive(Deserialize)]
        struct Listed {
            ssh_keys: Vec<keys::Known>,
        }
        let request = self.http.get(operation, "/sshkeys").pace(ANY);
        Ok(request.read::<Listed>().await?.ssh_keys)
    }

    /// The account's id for a key, which it has or is given.
    async fn key(&self, public_key: &str) -> Result<String> {
        if let Some(key) = keys::find(&self.keys(RENTING).await?, public_key) {
            return Ok(key.id.clone());
        }
        let body = json!({ "name": keys::name(public_key), "public_key": public_key });
        let request = self.http.post(RENTING, "/sshkeys/add").pace(ANY);
        Ok(request.json(&body).read::<keys::Known>().await?.id)
    }

    async fn rows(&self, operation: &'static str) -> Result<Vec<Row>> {
        #[derive(Deserialize)]
        struct Listing {
            instances: Vec<Row>,
        }
        let listing: Listing = self.http.get(operation, "/instances").pace(ANY).read().await?;
        Ok(listing.instances)
    }
}

#[async_trait::async_trait]
impl Marketplace for Shadeform {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: PROVIDER.name,
            host: Host::Vm,
            // Others may take it, but nobody bids.
            interruptible: true,
            label_limit: 60,
            start_script: START_SCRIPT,
            expiry: true,
            self_release: None,
            // Some of its clouds are slow.
            boot_limit: Duration::from_mins(30),
            listing_lag: self.http.listing_lag(Duration::from_mins(2)),
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
        #[derive(Deserialize)]
        struct Created {
            id: String,
        }
        let Some(choice) = catalog::Choice::parse(&order.offer.id.0) else {
            let why = format!("{} is not an offer of this marketplace", order.offer.id);
            return Err(self.http.error(RENTING, ErrorKind::Unexpected, &why));
        };
        let key = self.key(&order.public_key).await.map_err(keys::before_renting)?;
        let body = body(order, &choice, &key);
        let request = self.http.post(RENTING, "/instances/create").once().pace(ANY);
        let request = request.standing(&order.standing);
        let request = request.patient(Duration::from_mins(1)).json(&body);
        let reply = request.send().await?;
        let Created { id } = reply.clone().read()?;
        if id.is_empty() {
            return Err(reply.unreadable("its id is empty"));
        }
        Ok(Instance {
            price: Some(order.offer.price),
            ..Instance::new(InstanceId(id), Some(order.label.clone()), InstanceState::Pending)
        })
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        let rows = self.rows(LISTING).await?;
        Ok(rows.into_iter().filter(|row| row.status != "deleted").map(Row::instance).collect())
    }

    async fn release(&self, id: &InstanceId) -> Result<()> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if id.0.is_empty() || !id.0.bytes().all(plain) {
            let why = format!("{id} is not an instance of this marketplace");
            return Err(self.http.error(RELEASING, ErrorKind::Unexpected, &why));
        }
        let path = format!("/instances/{id}/delete");
        let reply = self.http.post(RELEASING, &path).pace(ANY.first()).send().await?;
        if reply.is_success() || reply.status == 404 {
            return Ok(());
        }
        let refused = reply.refused();
        if refused.kind == ErrorKind::Unauthorized {
            return Err(refused);
        }
        // Billing ends with `deleting`; what isn't listed is over.
        let row = self.rows(RELEASING).await?.into_iter().find(|row| row.id == id.0);
        match row.as_ref().map(|row| row.status.as_str()) {
            None | Some("deleting" | "deleted") => Ok(()),
            Some(_) => Err(refused),
        }
    }

    async fn extend(&self, id: &InstanceId, expires: SystemTime) -> Result<bool> {
        let strange = |why: &str| self.http.error(EXTENDING, ErrorKind::Unexpected, why);
        let id = leftover::plain(&id.0, strange)?;
        let moment = rfc3339(expires).ok_or_else(|| strange("the time is out of range"))?;
        let body = json!({ "auto_delete": { "date_threshold": moment } });
        let path = format!("/instances/{id}/update");
        self.http.post(EXTENDING, &path).pace(ANY).json(&body).send().await?.accept()?;
        Ok(true)
    }

    async fn leftovers(&self) -> Result<Vec<Leftover>> {
        Ok(Leftover::keys(self.keys(LISTING_LEFTOVERS).await?))
    }

    async fn remove(&self, leftover: &Leftover) -> Result<()> {
        let strange = |why: &str| self.http.error(REMOVING, ErrorKind::Unexpected, why);
        let id = leftover::plain(&leftover.id, strange)?;
        // One that is in use stays.
        let path = format!("/sshkeys/{id}/delete");
        leftover::removed(self.http.post(REMOVING, &path).pace(ANY).send().await?)
    }
}

#[async_trait::async_trait]
impl Remote for Shadeform {
    /// It tells neither a name nor what is left.
    async fn account(&self) -> Result<Account> {
        self.rows("read the account").await?;
        Ok(Account::default())
    }
}

/// The order in its words.
fn body(order: &Order, choice: &catalog::Choice, key: &str) -> Value {
    let script = keys::with_environment(&order.setup.start, &order.setup.env);
    let image = match order.setup.image.as_str() {
        "" => &order.offer.terms,
        image => image,
    };
    let mut body = json!({
        "cloud": choice.cloud,
        "region": choice.region,
        "shade_instance_type": choice.kind,
        // On its own accounts, which is the only choice of whoever has none there.
        "shade_cloud": true,
        "name": order.label.0,
        "rental_type": choice.rental.word(),
        // Without one, a key that it keeps itself is let in.
        "ssh_key_id": key,
        "launch_configuration": {
            "type": "script",
            "script_configuration": { "base64_script": STANDARD.encode(script) },
        },
        "tags": ["piecework"],
    });
    if !image.is_empty() {
        body["os"] = json!(image);
    }
    if let Some(moment) = order.expires.and_then(rfc3339) {
        body["auto_delete"] = json!({ "date_threshold": moment });
    }
    body
}

#[derive(Deserialize)]
struct Row {
    id: String,
    name: Option<String>,
    status: String,
    status_details: Option<String>,
    ip: Option<String>,
    ssh_user: Option<String>,
    ssh_port: Option<u16>,
    /// Cents an hour.
    hourly_price: Option<Number>,
    rental_terms: Option<Terms>,
    created_at: Option<String>,
}

#[derive(Deserialize)]
struct Terms {
    /// Dollars an hour.
    hourly_price: Option<Number>,
}

impl Row {
    fn instance(self) -> Instance {
        let dollars = self.rental_terms.and_then(|terms| terms.hourly_price).map(|price| price.0);
        let cents = self.hourly_price.map(|price| price.0 / 100.0);
        let note = self.status_details.filter(|note| !note.is_empty());
        let state = match (self.status.as_str(), self.ip.filter(|ip| !ip.is_empty())) {
            ("active", Some(host)) => InstanceState::Running(Endpoint {
                host,
                port: self.ssh_port.unwrap_or(22),
                user: self.ssh_user.unwrap_or_else(|| "shadeform".into()),
            }),
            ("creating" | "pending_provider" | "pending" | "active", _) => InstanceState::Pending,
            ("error", _) => {
                InstanceState::Failed(note.clone().unwrap_or_else(|| "no reason given".into()))
            }
            ("deleting", _) => InstanceState::Terminating,
            (other, _) => InstanceState::Unknown(other.to_owned()),
        };
        Instance {
            price: dollars.or(cents).and_then(UsdPerHour::from_dollars),
            since: self.created_at.as_deref().and_then(timestamp),
            note,
            ..Instance::new(
                InstanceId(self.id),
                self.name.filter(|name| !name.is_empty()).map(Label),
                state,
            )
        }
    }
}

/// What its refusals mean.
fn refusal(reply: &Reply) -> Option<ErrorKind> {
    #[derive(Deserialize)]
    struct Refused {
        error_code: String,
    }
    let Refused { error_code } = serde_json::from_str(&reply.body).ok()?;
    match error_code.as_str() {
        "OUT_OF_STOCK" => Some(ErrorKind::OfferGone),
        "INSUFFICIENT_FUNDS" => Some(ErrorKind::OutOfFunds),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_tell_a_refusal_from_what_may_have_rented() {
        for (status, body, kind) in [
            (409, r#"{"error_code":"OUT_OF_STOCK"}"#, Some(ErrorKind::OfferGone)),
            (409, r#"{"error_code":"INSUFFICIENT_FUNDS"}"#, Some(ErrorKind::OutOfFunds)),
            (409, r#"{"error_code":"CONFLICT"}"#, None),
            (400, "bad request", None),
        ] {
            assert_eq!(refusal(&Reply::said(status, body)), kind, "{status} {body}");
        }
    }

    #[test]
    fn a_machine_is_reached_as_its_cloud_wants_it() {
        let row: Row = serde_json::from_str(
            r#"{"id":"d290","name":"a","status":"active","ip":"203.0.113.5","ssh_user":"tester",
            "ssh_port":2222,"hourly_price":135,"rental_terms":{"hourly_price":"1.08"},
            "created_at":"2026-10-20T09:07:10Z"}"#,
        )
        .unwrap();
        let instance = row.instance();
        let endpoint = Endpoint { host: "203.0.113.5".into(), port: 2222, user: "tester".into() };
        assert_eq!(instance.state, InstanceState::Running(endpoint));
        assert_eq!(instance.price, Some(UsdPerHour(1_080_000)));
    }
}
