//! API keys: from the environment, else from the system's keyring, else from a file that only its
//! owner can read. The only door to them.
//!
//! A key is written into none of a run's files, and nothing here shows one.

mod file;
mod keyring;

use providers::{PROVIDERS, Provider};
use secrecy::SecretString;
use std::{
    collections::BTreeMap,
    env, fmt, io,
    path::{Path, PathBuf},
};

/// Where keys are kept that the keyring doesn't take, in piecework's own folder.
const FILE: &str = "keys.json";

/// Why keys could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// There is no keyring to speak to, as on most servers. Not a failure when keys are read.
    #[error("this computer has no keyring that answers: {0}")]
    NoKeyring(String),
    /// There is a keyring, and it failed.
    #[error("the system's keyring failed: {0}")]
    Keyring(String),
    /// The file can't be used.
    #[error("`{}` can't be {act}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done to it.
        act: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file makes no sense.
    #[error("`{}` makes no sense; remove it, and log in again", .0.display())]
    Unreadable(PathBuf),
    /// The file is no secret.
    #[error("`{}` may be read by others, so its keys aren't used; say `chmod 600` to it", .0.display())]
    Open(PathBuf),
}

/// Where a key was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the environment, under this name.
    Environment(&'static str),
    /// In the system's keyring.
    Keyring,
    /// In this file.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(name) => write!(f, "{name} in the environment"),
            Self::Keyring => f.write_str("the system's keyring"),
            Self::File(path) => write!(f, "`{}`", path.display()),
        }
    }
}

/// What a marketplace wants to see, and where it was found.
#[derive(Clone, Debug)]
pub struct Key {
    /// One for each of [`Provider::credentials`], in that order.
    pub secrets: Vec<SecretString>,
    /// Where they were.
    pub origin: Origin,
}

/// Every key that was found.
#[derive(Debug, Default)]
pub struct Keys {
    found: BTreeMap<&'static str, Key>,
    /// What kept some from being read.
    pub troubles: Vec<SecretsError>,
}

impl Keys {
    /// A marketplace's.
    pub fn get(&self, provider: &str) -> Option<&Key> {
        self.found.get(provider)
    }

    fn lacks(&self) -> impl Iterator<Item = &'static Provider> {
        PROVIDERS.iter().filter(|provider| !self.found.contains_key(provider.name))
    }

    fn add(&mut self, stored: &Stored, origin: &Origin) {
        let missing: Vec<_> = self.lacks().collect();
        for provider in missing {
            let secrets = stored.get(provider.name).cloned().unwrap_or_default();
            if secrets.len() == provider.credentials.len() {
                self.found.insert(provider.name, Key { secrets, origin: origin.clone() });
            }
        }
    }
}

/// Secrets by the marketplace's name.
type Stored = BTreeMap<String, Vec<SecretString>>;

/// The places where keys are kept.
#[derive(Clone, Debug)]
pub struct Vault {
    file: PathBuf,
}

