//! `provision-and-run --dry-run`: the plan and its price. Rents nothing, and leaves nothing.

use super::{
    CommandError,
    look::look_through,
    markets::{markets, sellers},
    offers::DISK,
    open_home,
};
use crate::{
    catalog,
    choose::{Job, Listed, gpus_in_words, runs},
    cli::{RunArgs, WishArgs},
    engines::Engine,
    exit::Exit,
    hosted::quotes,
    leases::{Markets, describe},
    lengths::Lengths,
    measured,
    model::{Weights, find_shape},
    need::{Workload, need},
    plan::{Goal, Hourly, PlanError, Plans, make},
    report::{self, words},
    run::engine_of,
    settings::{Settings, hosted_prices},
    wish::{self, Wish},
};
use providers::{Mib, Need};
use std::path::Path;
use wire::EngineKind;

/// What can be had without knowing what decides how long a job takes.
const BY_HOUR: &str = "`--vram 24GB` shows what machines with so much cost an hour";

/// Plans.
pub(super) async fn plan(args: RunArgs, home: Option<&Path>) -> Result<Exit, CommandError> {
    let settings = Settings::new(&args)?;
    let engine = engine_of(&settings.job);
    let is_known = Engine::named(engine, false).or(Engine::named(engine, true)).is_some();
    let (prompts, lengths) = prompts(&args, &settings, is_known).await?;
    let work = Workload { prompts, input: lengths.input, output: lengths.output };
    let own = hosted_prices()?;
    let markets = asked(home, &args, &settings).await?;
    if matches!(settings.job.engine, EngineKind::Echo { .. }) {
        let prompts = words::plural(prompts, "prompt");
        report::note(&format!("{prompts} for the echo engine, which has no model to plan for"));
        return Ok(Exit::Done);
    }
    let hourly = |why: String| Hourly {
        model: settings.job.model.name.clone(),
        engine: engine.to_owned(),
        work,
        lengths: lengths.clone(),
        why,
        vram: settings.wish.vram,
        offers: Vec::new(),
        hosted: quotes(&settings.job.model.name, None, &work, &own),
    };
    let with_vram = settings.wish.vram != Mib(0);
    if !is_known {
        let why = format!("how fast {engine} is on which GPU isn't known");
        if with_vram {
            return by_hour(hourly(why), &args, &settings, &markets).await;
        }
        report::note(&format!("{why}, so it can't be planned for; {BY_HOUR}"));
        return Ok(Exit::Done);
    }
    let shape = match find_shape(&settings.job.model).await {
        Ok(shape) => shape,
        Err(error) if with_vram => {
            return by_hour(hourly(describe(&error)), &args, &settings, &markets).await;
        }
        Err(error) => return Err(CommandError::new(Exit::Failed, error).hint(BY_HOUR)),
    };
    let allowed = allowed_weights(&args);
    let measured = measured::read(open_home(home)?.path());
    let job = Job {
        model: &settings.job.model.name,
        shape: &shape,
        work,
        engine,
        allowed: &allowed,
        ceiling: settings.wish.ceiling,
        interruptible: settings.wish.interruptible,
        measured: &measured,
    };
    let goal = Goal {
        rank: args.plan.rank.unwrap_or_default(),
        deadline: settings.deadline.map(|deadline| deadline.as_secs_f64()),
        budget: settings.budget,
        machines: settings.machines,
    };
    let catalog = catalog::ask(&markets, &least(&job), catalog::PATIENCE).await;
    for error in &catalog.failed {
        report::warning(&describe(error));
    }
    let is_wished = |listed: &&Listed| wish::fits(&settings.wish, &listed.offer).is_ok();
    let listed: Vec<_> = catalog.listed.iter().filter(is_wished).cloned().collect();
    let plans = make(&job, &goal, listed, &own).map_err(|error| {
        let other = matches!(error, PlanError::NoOffer { .. })
            .then(|| make(&job, &goal, catalog.listed, &own).ok());
        let unwished = other.flatten().and_then(|other| unwished(&args, &other));
        let hints: Vec<_> = error.hint().into_iter().chain(unwished).collect();
        let refused = refusal(error);
        if hints.is_empty() { refused } else { refused.hint(hints.join(", or ")) }
    })?;
    let plans = Plans { lengths: Some(lengths), ..plans };
    if args.telling.json {
        report::out(&plans.to_json().to_string());
        return Ok(Exit::Done);
    }
    report::out(plans.to_string().trim_end());
    if args.plan.explain {
        report::out(plans.explain().trim_end());
    }
    Ok(Exit::Done)
}

