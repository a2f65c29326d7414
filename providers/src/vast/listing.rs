//! What we have rented at Vast.ai.

use super::LIST;
use crate::{
    Endpoint, ErrorKind, Instance, InstanceId, InstanceState, Label, Result, UsdPerHour,
    http::Http,
    json::{Number, Text, moment},
};
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};

const LISTING: &str = "list instances";

/// The most that one page may have.
const PAGE: &str = "25";

/// One page. Without `instances` it is no page, whatever else it is.
#[derive(Deserialize)]
struct Page {
    instances: Vec<Row>,
    next_token: Option<Text>,
}

/// Reads the listing to its end.
pub(super) async fn every_page(http: &Http) -> Result<Vec<Instance>> {
    let mut instances = BTreeMap::new();
    let mut seen = HashSet::new();
    let mut after: Option<String> = None;
    loop {
        let order = r#"[{"col":"id","dir":"asc"}]"#;
        let mut request = http.get(LISTING, "/api/v1/instances/").pace(LIST);
        request = request.query(&[("limit", PAGE), ("order_by", order)]);
        if let Some(token) = &after {
            request = request.query(&[("after_token", token)]);
        }
        let page: Page = request.read().await?;
        for row in page.instances {
            let instance = row.instance();
            instances.insert(instance.id.clone(), instance);
        }
        let Some(Text(next)) = page.next_token.filter(|token| !token.0.is_empty()) else {
            return Ok(instances.into_values().collect());
        };
        if !seen.insert(next.clone()) {
            let why = "the listing has no end: a page leads back to an earlier one";
            return Err(http.error(LISTING, ErrorKind::Unexpected, why));
        }
        after = Some(next);
    }
}

#[derive(Deserialize)]
struct Row {
    id: Text,
    label: Option<String>,
    /// Null until the host has heard of it.
    actual_status: Option<String>,
    cur_state: Option<String>,
    next_state: Option<String>,
    intended_status: Option<String>,
    status_msg: Option<String>,
    is_bid: Option<bool>,
    dph_total: Option<Number>,
    start_date: Option<Number>,
    ssh_host: Option<String>,
    ssh_port: Option<Number>,
    public_ipaddr: Option<String>,
    image_runtype: Option<String>,
    /// As Docker has it: `{"22/tcp": [{"HostPort": "33526"}]}`.
    ports: Option<BTreeMap<String, Vec<Mapped>>>,
}

#[derive(Deserialize)]
struct Mapped {
    #[serde(rename = "HostPort")]
    host_port: Option<Number>,
}

/// What the host says when it will never start: the words that the marketplace's own self-test
/// takes for a failure, but only the unmistakable ones.
const HOPELESS: [&str; 5] = [
    "error response from daemon",
    "oci runtime create failed",
    "failed to start containers",
    "no such image",
    "manifest unknown",
];

impl Row {
    fn instance(self) -> Instance {
        let (state, fallback) = self.state();
        Instance {
            state,
            fallback,
            price: self.dph_total.and_then(|price| UsdPerHour::from_dollars(price.0)),
            since: self.start_date.and_then(moment),
            note: self.status_msg.filter(|note| !note.trim().is_empty()),
            ..Instance::new(
                InstanceId(self.id.0),
                self.label.filter(|label| !label.is_empty()).map(Label),
                InstanceState::Pending,
            )
        }
    }

    fn state(&self) -> (InstanceState, Option<Endpoint>) {
        let note = self.status_msg.as_deref().unwrap_or_default().to_ascii_lowercase();
        let hopeless = HOPELESS.iter().any(|words| note.contains(words));
        let state = match self.actual_status.as_deref() {
            Some("running") => return self.running(),
            None | Some("created" | "loading" | "rebooting") if hopeless => {
                InstanceState::Failed(self.status_msg.clone().unwrap_or_default())
            }
            None | Some("" | "created" | "loading" | "rebooting") => InstanceState::Pending,
            Some("exited" | "stopped" | "frozen") if self.is_outbid() => InstanceState::Interrupted,
            Some("stopped" | "frozen") => InstanceState::Stopped,
            Some("exited") => {
                InstanceState::Failed(self.status_msg.clone().unwrap_or("it exited".into()))
            }
            Some("offline") => InstanceState::Failed("its host is offline".into()),
            Some(other) => InstanceState::Unknown(other.to_owned()),
        };
        (state, None)
    }

