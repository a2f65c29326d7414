//! Runpod: containers in its own data centres ("secure") and in those of others ("community").
//!
//! Speaks its REST API version 2, and GraphQL for the balance alone, which v2 doesn't tell.
//! Facts are from its documentation and tools of August to October 2026. Doubtful ones: how late
//! the listing is (taken as a minute; a new pod is known to be missing for some seconds), and
//! whether a community host has a public port (one that has none never runs, in our words).

mod catalog;

use crate::{
    Access, Account, Capabilities, Credential, Endpoint, ErrorKind, Host, Instance, InstanceId,
    InstanceState, Label, Marketplace, Need, Offer, Order, Provider, Remote, Result, Usd,
    UsdPerHour,
    http::{Http, Pace, Reply},
    json::{Number, timestamp},
};
use reqwest::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

pub(crate) const PROVIDER: Provider = Provider {
    name: "runpod",
    title: "Runpod",
    credentials: &[Credential { name: "API key", variables: &["RUNPOD_API_KEY"] }],
    open_offers: false,
    url: "https://api.runpod.io",
    url_variable: "PIECEWORK_RUNPOD_URL",
    keys_page: "https://console.runpod.io/user/settings",
    console: "https://console.runpod.io/pods",
    connect: |provider, access| Ok(Arc::new(Runpod::new(provider, &access)?)),
};

/// Sixty requests a minute in all. This many may read; the rest is for ending what is billed.
const READ: Pace = Pace::every("read", Duration::from_millis(1_500)).burst(10);
const RENT: Pace = Pace::every("rent", Duration::from_secs(6)).burst(3);
const RELEASE: Pace = Pace::every("release", Duration::from_secs(2)).burst(8);

/// The whole order may have 102,400 bytes, and its text is escaped twice.
const START_SCRIPT: usize = 24_000;

/// Ends its own pod with the key that is put into every container, which may do little else: which
/// of the ways is open to it is told differently by different people, so each is tried. Stopping is
/// no end, but nothing of ours is billed for a pod that has no volume. Both are in the environment of the first process only. The key goes through a pipe, never
/// onto a command line.
const SELF_RELEASE: &str = r#"of() { eval "v=\${$1:-}"; [ -n "$v" ] || v=$(tr '\0' '\n' </proc/1/environ | sed -n "s/^$1=//p"); printf %s "$v"; }
url=$(of PIECEWORK_API_URL); id=$(of RUNPOD_POD_ID); key=$(of RUNPOD_API_KEY)
[ -n "$id" ] && [ -n "$key" ] && command -v curl >/dev/null || exit 1
[ -z "${CHECK:-}" ] || exit 0
url=${url:-https://api.runpod.io}
ask() { printf 'header = "Authorization: Bearer %s"\n' "$key" | curl -sS -m 30 -K - -A piecework -w '%{http_code}' "$@"; }
said=$(ask -X POST -H 'Content-Type: application/json' -d '{"action":"terminate"}' "$url/v2/pods/$id/action")
case $said in *2[0-9][0-9]|*404) exit 0;; esac
said=$(ask -X DELETE "$url/v2/pods/$id")
case $said in *2[0-9][0-9]|*404) exit 0;; esac
query="{\"query\":\"mutation { podTerminate(input: { podId: \\\"$id\\\" }) }\"}"
said=$(ask -X POST -H 'Content-Type: application/json' -d "$query" "$url/graphql")
case $said in *'"errors"'*'not found'*) exit 0;; *'"errors"'*) ;; *'"podTerminate"'*) exit 0;; esac
ask -X POST -H 'Content-Type: application/json' -d '{"action":"stop"}' "$url/v2/pods/$id/action"
exit 1"#;

/// A Runpod account.
#[derive(Debug)]
struct Runpod {
    http: Http,
}

impl Runpod {
    fn new(provider: &Provider, access: &Access) -> Result<Self> {
        let http = access.http(provider, refusal);
        let http = http.with_key(AUTHORIZATION, "Bearer ", access.key())?;
        Ok(Self { http })
    }

