//! The shape of a model that is on a hub: of its config.json, or of the first bytes of its GGUF
//! file. And any other small file of it, such as its tokenizer.

use super::{Config, GgufError, Shape, ShapeError, read_header, shape_of};
use providers::use_ring;
use reqwest::{Client, Response};
use std::{env, error::Error, fs, path::PathBuf, time::Duration};
use tokio::time::timeout;
use wire::{Model, Source};

const CONFIG: &str = "config.json";

/// How long a hub may take to be reached, and then to send each next part.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest config.json. The longest known has some 20 kB.
const CONFIG_LIMIT: usize = 4 << 20;

/// The longest GGUF header: one of 256,000 tokens with their merges has some 15 MB.
const HEADER_LIMIT: usize = 64 << 20;

/// Between two looks at whether a header is whole yet.
const STEP: usize = 2 << 20;

/// How long it may take in all.
const LIMIT: Duration = Duration::from_mins(1);

/// How often to ask a hub that doesn't answer well.
const ATTEMPTS: usize = 2;

/// Why a hub doesn't say how large a model is.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// It wants to know who asks.
    #[error(
        "the hub gives it to licence holders only: accept its licence on the hub, then set HF_TOKEN to a token of that account"
    )]
    Gated,
    /// It doesn't take our token.
    #[error(
        "the hub rejects the token in HF_TOKEN (or in the hub's token file): renew it, or unset it for a public model"
    )]
    TokenRejected,
    /// It has no such model, or hides it.
    #[error(
        "the hub knows no such model, or it is private: check the spelling, or set HF_TOKEN to a token that may read it"
    )]
    UnknownModel,
    /// Machines would show it our token over a network in which anybody may listen.
    #[error(
        "its hub wants a token, which would go there unencrypted: HF_ENDPOINT has to begin with https://"
    )]
    InClear,
    /// The model isn't kept as an engine needs it.
    #[error("it has no {0} on the hub: name one of its files, as in `owner/name:file.gguf`")]
    NoFile(String),
    /// It can't be reached, or doesn't answer as it should.
    #[error("the hub can't be asked ({0}): try again, or download the model and give its path")]
    Unreachable(String),
}

/// What decides a model's size and speed: as [`shape_of`] finds it, or else as the hub has it.
///
/// Fails with [`ShapeError::Hub`] where the hub doesn't say.
pub async fn find_shape(model: &Model) -> Result<Shape, ShapeError> {
    let name = match shape_of(model) {
        Err(ShapeError::Unknown(name)) => name,
        known => return known,
    };
    let on_hub = model.sources.iter().find_map(|source| match source {
        Source::Hub { repo, revision, file, .. } => Some((repo, revision, file.as_deref())),
        Source::Path(_) | Source::Package { .. } => None,
    });
    let Some((repo, revision, file)) = on_hub else { return Err(ShapeError::Unknown(name)) };
    let refused = |source| ShapeError::Hub { model: name.clone(), source };
    let url = |file: &str| format!("{repo}/resolve/{revision}/{file}");
    let asked = async {
        let hub = Hub::from_environment()?;
        match file {
            None => hub.ask(&url(CONFIG), CONFIG_LIMIT, config).await,
            Some(file) => hub.ask(&url(file), HEADER_LIMIT, header).await,
        }
    };
    match timeout(LIMIT, asked).await {
        Ok(asked) => asked.map_err(refused)?,
        Err(_) => Err(refused(HubError::Unreachable("it sends too slowly".into()))),
    }
}

/// How long a file that one can do without may take.
const SHORT: Duration = Duration::from_secs(10);

/// A small file as a hub has it: `url` is its path there.
pub(super) async fn fetch(url: &str, limit: usize) -> Result<Vec<u8>, HubError> {
    let all = |part: Part<'_>| part.is_all.then(|| part.bytes.to_vec());
    let asked = async { Hub::from_environment()?.ask(url, limit, all).await };
    let late = |_| HubError::Unreachable("it sends too slowly".into());
    timeout(SHORT, asked).await.map_err(late)?
}

/// What a part of a file says, once it is enough; all of it is read until then.
type Reading = Option<Result<Shape, ShapeError>>;

/// A config.json can be read once it is whole.
fn config(part: Part<'_>) -> Reading {
    let read = |text: &str| Ok(Config::parse(text)?.shape()?);
    part.is_all.then(|| read(&String::from_utf8_lossy(part.bytes)))
}

/// A header is followed by what is far longer.
fn header(part: Part<'_>) -> Reading {
    match read_header(part.bytes) {
        Err(GgufError::Unreadable(_)) if !part.is_all => None,
        read => Some(read.map_err(ShapeError::from)),
    }
}

