//! `provision-and-run`: rent, answer all prompts, give back.

use super::{
    CommandError,
    access::access,
    elsewhere, markets, open_home, out,
    prepare::{Prepared, must_be_text, prepare},
    program,
};
use crate::{
    cli::RunArgs,
    clock,
    event::Events,
    exit::Exit,
    label::RunId,
    leases::Markets,
    ledger::{Books, FileError, LedgerError},
    measured,
    model::shape_of,
    report::{self, Style},
    run::{
        Estimate, Home, Ladder, NewPlan, Outcome, Plan, RunError, RunFolder, Setting, Why,
        run as run_plan,
    },
    settings::{self, Settings},
    story,
};
use providers::{Label, Usd};
use std::{
    env,
    path::{Path, PathBuf},
};
use tokio::sync::mpsc::unbounded_channel;

/// Runs.
pub(super) async fn run(args: RunArgs, home: Option<&Path>) -> Result<Exit, CommandError> {
    let prompts = args.prompts.iter().map(PathBuf::as_path);
    // What is named from here is kept by its whole name.
    let here = env::current_dir().ok();
    must_be_text(prompts.chain(args.out.as_deref()).chain(home).chain(here.as_deref()))?;
    let settings = Settings::new(&args)?;
    let worker = settings::worker(args.telling.worker.as_deref())?;
    let target = match args.out.as_deref().map(|out| (out, elsewhere::address(out))) {
        None => None,
        Some((_, Some(url))) => Some(elsewhere::usable(url, args.force).await?),
        Some((file, None)) => Some(out::usable(file, &args.prompts, args.force)?),
    };
    if args.telling.json && target.as_deref() == Some(Path::new("-")) {
        let error = "`--json` and `--out -` both want standard output";
        return Err(CommandError::new(Exit::Usage, error).hint("give `--out` a file"));
    }
    let home = open_home(home)?;
    // Links may have led elsewhere.
    must_be_text(target.as_deref().into_iter().chain([home.path()]))?;
    let owner = home.renter()?;
    let markets = markets(&home).await?;
    let run = RunId::random(clock::now());
    if let Some(target) = &target {
        out::unclaimed(&home, target, &run)?;
    }
    let folder = home.create(&run)?;
    let measured = measured::read(home.path());
    let prepared = prepare(&args, &settings, &markets, &folder, measured).await;
    let prepared = prepared.and_then(|prepared| {
        target.as_deref().map_or(Ok(()), |out| out::spares(out, &prepared.input))?;
        Ok(prepared)
    });
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            folder.discard();
            return Err(error);
        }
    };
    let access = match access(&settings.job.model, &markets, &prepared.search.providers).await {
        Ok(access) => access,
        Err(error) => {
            folder.discard();
            return Err(CommandError::new(Exit::Usage, error));
        }
    };
    let consented = prepared.tell(&settings, &markets)
        && (prepared.worst == Usd(0) || args.telling.yes || report::ask("go on?"));
    if !consented {
        folder.discard();
        let refused = CommandError::new(Exit::Refused, "nothing was rented");
        return Err(refused.hint("say yes, or give `--yes`"));
    }
    let Prepared {
        input,
        survey,
        search,
        shape,
        machines,
        deadline,
        worst,
        estimate,
        measured,
        ..
    } = prepared;
    let estimate = estimate.map(|(time, cost)| Estimate { seconds: time.as_secs_f64(), cost });
    let new = NewPlan {
        input,
        fingerprint: survey.fingerprint.clone(),
        prompts: survey.prompts,
        bytes: survey.bytes,
        job: settings.job,
        search,
        machines,
        budget: settings.budget,
        deadline,
        out: target,
        out_format: settings.out_format,
        estimate,
        at_most: Some(worst),
        shape,
    };
    let plan = Plan::new(run, clock::now(), new);
    folder.keep(&plan)?;
    let setting = Setting {
        folder,
        plan,
        owner,
        markets,
        program: program()?,
        worker,
        retry_failed: false,
        survey: Some(survey),
        patience: settings::watchdog()?,
        measured,
        access,
    };
    go(setting, &home, args.telling.json).await
}

