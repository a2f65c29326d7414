//! Keys in a file, for computers without a keyring.

use super::{SecretsError, Stored};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// The version of the file.
const VERSION: u32 = 1;

#[derive(Default, Serialize, Deserialize)]
struct File {
    v: u32,
    keys: BTreeMap<String, Vec<String>>,
}

/// Reads all. A file that isn't there has none.
pub(super) fn read(path: &Path) -> Result<Stored, SecretsError> {
    let secrets = |keys: Vec<String>| keys.into_iter().map(SecretString::from).collect();
    let file = load(path)?;
    Ok(file.keys.into_iter().map(|(name, keys)| (name, secrets(keys))).collect())
}

/// Adds or replaces one.
pub(super) fn keep(path: &Path, name: &str, secrets: &[SecretString]) -> Result<(), SecretsError> {
    let mut file = load(path)?;
    let secrets = secrets.iter().map(|secret| secret.expose_secret().to_owned());
    file.keys.insert(name.to_owned(), secrets.collect());
    store(path, &file)
}

/// Removes one, and says whether it was there.
pub(super) fn forget(path: &Path, name: &str) -> Result<bool, SecretsError> {
    let mut file = load(path)?;
    if file.keys.remove(name).is_none() {
        return Ok(false);
    }
    if file.keys.is_empty() {
        fs::remove_file(path).map_err(failed(path, "removed"))?;
    } else {
        store(path, &file)?;
    }
    Ok(true)
}

fn load(path: &Path) -> Result<File, SecretsError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(File::default()),
        Err(error) => return Err(failed(path, "read")(error)),
    };
    if is_open(path).map_err(failed(path, "read"))? {
        return Err(SecretsError::Open(path.to_owned()));
    }
    let file: File =
        serde_json::from_str(&text).map_err(|_| SecretsError::Unreadable(path.to_owned()))?;
    if file.v == VERSION { Ok(file) } else { Err(SecretsError::Unreadable(path.to_owned())) }
}

/// Replaces the file in one step, so that it is never half written, nor ever open to others.
fn store(path: &Path, file: &File) -> Result<(), SecretsError> {
    let file = File { v: VERSION, keys: file.keys.clone() };
    let text = serde_json::to_string_pretty(&file).expect("names and texts are JSON");
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = NamedTempFile::new_in(folder).and_then(|mut new| {
        new.write_all(text.as_bytes())?;
        new.as_file().sync_all()?;
        // Made with mode 0600, and stays so.
        new.persist(path).map_err(|error| error.error)
    });
    written.map(drop).map_err(failed(path, "written"))
}

#[cfg(unix)]
fn is_open(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata(path)?.mode() & 0o077 != 0)
}

/// Other systems keep a user's folder from other users by themselves.
#[cfg(not(unix))]
fn is_open(_: &Path) -> io::Result<bool> {
    Ok(false)
}

fn failed(path: &Path, act: &'static str) -> impl FnOnce(io::Error) -> SecretsError {
    let path: PathBuf = path.to_owned();
    move |source| SecretsError::File { path, act, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn secret(text: &str) -> [SecretString; 1] {
        [SecretString::from(text)]
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_key_is_kept_replaced_and_forgotten_and_only_the_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        assert!(read(&path).unwrap().is_empty());
        keep(&path, "vast", &secret("one")).unwrap();
        keep(&path, "prime", &secret("two")).unwrap();
        keep(&path, "vast", &secret("three")).unwrap();
        assert_eq!(mode(&path), 0o600);
        let stored = read(&path).unwrap();
        assert_eq!(stored["vast"][0].expose_secret(), "three");
        assert!(forget(&path, "vast").unwrap());
        assert!(!forget(&path, "vast").unwrap());
        assert_eq!(read(&path).unwrap().len(), 1);
        assert_eq!(mode(&path), 0o600);
        assert!(forget(&path, "prime").unwrap());
        assert!(!path.exists(), "an empty file is no use");
    }

    #[test]
    fn a_file_that_others_may_read_or_that_makes_no_sense_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        keep(&path, "vast", &secret("one")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read(&path), Err(SecretsError::Open(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, r#"{"v":2,"keys":{}}"#).unwrap();
        assert!(matches!(read(&path), Err(SecretsError::Unreadable(_))));
        let error = keep(&path, "vast", &secret("one")).unwrap_err();
        assert!(matches!(error, SecretsError::Unreadable(_)), "nothing is overwritten unread");
    }
}
