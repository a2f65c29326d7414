//! A fresh key for each run, kept in the run's folder so that the run can be resumed.

use providers::crash;
use russh::keys::{Algorithm, PrivateKey, ssh_key::LineEnding};
use std::{fmt, fs, io, io::Write, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

/// The key pair that a run's machines let in. Its private half never leaves this computer.
#[derive(Clone)]
pub struct RunKey(Arc<PrivateKey>);

impl RunKey {
    /// Reads the run's key from `path`, or makes one and writes it there for its owner only.
    ///
    /// Fails if the file is there and isn't an OpenSSH private key, or can't be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(text) => {
                let key = PrivateKey::from_openssh(text).map_err(invalid)?;
                Ok(Self(Arc::new(key)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path),
            Err(error) => Err(error),
        }
    }

    fn create(path: &Path) -> io::Result<Self> {
        let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(invalid)?;
        let text = key.to_openssh(LineEnding::LF).map_err(invalid)?;
        // Whole or not at all: half a key would make the run impossible to resume.
        let draft = path.with_extension("draft");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        crash::point("key: before it appears");
        fs::rename(draft, path)?;
        crash::point("key: it has appeared");
        Ok(Self(Arc::new(key)))
    }

    /// The public half, as the line of an `authorized_keys` file.
    pub fn public_line(&self) -> String {
        self.0.public_key().to_openssh().expect("an ed25519 key can be written down")
    }

    pub(super) fn private(&self) -> Arc<PrivateKey> {
        Arc::clone(&self.0)
    }
}

impl fmt::Debug for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RunKey").field(&self.public_line()).finish()
    }
}

fn invalid(error: russh::keys::ssh_key::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let made = RunKey::open(&path).unwrap();
        let read = RunKey::open(&path).unwrap();
        assert_eq!(made.public_line(), read.public_line());
        assert!(made.public_line().starts_with("ssh-ed25519 "));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_garbled_key_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "not a key").unwrap();
        assert_eq!(RunKey::open(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(fs::read(&path).unwrap(), b"not a key");
    }

    #[test]
    fn showing_a_key_shows_its_public_half_only() {
        let folder = tempfile::tempdir().unwrap();
        let key = RunKey::open(&folder.path().join("key")).unwrap();
        assert!(!format!("{key:?}").contains("PRIVATE"));
        assert!(format!("{key:?}").contains("ssh-ed25519"));
    }
}
