//! `ps`: what runs and what it costs, on every marketplace.

use super::{CommandError, markets, open_home};
use crate::{
    cleanup::{self, Accounts, Found, Kind, Listings},
    cli::PsArgs,
    clock,
    exit::Exit,
    report::{self, Table, words},
    run::{FolderError, Home},
};
use providers::UsdPerHour;
use serde_json::json;
use std::path::Path;

/// Shows.
pub(super) async fn ps(args: &PsArgs, home: Option<&Path>) -> Result<Exit, CommandError> {
    let home = home_of(home)?;
    let markets = markets(&home).await?;
    let listings = cleanup::listings(&markets).await;
    let accounts = cleanup::accounts(&home).map_err(unreadable)?;
    let owner = home.owner().map_err(unreadable)?;
    let found = cleanup::sort(&accounts, &listings, &owner, clock::now());
    show(&found, args.json);
    let exit = unknown(&accounts, &listings).max(abandoned(&found));
    if found.is_empty() && exit == Exit::Done {
        report::note("nothing is running");
    }
    let costs = |found: &Found| found.kind.is_left() && found.price != Some(UsdPerHour(0));
    if found.iter().any(costs) {
        report::note("what dead runs have left is billed on: end it with `piecework cleanup`");
        return Ok(Exit::MayBeBilled);
    }
    Ok(exit)
}

/// What runs owe can't be told while their folder can't be read.
pub(super) fn unreadable(error: FolderError) -> CommandError {
    CommandError::new(Exit::MayBeBilled, error)
}

/// Opens the home whose runs may owe something.
pub(super) fn home_of(named: Option<&Path>) -> Result<Home, CommandError> {
    open_home(named).map_err(|error| CommandError { exit: Exit::MayBeBilled, ..error })
}

/// Says what of other computers is past its time: nobody may be left there to end it.
pub(super) fn abandoned(found: &[Found]) -> Exit {
    if found.iter().all(|found| found.kind != Kind::Abandoned) {
        return Exit::Done;
    }
    report::note(
        "another computer's run has left something past its time, or this one's before it was set \
         up anew: end it with `piecework cleanup --all-owners`",
    );
    Exit::MayBeBilled
}

/// Says what could not be asked. An answer that couldn't be had is never "nothing".
pub(super) fn unknown(accounts: &Accounts, listings: &Listings) -> Exit {
    let mut exit = Exit::Done;
    for (provider, listing) in listings {
        for error in listing.errors() {
            report::error(error, Some(&format!("what runs on {provider} is unknown")));
            exit = Exit::MayBeBilled;
        }
    }
    for unsure in cleanup::unsure(accounts, listings) {
        let login = unsure.providers.iter().map(|name| format!("`piecework login {name}`"));
        let login = login.collect::<Vec<_>>().join(", ");
        let folder = accounts.get(&unsure.run).map(|account| account.folder.path().display());
        let folder = folder.map_or_else(String::new, |folder| format!("`{folder}`"));
        let hint = format!(
            "log in with {login} and look again; if you know that nothing runs there, remove {folder}"
        );
        report::error(&unsure, Some(&hint));
        exit = Exit::MayBeBilled;
    }
    exit
}

pub(super) fn show(found: &[Found], as_json: bool) {
    if as_json {
        for found in found {
            report::out(&json(found).to_string());
        }
        return;
    }
    if found.is_empty() {
        return;
    }
    let mut table =
        Table::new(&["marketplace", "instance", "run", "whose", "state", "age", "price", "spent"]);
    let dash = || "-".to_owned();
    for found in found {
        let instance = found.instance.as_ref();
        table.row([
            found.provider.clone(),
            instance.map_or_else(
                || found.disk.as_ref().map_or_else(dash, |disk| disk.id.clone()),
                |instance| instance.id.to_string(),
            ),
            found.run.as_ref().map_or_else(dash, ToString::to_string),
            word(found.kind).to_owned(),
            state(found),
            found.age.map_or_else(dash, words::time),
            found.price.map_or_else(dash, |price| price.to_string()),
            found.spent().map_or_else(dash, |spent| spent.to_string()),
        ]);
    }
    table.print();
}

fn state(found: &Found) -> String {
    match (&found.instance, &found.disk) {
        (Some(instance), _) => instance.state.to_string(),
        (None, Some(_)) => "a disk".to_owned(),
        (None, None) => "not listed".to_owned(),
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::InUse => "in use",
        Kind::Overdue => "overdue",
        Kind::Settling => "being given back",
        Kind::Orphaned => "orphaned",
        Kind::Missing => "owed",
        Kind::Abandoned => "another computer's, past its time",
        Kind::Elsewhere => "another computer's",
        Kind::Stranger => "not ours",
    }
}

fn json(found: &Found) -> serde_json::Value {
    json!({
        "v": 1,
        "provider": found.provider,
        "label": found.label,
        "id": found.instance.as_ref().map(|instance| &instance.id),
        "disk": found.disk.as_ref().map(|disk| &disk.id),
        "run": found.run,
        "kind": match found.kind {
            Kind::InUse => "in_use",
            Kind::Overdue => "overdue",
            Kind::Settling => "settling",
            Kind::Orphaned => "orphaned",
            Kind::Missing => "missing",
            Kind::Abandoned => "abandoned",
            Kind::Elsewhere => "elsewhere",
            Kind::Stranger => "stranger",
        },
        "state": found.instance.as_ref().map(|instance| instance.state.to_string()),
        "age_seconds": found.age.map(|age| age.as_secs()),
        "micro_usd_per_hour": found.price,
        "micro_usd_spent": found.spent(),
    })
}
