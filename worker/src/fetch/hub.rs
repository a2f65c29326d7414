//! A Hugging Face hub: which files a model is made of, and where they are.

use super::{
    Settings, SourceError,
    digest::Digest,
    download::{Item, download},
    http::{Client, Patience, escape},
    store::{Filling, Stamp, file_name},
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What is wanted of a hub.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// `owner/name`.
    pub(super) repo: &'a str,
    /// A branch, a tag or a commit. What a branch pointed to when it was fetched is kept.
    pub(super) revision: &'a str,
    /// One file. None is the safetensors layout.
    pub(super) file: Option<&'a str>,
    /// The SHA-256 of that file.
    pub(super) sha256: Option<&'a str>,
}

impl Wanted<'_> {
    /// Where it is kept.
    fn folder(&self, models: &Path) -> PathBuf {
        models.join(file_name(&format!("{}@{}", self.repo, self.revision)))
    }

    fn stamp(&self, models: &Path) -> PathBuf {
        let what = self.file.map_or("whole".into(), file_name);
        self.folder(models).join(format!(".{what}.json"))
    }

    /// Where it is, if it was fetched before.
    pub(super) fn found(&self, models: &Path) -> Option<PathBuf> {
        Stamp::of_whole(&self.stamp(models))?;
        let folder = self.folder(models);
        Some(self.file.map_or(folder.clone(), |file| folder.join(file)))
    }
}

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// Fetches a model.
pub(super) fn fetch(
    settings: &Settings,
    wanted: &Wanted<'_>,
    models: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<PathBuf, SourceError> {
    let Wanted { repo, revision, file, .. } = *wanted;
    let (folder, stamp) = (wanted.folder(models), wanted.stamp(models));
    let place = file.map_or_else(|| folder.clone(), |file| folder.join(file));
    let _filling = Filling::begin(&folder, || progress(0, 0))?;
    // Whoever was filling it before us may have finished it.
    if let Some(place) = wanted.found(models) {
        return Ok(place);
    }
    let hub = Hub { client: Client::new(settings), settings, repo };
    let commit = hub.commit(revision)?;
    let items = match file {
        Some(file) => vec![hub.single(&commit, file, wanted.sha256)?],
        None => hub.layout(&commit, &folder)?,
    };
    let total = items.iter().map(|item| item.size).sum();
    let mut before = 0;
    for item in &items {
        hub.bring(&commit, item, &folder, &mut |done| progress(before + done, total))?;
        before += item.size;
    }
    let files = items.into_iter().map(|item| (item.path, item.size)).collect();
    Stamp { origin: commit, files }.write(&stamp)?;
    Ok(place)
}

/// A repository on a hub.
#[derive(Debug)]
struct Hub<'a> {
    client: Client<'a>,
    settings: &'a Settings,
    repo: &'a str,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

/// A line of a listing. Large files have an `lfs` part, whose `oid` is a SHA-256; the `oid` of
/// small ones is git's.
#[derive(Deserialize)]
struct Entry {
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Hub<'_> {
    /// The commit that `revision` stands for now, so that all files are of one.
    fn commit(&self, revision: &str) -> Result<String, SourceError> {
        let revision = escape(revision);
        let url =
            format!("{}/api/models/{}/revision/{revision}", self.settings.endpoint, self.repo);
        let (Revision { sha }, _) = self.client.json(&url)?;
        Ok(sha)
    }

    /// The files in a folder of the repository (`""` is its root), by path.
    fn list(&self, commit: &str, folder: &str) -> Result<BTreeMap<String, Item>, SourceError> {
        let endpoint = &self.settings.endpoint;
        let commit = escape(commit);
        let mut url =
            format!("{endpoint}/api/models/{}/tree/{commit}{}", self.repo, slashed(folder));
        let mut items = BTreeMap::new();
        loop {
            let (entries, next): (Vec<Entry>, _) = self.client.json(&url)?;
            let files = entries.into_iter().filter(|entry| entry.kind == "file");
            items.extend(files.map(|entry| (entry.path.clone(), item(entry))));
            match next {
                Some(next) => url = next,
                None => return Ok(items),
            }
        }
    }

    /// One file, by its path.
    fn single(&self, commit: &str, file: &str, sha256: Option<&str>) -> Result<Item, SourceError> {
        let (folder, _) = file.rsplit_once('/').unwrap_or(("", file));
        let mut items = self.list(commit, folder)?;
        let Some(mut item) = items.remove(file) else {
            return Err(SourceError::NoFile { file: file.to_owned(), others: gguf_files(&items) });
        };
        match (sha256.map(str::to_ascii_lowercase), &item.digest) {
            (Some(expected), Digest::Sha256(found)) if expected != *found => {
                let (file, found) = (file.to_owned(), found.clone());
                return Err(SourceError::Replaced { file, expected, found });
            }
            (Some(expected), _) => item.digest = Digest::Sha256(expected),
            (None, _) => {}
        }
        Ok(item)
    }

    /// Every file of the safetensors layout. Fetches the index of the shards, if there is one.
    fn layout(&self, commit: &str, folder: &Path) -> Result<Vec<Item>, SourceError> {
        let items = self.list(commit, "")?;
        let weights = match (items.contains_key(SINGLE), items.get(INDEX)) {
            (false, Some(index)) => {
                self.bring(commit, index, folder, &mut |_| {})?;
                let path = folder.join(INDEX);
                let text = fs::read(&path).map_err(SourceError::disk(&path, "read"))?;
                shards(&text).map_err(|error| SourceError::BadAnswer {
                    url: INDEX.to_owned(),
                    reason: error.to_string(),
                })?
            }
            _ => BTreeSet::from([SINGLE.to_owned()]),
        };
        choose(&items, &weights)
    }

    fn bring(
        &self,
        commit: &str,
        item: &Item,
        folder: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), SourceError> {
        let (endpoint, commit) = (&self.settings.endpoint, escape(commit));
        let url = format!("{endpoint}/{}/resolve/{commit}{}", self.repo, slashed(&item.path));
        let mut patience = Patience::new(self.settings);
        download(&self.client, &mut patience, &url, item, folder, progress)
    }
}

fn item(entry: Entry) -> Item {
    let (size, digest) = match entry.lfs {
        Some(lfs) => (lfs.size, Digest::Sha256(lfs.oid.to_ascii_lowercase())),
        None => (entry.size, Digest::GitBlob(entry.oid.to_ascii_lowercase())),
    };
    Item { path: entry.path, size, digest }
}

/// `/a/b`, escaped, or nothing.
fn slashed(path: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty());
    parts.fold(String::new(), |slashed, part| slashed + "/" + &escape(part))
}

