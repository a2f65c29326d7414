//! `offers`: what is for rent now.

use super::{
    CommandError,
    markets::{Sellers, sellers},
    open_home,
};
use crate::{
    catalog::{self, Catalog},
    choose::Listed,
    cli::OffersArgs,
    clock,
    exit::Exit,
    leases::describe,
    report::{self, offers as print, words},
    settings::{self, SettingsError},
    wish::{self, Unlike, Wish},
};
use providers::Mib;
use std::path::Path;

/// Disk that offers are priced with, where nobody says: for an image, and a model of 8B.
pub(super) const DISK: Mib = Mib::from_gib(50);

/// How many rows a table has where nobody says.
const ROWS: usize = 20;

/// Shows.
pub(super) async fn offers(args: &OffersArgs, home: Option<&Path>) -> Result<Exit, CommandError> {
    let wish = wish(args)?;
    let limit = settings::time(&args.timeout)?;
    let sellers = sellers(&open_home(home)?, &args.wish.provider).await?;
    let need = if args.explain { wish.wide_need() } else { wish.need() };
    let catalog = catalog::ask(&sellers.markets, &need, limit).await;
    warn(&sellers, &catalog, !args.wish.provider.is_empty());
    if catalog.answered == 0 {
        return Err(CommandError::new(Exit::Failed, "no marketplace has answered"));
    }
    let (mut fit, unlike) = divide(&wish, catalog.listed);
    wish::sort(&mut fit, args.sort);
    let found = fit.len();
    let is_table = !args.json && !args.csv;
    let rows = args.limit.unwrap_or(if is_table { ROWS } else { 0 });
    if rows != 0 {
        fit.truncate(rows);
    }
    show(args, fit, &unlike);
    if found == 0 {
        let error = CommandError::new(Exit::NoOffer, "no offer is what was asked for");
        return Err(if args.explain { error } else { error.hint("`--explain` says why not") });
    }
    if is_table {
        summarize(found, rows, unlike.len(), args.explain);
        hint_at_login(&sellers, args);
    }
    Ok(Exit::Done)
}

/// What is wished for, with a disk that a model or two fit on.
fn wish(args: &OffersArgs) -> Result<Wish, SettingsError> {
    let wish = settings::wish(&args.wish)?;
    Ok(if args.wish.disk.is_none() { Wish { disk: DISK, ..wish } } else { wish })
}

/// What is wished for, and everything else with the reason.
fn divide(wish: &Wish, offers: Vec<Listed>) -> (Vec<Listed>, Vec<(Listed, Unlike)>) {
    let (mut fit, mut unlike) = (Vec::new(), Vec::new());
    for listed in offers {
        match wish::fits(wish, &listed.offer) {
            Ok(()) => fit.push(listed),
            Err(why) => unlike.push((listed, why)),
        }
    }
    unlike.sort_by(|(a, _), (b, _)| (a.offer.price, &a.market).cmp(&(b.offer.price, &b.market)));
    (fit, unlike)
}

fn show(args: &OffersArgs, fit: Vec<Listed>, unlike: &[(Listed, Unlike)]) {
    let reasons = unlike.iter().filter(|_| args.explain);
    let reasons = reasons.map(|(listed, why)| (listed.clone(), why.to_string()));
    if args.json || args.csv {
        let reasons = reasons.map(|(listed, why)| (listed, Some(why)));
        let all: Vec<_> = fit.into_iter().map(|listed| (listed, None)).chain(reasons).collect();
        return if args.json { print::json(&all) } else { print::csv(&all) };
    }
    if !fit.is_empty() {
        print::table(&fit);
    }
    let reasons: Vec<_> = reasons.collect();
    if !reasons.is_empty() {
        if !fit.is_empty() {
            report::out("");
        }
        print::rejected(&reasons);
    }
}

/// Says whose offers are missing, and why.
fn warn(sellers: &Sellers, catalog: &Catalog, named: bool) {
    for error in &catalog.failed {
        report::warning(&describe(error));
    }
    for provider in sellers.closed.iter().filter(|_| named) {
        let name = provider.name;
        report::warning(&format!(
            "{name} shows its offers only with its key: `piecework login {name}`"
        ));
    }
}

fn summarize(found: usize, rows: usize, unlike: usize, explained: bool) {
    let time = clock::now().strftime("%H:%M:%S UTC");
    let all = words::plural(found as u64, "offer");
    if rows != 0 && rows < found {
        report::note(&format!("{rows} of {all} at {time}; `--limit 0` shows all"));
    } else {
        report::note(&format!("{all} at {time}"));
    }
    if 0 < unlike && !explained {
        let unlike = words::plural(unlike as u64, "other");
        report::note(&format!("{unlike} not as asked for; `--explain` says why"));
    }
}

/// Says how to see more, where marketplaces are left out for want of a key.
fn hint_at_login(sellers: &Sellers, args: &OffersArgs) {
    if !args.wish.provider.is_empty() || sellers.closed.is_empty() {
        return;
    }
    let closed: Vec<_> = sellers.closed.iter().map(|provider| provider.name).collect();
    let closed = closed.join(", ");
    if sellers.keys == 0 {
        report::note(
            "no API key is known yet, and none is needed to look; to rent, keep one with \
             `piecework login NAME`",
        );
    }
    report::note(&format!("not asked without a key: {closed}; `piecework login NAME` adds one"));
}
