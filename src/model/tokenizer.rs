//! A model's own tokenizer, of its folder or of a hub: it counts what prompts have.
//!
//! A plan can do without one, so what goes wrong here is told, and nothing fails of it.

use super::hub::{HubError, fetch};
use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};
use wire::{Model, Source};

const FILE: &str = "tokenizer.json";

/// The longest tokenizer.json. One of 262,000 tokens has 33 MB.
const LIMIT: usize = 40 << 20;

/// Why a model's tokenizer isn't there.
#[derive(Debug, thiserror::Error)]
pub enum NoTokenizer {
    /// Nobody has looked for it.
    #[error("nothing depends on it")]
    Unwanted,
    /// The model is one file, and the tokenizer is inside it.
    #[error("the tokenizer in a GGUF file isn't read")]
    Gguf,
    /// Its folder has none.
    #[error("its folder has no tokenizer.json")]
    Absent,
    /// It can't be read.
    #[error("`{}` can't be read", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// The hub doesn't give it.
    #[error("the hub doesn't give its tokenizer")]
    Hub(#[from] HubError),
    /// It is no tokenizer that we know.
    #[error("its tokenizer.json can't be understood")]
    Damaged(#[source] tokenizers::Error),
}

/// A tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer(tokenizers::Tokenizer);

impl Tokenizer {
    /// Reads a `tokenizer.json`. Takes a part of a second for a long one.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoTokenizer> {
        let mut read = tokenizers::Tokenizer::from_bytes(bytes).map_err(NoTokenizer::Damaged)?;
        // What the file asks for serves training; a prompt is never cut or filled up.
        read.with_truncation(None).map_err(NoTokenizer::Damaged)?;
        read.with_padding(None);
        Ok(Self(read))
    }

    /// How many tokens each text has, reckoned on all processors. None where one can't be split.
    pub fn count(&self, texts: Vec<&str>) -> Option<Vec<usize>> {
        let counted = self.0.encode_batch_fast(texts, false).ok()?;
        Some(counted.iter().map(tokenizers::Encoding::len).collect())
    }

    /// Tokens that the model wants around a text that goes to it as it is.
    pub fn frame(&self) -> usize {
        self.0.encode_fast("", true).map_or(0, |framed| framed.len())
    }
}

/// The tokenizer of a model: of its folder, where it is here, else as a hub has it.
pub async fn find_tokenizer(model: &Model) -> Result<Tokenizer, NoTokenizer> {
    let path = model.sources.iter().find_map(|source| match source {
        Source::Path(path) => Some(PathBuf::from(path)),
        Source::Hub { .. } | Source::Package { .. } => None,
    });
    let on_hub = model.sources.iter().find_map(|source| match source {
        Source::Hub { repo, revision, file: None, .. } => Some((repo, revision)),
        Source::Hub { .. } | Source::Path(_) | Source::Package { .. } => None,
    });
    let fetched = match (&path, on_hub) {
        (None, None) => return Err(NoTokenizer::Gguf),
        (None, Some((repo, revision))) => {
            Some(fetch(&format!("{repo}/resolve/{revision}/{FILE}"), LIMIT).await?)
        }
        (Some(_), _) => None,
    };
    let read = tokio::task::spawn_blocking(move || {
        let bytes = match (fetched, path) {
            (Some(bytes), _) => bytes,
            (None, path) => of_folder(&path.unwrap_or_default())?,
        };
        Tokenizer::parse(&bytes)
    });
    read.await.map_err(|crash| NoTokenizer::Damaged(crash.into()))?
}

fn of_folder(path: &Path) -> Result<Vec<u8>, NoTokenizer> {
    if !path.is_dir() {
        return Err(NoTokenizer::Gguf);
    }
    let path = path.join(FILE);
    let read = File::open(&path).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(LIMIT as u64).read_to_end(&mut bytes).map(|_| bytes)
    });
    read.map_err(|error| {
        let is_absent = error.kind() == io::ErrorKind::NotFound;
        if is_absent { NoTokenizer::Absent } else { NoTokenizer::Unreadable(path, error) }
    })
}