    async fn balance(&self) -> Result<Account> {
        #[derive(Deserialize)]
        struct Answer {
            data: Option<Data>,
        }
        #[derive(Deserialize)]
        struct Data {
            myself: Option<Myself>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Myself {
            email: Option<String>,
            client_balance: Option<Number>,
        }
        let query = json!({ "query": "query { myself { id email clientBalance } }" });
        let request = self.http.search("read the account", "/graphql").pace(READ);
        let answer: Answer = request.json(&query).read().await?;
        let myself = answer.data.and_then(|data| data.myself);
        Ok(myself.map_or_else(Account::default, |myself| Account {
            name: myself.email,
            balance: myself.client_balance.and_then(|left| Usd::from_dollars(left.0.max(0.0))),
        }))
    }
}

#[async_trait::async_trait]
impl Marketplace for Runpod {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: PROVIDER.name,
            host: Host::Container,
            interruptible: false,
            label_limit: 60,
            start_script: START_SCRIPT,
            expiry: false,
            self_release: Some(SELF_RELEASE),
            boot_limit: Duration::from_mins(20),
            listing_lag: self.http.listing_lag(Duration::from_mins(1)),
            release_interval: self.http.interval(RELEASE),
        }
    }

    fn login(&self) -> Option<String> {
        self.http.login()
    }

    async fn offers(&self, need: &Need) -> Result<Vec<Offer>> {
        catalog::both_clouds(&self.http, need).await
    }

    async fn rent(&self, order: &Order) -> Result<Instance> {
        const RENTING: &str = "rent";
        let Some(choice) = catalog::Choice::parse(&order.offer.id.0) else {
            let why = format!("{} is not an offer of this marketplace", order.offer.id);
            return Err(self.http.error(RENTING, ErrorKind::Unexpected, &why));
        };
        if START_SCRIPT < order.setup.start.len() {
            let why = format!("a start script may have {START_SCRIPT} bytes here");
            return Err(self.http.error(RENTING, ErrorKind::Unexpected, &why));
        }
        let body = body(order, &choice, self.http.base());
        // It answers after it has found a host, which takes up to a minute.
        let request = self.http.post(RENTING, "/v2/pods").once().pace(RENT);
        let request = request.standing(&order.standing);
        let pod: Pod = request.patient(Duration::from_secs(75)).json(&body).read().await?;
        Ok(pod.instance())
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        const LISTING: &str = "list instances";
        let mut instances = BTreeMap::new();
        let mut seen = HashSet::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut request = self.http.get(LISTING, "/v2/pods").pace(READ);
            request = request.query(&[("limit", "1000")]);
            if let Some(cursor) = &cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let page: Page = request.read().await?;
            for pod in page.pods.into_iter().filter(|pod| pod.status != "TERMINATED") {
                let instance = pod.instance();
                instances.insert(instance.id.clone(), instance);
            }
            let more = page.pagination.unwrap_or_default();
            let Some(next) = more.next_cursor.filter(|cursor| !cursor.is_empty()) else {
                if more.has_next_page == Some(true) {
                    let why = "the listing says that it goes on, but not where";
                    return Err(self.http.error(LISTING, ErrorKind::Unexpected, why));
                }
                return Ok(instances.into_values().collect());
            };
            if !seen.insert(next.clone()) {
                let why = "the listing has no end: a page leads back to an earlier one";
                return Err(self.http.error(LISTING, ErrorKind::Unexpected, why));
            }
            cursor = Some(next);
        }
    }

    async fn release(&self, id: &InstanceId) -> Result<()> {
        const RELEASING: &str = "release";
        // An empty id would name the whole list.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if id.0.is_empty() || !id.0.bytes().all(plain) {
            let why = format!("{id} is not an instance of this marketplace");
            return Err(self.http.error(RELEASING, ErrorKind::Unexpected, &why));
        }
        let path = format!("/v2/pods/{id}");
        let reply = self.http.delete(RELEASING, &path).pace(RELEASE).send().await?;
        // Gone already, or not to be seen yet: the listing tells which.
        if reply.status == 404 { Ok(()) } else { reply.accept() }
    }
}

#[async_trait::async_trait]
impl Remote for Runpod {
    async fn account(&self) -> Result<Account> {
        let request = self.http.get("read the account", "/v2/pods").pace(READ);
        let _: Page = request.query(&[("limit", "1")]).read().await?;
        // The key is good; the rest is a courtesy of an API that is on its way out.
        Ok(self.balance().await.unwrap_or_default())
    }
}

/// The order in its words. It refuses any word that it doesn't know.
fn body(order: &Order, choice: &catalog::Choice, base: &str) -> Value {
    let setup = &order.setup;
    let mut env: Map<_, _> =
        setup.env.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    env.insert("PUBLIC_KEY".into(), json!(order.public_key));
    env.insert("PIECEWORK_LABEL".into(), json!(order.label.0));
    env.insert("PIECEWORK_API_URL".into(), json!(base));
    let command = json!({ "entrypoint": ["/bin/sh", "-c"], "cmd": [command(&setup.start)] });
    json!({
        "name": order.label.0,
        "image": setup.image,
        // Left out, it would be the dearer one.
        "cloud": choice.cloud.word(),
        // Left out, the count is taken as none.
        "gpu": { "id": choice.gpu, "count": choice.count },
        // Smaller disks are known not to be placed.
        "disk": setup.disk.to_gib().max(20),
        "ports": ["22/tcp"],
        "env": env,
        "args": command.to_string(),
    })
}

