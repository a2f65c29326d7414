//! `resume`: go on where a run stopped.

use super::{
    CommandError,
    consent::{consented, refused},
    open_home, run,
};
use crate::{cli::ResumeArgs, exit::Exit, settings};
use std::path::Path;

/// Goes on.
pub(super) async fn resume(args: ResumeArgs, home: Option<&Path>) -> Result<Exit, CommandError> {
    let worker = settings::worker(args.telling.worker.as_deref())?;
    let home = open_home(home)?;
    let folder = home.find(&args.run)?;
    let mut plan = folder.plan()?;
    if let Some(text) = &args.deadline {
        plan.deadline = settings::time(text)?;
    }
    if let Some(text) = &args.budget {
        plan.budget = Some(settings::usd(text)?);
    }
    let mut setting = run::setting(&home, folder, plan, worker).await?;
    setting.retry_failed = args.retry_failed;
    if !consented(&setting, args.telling.yes).await {
        return refused(&setting, args.telling.json).await;
    }
    run::go(setting, &home, args.telling.json).await
}