/// The beginning of a file.
#[derive(Clone, Copy)]
struct Part<'a> {
    bytes: &'a [u8],
    is_all: bool,
}

/// A hub, as the environment names it.
pub(super) struct Hub {
    client: Client,
    /// Without a slash at its end.
    pub(super) endpoint: String,
    pub(super) token: Option<String>,
}

impl Hub {
    pub(super) fn from_environment() -> Result<Self, HubError> {
        use_ring();
        let text = |name: &str| env::var(name).ok().filter(|text| !text.trim().is_empty());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let client = Client::builder()
            .user_agent(concat!("piecework/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(PATIENCE)
            .read_timeout(PATIENCE)
            .build()
            .map_err(unreachable)?;
        let token = text("HF_TOKEN").or_else(kept_token).map(|token| token.trim().to_owned());
        Ok(Self { client, endpoint: endpoint.trim().trim_end_matches('/').to_owned(), token })
    }

    /// Looks whether whoever shows this token, if any, may have a file.
    pub(super) async fn look(&self, url: &str, token: Option<&str>) -> Result<(), HubError> {
        let mut request = self.client.head(format!("{}/{url}", self.endpoint));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.map_err(unreachable)?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(refusal(&response, url, token.is_some()))
    }

    /// Reads a file only as far as it takes.
    async fn ask<T>(
        &self,
        url: &str,
        limit: usize,
        read: impl Fn(Part<'_>) -> Option<T>,
    ) -> Result<T, HubError> {
        let mut failed = 0;
        loop {
            match self.try_once(url, limit, &read).await {
                Err(HubError::Unreachable(_)) if failed + 1 < ATTEMPTS => failed += 1,
                answer => return answer,
            }
        }
    }

    async fn try_once<T>(
        &self,
        url: &str,
        limit: usize,
        read: impl Fn(Part<'_>) -> Option<T>,
    ) -> Result<T, HubError> {
        let mut request = self.client.get(format!("{}/{url}", self.endpoint));
        // Where the hub sends us on to another host, the client leaves it out.
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let mut response = request.send().await.map_err(unreachable)?;
        if !response.status().is_success() {
            return Err(refusal(&response, url, self.token.is_some()));
        }
        let (mut bytes, mut looked) = (Vec::new(), 0);
        while let Some(more) = response.chunk().await.map_err(unreachable)? {
            bytes.extend_from_slice(&more);
            if limit < bytes.len() {
                return Err(HubError::Unreachable("what it sends has no end".into()));
            }
            if looked + STEP <= bytes.len() {
                looked = bytes.len();
                if let Some(found) = read(Part { bytes: &bytes, is_all: false }) {
                    return Ok(found);
                }
            }
        }
        let all = read(Part { bytes: &bytes, is_all: true });
        Ok(all.expect("all there is is always read"))
    }
}

/// What an answer that isn't a file means. The hub names its reason in `X-Error-Code`; a mirror may
/// give only the status.
fn refusal(response: &Response, url: &str, with_token: bool) -> HubError {
    let code = response.headers().get("x-error-code").and_then(|code| code.to_str().ok());
    let file = || url.rsplit('/').next().unwrap_or_default().to_owned();
    match (response.status().as_u16(), code.unwrap_or_default()) {
        (_, "GatedRepo") => HubError::Gated,
        (_, "RepoNotFound" | "RevisionNotFound") => HubError::UnknownModel,
        (_, "EntryNotFound") => HubError::NoFile(file()),
        (401, _) if with_token => HubError::TokenRejected,
        (401 | 403, _) => HubError::Gated,
        (404, _) => HubError::UnknownModel,
        (status, _) => HubError::Unreachable(format!("it answers with status {status}")),
    }
}

/// The innermost reason says what happened; those around it repeat the address.
fn unreachable(error: reqwest::Error) -> HubError {
    let mut inner: &dyn Error = &error.without_url();
    while let Some(source) = inner.source() {
        inner = source;
    }
    HubError::Unreachable(inner.to_string())
}

/// The token that `hf auth login` left.
fn kept_token() -> Option<String> {
    let variable = |name: &str| env::var_os(name).map(PathBuf::from);
    let caches = || variable("XDG_CACHE_HOME").or_else(|| Some(env::home_dir()?.join(".cache")));
    let home = || variable("HF_HOME").or_else(|| Some(caches()?.join("huggingface")));
    let path = variable("HF_TOKEN_PATH").or_else(|| Some(home()?.join("token")))?;
    fs::read_to_string(path).ok().filter(|token| !token.trim().is_empty())
}
