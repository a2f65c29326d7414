//! Host keys: trusted at first sight, demanded ever after.

use providers::Label;
use russh::keys::{HashAlg, PublicKey};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

/// A machine shows another host key than it did before.
#[derive(Debug, thiserror::Error)]
#[error(
    "the host key of {label} was {pinned} and is now {shown}: another machine answers in its \
     place, so it must not be used; release it and rent another"
)]
pub struct HostKeyChanged {
    /// Which instance.
    pub label: Label,
    /// The fingerprint that was pinned.
    pub pinned: String,
    /// The fingerprint that was shown.
    pub shown: String,
}

/// The host keys that one run has seen, kept in a file: an OpenSSH public key on each line, with
/// the instance's label as its comment.
#[derive(Debug)]
pub struct Pins {
    path: PathBuf,
    known: Mutex<BTreeMap<Label, PublicKey>>,
}

/// Why a host key isn't good enough.
#[derive(Debug, thiserror::Error)]
pub(super) enum PinError {
    #[error(transparent)]
    Changed(#[from] Box<HostKeyChanged>),
    #[error(transparent)]
    File(#[from] io::Error),
}

impl Pins {
    /// The pins in the file at `path`; none if it isn't there. Fails if a line can't be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let mut known = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let key = PublicKey::from_openssh(line).map_err(|error| {
                let what = format!("line {} of {}: {error}", number + 1, path.display());
                io::Error::new(io::ErrorKind::InvalidData, what)
            })?;
            known.insert(Label(key.comment().to_string()), key);
        }
        Ok(Self { path: path.to_owned(), known: Mutex::new(known) })
    }

    /// The key that `label` must show, if it has been seen.
    pub fn pinned(&self, label: &Label) -> Option<PublicKey> {
        self.known().get(label).cloned()
    }

    /// Accepts the key that `label` shows if it is the pinned one, or pins it if none is.
    pub(super) fn check(&self, label: &Label, shown: &PublicKey) -> Result<(), PinError> {
        let mut known = self.known();
        match known.get(label) {
            Some(pinned) if pinned.key_data() == shown.key_data() => Ok(()),
            Some(pinned) => Err(PinError::Changed(Box::new(HostKeyChanged {
                label: label.clone(),
                pinned: pinned.fingerprint(HashAlg::Sha256).to_string(),
                shown: shown.fingerprint(HashAlg::Sha256).to_string(),
            }))),
            None => {
                let mut key = shown.clone();
                key.set_comment(label.0.clone());
                let mut next = known.clone();
                next.insert(label.clone(), key);
                // On disk before it is relied on: a later start must demand the same.
                self.save(&next)?;
                *known = next;
                Ok(())
            }
        }
    }

    fn save(&self, known: &BTreeMap<Label, PublicKey>) -> io::Result<()> {
        let mut text = String::new();
        for key in known.values() {
            let line = key.to_openssh().map_err(io::Error::other)?;
            writeln!(text, "{line}").expect("a string takes any text");
        }
        let draft = self.path.with_extension("draft");
        let mut file = fs::File::create(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(draft, &self.path)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Label, PublicKey>> {
        self.known.lock().expect("nothing panics while holding the pins")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use russh::keys::{Algorithm, PrivateKey};

    fn key() -> PublicKey {
        let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
        key.public_key().clone()
    }

    #[test]
    fn a_key_is_trusted_at_first_sight_and_demanded_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        let (one, other) = (Label("run-1".into()), Label("run-2".into()));
        let (first, second) = (key(), key());
        let pins = Pins::open(&path).unwrap();
        pins.check(&one, &first).unwrap();
        pins.check(&other, &second).unwrap();

        let pins = Pins::open(&path).unwrap();
        pins.check(&one, &first).unwrap();
        let PinError::Changed(changed) = pins.check(&one, &second).unwrap_err() else {
            panic!("a changed key is a changed key")
        };
        assert_eq!(changed.pinned, first.fingerprint(HashAlg::Sha256).to_string());
        assert_eq!(changed.shown, second.fingerprint(HashAlg::Sha256).to_string());
        // And the refused key is not learnt.
        pins.check(&one, &first).unwrap();
    }

    #[test]
    fn a_garbled_file_is_named_and_not_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        fs::write(&path, "ssh-ed25519 half").unwrap();
        let error = Pins::open(&path).unwrap_err();
        assert!(error.to_string().contains("line 1 of"), "{error}");
    }
}
