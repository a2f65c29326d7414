//! The one door to the network: sends requests, gives up in time, repeats only what may be
//! repeated, keeps to each marketplace's pace, and shows no secret.
//!
//! Time-outs nest: one attempt inside one request inside whatever the caller allows. A dialect
//! marks a request that must not be repeated with [`Request::once`]; nothing else decides it.

mod pace;
mod redact;
mod reply;
mod retry;

pub(crate) use pace::Pace;
pub use retry::Timing;

use crate::{Error, ErrorKind, Result, Standing, crash};
use pace::Paces;
use reply::Failure;
pub(crate) use reply::Reply;
use reqwest::{
    Method,
    header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use retry::{Attempt, Effect};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Who we say we are. At least one marketplace turns away who says nothing.
const USER_AGENT: &str = concat!("piecework/", env!("CARGO_PKG_VERSION"));

/// The largest answer that is read. The largest real one is a search of some ten megabytes.
const LARGEST: usize = 64 << 20;

/// Chooses what encrypts the connections of this process, which every client needs to know before it
/// is made.
pub fn use_ring() {
    // One for the whole process; that somebody else chose it already is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Connections to the marketplaces, shared by all of them.
#[derive(Clone, Debug)]
pub struct Transport(reqwest::Client);

impl Transport {
    /// Opens nothing yet.
    ///
    /// Fails if this computer has no usable certificates or a proxy setting that can't be read.
    pub fn new() -> Result<Self> {
        use_ring();
        reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(Duration::from_secs(10))
            // A redirect would take the key along, or drop the body.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map(Self)
            .map_err(|error| Error {
                provider: "piecework",
                operation: "set up HTTPS",
                kind: ErrorKind::Unexpected,
                source: Some(Box::new(error)),
            })
    }
}

/// What a marketplace's module says about itself to this one.
#[derive(Clone, Copy)]
pub(crate) struct Dialect {
    /// The marketplace's name.
    pub(crate) provider: &'static str,
    /// What one of its refusals means, if it is one of its own.
    pub(crate) refusal: fn(&Reply) -> Option<ErrorKind>,
}

/// One marketplace's address and manners.
pub(crate) struct Http {
    transport: Transport,
    base: String,
    dialect: Dialect,
    timing: Timing,
    paces: Mutex<Paces>,
    headers: HeaderMap,
    secrets: Arc<Mutex<Vec<SecretString>>>,
    login: Option<String>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Http");
        shown.field("provider", &self.dialect.provider).field("base", &self.base);
        shown.finish_non_exhaustive()
    }
}

impl Http {
    /// Speaks to the marketplace at `base`.
    pub(crate) fn new(transport: Transport, base: &str, timing: Timing, dialect: Dialect) -> Self {
        Self {
            transport,
            base: base.trim_end_matches('/').to_owned(),
            dialect,
            timing,
            paces: Mutex::default(),
            headers: HeaderMap::new(),
            secrets: Arc::default(),
            login: None,
        }
    }

    /// Goes by this name for the key that lets us in.
    pub(crate) fn logged_in(self, login: Option<String>) -> Self {
        Self { login, ..self }
    }

    /// Shows a key with every request, if there is one, in the header of this name.
    ///
    /// Fails if the key has characters that no header can hold: it was copied wrongly.
    pub(crate) fn with_key(
        mut self,
        header: HeaderName,
        prefix: &str,
        key: Option<&SecretString>,
    ) -> Result<Self> {
        if let Some(key) = key {
            self.headers.insert(header, self.sensitive(prefix, key)?);
            self.hide(key);
        }
        Ok(self)
    }

    /// Never shows this text.
    pub(crate) fn hide(&self, secret: &SecretString) {
        self.secrets.lock().expect("nobody panics while holding it").push(secret.clone());
    }

    /// The short name of the key that lets us in, if there is one.
    pub(crate) fn login(&self) -> Option<String> {
        self.login.clone()
    }

    /// The address that requests go to.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// How late a listing may be: as the dialect knows it, unless it is told otherwise.
    pub(crate) fn listing_lag(&self, known: Duration) -> Duration {
        self.timing.listing_lag.unwrap_or(known)
    }

    /// How far apart requests of this pace are.
    pub(crate) fn interval(&self, pace: Pace) -> Duration {
        if self.timing.paced { pace.interval } else { Duration::ZERO }
    }

    /// A request that reads.
    pub(crate) fn get(&self, operation: &'static str, path: &str) -> Request<'_> {
        self.request(&Method::GET, Effect::Read, operation, path)
    }

    /// A request that reads, with a body.
    pub(crate) fn search(&self, operation: &'static str, path: &str) -> Request<'_> {
        self.request(&Method::POST, Effect::Read, operation, path)
    }

    /// A request that may be repeated, unless it is marked [`once`](Request::once).
    pub(crate) fn post(&self, operation: &'static str, path: &str) -> Request<'_> {
        self.request(&Method::POST, Effect::Repeatable, operation, path)
    }

    /// A request that may be repeated, unless it is marked [`once`](Request::once).
    pub(crate) fn put(&self, operation: &'static str, path: &str) -> Request<'_> {
        self.request(&Method::PUT, Effect::Repeatable, operation, path)
    }

    /// A request that may be repeated.
    pub(crate) fn delete(&self, operation: &'static str, path: &str) -> Request<'_> {
        self.request(&Method::DELETE, Effect::Repeatable, operation, path)
    }

    /// An error of this marketplace.
    pub(crate) fn error(&self, operation: &'static str, kind: ErrorKind, why: &str) -> Error {
        let why = self.excerpt(why);
        Error { provider: self.dialect.provider, operation, kind, source: Some(why.into()) }
    }

    fn request(
        &self,
        method: &Method,
        effect: Effect,
        operation: &'static str,
        path: &str,
    ) -> Request<'_> {
        let builder = self
            .transport
            .0
            .request(method.clone(), format!("{}{path}", self.base))
            .headers(self.headers.clone());
        let what = format!("{method} {path}");
        Request {
            http: self,
            builder,
            what,
            operation,
            effect,
            pace: None,
            standing: Standing::default(),
            attempt: self.timing.attempt,
        }
    }

    fn take_turn(&self, pace: Pace) -> Duration {
        let mut paces = self.paces.lock().expect("nobody panics while holding it");
        paces.take(pace, Instant::now())
    }

    fn sensitive(&self, prefix: &str, key: &SecretString) -> Result<HeaderValue> {
        let value = format!("{prefix}{}", key.expose_secret());
        let mut value = HeaderValue::from_str(&value).map_err(|_| {
            let why = "the API key has characters that no key has; copy it again";
            self.error("use the API key", ErrorKind::Unauthorized, why)
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn excerpt(&self, text: &str) -> String {
        redact::excerpt(text, &self.secrets.lock().expect("nobody panics while holding it"))
    }
}

/// A request about to be sent.
pub(crate) struct Request<'h> {
    http: &'h Http,
    builder: reqwest::RequestBuilder,
    what: String,
    operation: &'static str,
    effect: Effect,
    pace: Option<Pace>,
    standing: Standing,
    attempt: Duration,
}

impl Request<'_> {
    /// Must not be repeated: a lost reply is [`Uncertain`](ErrorKind::Uncertain).
    pub(crate) fn once(mut self) -> Self {
        self.effect = Effect::Once;
        self
    }

    /// Waits for its turn.
    pub(crate) fn pace(mut self, pace: Pace) -> Self {
        self.pace = Some(pace);
        self
    }

    /// Is sent only while it is wanted.
    pub(crate) fn standing(mut self, standing: &Standing) -> Self {
        self.standing = standing.clone();
        self
    }

    /// Waits at least this long for an answer to one attempt.
    pub(crate) fn patient(mut self, attempt: Duration) -> Self {
        self.attempt = self.attempt.max(attempt);
        self
    }

    /// Adds to the address.
    pub(crate) fn query(mut self, query: &[(&str, &str)]) -> Self {
        self.builder = self.builder.query(query);
        self
    }

    /// Shows a key for this request only.
    pub(crate) fn bearer(mut self, key: &SecretString) -> Result<Self> {
        let value = self.http.sensitive("Bearer ", key)?;
        self.builder = self.builder.header(reqwest::header::AUTHORIZATION, value);
        Ok(self)
    }

    /// Carries JSON.
    pub(crate) fn json(mut self, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("our own bodies are JSON");
        self.builder =
            self.builder.header(reqwest::header::CONTENT_TYPE, "application/json").body(body);
        self
    }

    /// Sends it, again if that is safe and of use, and takes the answer whatever it says.
    pub(crate) async fn send(self) -> Result<Reply> {
        let began = Instant::now();
        for count in 1.. {
            self.wait_for_turn().await;
            if self.standing.is_called_off() {
                return Err(self.called_off());
            }
            let answer = self.attempt().await;
            let attempt = match &answer {
                Ok((reply, wish)) => Attempt::Answered(reply.status, *wish),
                Err(Failure::Unsent { .. }) => Attempt::Unsent,
                Err(_) => Attempt::Silent,
            };
            let timing = &self.http.timing;
            match retry::again(attempt, self.effect, count, began.elapsed(), timing) {
                Some(wait) => sleep(wait).await,
                None => return answer.map(|(reply, _)| reply).map_err(|why| self.failed(why)),
            }
        }
        unreachable!("patience ends before a u32 does")
    }

    /// Sends it and reads what a success says; a refusal is an error.
    pub(crate) async fn read<T: DeserializeOwned>(self) -> Result<T> {
        self.send().await?.read()
    }

    async fn wait_for_turn(&self) {
        let Some(pace) = self.pace.filter(|_| self.http.timing.paced) else { return };
        let wait = self.http.take_turn(pace);
        tokio::select! {
            () = sleep(wait) => {}
            () = self.standing.called_off() => {}
        }
    }

    async fn attempt(&self) -> Result<(Reply, Option<Duration>), Failure> {
        let lost = |error: reqwest::Error| {
            let (what, sent) = (self.what.clone(), !error.is_connect());
            let source = error.without_url();
            if sent { Failure::Silent { what, source } } else { Failure::Unsent { what, source } }
        };
        let request = self.builder.try_clone().expect("our bodies are bytes, never streams");
        crash::point(&format!("{}: before {}", self.http.dialect.provider, self.what));
        let mut response = request.timeout(self.attempt).send().await.map_err(lost)?;
        let status = response.status().as_u16();
        let wish = retry_after(response.headers());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            body.extend_from_slice(&chunk);
            if LARGEST < body.len() {
                return Err(Failure::TooLong { what: self.what.clone() });
            }
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        crash::point(&format!("{}: after {}", self.http.dialect.provider, self.what));
        Ok((self.reply(status, body), wish))
    }

    fn reply(&self, status: u16, body: String) -> Reply {
        Reply {
            status,
            body,
            what: self.what.clone(),
            operation: self.operation,
            effect: self.effect,
            dialect: self.http.dialect,
            secrets: Arc::clone(&self.http.secrets),
        }
    }

    fn called_off(&self) -> Error {
        let why = Failure::CalledOff { what: self.what.clone() };
        Error { kind: ErrorKind::CalledOff, ..self.failed(why) }
    }

    fn failed(&self, why: Failure) -> Error {
        let sent = !matches!(why, Failure::Unsent { .. });
        Error {
            provider: self.http.dialect.provider,
            operation: self.operation,
            kind: retry::unanswered(sent, self.effect),
            source: Some(Box::new(why)),
        }
    }
}

/// How long the marketplace wishes to be left alone. Dates are not used by any of ours.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recall;

    #[tokio::test(start_paused = true)]
    async fn what_is_called_off_while_it_waits_for_its_turn_is_not_sent() {
        let hourly = Pace::every("rent", Duration::from_hours(1));
        let dialect = Dialect { provider: "test", refusal: |_| None };
        let transport = Transport::new().expect("HTTPS can be set up");
        // Nobody listens there, which would be told otherwise.
        let http = Http::new(transport, "http://127.0.0.1:9", Timing::default(), dialect);
        http.take_turn(hourly);
        for is_dropped in [false, true] {
            let recall = Recall::default();
            let order = http.put("rent", "/order").once().pace(hourly).standing(&recall.standing());
            let (began, minute) = (Instant::now(), Duration::from_mins(1));
            let end = async {
                sleep(minute).await;
                if is_dropped { drop(recall) } else { recall.call_off() }
            };
            let (answer, ()) = tokio::join!(order.send(), end);
            let Err(error) = answer else { panic!("it was answered") };
            assert_eq!((error.kind, began.elapsed()), (ErrorKind::CalledOff, minute));
        }
    }
}
