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
    run::{FolderError, Home, RunFolder},
    settings,
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
        Err(error) => return without_plan(&home, &folder, error).await,
    };
    if let Some(text) = &args.deadline {
        plan.deadline = settings::time(text)?;
    }
    if let Some(text) = &args.budget {
        plan.budget = Some(settings::usd(text)?);
    }
    if let Some(target) = &plan.out {
        out::unclaimed(&home, target, &plan.run)?;
    }
    let mut setting = run::setting(&home, folder, plan, worker).await?;
    setting.retry_failed = args.retry_failed;
    if !consented(&mut setting, args.telling.yes).await {
        return refused(&setting, args.telling.json).await;
    }
    run::go(setting, &home, args.telling.json).await
}

/// A run that can't be gone on with for want of its plan may owe something all the same.
async fn without_plan(
    home: &Home,
    folder: &RunFolder,
    error: FolderError,
) -> Result<Exit, CommandError> {
    let ledger = folder.ledger();
    let books = Books::read(&ledger).map_err(|error| {
        CommandError::new(Exit::MayBeBilled, error)
            .hint("`piecework cleanup` finds and ends what is left by its labels")
    })?;
    let owed: Vec<Label> =
        books.unwrap_or_default().owed().map(|(label, _)| label.clone()).collect();
    if owed.is_empty() {
        return Err(error.into());
    }
    report::error(&error, None);
    report::owed(&owed, &ledger, &markets(home).await?);
    Ok(Exit::MayBeBilled)
}