    /// All three intentions say "stopped" though nobody asked: somebody bids more. It may come
    /// back by itself, and is then billed again. (Without credit it looks the same.)
    fn is_outbid(&self) -> bool {
        let stopped = |state: &Option<String>| state.as_deref() == Some("stopped");
        self.is_bid == Some(true)
            && [&self.cur_state, &self.next_state, &self.intended_status].into_iter().all(stopped)
    }

    /// Straight to its port where that is mapped, else through the proxy; ready with neither.
    fn running(&self) -> (InstanceState, Option<Endpoint>) {
        match (self.direct(), self.proxy()) {
            (Some(direct), proxy) => (InstanceState::Running(direct), proxy),
            (None, Some(proxy)) => (InstanceState::Running(proxy), None),
            (None, None) => (InstanceState::Pending, None),
        }
    }

    fn direct(&self) -> Option<Endpoint> {
        let host = self.public_ipaddr.as_deref().map(str::trim).filter(|host| !host.is_empty())?;
        let mapped = self.ports.as_ref()?.get("22/tcp")?.first()?.host_port?;
        endpoint(host, mapped.count())
    }

    fn proxy(&self) -> Option<Endpoint> {
        let host = self.ssh_host.as_deref().filter(|host| !host.is_empty())?;
        // The marketplace's own command line counts so.
        let jupyter = self.image_runtype.as_deref().is_some_and(|kind| kind.contains("jupyter"));
        endpoint(host, self.ssh_port?.count() + u64::from(jupyter))
    }
}

fn endpoint(host: &str, port: u64) -> Option<Endpoint> {
    let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
    Some(Endpoint { host: host.to_owned(), port, user: "root".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Instance {
        serde_json::from_str::<Row>(text).unwrap().instance()
    }

    #[test]
    fn a_running_instance_is_reached_directly_and_else_by_the_proxy() {
        let instance = read(
            r#"{"id":7,"label":"a","actual_status":"running","public_ipaddr":"203.0.113.9\n",
            "ports":{"22/tcp":[{"HostIp":"0.0.0.0","HostPort":"33526"}]},"ssh_host":"ssh4.example",
            "ssh_port":12345,"image_runtype":"ssh ssh_direc ssh_proxy","dph_total":"0.5"}"#,
        );
        let direct = endpoint("203.0.113.9", 33_526).unwrap();
        assert_eq!(instance.state, InstanceState::Running(direct));
        assert_eq!(instance.fallback, endpoint("ssh4.example", 12_345));
        assert_eq!(instance.price, Some(UsdPerHour(500_000)));
    }

    #[test]
    fn states_are_told_apart() {
        let outbid = r#"{"id":1,"actual_status":"exited","is_bid":true,"cur_state":"stopped",
            "next_state":"stopped","intended_status":"stopped"}"#;
        let cases = [
            (r#"{"id":1,"actual_status":null}"#, InstanceState::Pending),
            (r#"{"id":1,"actual_status":"running"}"#, InstanceState::Pending),
            (outbid, InstanceState::Interrupted),
            (r#"{"id":1,"actual_status":"stopped"}"#, InstanceState::Stopped),
            (
                r#"{"id":1,"actual_status":"loading","status_msg":"Error response from daemon: x"}"#,
                InstanceState::Failed("Error response from daemon: x".into()),
            ),
            (r#"{"id":1,"actual_status":"unknown"}"#, InstanceState::Unknown("unknown".into())),
        ];
        for (text, state) in cases {
            assert_eq!(read(text).state, state, "{text}");
        }
    }
}
