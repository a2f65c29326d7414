//! `login`: keep the key of a marketplace, once the marketplace has accepted it.

use super::{
    CommandError,
    markets::{Network, connect, find},
    open_home,
};
use crate::{
    cli::LoginArgs,
    exit::Exit,
    leases::describe,
    report::{self, words},
    secrets::{Origin, SecretsError, Vault, from_environment},
};
use providers::{Account, ErrorKind, Provider};
use secrecy::{ExposeSecret, SecretString};
use std::{env, path::Path};

/// Logs in.
pub(super) async fn login(args: &LoginArgs, home: Option<&Path>) -> Result<Exit, CommandError> {
    let provider = find(&args.provider)?;
    let vault = Vault::new(open_home(home)?.path());
    let secrets = ask(provider)?;
    check(provider, &secrets).await?;
    let origin = if args.file {
        vault.keep_in_file(provider, &secrets).await
    } else {
        keep(&vault, provider, &secrets).await
    };
    let origin = origin.map_err(|error| {
        let error = CommandError::new(Exit::Failed, error);
        if args.file { error } else { error.hint(offer_of_file(&vault)) }
    })?;
    report::note(&format!("kept in {origin}"));
    if let Some(key) = from_environment(provider, |name| env::var(name).ok()) {
        report::warning(&format!("there is a key in {}, which is used instead", key.origin));
    }
    Ok(Exit::Done)
}

/// Asks for everything that the marketplace wants to see.
fn ask(provider: &Provider) -> Result<Vec<SecretString>, CommandError> {
    let failed = |error| CommandError::new(Exit::Failed, error);
    report::note(&format!("keys of {} are made at {}", provider.title, provider.keys_page));
    let mut secrets = Vec::new();
    for credential in provider.credentials {
        let question = format!("{} of {}", credential.name, provider.title);
        let secret = report::ask_secret(&question).map_err(failed)?;
        if secret.expose_secret().is_empty() {
            let error = format!("no {} was given", credential.name);
            let hint = "type it, or write it to standard input, on a line of its own";
            return Err(CommandError::new(Exit::Usage, error).hint(hint));
        }
        secrets.push(secret);
    }
    Ok(secrets)
}

/// Makes sure that the key can do what matters most: list all that may be billed.
async fn check(provider: &'static Provider, secrets: &[SecretString]) -> Result<(), CommandError> {
    let refused = |error: providers::Error| {
        let rejected = error.kind == ErrorKind::Unauthorized;
        let error = CommandError::new(Exit::Failed, error);
        if rejected {
            return error
                .hint(format!("nothing was kept; make a new key at {}", provider.keys_page));
        }
        error.hint("nothing was kept; try again later")
    };
    let remote = connect(provider, secrets.to_vec(), &Network::brief()?).map_err(refused)?;
    let (instances, account) = tokio::join!(remote.instances(), remote.account());
    let instances = words::plural(instances.map_err(refused)?.len() as u64, "instance");
    let account = match account {
        Ok(account) => said(&account),
        // It may be kept from keys that can do all that we need.
        Err(error) => Some(describe(&error)),
    };
    let facts: Vec<_> = account.into_iter().chain([instances]).collect();
    report::note(&format!("{} accepts the key: {}", provider.title, facts.join(", ")));
    Ok(())
}

/// What a marketplace says about an account, if it says anything.
pub(super) fn said(account: &Account) -> Option<String> {
    let balance = account.balance.map(|balance| format!("{balance} left"));
    let words: Vec<_> = account.name.clone().into_iter().chain(balance).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// Keeps a key in the keyring, or where that can't be and the user agrees, in the file.
async fn keep(
    vault: &Vault,
    provider: &Provider,
    secrets: &[SecretString],
) -> Result<Origin, SecretsError> {
    let error = match vault.keep(provider, secrets).await {
        Err(error @ (SecretsError::NoKeyring(_) | SecretsError::Keyring(_))) => error,
        kept => return kept,
    };
    let (why, file) = (describe(&error), vault.file().display());
    if report::ask(&format!("{why}\nkeep it in `{file}`, which only you can read?")) {
        return vault.keep_in_file(provider, secrets).await;
    }
    Err(error)
}

fn offer_of_file(vault: &Vault) -> String {
    format!(
        "nothing was kept; `--file` keeps it in `{}`, which only you can read, or set it in the environment",
        vault.file().display()
    )
}
