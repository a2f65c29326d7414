//! `provision-and-run`: rent, answer all prompts, give back.

use super::{CommandError, markets, open_home, program};
use crate::{
    catalog,
    cli::RunArgs,
    clock,
    event::{Event, Events},
    exit::Exit,
    label::RunId,
    leases::Markets,
    ledger::{Books, FileError, LedgerError},
    prompts::{self, Input, Survey},
    report::{self, Style, words},
    run::{
        Home, LEASE_LIMIT, LEASE_MARGIN, Ladder, NewPlan, Outcome, Plan, RunError, RunFolder,
        Setting, Why, errors_beside, run as run_plan,
    },
    settings::{self, Settings},
};
use providers::{Host, Label, Offer, Usd};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc::unbounded_channel;

/// How many bad lines are shown. All are in the errors file in the end.
const BAD_LINES_SHOWN: usize = 3;

/// Runs.
pub(super) async fn run(args: RunArgs, home: Option<&Path>) -> Result<Exit, CommandError> {
    let prompts = args.prompts.iter().map(PathBuf::as_path);
    must_be_text(prompts.chain(args.out.as_deref()).chain(home))?;
    let settings = Settings::new(&args)?;
    let worker = settings::worker(args.telling.worker.as_deref())?;
    let out = args.out.as_deref().map(|out| usable_out(out, &args.prompts, args.force));
    let out = out.transpose()?;
    if args.telling.json && out.as_deref() == Some(Path::new("-")) {
        let error = "`--json` and `--out -` both want standard output";
        return Err(CommandError::new(Exit::Usage, error).hint("give `--out` a file"));
    }
    let home = open_home(home)?;
    let markets = markets(&home).await?;
    let run = RunId::random(clock::now());
    let folder = home.create(&run)?;
    let prepared = prepare(&args, &settings, &markets, &folder).await;
    let (input, survey, offer) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            folder.discard();
            return Err(error);
        }
    };
    tell_bad_lines(&input, &survey);
    let what = describe(&offer);
    let worst = worst(&settings, &offer);
    report_plan(&settings, &survey, &what, &offer, worst);
    if settings.budget == Some(Usd(0)) && offer.price.0 != 0 {
        folder.discard();
        let refused = format!("a budget of $0.00 rents nothing at {}", offer.price);
        return Err(CommandError::new(Exit::Refused, refused));
    }
    if worst != Usd(0) && !args.telling.yes && !report::ask("go on?") {
        folder.discard();
        let refused = CommandError::new(Exit::Refused, "nothing was rented");
        return Err(refused.hint("say yes, or give `--yes`"));
    }
    let new = NewPlan {
        input,
        fingerprint: survey.fingerprint.clone(),
        prompts: survey.prompts,
        job: settings.job,
        provider: settings.provider,
        machines: settings.machines,
        ceiling: settings.ceiling,
        budget: settings.budget,
        deadline: settings.deadline,
        out,
        out_format: settings.out_format,
    };
    let plan = Plan::new(run, clock::now(), new);
    folder.keep(&plan)?;
    let setting = Setting {
        folder,
        plan,
        owner: home.owner()?,
        markets,
        program: program()?,
        worker,
        retry_failed: false,
        survey: Some(survey),
    };
    let chosen = Event::OfferChosen {
        provider: setting.plan.provider.clone(),
        what,
        price: offer.price,
        machines: setting.plan.machines,
    };
    go(setting, args.telling.json, Some(chosen)).await
}

/// Works on a plan, tells what happens, and says how it ended.
pub(super) async fn go(
    setting: Setting,
    json: bool,
    first: Option<Event>,
) -> Result<Exit, CommandError> {
    let (sender, receiver) = unbounded_channel();
    let style = if json { Style::Json } else { Style::Human };
    let telling = tokio::spawn(report::tell(style, receiver));
    let ladder = Ladder::default();
    ladder.obey_signals().map_err(|error| CommandError::new(Exit::Failed, error))?;
    let events = Events::to(sender);
    if let Some(event) = first {
        events.send(event);
    }
    let run = setting.plan.run.clone();
    let markets = setting.markets.clone();
    let ledger = setting.folder.ledger();
    let outcome = run_plan(setting, events, ladder).await;
    // A reporter that crashed has nothing to add.
    drop(telling.await);
    match outcome {
        Ok(outcome) => Ok(conclude(&outcome, &run, &ledger, &markets)),
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
        Some(Why::Stopped(_)) => Exit::Stopped,
        Some(why @ Why::NoOffer(_)) => {
            report::error(why, Some(&format!("raise `--max-price`, or {resume} later")));
            Exit::NoOffer
        }
        // These say themselves how to go on.
        Some(why @ (Why::Results(_) | Why::Prompts(_))) => {
            report::error(why, None);
            Exit::Failed
        }
        Some(why @ (Why::NoInstance(_) | Why::Work(_) | Why::Lease(_) | Why::Crashed)) => {
            report::error(why, Some(&format!("once that is mended, {resume}")));
            Exit::Failed
        }
        None if !outcome.summary.complete => Exit::Stopped,
        None if outcome.summary.failed != 0 => Exit::SomeFailed,
        None => Exit::Done,
    }
}

