//! `providers`: the marketplaces, their keys, and what the accounts say.

use super::{
    CommandError, login,
    markets::{Network, reachable, read_keys},
    open_home,
};
use crate::{
    cli::ProvidersArgs,
    exit::Exit,
    leases::describe,
    report::{self, Cell, Table, Tone},
    secrets::{Key, Origin},
};
use ::providers::{Account, Error, ErrorKind, PROVIDERS, Provider};
use serde_json::json;
use std::{collections::BTreeMap, path::Path, time::Duration};
use tokio::{task::JoinSet, time::timeout};

/// How long a marketplace may take to tell of an account.
const LIMIT: Duration = Duration::from_secs(20);

/// What came of asking about an account. None took too long.
type Answer = Option<Result<Account, Error>>;

/// Shows.
pub(super) async fn providers(
    args: &ProvidersArgs,
    home: Option<&Path>,
) -> Result<Exit, CommandError> {
    let keys = read_keys(&open_home(home)?).await;
    let mut asking = JoinSet::new();
    for (provider, remote) in reachable(&keys, |_| true, Network::brief)? {
        let task = async move { timeout(LIMIT, remote.account()).await.ok() };
        asking.spawn(async move { (provider.name, task.await) });
    }
    let answers: BTreeMap<_, _> = asking.join_all().await.into_iter().collect();
    let rows = PROVIDERS.iter().map(|row| (row, keys.get(row.name), answers.get(row.name)));
    if args.json {
        for (provider, key, answer) in rows {
            report::out(&json(provider, key, answer).to_string());
        }
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["marketplace", "key", "account"]);
    table.row(["local", "needs none", "this computer"].map(|text| Cell::from(text.to_owned())));
    for (provider, key, answer) in rows {
        let key = key.map_or_else(
            || {
                Cell::new(
                    if provider.open_offers { "none; offers are open" } else { "none" },
                    Tone::Faint,
                )
            },
            |key| Cell::from(key.origin.to_string()),
        );
        let name = Cell::from(provider.name.to_owned());
        table.row([name, key, account(provider, answer)]);
    }
    table.print();
    Ok(Exit::Done)
}

fn account(provider: &Provider, answer: Option<&Answer>) -> Cell {
    match answer {
        None => Cell::new(format!("keys are made at {}", provider.keys_page), Tone::Faint),
        Some(None) => Cell::new(silent(), Tone::Careful),
        Some(Some(Ok(account))) => {
            Cell::new(login::said(account).unwrap_or_else(|| "accepted".to_owned()), Tone::Good)
        }
        Some(Some(Err(error))) if error.kind == ErrorKind::Unauthorized => {
            Cell::new(error.kind.to_string(), Tone::Careful)
        }
        Some(Some(Err(error))) => Cell::new(describe(error), Tone::Careful),
    }
}

fn silent() -> String {
    format!("said nothing for {} seconds", LIMIT.as_secs())
}

fn json(provider: &Provider, key: Option<&Key>, answer: Option<&Answer>) -> serde_json::Value {
    let origin = key.map(|key| match &key.origin {
        Origin::Environment(name) => json!({ "kind": "environment", "variable": name }),
        Origin::Keyring => json!({ "kind": "keyring" }),
        Origin::File(path) => json!({ "kind": "file", "path": path }),
    });
    let account = answer.and_then(Option::as_ref).and_then(|answer| answer.as_ref().ok());
    let error = answer.and_then(|answer| match answer {
        None => Some(silent()),
        Some(Err(error)) => Some(describe(error)),
        Some(Ok(_)) => None,
    });
    json!({
        "v": 1,
        "provider": provider.name,
        "title": provider.title,
        "key": origin,
        "accepted": answer.and_then(Option::as_ref).and_then(|answer| match answer {
            Ok(_) => Some(true),
            Err(error) if error.kind == ErrorKind::Unauthorized => Some(false),
            Err(_) => None,
        }),
        "account": account.and_then(|account| account.name.as_ref()),
        "micro_usd_balance": account.and_then(|account| account.balance),
        "error": error,
        "offers_need_key": !provider.open_offers,
        "keys_page": provider.keys_page,
    })
}
