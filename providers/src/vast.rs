//! Vast.ai: a marketplace of other people's computers, rented as containers.
//!
//! Facts are from its own documentation and command line of August 2026. Doubtful ones:
//! whether storage is charged while an image loads (taken as yes), how late the listing is (taken
//! as a minute), and the status of a refusal for lack of money (its words are read instead).

mod listing;
mod search;

use crate::{
    Access, Account, Capabilities, Credential, Error, ErrorKind, Host, Instance, InstanceId,
    InstanceState, Marketplace, Need, Offer, Order, Provider, Remote, Rental, Result, Usd,
    http::{Http, Pace, Reply},
    json::{Number, Text},
};
use reqwest::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{sync::Arc, time::Duration};

pub(crate) const PROVIDER: Provider = Provider {
    name: "vast",
    title: "Vast.ai",
    credentials: &[Credential { name: "API key", variables: &["VAST_API_KEY", "VASTAI_API_KEY"] }],
    open_offers: true,
    url: "https://console.vast.ai",
    url_variable: "PIECEWORK_VAST_URL",
    keys_page: "https://cloud.vast.ai/manage-keys/",
    console: "https://cloud.vast.ai/instances/",
    connect: |provider, access| Ok(Arc::new(Vast::new(provider, &access)?)),
};

/// Its limits are least times between two requests of a kind, told only by being refused.
const SEARCH: Pace = Pace::every("search", Duration::from_secs(6)).burst(4);
const RENT: Pace = Pace::every("rent", Duration::from_millis(4_500));
const LIST: Pace = Pace::every("list", Duration::from_secs(1));
const RELEASE: Pace = Pace::every("release", Duration::from_secs(3));

/// `onstart` may have 4,048 characters; the rest is for what we put before the order's script.
const START_SCRIPT: usize = 3_400;

/// Ends its own contract with the key that is put into every container. Both are in the
/// environment of the first process only. The key goes through a pipe, never onto a command line.
const SELF_RELEASE: &str = r#"of() { eval "v=\${$1:-}"; [ -n "$v" ] || v=$(tr '\0' '\n' </proc/1/environ | sed -n "s/^$1=//p"); printf %s "$v"; }
url=$(of PIECEWORK_API_URL); id=$(of CONTAINER_ID); key=$(of CONTAINER_API_KEY)
[ -n "$id" ] && [ -n "$key" ] && command -v curl >/dev/null || exit 1
[ -z "${CHECK:-}" ] || exit 0
said=$(printf 'header = "Authorization: Bearer %s"\n' "$key" | curl -sS -m 30 -K - -o /dev/null -w '%{http_code}' -X DELETE "${url:-https://console.vast.ai}/api/v0/instances/$id/")
case $said in 2??|404) exit 0;; *) exit 1;; esac"#;

/// A Vast.ai account.
#[derive(Debug)]
struct Vast {
    http: Http,
}

impl Vast {
    fn new(provider: &Provider, access: &Access) -> Result<Self> {
        let http = access.http(provider, refusal);
        let http = http.with_key(AUTHORIZATION, "Bearer ", access.key())?;
        Ok(Self { http })
    }

    /// Lets a key in. The start script does so too, so that a failure here is no failure.
    async fn attach(&self, id: &InstanceId, public_key: &str) {
        let path = format!("/api/v0/instances/{id}/ssh/");
        let body = json!({ "ssh_key": public_key });
        let _ = self.http.post("attach the SSH key", &path).once().json(&body).send().await;
    }

    /// Ends what a refused order left behind: a bid that is too low makes a stopped instance.
    async fn undo(&self, left: InstanceId, refusal: Error) -> Error {
        match self.release(&left).await {
            Ok(()) => refusal,
            Err(error) => Error { kind: ErrorKind::Uncertain, ..error },
        }
    }
}

#[async_trait::async_trait]
impl Marketplace for Vast {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: PROVIDER.name,
            host: Host::Container,
            interruptible: true,
            label_limit: 256,
            start_script: START_SCRIPT,
            expiry: false,
            self_release: Some(SELF_RELEASE),
            boot_limit: Duration::from_mins(15),
            listing_lag: self.http.listing_lag(Duration::from_mins(1)),
            release_interval: self.http.interval(RELEASE),
        }
    }

    fn login(&self) -> Option<String> {
        self.http.login()
    }

    async fn offers(&self, need: &Need) -> Result<Vec<Offer>> {
        let mut offers = search::search(&self.http, need, search::Kind::OnDemand).await?;
        if need.interruptible {
            offers.extend(search::search(&self.http, need, search::Kind::Interruptible).await?);
        }
        Ok(offers)
    }

    async fn rent(&self, order: &Order) -> Result<Instance> {
        const RENTING: &str = "rent";
        let offer = &order.offer.id.0;
        let Some(ask) = search::ask(offer) else {
            let why = format!("{offer} is not an offer of this marketplace");
            return Err(self.http.error(RENTING, ErrorKind::Unexpected, &why));
        };
        let path = format!("/api/v0/asks/{ask}/");
        let body = self.body(order)?;
        let request = self.http.put(RENTING, &path).once().pace(RENT);
        let reply = request.standing(&order.standing).json(&body).send().await?;
        let said: Rented = serde_json::from_str(&reply.body).unwrap_or_default();
        let id = said.new_contract.map(|contract| InstanceId(contract.0));
        if reply.is_success() && said.success != Some(false) {
            let id = id.ok_or_else(|| reply.unreadable("it names no contract"))?;
            self.attach(&id, &order.public_key).await;
            return Ok(Instance::new(id, Some(order.label.clone()), InstanceState::Pending));
        }
        let refusal = reply.refused();
        match id {
            Some(left) => Err(self.undo(left, refusal).await),
            None => Err(refusal),
        }
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        listing::every_page(&self.http).await
    }

    async fn release(&self, id: &InstanceId) -> Result<()> {
        const RELEASING: &str = "release";
        // An empty or strange id would make another path of it.
        if id.0.is_empty() || !id.0.bytes().all(|byte| byte.is_ascii_digit()) {
            let why = format!("{id} is not an instance of this marketplace");
            return Err(self.http.error(RELEASING, ErrorKind::Unexpected, &why));
        }
        let path = format!("/api/v0/instances/{id}/");
        let request = self.http.delete(RELEASING, &path).pace(RELEASE).json(&json!({}));
        let reply = request.send().await?;
        let gone = reply.says(&["no_such_instance", "not_found"]);
        match (reply.is_success() && !disagrees(&reply), gone) {
            (true, _) | (_, true) => Ok(()),
            // A 404 alone proves nothing: an expired session gets one too.
            (false, false) => Err(reply.refused()),
        }
    }
}

