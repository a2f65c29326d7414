//! Requests to a hub: redirects, the token, and how often to try again.

use super::{Settings, SourceError};
use std::{fs, sync::Arc, thread::sleep, time::Duration};
use ureq::{
    Agent, Body,
    http::Response,
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

/// A chain of redirects longer than this leads nowhere.
const REDIRECTS: usize = 10;
/// A connection that brings nothing for this long is dead.
const SILENCE: Duration = Duration::from_mins(1);
/// No wait between two attempts is longer, unless the hub asks for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// No wait that the hub asks for is longer: its limits are reset every five minutes.
const LONGEST_ASKED_PAUSE: Duration = Duration::from_mins(5);

/// Why one attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may go better next time.
    Temporary {
        /// What happened.
        reason: String,
        /// How long the hub asks us to wait.
        wait: Option<Duration>,
    },
    /// It won't.
    Final(SourceError),
}

impl Failure {
    pub(super) fn temporary(reason: &impl ToString) -> Self {
        Self::Temporary { reason: reason.to_string(), wait: None }
    }
}

/// Asks a hub.
#[derive(Debug)]
pub(super) struct Client<'a> {
    agent: Agent,
    settings: &'a Settings,
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &'a Settings) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("piecework/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .tls_config(TlsConfig::builder().root_certs(root_certificates()).build())
            .build()
            .into();
        Self { agent, settings }
    }

    /// Asks once for `url`, from byte `from` on. The answer is a 200, a 206 or a 416.
    ///
    /// Redirects are followed here, since only here is it known to whom the token belongs: it
    /// goes to the hub's own address and to no host that the hub sends us to.
    pub(super) fn ask(&self, url: &str, from: u64) -> Result<Response<Body>, Failure> {
        let hub = origin(&self.settings.endpoint);
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            let at_hub = origin(&url) == hub;
            let mut request = self.agent.get(&url);
            if let Some(token) = self.settings.token.as_ref().filter(|_| at_hub) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if 0 < from {
                request = request.header("range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|error| Failure::temporary(&error))?;
            match response.status().as_u16() {
                200 | 206 | 416 => return Ok(response),
                301..=308 => match header(&response, "location") {
                    Some(target) => url = join(&url, target),
                    None => return Err(Failure::temporary(&"a redirect without a target")),
                },
                // Links to a content network are signed, and run out. The hub makes new ones.
                status @ 400..=499 if !at_hub && ![408, 429].contains(&status) => {
                    return Err(Failure::temporary(&format!(
                        "{} answered {}",
                        host(&url),
                        response.status()
                    )));
                }
                _ => return Err(refusal(&response, self.settings.token.is_some(), &url)),
            }
        }
        Err(Failure::temporary(&"too many redirects"))
    }

    /// Asks for JSON until it is there, and for the address of the next page, if there is one.
    pub(super) fn json<T: serde::de::DeserializeOwned>(
        &self,
        url: &str,
    ) -> Result<(T, Option<String>), SourceError> {
        let mut patience = Patience::new(self.settings);
        loop {
            let read = self.ask(url, 0).and_then(|mut response| {
                let next = header(&response, "link").and_then(next_page);
                let text = response
                    .body_mut()
                    .read_to_string()
                    .map_err(|error| Failure::temporary(&error))?;
                Ok((text, next))
            });
            match read {
                Ok((text, next)) => {
                    let odd = |error: serde_json::Error| SourceError::BadAnswer {
                        url: url.to_owned(),
                        reason: error.to_string(),
                    };
                    return Ok((serde_json::from_str(&text).map_err(odd)?, next));
                }
                Err(failure) => patience.after(failure)?,
            }
        }
    }
}

/// How often to try again, and how long to wait before.
#[derive(Debug)]
pub(super) struct Patience<'a> {
    settings: &'a Settings,
    failed: u32,
}

impl<'a> Patience<'a> {
    pub(super) fn new(settings: &'a Settings) -> Self {
        Self { settings, failed: 0 }
    }

