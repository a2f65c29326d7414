//! Keys in the system's keyring: the Secret Service, Keychain or Credential Manager.
//!
//! Its calls block, so they are made on a thread for that, and given up on in time.

use super::{SecretsError, Stored};
use keyring::{Entry, Error};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use tokio::{task::spawn_blocking, time::timeout};

/// Under which name the keyring shows our keys.
const SERVICE: &str = "piecework";

/// How long a keyring service may take to say that it is there. One that isn't is known at once;
/// this is for one that is called for and never comes.
const THERE: Duration = Duration::from_secs(5);

/// How long it may take for what it is asked: it may have to ask the user for a password.
const ANSWER: Duration = Duration::from_mins(1);

/// Reads the keys of these marketplaces, as far as they are there.
pub(super) async fn read(names: Vec<&'static str>) -> Result<Stored, SecretsError> {
    ask(move || {
        let mut stored = Stored::new();
        for name in names {
            match entry(name)?.get_password() {
                Ok(text) => {
                    if let Ok(secrets) = serde_json::from_str::<Vec<String>>(&text) {
                        let secrets = secrets.into_iter().map(SecretString::from);
                        stored.insert(name.to_owned(), secrets.collect());
                    }
                }
                Err(Error::NoEntry) => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Ok(stored)
    })
    .await
}

/// Adds or replaces one.
pub(super) async fn keep(
    name: &'static str,
    secrets: Vec<SecretString>,
) -> Result<(), SecretsError> {
    ask(move || {
        let secrets: Vec<_> = secrets.iter().map(ExposeSecret::expose_secret).collect();
        let text = serde_json::to_string(&secrets).expect("texts are JSON");
        entry(name)?.set_password(&text).map_err(|error| failed(&error))
    })
    .await
}

/// Removes one, and says whether it was there.
pub(super) async fn forget(name: &'static str) -> Result<bool, SecretsError> {
    ask(move || match entry(name)?.delete_credential() {
        Ok(()) => Ok(true),
        Err(Error::NoEntry) => Ok(false),
        Err(error) => Err(failed(&error)),
    })
    .await
}

async fn ask<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, SecretsError> + Send + 'static,
) -> Result<T, SecretsError> {
    let silent = |limit: Duration| format!("it said nothing for {} seconds", limit.as_secs());
    let crashed = |_| SecretsError::Keyring("speaking to it crashed".to_owned());
    let there = timeout(THERE, spawn_blocking(|| Entry::store_status().as_ref().map(drop)));
    match there.await {
        Err(_) => return Err(SecretsError::NoKeyring(silent(THERE))),
        Ok(there) => there.map_err(crashed)?.map_err(absent)?,
    }
    match timeout(ANSWER, spawn_blocking(act)).await {
        Err(_) => Err(SecretsError::Keyring(silent(ANSWER))),
        Ok(answer) => answer.map_err(crashed)?,
    }
}

fn entry(name: &str) -> Result<Entry, SecretsError> {
    Entry::new(SERVICE, name).map_err(|error| failed(&error))
}

// An error's Debug may hold what was read, so that only its words are kept.
fn failed(error: &Error) -> SecretsError {
    SecretsError::Keyring(error.to_string())
}

fn absent(error: &Error) -> SecretsError {
    SecretsError::NoKeyring(error.to_string())
}