/// What the container runs instead of its image's own command: our key, the order's script, and
/// then an SSH server for as long as the container lives. If this ended, the container would be
/// started again, and billed, forever.
fn command(start: &str) -> String {
    format!(
        r#"mkdir -p ~/.ssh; printf '%s\n' "$PUBLIC_KEY" >>~/.ssh/authorized_keys
chmod 700 ~/.ssh; chmod 600 ~/.ssh/authorized_keys
(
{start}
)
[ -x /start.sh ] && exec /start.sh
command -v sshd >/dev/null || {{ apt-get update && apt-get install -y --no-install-recommends openssh-server; }}
mkdir -p /run/sshd; ssh-keygen -A
"$(command -v sshd || echo false)" -D -e
sleep infinity"#
    )
}

/// One page. Without `pods` it is no page, whatever else it is.
#[derive(Deserialize)]
struct Page {
    pods: Vec<Pod>,
    pagination: Option<Pagination>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pagination {
    next_cursor: Option<String>,
    has_next_page: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    id: String,
    name: Option<String>,
    status: String,
    /// Dollars an hour, now: zero once it is stopped.
    cost: Option<Number>,
    ssh: Option<Ssh>,
    created_at: Option<String>,
}

#[derive(Deserialize)]
struct Ssh {
    direct: Option<Direct>,
}

#[derive(Deserialize)]
struct Direct {
    host: String,
    port: u16,
    username: Option<String>,
}

impl Pod {
    fn instance(self) -> Instance {
        Instance {
            price: self.cost.and_then(|cost| UsdPerHour::from_dollars(cost.0)),
            since: self.created_at.as_deref().and_then(timestamp),
            state: state(&self.status, self.ssh.and_then(|ssh| ssh.direct)),
            ..Instance::new(
                InstanceId(self.id),
                self.name.filter(|name| !name.is_empty()).map(Label),
                InstanceState::Pending,
            )
        }
    }
}

/// The proxy that is listed beside the direct way has no use for us: it runs no commands.
fn state(status: &str, direct: Option<Direct>) -> InstanceState {
    match (status, direct) {
        ("RUNNING", Some(direct)) => InstanceState::Running(Endpoint {
            host: direct.host,
            port: direct.port,
            user: direct.username.unwrap_or_else(|| "root".into()),
        }),
        ("PROVISIONING" | "STARTING" | "RUNNING", _) => InstanceState::Pending,
        // Its disk may still be billed, and it was not us who stopped it.
        ("EXITED", _) => InstanceState::Stopped,
        ("ERROR", _) => InstanceState::Failed("the marketplace gave it up".into()),
        (other, _) => InstanceState::Unknown(other.to_owned()),
    }
}

/// What its refusals mean. For lack of hosts there are only words, and what is wrong with an order is
/// told in a document that names the status.
fn refusal(reply: &Reply) -> Option<ErrorKind> {
    #[derive(Deserialize)]
    struct Problem {
        status: u16,
    }
    const TAKEN: [&str; 7] = [
        "no longer any instances available",
        "no instances",
        "does not have the resources",
        "try a different machine",
        "insufficient capacity",
        "out of stock",
        "cannot access this pool",
    ];
    let refused = matches!(reply.status, 400 | 403);
    if refused && reply.says(&TAKEN) {
        return Some(ErrorKind::OfferGone);
    }
    let wrong = matches!(reply.status, 400 | 413 | 422)
        && serde_json::from_str::<Problem>(&reply.body).is_ok_and(|p| p.status == reply.status);
    wrong.then_some(ErrorKind::Unexpected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_tell_a_refusal_from_what_may_have_rented() {
        for (status, body, kind) in [
            (
                400,
                r#"{"status":400,"detail":"no instances available"}"#,
                Some(ErrorKind::OfferGone),
            ),
            (422, r#"{"title":"Unprocessable","status":422}"#, Some(ErrorKind::Unexpected)),
            (422, "unprocessable", None),
            (409, r#"{"title":"Conflict","status":409}"#, None),
            (502, "no instances of the gateway are up", None),
        ] {
            assert_eq!(refusal(&Reply::said(status, body)), kind, "{status} {body}");
        }
    }

    #[test]
    fn an_unknown_state_is_kept_as_it_came() {
        assert_eq!(state("NAPPING", None), InstanceState::Unknown("NAPPING".into()));
    }

    #[test]
    fn a_pod_runs_only_once_it_has_a_way_in_of_its_own() {
        let pod: Pod = serde_json::from_str(
            r#"{"id":"7h9k","name":"a","status":"RUNNING","cost":0.44,"createdAt":"2026-06-01T12:00:00Z",
            "ssh":{"proxy":{"host":"ssh.runpod.io","port":22},"direct":null},"runtime":{"uptime":1}}"#,
        )
        .unwrap();
        let instance = pod.instance();
        assert_eq!(instance.state, InstanceState::Pending);
        assert_eq!(instance.price, Some(UsdPerHour(440_000)));
        assert!(instance.since.is_some());
    }
}
