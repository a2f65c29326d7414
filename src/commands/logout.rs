//! `logout`: forget the key of a marketplace.

use super::{CommandError, markets::find, open_home};
use crate::{
    cleanup,
    cli::LogoutArgs,
    exit::Exit,
    ledger::Books,
    report::{self, words},
    run::Home,
    secrets::{Vault, from_environment},
};
use std::{env, path::Path};

/// Logs out.
pub(super) async fn logout(args: &LogoutArgs, home: Option<&Path>) -> Result<Exit, CommandError> {
    let provider = find(&args.provider)?;
    let home = open_home(home)?;
    let owed = owed(&home, provider.name)?;
    if owed != 0 && !args.force {
        let instances = words::plural(owed, "instance");
        let error = format!("{instances} at {} may still be billed", provider.name);
        let hint = "end them with `piecework cleanup`, which needs the key, or give `--force`";
        return Err(CommandError::new(Exit::MayBeBilled, error).hint(hint));
    }
    let were = Vault::new(home.path()).forget(provider).await;
    let were = were.map_err(|error| CommandError::new(Exit::Failed, error))?;
    for origin in &were {
        report::note(&format!("forgotten, in {origin}"));
    }
    let environment = from_environment(provider, |name| env::var(name).ok());
    match &environment {
        Some(key) => report::warning(&format!("there is still a key in {}", key.origin)),
        None if were.is_empty() => report::note(&format!("no key of {} was kept", provider.name)),
        None => {}
    }
    Ok(Exit::Done)
}

/// How many instances there the ledgers say are owed.
fn owed(home: &Home, provider: &str) -> Result<u64, CommandError> {
    let accounts = cleanup::accounts(home)?;
    let leases = accounts.values().filter_map(|account| account.books.as_ref());
    let leases = leases.flat_map(Books::owed);
    Ok(leases.filter(|(_, lease)| lease.terms.provider == provider).count() as u64)
}
