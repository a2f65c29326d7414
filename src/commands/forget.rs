//! `cleanup --forget`: take a person's word for it that something is gone.

use super::CommandError;
use crate::{
    clock,
    event::Events,
    exit::Exit,
    label::RunId,
    leases::{LeaseError, Leases, Markets},
    ledger::{Books, Lease, Ledger},
    report::{self, words},
    run::{FolderError, Home, RunFolder},
};
use providers::{Label, Provider};

/// Counts what was rented under this label as given back.
pub(super) async fn forget(
    label: &str,
    yes: bool,
    home: &Home,
    markets: &Markets,
) -> Result<Exit, CommandError> {
    let label = Label(label.to_owned());
    let Some((run, folder, lease)) = find(home, &label)? else {
        let unknown = format!("no ledger in `{}` knows of `{label}`", home.path().display());
        return Err(CommandError::new(Exit::Usage, unknown)
            .hint("`piecework cleanup` says the labels of what is owed"));
    };
    if !lease.state.is_owed() {
        report::note(&format!("{label} is over already"));
        return Ok(Exit::Done);
    }
    let provider = &lease.terms.provider;
    let at = Provider::find(provider).map_or(provider.as_str(), |provider| provider.console);
    let question =
        format!("count {label}, {}, as given back, whatever {at} says?", lease.terms.price);
    if !yes && !report::ask(&question) {
        report::note(&format!("{label} is owed as before; give `--yes` to forget it"));
        return Ok(Exit::MayBeBilled);
    }
    let ledger = Ledger::open(&folder.ledger(), &run);
    let ledger = ledger.map_err(|error| {
        CommandError::new(Exit::MayBeBilled, error)
            .hint(format!("nothing was forgotten: wait until {run} has ended, or stop it"))
    })?;
    let mut leases = Leases::new(markets.clone(), ledger, Events::unheard());
    leases.forget(&label).await.map_err(|error| refused(error, provider))?;
    let cost = leases.books().lease(&label).map(|lease| lease.cost(clock::now()));
    report::note(&format!(
        "forgot {label}: it counts as given back by now, for {} at most; nothing was ended",
        cost.unwrap_or_default()
    ));
    let owed = leases.books().owed().count();
    if owed != 0 {
        let instances = words::plural(owed as u64, "instance");
        report::note(&format!("{run} still owes {instances}: `piecework cleanup`"));
        return Ok(Exit::MayBeBilled);
    }
    Ok(Exit::Done)
}

/// The run whose ledger has this label, and what it says of it.
fn find(home: &Home, label: &Label) -> Result<Option<(RunId, RunFolder, Lease)>, FolderError> {
    let found = home.all()?.into_iter().find_map(|(run, folder)| {
        // One that can't be read can't be written either.
        let books = Books::read(&folder.ledger()).ok().flatten()?;
        let lease = books.lease(label)?.clone();
        Some((run, folder, lease))
    });
    Ok(found)
}

fn refused(error: LeaseError, provider: &str) -> CommandError {
    let hint = match &error {
        LeaseError::StillListed(_) => {
            "nothing was forgotten: `piecework cleanup` ends it".to_owned()
        }
        LeaseError::Market(_) => format!(
            "nothing was forgotten, since {provider} may still list it: try again later, or take \
             a key that it rejects away with `piecework logout {provider}`"
        ),
        LeaseError::Ledger(_)
        | LeaseError::NoMarket(_)
        | LeaseError::Interrupted
        | LeaseError::OtherKey { .. }
        | LeaseError::DiskLeft(_) => "nothing was forgotten".to_owned(),
    };
    CommandError::new(Exit::MayBeBilled, error).hint(hint)
}