/// Shows what machines of the memory that was asked for cost an hour.
async fn by_hour(
    hourly: Hourly,
    args: &RunArgs,
    settings: &Settings,
    markets: &Markets,
) -> Result<Exit, CommandError> {
    report::warning(&hourly.why);
    let disk = if args.wish.disk.is_none() { DISK } else { settings.wish.disk };
    let wish = Wish { disk, ..settings.wish.clone() };
    let catalog = catalog::ask(markets, &wish.need(), catalog::PATIENCE).await;
    for error in &catalog.failed {
        report::warning(&describe(error));
    }
    let mut offers = catalog.listed;
    offers.retain(|Listed { offer, .. }| {
        wish::fits(&wish, offer).is_ok() && runs(&hourly.engine, offer).is_ok()
    });
    if offers.is_empty() {
        let none = format!("no offer has {} of VRAM or more on a GPU", wish.vram);
        let error = CommandError::new(Exit::NoOffer, none);
        return Err(error.hint("`piecework offers --explain` shows all of them and why not"));
    }
    wish::sort(&mut offers, wish::Order::Price);
    let hourly = Hourly { offers, ..hourly };
    if args.telling.json {
        report::out(&hourly.to_json().to_string());
    } else {
        report::out(hourly.to_string().trim_end());
    }
    Ok(Exit::Done)
}

/// How the weights may be kept: as it was said, or as does no harm to what the model says.
pub(super) fn allowed_weights(args: &RunArgs) -> Vec<Weights> {
    match args.plan.weights.as_slice() {
        [] => vec![Weights::Bf16, Weights::Fp8],
        weights => weights.to_vec(),
    }
}

/// The marketplaces to ask: those that are named, also without a key where they show their offers
/// to anybody; `all` is every one. Where none is named, this computer and those there is a key for.
async fn asked(
    home: Option<&Path>,
    args: &RunArgs,
    settings: &Settings,
) -> Result<Markets, CommandError> {
    let home = open_home(home)?;
    if args.wish.provider.is_empty() && settings.providers == ["local"] {
        return markets(&home).await;
    }
    let all = settings.providers.iter().any(|name| name == "all");
    let named: &[String] = if all { &[] } else { &settings.providers };
    Ok(sellers(&home, named).await?.markets)
}

/// What could do the job if fewer machines were ruled out.
fn unwished(args: &RunArgs, other: &Plans) -> Option<String> {
    let WishArgs { gpu, vram, count, disk, region, trust, .. } = &args.wish;
    let typed = [
        ("--gpu", gpu.is_some()),
        ("--vram", vram.is_some()),
        ("--count", count.is_some()),
        ("--disk", disk.is_some()),
        ("--region", region.is_some()),
        ("--trust", trust.is_some()),
    ];
    let typed: Vec<_> = typed
        .iter()
        .filter(|(_, is_typed)| *is_typed)
        .map(|(flag, _)| format!("`{flag}`"))
        .collect();
    let listed = &other.plans.first()?.parts.first()?.candidate.listed;
    (!typed.is_empty()).then(|| {
        let (machine, market) = (gpus_in_words(listed.offer.gpus.as_ref()), &listed.market);
        format!("leave out {}: {machine} at {market} would do", typed.join(", "))
    })
}

/// What to ask marketplaces for.
fn least(job: &Job<'_>) -> Need {
    let ceiling = job.ceiling;
    let on_gpu = Engine::named(job.engine, false)
        .map(|engine| need(job.shape, engine, job.allowed, &job.work, job.interruptible))
        .unwrap_or_default();
    // A machine without a GPU may do as well.
    let vram = if Engine::named(job.engine, true).is_some() { Mib(0) } else { on_gpu.vram };
    Need { vram, ceiling, ..on_gpu }
}

pub(super) fn refusal(error: PlanError) -> CommandError {
    let exit = match &error {
        PlanError::NoOffer { .. } | PlanError::TooFew { .. } => Exit::NoOffer,
        PlanError::TooLate { .. } | PlanError::TooDear { .. } => Exit::Refused,
    };
    let hint = error.hint();
    let refused = CommandError::new(exit, error);
    match hint {
        Some(hint) => refused.hint(hint),
        None => refused,
    }
}

/// How many prompts there are, and how long they are: as it was typed, or else as the prompts
/// themselves say. `is_measured` where anything will be reckoned with their lengths.
async fn prompts(
    args: &RunArgs,
    settings: &Settings,
    is_measured: bool,
) -> Result<(u64, Lengths), CommandError> {
    let (input, output) = (args.plan.input_tokens, args.plan.output_tokens);
    if let Some(prompts) = args.plan.prompt_count {
        return Ok((prompts, Lengths::given(input, output)));
    }
    let folder = tempfile::tempdir().map_err(|error| CommandError::new(Exit::Failed, error))?;
    let path = folder.path().to_owned();
    let fetched = |number| folder.path().join(format!("{number}.fetched"));
    let spooled = move |number: usize| path.join(number.to_string());
    let is_measured = is_measured && input.is_none();
    let looked = look_through(args, settings, is_measured, fetched, spooled).await?;
    if 0 < looked.survey.bad {
        let bad = words::plural(looked.survey.bad, "bad line");
        report::note(&format!("warning: {bad} left out"));
    }
    let lengths = looked.lengths.or(input, output);
    Ok((looked.survey.prompts - looked.survey.bad, lengths))
}
