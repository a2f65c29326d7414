//! `cleanup`: end what dead runs have left.

use super::{CommandError, markets, open_home, ps};
use crate::{
    cleanup::{self, Kind},
    cli::CleanupArgs,
    clock,
    event::Events,
    exit::Exit,
    report::{self, words},
};
use std::path::Path;

/// Cleans up.
pub(super) async fn cleanup(args: &CleanupArgs, home: Option<&Path>) -> Result<Exit, CommandError> {
    let home = open_home(home)?;
    let markets = markets(&home).await?;
    let listings = cleanup::listings(&markets).await;
    let accounts = cleanup::accounts(&home)?;
    let found = cleanup::sort(&accounts, &listings, &home.owner()?, clock::now());
    ps::show(&found, args.json);
    let exit = ps::unknown(&listings);
    let dead = found.iter().filter(|f| matches!(f.kind, Kind::Orphaned | Kind::Missing)).count();
    if dead == 0 {
        if exit == Exit::Done {
            report::note("nothing to clean up");
        }
        return Ok(exit);
    }
    let instances = words::plural(dead as u64, "instance");
    if !args.yes && !report::ask(&format!("end {instances}?")) {
        report::note(&format!("{instances} left as they are; give `--yes` to end them"));
        return Ok(Exit::MayBeBilled);
    }
    let errors = cleanup::end(&found, &accounts, &markets, &Events::unheard()).await;
    for error in &errors {
        report::error(error, None);
    }
    if errors.is_empty() && exit == Exit::Done {
        report::note(&format!("ended {instances}"));
        return Ok(Exit::Done);
    }
    Ok(Exit::MayBeBilled)
}
