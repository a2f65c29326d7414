//! Host keys: trusted at first sight, demanded ever after.

use providers::Label;
use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey, ssh_key::LineEnding};
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

/// The host keys that one run has seen or planted, kept in a file: an OpenSSH public key on each
/// line, with the instance's label as its comment.
#[derive(Debug)]
pub struct Pins {
    path: PathBuf,
    known: Mutex<BTreeMap<Label, Pin>>,
}

/// A host key that is demanded.
#[derive(Clone, Debug)]
struct Pin {
    key: PublicKey,
    /// Planted by the start script, and not shown yet: until that has run, the image's own is.
    planted: bool,
}

/// Follows the label of a key that was planted and not shown yet.
const PLANTED: &str = " planted";

/// Why a host key isn't good enough.
#[derive(Debug, thiserror::Error)]
pub(super) enum PinError {
    #[error(transparent)]
    Changed(#[from] Box<HostKeyChanged>),
    #[error("its start script hasn't planted our host key yet")]
    NotYet,
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
            let comment = key.comment().to_string();
            let label = comment.strip_suffix(PLANTED);
            let planted = label.is_some();
            known.insert(Label(label.unwrap_or(&comment).to_owned()), Pin { key, planted });
        }
        Ok(Self { path: path.to_owned(), known: Mutex::new(known) })
    }

    /// The key that `label` must show, if it has been seen or planted.
    pub fn pinned(&self, label: &Label) -> Option<PublicKey> {
        self.known().get(label).map(|pin| pin.key.clone())
    }

    /// Makes a host key for the instance that is about to be rented under `label`, and demands it
    /// from the first connection on. Returns its private half in OpenSSH's form, for the start
    /// script; it is kept nowhere else.
    pub fn plant(&self, label: &Label) -> io::Result<String> {
        let private = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519);
        let private = private.map_err(io::Error::other)?;
        let text = private.to_openssh(LineEnding::LF).map_err(io::Error::other)?;
        let key = private.public_key().clone();
        self.learn(&mut self.known(), label, Pin { key, planted: true })?;
        Ok(text.to_string())
    }

    /// Accepts the key that `label` shows if it is the pinned one, or pins it if none is.
    pub(super) fn check(&self, label: &Label, shown: &PublicKey) -> Result<(), PinError> {
        let mut known = self.known();
        match known.get(label) {
            Some(pin) if pin.key.key_data() == shown.key_data() && !pin.planted => Ok(()),
            Some(pin) if pin.key.key_data() != shown.key_data() && pin.planted => {
                Err(PinError::NotYet)
            }
            Some(pin) if pin.key.key_data() != shown.key_data() => {
                Err(PinError::Changed(Box::new(HostKeyChanged {
                    label: label.clone(),
                    pinned: pin.key.fingerprint(HashAlg::Sha256).to_string(),
                    shown: shown.fingerprint(HashAlg::Sha256).to_string(),
                })))
            }
            Some(_) | None => {
                let pin = Pin { key: shown.clone(), planted: false };
                Ok(self.learn(&mut known, label, pin)?)
            }
        }
    }

    fn learn(&self, known: &mut BTreeMap<Label, Pin>, label: &Label, pin: Pin) -> io::Result<()> {
        let mut next = known.clone();
        next.insert(label.clone(), pin);
        // On disk before it is relied on: a later start must demand the same.
        self.save(&next)?;
        *known = next;
        Ok(())
    }

    fn save(&self, known: &BTreeMap<Label, Pin>) -> io::Result<()> {
        let mut text = String::new();
        for (label, Pin { key, planted }) in known {
            let mut key = key.clone();
            key.set_comment(format!("{label}{}", if *planted { PLANTED } else { "" }));
            let line = key.to_openssh().map_err(io::Error::other)?;
            writeln!(text, "{line}").expect("a string takes any text");
        }
        let draft = self.path.with_extension("draft");
        let mut file = fs::File::create(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(draft, &self.path)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Label, Pin>> {
        self.known.lock().expect("nothing panics while holding the pins")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_planted_key_is_waited_for_and_then_demanded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        let label = Label("run-1".into());
        let text = Pins::open(&path).unwrap().plant(&label).unwrap();
        let planted = PrivateKey::from_openssh(text).unwrap().public_key().clone();

        // Also by a later start, which knows it from the file.
        let pins = Pins::open(&path).unwrap();
        let images_own = key();
        assert!(matches!(pins.check(&label, &images_own), Err(PinError::NotYet)));
        pins.check(&label, &planted).unwrap();
        assert!(matches!(pins.check(&label, &images_own), Err(PinError::Changed(_))));
        let pins = Pins::open(&path).unwrap();
        assert!(matches!(pins.check(&label, &images_own), Err(PinError::Changed(_))));
        assert!(!fs::read_to_string(&path).unwrap().contains("PRIVATE"));
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