/// The files that an index of shards names.
fn shards(index: &[u8]) -> serde_json::Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } = serde_json::from_slice(index)?;
    Ok(weight_map.into_values().collect())
}

/// The files that an engine reads: configuration, tokenizer, chat template and `weights`. The
/// large ones come last, so that what is wrong with a small one is known at once.
fn choose(
    items: &BTreeMap<String, Item>,
    weights: &BTreeSet<String>,
) -> Result<Vec<Item>, SourceError> {
    let needed = weights.iter().map(String::as_str).chain(["config.json"]);
    if let Some(missing) = needed.into_iter().find(|name| !items.contains_key(*name)) {
        return Err(SourceError::NoFile { file: missing.to_owned(), others: gguf_files(items) });
    }
    // An index beside a single file is a leftover, and would send the engine after its shards.
    let leftover = |item: &&Item| item.path == INDEX && weights.contains(SINGLE);
    let small = items.values().filter(|item| is_configuration(&item.path) && !leftover(item));
    let large = weights.iter().filter_map(|name| items.get(name));
    Ok(small.chain(large).cloned().collect())
}

fn is_configuration(name: &str) -> bool {
    const NAMES: [&str; 7] = [
        "config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        INDEX,
    ];
    NAMES.contains(&name) || name.starts_with("tokenizer") || name.starts_with("chat_template")
}

fn gguf_files(items: &BTreeMap<String, Item>) -> Vec<String> {
    let is_gguf = |name: &&String| name.to_ascii_lowercase().ends_with(".gguf");
    items.keys().filter(is_gguf).cloned().collect()
}
