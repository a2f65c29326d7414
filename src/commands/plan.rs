//! `provision-and-run --dry-run`: the plan and its price. Rents nothing, and leaves nothing.

use super::{
    CommandError, elsewhere,
    markets::{markets, sellers},
    open_home,
};
use crate::{
    catalog,
    choose::Job,
    cli::RunArgs,
    engines::Engine,
    exit::Exit,
    leases::{Markets, describe},
    measured,
    model::{Weights, find_shape},
    need::{Workload, need},
    plan::{Goal, PlanError, make},
    prompts::{self, Input, Survey},
    report::{self, words},
    settings::Settings,
    wish,
};
use providers::{Mib, Need};
use std::path::Path;
use wire::EngineKind;

/// Bytes of a request's body for a token of its prompt: English text, and some JSON around it.
const BYTES_PER_TOKEN: f64 = 4.0;
/// Tokens of an answer, where nothing says how many there may be.
const ANSWER: f64 = 200.0;

/// Plans.
pub(super) async fn plan(args: RunArgs, home: Option<&Path>) -> Result<Exit, CommandError> {
    let settings = Settings::new(&args)?;
    let work = workload(&args, &settings).await?;
    let markets = asked(home, &args, &settings).await?;
    let engine = match &settings.job.engine {
        EngineKind::Native => "native",
        EngineKind::Server(server) => server.name.as_str(),
        EngineKind::Echo { .. } => {
            let prompts = words::plural(work.prompts, "prompt");
            report::note(&format!("{prompts} for the echo engine, which has no model to plan for"));
            return Ok(Exit::Done);
        }
    };
    if Engine::named(engine, false).is_none() && Engine::named(engine, true).is_none() {
        report::note(&format!(
            "how fast {engine} is on which GPU isn't known, so it can't be planned for"
        ));
        return Ok(Exit::Done);
    }
    let shape = find_shape(&settings.job.model).await;
    let shape = shape.map_err(|error| CommandError::new(Exit::Failed, error))?;
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
    let mut listed = catalog.listed;
    listed.retain(|listed| wish::fits(&settings.wish, &listed.offer).is_ok());
    let plans = make(&job, &goal, listed, &[]).map_err(refusal)?;
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
/// themselves say.
async fn workload(args: &RunArgs, settings: &Settings) -> Result<Workload, CommandError> {
    let (input, output) = (args.plan.input_tokens, args.plan.output_tokens);
    if let Some(prompts) = args.plan.prompt_count {
        let (input, output) = (input.unwrap_or(1_000.0), output.unwrap_or(ANSWER));
        return Ok(Workload { prompts, input, output });
    }
    let survey = look(args, settings).await?;
    if 0 < survey.bad {
        report::note(&format!("warning: {} left out", words::plural(survey.bad, "bad line")));
    }
    let (estimated_input, estimated_output) = lengths(&survey, &settings.job.defaults);
    if input.is_none() || output.is_none() {
        report::note(
            "lengths are estimated: 4 bytes for a token in, and the most that is allowed out; \
             `--input-tokens` and `--output-tokens` say better",
        );
    }
    Ok(Workload {
        prompts: survey.prompts - survey.bad,
        input: input.unwrap_or(estimated_input),
        output: output.unwrap_or(estimated_output),
    })
}

async fn look(args: &RunArgs, settings: &Settings) -> Result<Survey, CommandError> {
    let folder = tempfile::tempdir().map_err(|error| CommandError::new(Exit::Failed, error))?;
    let fetched = |number| folder.path().join(format!("{number}.fetched"));
    let typed = elsewhere::bring(&args.prompts, fetched).await?;
    let spooled = |number: usize| folder.path().join(number.to_string());
    let looked = prompts::gather(&typed, spooled).and_then(|sources| {
        prompts::survey(&Input { sources, options: settings.prompts.clone() }, |_| {})
    });
    looked.map_err(|error| CommandError::new(Exit::Failed, error))
}

/// The most tokens of an answer, where a prompt doesn't say.
fn default_limit(defaults: &str) -> Option<u32> {
    let defaults: serde_json::Value = serde_json::from_str(defaults).ok()?;
    u32::try_from(defaults.get("max_tokens")?.as_u64()?).ok()
}

/// Tokens of a prompt and of an answer, on average, as far as can be told by looking. `defaults` is
/// what holds where a prompt doesn't say.
pub(super) fn lengths(survey: &Survey, defaults: &str) -> (f64, f64) {
    let limit = default_limit(defaults);
    let count = (survey.prompts - survey.bad).max(1) as f64;
    let input = survey.body_bytes as f64 / count / BYTES_PER_TOKEN;
    let most = |sample: &prompts::Sample| sample.max_tokens.or(limit).map_or(ANSWER, f64::from);
    let samples = survey.samples.len().max(1) as f64;
    let output = survey.samples.iter().map(most).sum::<f64>() / samples;
    (input.max(1.0), if survey.samples.is_empty() { ANSWER } else { output })
}
