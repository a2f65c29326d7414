//! An instance's folder: plain files, each written whole.
//!
//! | file | written by | holds |
//! | --- | --- | --- |
//! | `label`, `since`, `public_key` | the renter, before the folder has its name | our name, seconds since 1970, who is let in |
//! | `expires` | the renter, if it ends by itself | seconds since 1970 |
//! | `process` | the instance, first thing | its process number and start time |
//! | `port` | the instance, once it listens | where it answers SSH |
//! | `release` | anyone on the instance | nothing; it asks for the instance's end |
//! | `log` | the instance | its standard output and error |

use super::processes::ProcessId;
use crate::{InstanceId, Label, Order};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Folders with these prefixes are not instances: they are not yet whole, or already released.
const HIDDEN: [&str; 2] = [".new-", ".gone-"];

/// How old a hidden folder must be for nobody to be still at work on it.
const STALE: Duration = Duration::from_mins(10);

/// One instance's folder.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

/// What a whole folder says.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Our name for the instance.
    pub(super) label: Label,
    /// When it was rented.
    pub(super) since: SystemTime,
    /// Its process, once that has shown itself.
    pub(super) process: Option<ProcessId>,
    /// Where it answers.
    pub(super) port: Option<u16>,
}

impl Folder {
    /// The folder at `path`, which an instance is told.
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The folder of instance `id`, or nothing if no instance could have that name.
    pub(super) fn of(root: &Path, id: &InstanceId) -> Option<Self> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
        (!id.0.is_empty() && id.0.chars().all(plain)).then(|| Self(root.join(&id.0)))
    }

    /// Makes the folder of a new instance: all of it, or nothing that would be listed.
    pub(super) fn create(root: &Path, id: &InstanceId, order: &Order) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let draft = Self(root.join(format!("{}{id}", HIDDEN[0])));
        fs::create_dir(&draft.0)?;
        let whole = Self(root.join(&id.0));
        let written = draft
            .write("label", &order.label.0)
            .and_then(|()| draft.write("since", &seconds(SystemTime::now()).to_string()))
            .and_then(|()| draft.write("public_key", &order.public_key))
            .and_then(|()| match order.expires {
                Some(time) => draft.write("expires", &seconds(time).to_string()),
                None => Ok(()),
            })
            .and_then(|()| fs::rename(&draft.0, &whole.0));
        match written {
            Ok(()) => Ok(whole),
            Err(error) => {
                // The reason it failed is worth more than that its remains could not be removed.
                drop(fs::remove_dir_all(&draft.0));
                Err(error)
            }
        }
    }

    /// Every instance under `root`, by name. None if `root` was never made.
    pub(super) fn all(root: &Path) -> io::Result<Vec<(InstanceId, Self)>> {
        let entries = match fs::read_dir(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && entry.file_type()?.is_dir() {
                found.push((InstanceId(name), Self(entry.path())));
            }
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(found)
    }

    /// The instance's name.
    pub(super) fn name(&self) -> String {
        let name = self.0.file_name().expect("an instance's folder has a name");
        name.to_string_lossy().into_owned()
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Whether its instance should end by itself: its time is up, it was asked to, or its folder
    /// was taken away.
    pub(super) fn is_over(&self) -> bool {
        let now = seconds(SystemTime::now());
        // A time that can't be read is not a reason to end early.
        let expired = self.parsed("expires").ok().flatten().is_some_and(|end: u64| end <= now);
        expired || self.0.join("release").exists() || !self.0.join("label").exists()
    }

    /// What it says. Fails if it is half written or unreadable.
    pub(super) fn facts(&self) -> io::Result<Facts> {
        let since = self.parsed("since")?.ok_or(io::ErrorKind::NotFound)?;
        Ok(Facts {
            label: Label(self.read("label")?),
            since: UNIX_EPOCH + Duration::from_secs(since),
            process: self.parsed("process")?,
            port: self.parsed("port")?,
        })
    }

    /// The label alone, if it can be read.
    pub(super) fn label(&self) -> Option<Label> {
        self.read("label").ok().map(Label)
    }

    /// Who is let in, as an OpenSSH public key.
    pub(super) fn public_key(&self) -> io::Result<String> {
        self.read("public_key")
    }

    /// Says which process the instance is.
    pub(super) fn set_process(&self, process: ProcessId) -> io::Result<()> {
        self.write("process", &process.to_string())
    }

    /// Says where the instance answers.
    pub(super) fn set_port(&self, port: u16) -> io::Result<()> {
        self.write("port", &port.to_string())
    }

    /// A file for what the instance's process has to say.
    pub(super) fn log(&self) -> io::Result<fs::File> {
        fs::OpenOptions::new().create(true).append(true).open(self.0.join("log"))
    }

    /// Removes the folder. One that is gone is `Ok`.
    ///
    /// It loses its name first, so that no listing shows it half removed.
    pub(super) fn remove(&self) -> io::Result<()> {
        let gone = self.0.with_file_name(format!("{}{}", HIDDEN[1], self.name()));
        match fs::rename(&self.0, &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            // It is released; what can't be removed now is swept up later.
            Ok(()) => {
                drop(fs::remove_dir_all(&gone));
                Ok(())
            }
        }
    }

    /// Removes what interrupted renters and releasers left under `root`.
    pub(super) fn sweep(root: &Path) -> io::Result<()> {
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            let stale = entry.metadata()?.modified()?.elapsed().is_ok_and(|age| STALE < age);
            let name = entry.file_name().to_string_lossy().into_owned();
            if stale && HIDDEN.iter().any(|prefix| name.starts_with(prefix)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.0.join(name)).map(|text| text.trim_end().to_owned())
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str) -> io::Result<Option<T>> {
        match self.read(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(text) => text.parse().map(Some).map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, format!("its file `{name}` is garbled"))
            }),
        }
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let draft = self.0.join(format!(".{name}"));
        fs::write(&draft, format!("{text}\n"))?;
        fs::File::open(&draft)?.sync_all()?;
        fs::rename(draft, self.0.join(name))
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