    /// Bytes arrived: what failed before doesn't count any more.
    pub(super) fn renew(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next attempt, or gives up.
    pub(super) fn after(&mut self, failure: Failure) -> Result<(), SourceError> {
        let (reason, asked) = match failure {
            Failure::Temporary { reason, wait } => (reason, wait),
            Failure::Final(error) => return Err(error),
        };
        self.failed += 1;
        if self.settings.retries < self.failed {
            let host = host(&self.settings.endpoint).to_owned();
            return Err(SourceError::Unreachable { host, attempts: self.failed, reason });
        }
        sleep(pause(self.settings.pause, self.failed, asked));
        Ok(())
    }
}

/// How long to wait after the `failed`th failure in a row (from 1).
fn pause(first: Duration, failed: u32, asked: Option<Duration>) -> Duration {
    let doubled = first.saturating_mul(1 << (failed - 1).min(16)).min(LONGEST_PAUSE);
    asked.map_or(doubled, |asked| asked.min(LONGEST_ASKED_PAUSE))
}

/// What an answer that isn't a file means. The hub names its reason in `X-Error-Code`; a mirror
/// may give only the status.
fn refusal(response: &Response<Body>, with_token: bool, url: &str) -> Failure {
    let status = response.status();
    let code = header(response, "x-error-code").unwrap_or_default();
    Failure::Final(match (status.as_u16(), code) {
        (408 | 425 | 429 | 500..=599, _) => {
            let reason = format!("it answered {status}");
            return Failure::Temporary { reason, wait: asked_pause(response) };
        }
        (_, "GatedRepo") => SourceError::Gated,
        (_, "RepoNotFound") => SourceError::UnknownModel,
        (_, "RevisionNotFound") => {
            let revision = url.rsplit("/revision/").next().unwrap_or_default();
            SourceError::UnknownRevision(revision.to_owned())
        }
        (_, "EntryNotFound") => SourceError::NoFile {
            file: url.rsplit('/').next().unwrap_or_default().to_owned(),
            others: Vec::new(),
        },
        (401, _) if with_token => SourceError::TokenRejected,
        (401 | 403, _) => SourceError::Gated,
        (404, _) => SourceError::UnknownModel,
        _ => {
            let reason = format!("status {status}");
            SourceError::BadAnswer { url: url.to_owned(), reason }
        }
    })
}

/// `Retry-After` in seconds, or else the time that `RateLimit` gives (`"api";r=0;t=55`).
fn asked_pause(response: &Response<Body>) -> Option<Duration> {
    let after = header(response, "retry-after").and_then(|text| text.trim().parse().ok());
    let reset = || {
        let mut fields = header(response, "ratelimit")?.split(';');
        fields.find_map(|field| field.trim().strip_prefix("t="))?.parse().ok()
    };
    after.or_else(reset).map(Duration::from_secs)
}

pub(super) fn header<'r>(response: &'r Response<Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

/// The address in a `Link` header that is marked as the next page.
fn next_page(link: &str) -> Option<String> {
    let part = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let (_, rest) = part.split_once('<')?;
    Some(rest.split_once('>')?.0.to_owned())
}

/// Scheme, host and port: `https://host:port`.
fn origin(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    format!("{scheme}://{}", &rest[..end]).to_ascii_lowercase()
}

/// The host of an address, with its port.
pub(super) fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())]
}

/// Where a redirect from `base` to `target` leads. Hubs send whole addresses or absolute paths.
fn join(base: &str, target: &str) -> String {
    match target {
        whole if whole.contains("://") => whole.to_owned(),
        path if path.starts_with("//") => {
            format!("{}:{path}", base.split_once("://").map_or("https", |(scheme, _)| scheme))
        }
        path => format!("{}/{}", origin(base), path.trim_start_matches('/')),
    }
}

/// A segment of a path, with everything escaped that could end it.
pub(super) fn escape(segment: &str) -> String {
    segment.bytes().fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(byte.into());
            }
            other => {
                write!(text, "%{other:02X}").expect("a string takes all that is written to it");
            }
        }
        text
    })
}

/// The certificates in `SSL_CERT_FILE`, for networks with a proxy that reads along; else the
/// web's, which are compiled in: bare images have no certificates.
fn root_certificates() -> RootCerts {
    let own = std::env::var_os("SSL_CERT_FILE").and_then(|path| fs::read(path).ok());
    let certificates: Vec<_> = own
        .iter()
        .flat_map(|pem| parse_pem(pem))
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return RootCerts::WebPki;
    }
    RootCerts::Specific(Arc::new(certificates))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say() {
        let base = "https://hub.example/a/b?c";
        for (target, expected) in [
            ("https://cdn.example/x?y", "https://cdn.example/x?y"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("/new/name", "https://hub.example/new/name"),
        ] {
            assert_eq!(join(base, target), expected);
        }
    }

    #[test]
    fn an_origin_is_told_from_another_by_scheme_host_and_port() {
        assert_eq!(origin("https://Hub.example/x"), origin("https://hub.example?y"));
        assert_ne!(origin("https://hub.example"), origin("http://hub.example"));
        assert_ne!(origin("https://hub.example"), origin("https://hub.example:8443"));
        assert_ne!(origin("https://hub.example"), origin("https://hub.example.evil.example"));
    }

    #[test]
    fn pauses_double_and_end_unless_the_hub_asks_for_more() {
        let second = Duration::from_secs(1);
        let seconds = |failed, asked: Option<u64>| {
            pause(second, failed, asked.map(Duration::from_secs)).as_secs()
        };
        assert_eq!([1, 2, 3, 9].map(|failed| seconds(failed, None)), [1, 2, 4, 30]);
        assert_eq!((seconds(1, Some(55)), seconds(1, Some(9999))), (55, 300));
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        let link =
            r#"<https://hub.example/?p=1>; rel="prev", <https://hub.example/?p=3>; rel="next""#;
        assert_eq!(next_page(link).as_deref(), Some("https://hub.example/?p=3"));
        assert_eq!(next_page(r#"<https://hub.example/>; rel="first""#), None);
    }

    #[test]
    fn a_segment_is_escaped() {
        assert_eq!(escape("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(escape("model-00001.safetensors"), "model-00001.safetensors");
    }
}