/// Works on a plan, tells what happens, and says how it ended.
pub(super) async fn go(setting: Setting, home: &Home, json: bool) -> Result<Exit, CommandError> {
    let (sender, receiver) = unbounded_channel();
    let style = if json { Style::Json } else { Style::Human };
    let telling = tokio::spawn(report::tell(style, receiver));
    let ladder = Ladder::default();
    ladder.obey_signals().map_err(|error| CommandError::new(Exit::Failed, error))?;
    let (keeper, scribe) = story::keep(setting.folder.story());
    let events = Events::to(sender).and_kept(keeper);
    let run = setting.plan.run.clone();
    let markets = setting.markets.clone();
    let ledger = setting.folder.ledger();
    let outcome = run_plan(setting, events, ladder).await;
    // A reporter that crashed has nothing to add.
    drop(telling.await);
    scribe.finish().await;
    match outcome {
        Ok(outcome) => {
            // They are hints; a plan can be made without.
            drop(measured::keep(home.path(), clock::now(), &outcome.measured));
            Ok(conclude(&outcome, &run, &ledger, &markets))
        }
        // What somebody else has in hand is not ours to warn of.
        Err(
            error @ RunError::Ledger(LedgerError::File(
                FileError::InUse { .. } | FileError::InUseByUnknown,
            )),
        ) => Err(CommandError::new(Exit::Failed, error)),
        // What such a ledger owes, nobody can tell.
        Err(error @ RunError::Ledger(_)) => Err(CommandError::new(Exit::MayBeBilled, error)
            .hint("`piecework cleanup` finds and ends what is left by its labels")),
        Err(error) => {
            let resume = format!("then go on with `piecework resume {run}`");
            let hint = (!matches!(error, RunError::Prompts(_))).then_some(resume);
            report::error(&error, hint.as_deref());
            let books = Books::read(&ledger).ok().flatten().unwrap_or_default();
            let owed: Vec<Label> = books.owed().map(|(label, _)| label.clone()).collect();
            if owed.is_empty() {
                return Ok(Exit::Failed);
            }
            report::owed(&owed, &ledger, &markets);
            Ok(Exit::MayBeBilled)
        }
    }
}

fn conclude(outcome: &Outcome, run: &RunId, ledger: &Path, markets: &Markets) -> Exit {
    if !outcome.owed.is_empty() {
        if let Some(why) = &outcome.why {
            report::error(why, None);
        }
        report::owed(&outcome.owed, ledger, markets);
        return Exit::MayBeBilled;
    }
    let resume = format!("go on with `piecework resume {run}`");
    match &outcome.why {
        Some(Why::Stopped(_)) => {
            if outcome.summary.complete {
                // It is over but for the way to where they are meant for.
                report::note(&format!("the completions aren't sent yet: {resume}"));
            }
            Exit::Stopped
        }
        Some(why @ Why::NoOffer(_)) => {
            report::error(why, Some(&format!("{resume} later, when there may be others")));
            Exit::NoOffer
        }
        Some(why @ Why::Spent(limit)) => {
            report::note(&format!("{why}: {resume} {}", limit.remedy()));
            Exit::Stopped
        }
        Some(why @ Why::Budget { limit, .. }) => {
            report::error(why, Some(&format!("{resume} {}", limit.remedy())));
            Exit::Refused
        }
        // These say themselves how to go on.
        Some(why @ (Why::Results(_) | Why::Prompts(_))) => {
            report::error(why, None);
            Exit::Failed
        }
        Some(
            why @ (Why::NoInstance(_)
            | Why::Silence(_)
            | Why::Dearer { .. }
            | Why::Template(_)
            | Why::HostKeys(_)
            | Why::Object(_)
            | Why::Work(_)
            | Why::Lease(_)
            | Why::Crashed),
        ) => {
            report::error(why, Some(&format!("once that is mended, {resume}")));
            Exit::Failed
        }
        None if !outcome.summary.complete => Exit::Stopped,
        None if outcome.summary.failed != 0 => Exit::SomeFailed,
        None => Exit::Done,
    }
}

/// The home of a run that is gone on with.
pub(super) async fn setting(
    home: &Home,
    folder: RunFolder,
    mut plan: Plan,
    worker: PathBuf,
) -> Result<Setting, CommandError> {
    let (owner, markets) = (home.renter()?, markets(home).await?);
    let program = program()?;
    if plan.shape.is_none() && plan.search.task.is_some() {
        // An earlier version didn't keep it.
        plan.shape = shape_of(&plan.job.model).ok();
    }
    // What is still there may have the model.
    let access = access(&plan.job.model, &markets, &plan.search.providers).await;
    let access = access.inspect_err(|error| report::warning(error)).unwrap_or_default();
    Ok(Setting {
        folder,
        plan,
        owner,
        markets,
        program,
        worker,
        retry_failed: false,
        survey: None,
        patience: settings::watchdog()?,
        measured: measured::read(home.path()),
        access,
    })
}