#[async_trait::async_trait]
impl Remote for Vast {
    async fn account(&self) -> Result<Account> {
        #[derive(Deserialize)]
        struct User {
            username: Option<String>,
            email: Option<String>,
            credit: Option<Number>,
            balance: Option<Number>,
        }
        let user: User = self.http.get("read the account", "/api/v0/users/current/").read().await?;
        // Credit is what was paid in; which of the two counts with a card on file is not told.
        let left = user.credit.or(user.balance);
        Ok(Account {
            name: user.username.or(user.email),
            balance: left.and_then(|left| Usd::from_dollars(left.0.max(0.0))),
        })
    }
}

impl Vast {
    /// The order in its words.
    fn body(&self, order: &Order) -> Result<Value> {
        let setup = &order.setup;
        let mut body = json!({
            "client_id": "me",
            "image": setup.image,
            "disk": setup.disk.to_gib().max(8),
            "label": order.label.0,
            "runtype": "ssh_direct",
            "onstart": onstart(&order.public_key, &setup.start),
            "env": self.environment(order),
            "target_state": "running",
            // Otherwise an order that can't be met is kept, stopped, and billed for its disk.
            "cancel_unavail": true,
        });
        if let Rental::Interruptible { floor } = order.offer.rental {
            // Without a price it would silently be rented on demand.
            body["price"] = json!(order.bid.unwrap_or(floor).dollars());
        }
        if START_SCRIPT < setup.start.len() {
            let why = format!("a start script may have {START_SCRIPT} bytes here");
            return Err(self.http.error("rent", ErrorKind::Unexpected, &why));
        }
        Ok(body)
    }

    fn environment(&self, order: &Order) -> Map<String, Value> {
        let mut env: Map<_, _> =
            order.setup.env.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        env.insert("PIECEWORK_LABEL".into(), json!(order.label.0));
        env.insert("PIECEWORK_API_URL".into(), json!(self.http.base()));
        env
    }
}

/// What runs at every start: lets our key in, keeps the shell plain, then the order's script.
fn onstart(public_key: &str, start: &str) -> String {
    format!(
        "mkdir -p ~/.ssh; echo '{public_key}' >>~/.ssh/authorized_keys\n\
         chmod 700 ~/.ssh; chmod 600 ~/.ssh/authorized_keys; touch ~/.no_auto_tmux\n{start}"
    )
}

/// The answer to an order, agreed to or not.
#[derive(Default, Deserialize)]
struct Rented {
    success: Option<bool>,
    new_contract: Option<Text>,
}

/// Whether a success says in its body that it is none.
fn disagrees(reply: &Reply) -> bool {
    #[derive(Deserialize)]
    struct Said {
        success: Option<bool>,
    }
    serde_json::from_str::<Said>(&reply.body).is_ok_and(|said| said.success == Some(false))
}

/// What its refusals mean. It is free with status codes, so the words count.
fn refusal(reply: &Reply) -> Option<ErrorKind> {
    if 500 <= reply.status {
        return None;
    }
    let kinds: [(&[&str], ErrorKind); 5] = [
        (&["no_such_ask", "no longer available", "cancel_unavail"], ErrorKind::OfferGone),
        (&["auth_error", "invalid user key", "session expired"], ErrorKind::Unauthorized),
        (&["credit", "billing", "spend_rate_limit"], ErrorKind::OutOfFunds),
        (&["bid", "invalid_price"], ErrorKind::BidTooLow),
        (&["invalid_args", "no_ssh_key_for_vm", "label_too_long"], ErrorKind::Unexpected),
    ];
    kinds.iter().find(|(words, _)| reply.says(words)).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_tell_a_refusal_from_what_may_have_rented() {
        for (status, body, kind) in [
            (410, r#"{"error":"no_such_ask"}"#, Some(ErrorKind::OfferGone)),
            (400, r#"{"error":"missing_billing"}"#, Some(ErrorKind::OutOfFunds)),
            (400, r#"{"error":"invalid_args"}"#, Some(ErrorKind::Unexpected)),
            (410, "gone", None),
            (409, "conflict", None),
            (502, "no_such_ask", None),
        ] {
            assert_eq!(refusal(&Reply::said(status, body)), kind, "{status} {body}");
        }
    }
}