/// Everything that can be known before anything is rented.
async fn prepare(
    args: &RunArgs,
    settings: &Settings,
    markets: &Markets,
    folder: &RunFolder,
) -> Result<(Input, Survey, Offer), CommandError> {
    let failed = |error| CommandError::new(Exit::Failed, error);
    let (typed, options, folder) = (args.prompts.clone(), settings.prompts.clone(), folder.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let sources = prompts::gather(&typed, |file| folder.spooled(file))?;
        let input = Input { sources, options };
        prompts::survey(&input, |_| {}).map(|survey| (input, survey))
    });
    let looked = looked.await.map_err(|crash| failed(crash.to_string()))?;
    let (input, survey) = looked.map_err(|error| CommandError::new(Exit::Failed, error))?;
    let market = markets.get(&settings.provider).ok_or_else(|| {
        let names: Vec<&str> = markets.iter().map(|(name, _)| name).collect();
        let unknown = format!("there is no marketplace `{}`", settings.provider);
        CommandError::new(Exit::Usage, unknown).hint(format!("there is {}", names.join(", ")))
    })?;
    if market.capabilities().host != Host::ThisComputer {
        let error = format!("this version doesn't yet rent from {}", settings.provider);
        let hint = "`piecework offers` shows its prices; `--provider local` runs here";
        return Err(CommandError::new(Exit::Usage, error).hint(hint));
    }
    let offer = catalog::quote(&**market, settings.ceiling).await.map_err(|error| {
        let exit = match error {
            catalog::QuoteError::NoOffer(_) => Exit::NoOffer,
            catalog::QuoteError::Market(_) => Exit::Failed,
        };
        CommandError::new(exit, error)
    })?;
    Ok((input, survey, offer))
}

/// The place for the completions, made absolute, unless something is in the way.
fn usable_out(out: &Path, prompts: &[PathBuf], force: bool) -> Result<PathBuf, CommandError> {
    if out == Path::new("-") {
        return Ok(out.to_owned());
    }
    let usage = |error: String| CommandError::new(Exit::Usage, error);
    let out = std::path::absolute(out).map_err(|error| CommandError::new(Exit::Usage, error))?;
    if !out.parent().is_some_and(Path::is_dir) {
        return Err(
            usage(format!("there is no folder for `{}`", out.display())).hint("make it first")
        );
    }
    for path in [&out, &errors_beside(&out)] {
        let Ok(there) = path.symlink_metadata() else { continue };
        let name = path.display();
        if there.is_dir() {
            return Err(usage(format!("`{name}` is a folder; name a file in it")));
        }
        if !there.is_file() {
            return Err(usage(format!("`{name}` is no plain file; name another with `--out`")));
        }
        let is_it = |path: &Path| prompts.iter().any(|p| p.canonicalize().is_ok_and(|p| p == path));
        if path.canonicalize().is_ok_and(|path| is_it(&path)) {
            return Err(usage(format!("`{name}` holds the prompts; name another with `--out`")));
        }
        if !force {
            let hint = "name another file with `--out`, or overwrite it with `--force`";
            return Err(usage(format!("`{name}` is there already")).hint(hint));
        }
    }
    Ok(out)
}

/// Paths are kept in plain files, which are text.
fn must_be_text<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<(), CommandError> {
    for path in paths {
        if path.to_str().is_none() {
            let error = format!("`{}` is not valid UTF-8; give it another name", path.display());
            return Err(CommandError::new(Exit::Usage, error));
        }
    }
    Ok(())
}

fn tell_bad_lines(input: &Input, survey: &Survey) {
    if survey.bad == 0 {
        return;
    }
    for bad in survey.first_bad.iter().take(BAD_LINES_SHOWN) {
        let file = match input.sources.as_slice() {
            [_] => String::new(),
            several => format!("{}, ", several[bad.line.file as usize].name),
        };
        report::note(&format!("warning: {file}line {}: {}", bad.line.line, bad.reason));
    }
    let all = words::plural(survey.bad, "bad line");
    report::note(&format!("warning: {all} will be in the errors file; the rest is done"));
}

fn describe(offer: &Offer) -> String {
    let gpus = offer.gpus.as_ref().map(|gpus| format!("{} × {}, ", gpus.count, gpus.name));
    let (cores, memory) = (words::plural(u64::from(offer.cores), "core"), offer.memory);
    format!("{}{cores}, {memory}, {}", gpus.unwrap_or_default(), offer.region)
}

/// What the run costs at most.
fn worst(settings: &Settings, offer: &Offer) -> Usd {
    let time = settings.deadline.unwrap_or(LEASE_LIMIT) + LEASE_MARGIN;
    let all = Usd(offer.price.over(time).0.saturating_mul(u64::from(settings.machines)));
    settings.budget.map_or(all, |budget| budget.min(all))
}

fn report_plan(settings: &Settings, survey: &Survey, what: &str, offer: &Offer, worst: Usd) {
    let prompts = words::plural(survey.prompts, "prompt");
    let size = words::size(survey.bytes);
    report::note(&format!("{prompts}, {size}, for {}", settings.job.model.name));
    if worst != Usd(0) || offer.price.0 != 0 {
        let machines = settings.machines;
        report::note(&format!("{machines} × {what} at {}: at most {worst}", offer.price));
    }
}

/// The home of a run that is gone on with.
pub(super) async fn setting(
    home: &Home,
    folder: RunFolder,
    plan: Plan,
    worker: PathBuf,
) -> Result<Setting, CommandError> {
    let (owner, markets) = (home.owner()?, markets(home).await?);
    let program = program()?;
    Ok(Setting { folder, plan, owner, markets, program, worker, retry_failed: false, survey: None })
}
