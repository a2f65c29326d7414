//! `resume`: go on where a run stopped.

use super::{
    CommandError,
    consent::{consented, refused},
    markets, open_home, out, run,
};
use crate::{
    cli::ResumeArgs,
    exit::Exit,
    ledger::{self, Books},
    report,
    run::{Home, Plan, RunFolder},
    settings,
    shards::ordered_at,
};
use providers::Label;
use std::{path::Path, time::Duration};

/// How long to wait for somebody who gives back what the run had rented.
const PATIENCE: Duration = Duration::from_mins(2);

/// Goes on.
pub(super) async fn resume(args: ResumeArgs, home: Option<&Path>) -> Result<Exit, CommandError> {
    let worker = settings::worker(args.telling.worker.as_deref())?;
    let home = open_home(home)?;
    let folder = home.find(&args.run)?;
    ledger::while_settling(&folder.ledger(), PATIENCE, || {
        report::note("what it had rented is being given back; going on once that is done");
    })
    .await;
    let mut plan = match folder.plan() {
        Ok(plan) => plan,
        Err(error) => return refused_with(&home, &folder, error.into()).await,
    };
    if let Some(text) = &args.deadline {
        plan.deadline = settings::time(text)?;
    }
    if let Some(text) = &args.budget {
        plan.budget = Some(settings::usd(text)?);
    }
    if let Err(error) = may_write(&home, &folder, &plan, args.retry_failed) {
        return refused_with(&home, &folder, error).await;
    }
    let mut setting = run::setting(&home, folder, plan, worker).await?;
    setting.retry_failed = args.retry_failed;
    if !consented(&mut setting, args.telling.yes).await {
        return refused(&setting, args.telling.json).await;
    }
    run::go(setting, &home, args.telling.json).await
}

/// Sees that going on replaces nothing of other runs.
fn may_write(
    home: &Home,
    folder: &RunFolder,
    plan: &Plan,
    retry_failed: bool,
) -> Result<(), CommandError> {
    let Some(target) = &plan.out else { return Ok(()) };
    out::unclaimed(home, target, &plan.run)?;
    // One that is over writes nothing any more.
    let writes = retry_failed || ordered_at(&folder.files(plan)).is_none();
    if writes { out::unreplaced(home, folder, plan) } else { Ok(()) }
}

/// A run that can't be gone on with may owe something all the same.
async fn refused_with(
    home: &Home,
    folder: &RunFolder,
    error: CommandError,
) -> Result<Exit, CommandError> {
    let ledger = folder.ledger();
    let books = Books::read(&ledger).map_err(|error| {
        CommandError::new(Exit::MayBeBilled, error)
            .hint("`piecework cleanup` finds and ends what is left by its labels")
    })?;
    let owed: Vec<Label> =
        books.unwrap_or_default().owed().map(|(label, _)| label.clone()).collect();
    if owed.is_empty() {
        return Err(error);
    }
    error.tell();
    report::owed(&owed, &ledger, &markets(home).await?);
    Ok(Exit::MayBeBilled)
}
