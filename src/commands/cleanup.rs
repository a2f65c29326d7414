//! `cleanup`: end what dead runs have left.

use super::{CommandError, markets, open_home, ps};
use crate::{
    cleanup::{self, Whose},
    cli::CleanupArgs,
    clock,
    event::Events,
    exit::Exit,
    leases::Markets,
    report::{self, words},
    run::Home,
};
use std::{path::Path, time::Duration};

/// How often it looks where it is to watch.
const WATCH_EVERY: Duration = Duration::from_mins(1);

/// Cleans up.
pub(super) async fn cleanup(args: &CleanupArgs, home: Option<&Path>) -> Result<Exit, CommandError> {
    let home = open_home(home)?;
    let markets = markets(&home).await?;
    loop {
        let exit = once(args, &home, &markets).await?;
        if !args.watch {
            return Ok(exit);
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

async fn once(args: &CleanupArgs, home: &Home, markets: &Markets) -> Result<Exit, CommandError> {
    let whose = if args.all_owners { Whose::Anybodys } else { Whose::Ours };
    let listings = cleanup::listings(markets).await;
    let accounts = cleanup::accounts(home)?;
    let found = cleanup::sort(&accounts, &listings, &home.owner()?, clock::now());
    ps::show(&found, args.json);
    let exit = ps::unknown(&listings);
    let dead = found.iter().filter(|found| whose.is_to_end(found)).count();
    if dead == 0 {
        if exit == Exit::Done && !args.watch {
            report::note("nothing to clean up");
        }
        return Ok(exit);
    }
    let instances = words::plural(dead as u64, "instance");
    if !args.yes && !report::ask(&format!("end {instances}?")) {
        report::note(&format!("{instances} left as they are; give `--yes` to end them"));
        return Ok(Exit::MayBeBilled);
    }
    let errors = cleanup::end(&found, whose, &accounts, markets, &Events::unheard()).await;
    for error in &errors {
        report::error(error, None);
    }
    if errors.is_empty() && exit == Exit::Done {
        report::note(&format!("ended {instances}"));
        return Ok(Exit::Done);
    }
    Ok(Exit::MayBeBilled)
}