impl Vault {
    /// The keyring, and a file in this folder.
    pub fn new(home: &Path) -> Self {
        Self { file: home.join(FILE) }
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Reads every key. The keyring may ask the user to unlock it, and is given a minute for that;
    /// one that isn't there costs little time, and is no trouble.
    pub async fn read(&self) -> Keys {
        let mut keys = Keys::default();
        for provider in PROVIDERS {
            if let Some(key) = from_environment(provider, |name| env::var(name).ok()) {
                keys.found.insert(provider.name, key);
            }
        }
        let missing: Vec<_> = keys.lacks().map(|provider| provider.name).collect();
        if missing.is_empty() {
            return keys;
        }
        match keyring::read(missing).await {
            Ok(stored) => keys.add(&stored, &Origin::Keyring),
            Err(SecretsError::NoKeyring(_)) => {}
            Err(error) => keys.troubles.push(error),
        }
        match file::read(&self.file) {
            Ok(stored) => keys.add(&stored, &Origin::File(self.file.clone())),
            Err(error) => keys.troubles.push(error),
        }
        keys
    }

    /// Keeps a key in the keyring.
    pub async fn keep(
        &self,
        provider: &Provider,
        secrets: &[SecretString],
    ) -> Result<Origin, SecretsError> {
        keyring::keep(provider.name, secrets.to_vec()).await?;
        // An older one in the file would come back when the keyring is away.
        file::forget(&self.file, provider.name)?;
        Ok(Origin::Keyring)
    }

    /// Keeps a key in the file, which only its owner can read.
    pub async fn keep_in_file(
        &self,
        provider: &Provider,
        secrets: &[SecretString],
    ) -> Result<Origin, SecretsError> {
        file::keep(&self.file, provider.name, secrets)?;
        // An older one in the keyring would win. If there is none to speak to, it doesn't.
        drop(keyring::forget(provider.name).await);
        Ok(Origin::File(self.file.clone()))
    }

    /// Forgets a marketplace's key wherever it is kept, and says where it was.
    pub async fn forget(&self, provider: &Provider) -> Result<Vec<Origin>, SecretsError> {
        let mut were = Vec::new();
        if file::forget(&self.file, provider.name)? {
            were.push(Origin::File(self.file.clone()));
        }
        match keyring::forget(provider.name).await {
            Ok(true) => were.push(Origin::Keyring),
            Ok(false) | Err(SecretsError::NoKeyring(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(were)
    }
}

/// A marketplace's key in the environment, if all of it is there.
pub fn from_environment(
    provider: &Provider,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<Key> {
    let mut origin = None;
    let mut secrets = Vec::new();
    for credential in provider.credentials {
        let given = credential.variables.iter().find_map(|name| {
            let value = variable(name)?.trim().to_owned();
            (!value.is_empty()).then_some((name, value))
        });
        let (name, value) = given?;
        origin.get_or_insert(Origin::Environment(name));
        secrets.push(SecretString::from(value));
    }
    Some(Key { secrets, origin: origin? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn provider(name: &str) -> &'static Provider {
        Provider::find(name).expect("it is in the table")
    }

    fn given(name: &str, set: &[(&str, &str)]) -> Option<Key> {
        let value = |name: &str| {
            let found = set.iter().find(|(set, _)| *set == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        from_environment(provider(name), value)
    }

    #[test]
    fn a_key_is_found_under_each_of_its_usual_names_and_the_usual_one_first() {
        let key = given("vast", &[("VASTAI_API_KEY", "b"), ("VAST_API_KEY", " a\n")]).unwrap();
        assert_eq!(key.origin, Origin::Environment("VAST_API_KEY"));
        assert_eq!(key.secrets[0].expose_secret(), "a");
        let key = given("vast", &[("VASTAI_API_KEY", "b"), ("VAST_API_KEY", "")]).unwrap();
        assert_eq!(key.origin, Origin::Environment("VASTAI_API_KEY"));
        assert!(given("vast", &[("RUNPOD_API_KEY", "a")]).is_none());
    }

    #[test]
    fn half_a_key_is_none() {
        assert!(given("verda", &[("VERDA_CLIENT_ID", "a")]).is_none());
        let whole = given("verda", &[("VERDA_CLIENT_ID", "a"), ("VERDA_CLIENT_SECRET", "b")]);
        assert_eq!(whole.unwrap().secrets.len(), 2);
    }

    #[test]
    fn a_key_is_not_shown() {
        let key = given("vast", &[("VAST_API_KEY", "open sesame")]).unwrap();
        assert!(!format!("{key:?}").contains("sesame"));
    }

    #[test]
    fn what_comes_first_wins_and_what_has_changed_its_shape_is_not_taken() {
        let stored = |text: &str| -> Stored {
            [
                ("vast".to_owned(), vec![SecretString::from(text)]),
                ("verda".to_owned(), vec![SecretString::from(text)]),
            ]
            .into()
        };
        let mut keys = Keys::default();
        keys.add(&stored("first"), &Origin::Keyring);
        keys.add(&stored("second"), &Origin::File(PathBuf::new()));
        assert_eq!(keys.get("vast").map(|key| &key.origin), Some(&Origin::Keyring));
        assert!(keys.get("verda").is_none(), "it needs two");
    }
}
