//! A run: rent, work, and give back whatever happened in between.
//!
//! [`run`] is the bracket: it releases what it rented on every path out. [`runner`] is what
//! happens in between, [`state`] and [`stop`] say where it stands and how far it was told to stop,
//! [`folder`] is what outlives it, and [`guard`] the process that settles it should the program die.

mod exchange;
mod folder;
mod guard;
mod limit;
mod lookout;
mod meter;
mod owner;
mod pace;
mod purse;
mod runner;
mod slot;
mod state;
mod stop;
mod supply;
mod why;

pub use exchange::{EXCHANGES, Exchange, worth};
pub use folder::{Estimate, FolderError, Home, NewPlan, Plan, RunFolder};
pub use guard::{GRACE, stand};
pub use limit::Limit;
pub use purse::{spent_by, traffic, worst};
pub use runner::{LEASE_LIMIT, LEASE_MARGIN};
pub use state::{Facts, RunState};
pub use stop::{Ladder, Stop};
pub use why::{NoOffer, Why};

use crate::{
    cost::Measurement,
    event::{Event, Events, Summary},
    label::Owner,
    leases::{Leases, Markets, describe},
    ledger::{Ledger, LedgerError},
    objects::{ObjectError, Place, is_object},
    prompts::{PromptsError, Survey, spawn_reader, survey as look_through},
    remote::{Pins, RunKey},
    shards::{
        Ordered, Out, ResultsError, Resumed, RunFiles, Sink, check_writable, finished, order,
        reopen,
    },
    template,
};
use futures_util::FutureExt;
use guard::Guard;
use providers::{Label, crash};
use runner::{Runner, Tools, Worked};
use std::{
    io::{self, Write},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};
use wire::HubAccess;

/// Why a run could not be begun, or not be ended well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The ledger can't be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The prompts can't be read.
    #[error(transparent)]
    Prompts(#[from] PromptsError),
    /// The results can't be kept.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// Nobody would give back what it rents, should it die.
    #[error("the guard of the run in `{}` can't be started, and without it nothing is rented", folder.display())]
    Guard {
        /// The run's folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The run's own files can't be used.
    #[error("the run's files in `{}` can't be used", folder.display())]
    Files {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How a session of a run ended. The halves are told apart, since one can succeed and the other
/// fail.
#[derive(Debug)]
pub struct Outcome {
    /// What became of the work.
    pub summary: Summary,
    /// Why the work ended before its end, where it did.
    pub why: Option<Why>,
    /// Labels of what may still be billed. Not empty is the worst of endings.
    pub owed: Vec<Label>,
    /// How fast its machines were, for later plans.
    pub measured: Vec<Measurement>,
}

/// What a run works with.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Where it keeps what must outlive it.
    pub folder: RunFolder,
    /// What it was asked to do.
    pub plan: Plan,
    /// Whose instances its are.
    pub owner: Owner,
    /// Where it may rent.
    pub markets: Markets,
    /// This program's binary, to start the guard with.
    pub program: PathBuf,
    /// The worker's binary.
    pub worker: PathBuf,
    /// Whether prompts that failed in an earlier session are tried again.
    pub retry_failed: bool,
    /// What is in the prompts, if they were just looked through.
    pub survey: Option<Survey>,
    /// How patient the watchdogs of its machines are.
    pub patience: template::Patience,
    /// Speeds of earlier runs.
    pub measured: Vec<Measurement>,
    /// What its machines show to the hub that has the model.
    pub access: Option<HubAccess>,
}

/// Runs a plan, or goes on with one. Everything rented in here is released in here.
pub async fn run(setting: Setting, events: Events, ladder: Ladder) -> Result<Outcome, RunError> {
    let begun = Instant::now();
    let (folder, plan) = (&setting.folder, &setting.plan);
    // Taken first: nobody else may touch the run's files from here on.
    let ledger = Ledger::open(&folder.ledger(), &plan.run)?;
    let generation = ledger.books().generation();
    let files = folder.files(plan);
    if setting.retry_failed {
        reopen(&files, out_path(&setting).as_deref())?;
        forget_sent(folder);
    }
    let over = finished(&files).is_some();
    // Before anything is rented, and also before what an earlier session rented is touched.
    let guard = if over { None } else { Some(post_guard(&setting).await?) };
    let mut leases = Leases::new(setting.markets.clone(), ledger, events.clone());
    let worked = if over {
        Ok(Worked::nothing(plan.prompts))
    } else {
        let stage =
            Stage { setting: &setting, generation, guard, events: &events, ladder: &ladder, begun };
        // A panic must not skip what follows.
        let worked = AssertUnwindSafe(work(stage, &mut leases)).catch_unwind().await;
        if worked.is_err() {
            leases = take_up_again(leases, &setting, &events)?;
        }
        worked.unwrap_or_else(|_| Ok(Worked::crashed()))
    };
    let settled = AssertUnwindSafe(settle(&mut leases, folder, &events, &ladder));
    if settled.catch_unwind().await.is_err() {
        leases = take_up_again(leases, &setting, &events)?;
        settle(&mut leases, folder, &events, &ladder).await;
    }
    let Worked { tally, mut why, measured } = worked?;
    let owed: Vec<Label> = leases.books().owed().map(|(label, _)| label.clone()).collect();
    let mut summary = Summary {
        run: plan.run.clone(),
        complete: false,
        done: tally.done,
        failed: tally.failed,
        total: plan.prompts,
        tokens_in: tally.tokens_in,
        tokens_out: tally.tokens_out,
        seconds: 0.0,
        seconds_to_first: tally.first.map(|at| at.duration_since(begun).as_secs_f64()),
        tokens_per_second: tally.tokens_per_second(),
        cost: leases.books().cost(leases.now()),
        completions: None,
        errors: None,
        owed: owed.clone(),
    };
    if tally.done + tally.failed == plan.prompts {
        events.send(Event::Ordering);
        // Somebody who has said stop before means the work, which is over.
        let enough = ladder.level().max(Stop::Drain).harder();
        let ordered = tokio::select! {
            ordered = put_in_order(&setting, files) => Some(ordered),
            // It may be left anywhere, and is done again by `resume`.
            () = ladder.at_least(enough) => None,
        };
        match ordered {
            Some(Ok(ordered)) => {
                let sent = tokio::select! {
                    sent = send(&setting, &ordered, &events) => sent.map_err(Why::Object),
                    () = ladder.at_least(enough) => Err(Why::Stopped("stopped".to_owned())),
                };
                summary.complete = true;
                (summary.done, summary.failed) = (ordered.completed, ordered.failed);
                (summary.tokens_in, summary.tokens_out) = (ordered.tokens_in, ordered.tokens_out);
                (summary.completions, summary.errors) = shown(&setting, sent.is_ok());
                summary.errors = summary.errors.filter(|_| 0 < ordered.failed);
                // A run that came to its end all the same was not stopped.
                why = sent.err().or(why.filter(|why| !why.is_stop()));
            }
            Some(Err(error)) => why = Some(Why::Results(error)),
            None => why = Some(Why::Stopped("stopped".to_owned())),
        }
    }
    summary.seconds = begun.elapsed().as_secs_f64();
    events.send(Event::Finished(summary.clone()));
    Ok(Outcome { summary, why, owed, measured })
}

/// Gives back what earlier sessions of a run have rented, and doesn't go on with it. What is still owed
/// after that.
pub async fn give_back(
    setting: &Setting,
    events: Events,
    ladder: Ladder,
) -> Result<Vec<Label>, RunError> {
    let ledger = Ledger::open(&setting.folder.ledger(), &setting.plan.run)?;
    let mut leases = Leases::new(setting.markets.clone(), ledger, events.clone());
    settle(&mut leases, &setting.folder, &events, &ladder).await;
    Ok(leases.books().owed().map(|(label, _)| label.clone()).collect())
}

/// The same leases by what the ledger on disk says. After a panic what is in memory may be half of a
/// change.
fn take_up_again(leases: Leases, setting: &Setting, events: &Events) -> Result<Leases, RunError> {
    // Nobody can have a ledger twice.
    drop(leases);
    let ledger = Ledger::open(&setting.folder.ledger(), &setting.plan.run)?;
    Ok(Leases::new(setting.markets.clone(), ledger, events.clone()))
}

async fn post_guard(setting: &Setting) -> Result<Guard, RunError> {
    let folder = setting.folder.path().to_owned();
    let posted = Guard::post(&setting.program, &setting.folder).await;
    posted.map_err(|source| RunError::Guard { folder, source })
}

/// What a session's work needs beside leases.
struct Stage<'a> {
    setting: &'a Setting,
    generation: u64,
    guard: Option<Guard>,
    events: &'a Events,
    ladder: &'a Ladder,
    begun: Instant,
}

async fn work(stage: Stage<'_>, leases: &mut Leases) -> Result<Worked, RunError> {
    let Stage { setting, generation, guard, events, ladder, begun } = stage;
    let plan = &setting.plan;
    let opened = tokio::select! {
        opened = open(setting) => opened?,
        // Nothing is begun yet that could be finished first.
        () = ladder.at_least(Stop::Drain) => return Ok(Worked::stopped()),
    };
    let Opened { survey, sink, resumed, key, pins } = opened;
    let done = resumed.done();
    events.send(Event::RunStarted {
        run: plan.run.clone(),
        folder: setting.folder.path().to_owned(),
        model: plan.job.model.name.clone(),
        engine: engine_of(&plan.job).to_owned(),
        prompts: plan.prompts,
        already: done.count(),
    });
    let (events, ladder) = (events.clone(), ladder.clone());
    let tools = Tools { setting, generation, guard, key, pins, events, ladder, begun };
    let reader = spawn_reader(&plan.input, &survey, done)?;
    Ok(Runner::new(tools, leases, sink, &resumed, reader).work().await)
}

/// What has to be in order before anything is rented.
struct Opened {
    survey: Survey,
    sink: Sink,
    resumed: Resumed,
    key: RunKey,
    pins: Arc<Pins>,
}

async fn open(setting: &Setting) -> Result<Opened, RunError> {
    let (folder, plan) = (setting.folder.clone(), setting.plan.clone());
    let (retry_failed, survey) = (setting.retry_failed, setting.survey.clone());
    let out = out_path(setting);
    let opening = tokio::task::spawn_blocking(move || {
        let files = folder.files(&plan);
        let own = |source| RunError::Files { folder: folder.path().to_owned(), source };
        if let Some(out) = out {
            check_writable(&files, &out)?;
        }
        let survey = survey.map_or_else(|| look_through(&plan.input, |_| {}), Ok)?;
        survey.check_unchanged(&plan.input, &plan.fingerprint)?;
        let (sink, resumed) = Sink::open(&files, retry_failed)?;
        let key = RunKey::open(&folder.key()).map_err(own)?;
        let pins = Arc::new(Pins::open(&folder.hosts()).map_err(own)?);
        Ok(Opened { survey, sink, resumed, key, pins })
    });
    opening.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Gives everything back, unless it is told to leave.
async fn settle(leases: &mut Leases, folder: &RunFolder, events: &Events, ladder: &Ladder) {
    let instances = leases.books().owed().count();
    if leases.books().leases().next().is_none() {
        return;
    }
    if instances != 0 {
        events.send(Event::Settling { instances: u32::try_from(instances).unwrap_or(u32::MAX) });
    }
    let over = async {
        crash::point("settle: it begins");
        // What fails here is still owed, and said so by whoever called.
        drop(leases.settle().await);
        crash::point("settle: all is given back");
        if let Err(reason) = sweep(leases, folder).await {
            events.send(Event::LeftBehind { reason });
        }
    };
    tokio::select! {
        () = over => {}
        () = ladder.at_least(Stop::Leave) => {}
    }
}

/// Takes off the accounts what the run's instances have left there, once they are gone.
pub async fn sweep(leases: &Leases, folder: &RunFolder) -> Result<(), String> {
    let key = RunKey::open(&folder.key()).map_err(|error| error.to_string())?;
    leases.sweep(&key.public_line()).await.map_err(|error| describe(&error))
}

async fn put_in_order(setting: &Setting, files: RunFiles) -> Result<Ordered, ResultsError> {
    let (out, errors) = (out_path(setting), errors_path(setting));
    let format = setting.plan.out_format;
    let ordering = tokio::task::spawn_blocking(move || {
        if let Some(path) = out {
            return order(&files, Out::File(&path), format, &errors);
        }
        let mut stdout = io::stdout();
        let ordered = order(&files, Out::Stream(&mut stdout), format, &errors)?;
        // Whoever has stopped reading doesn't want the rest.
        drop(stdout.flush());
        Ok(ordered)
    });
    ordering.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Sends what is in order to where it was meant for, if that is elsewhere. Done again, it goes on.
async fn send(setting: &Setting, ordered: &Ordered, events: &Events) -> Result<(), ObjectError> {
    let Some(url) = elsewhere(setting) else { return Ok(()) };
    let (completions, errors) = setting.folder.sent();
    let from = setting.folder.completions(setting.plan.out_format);
    let tell = |done, total| events.send(Event::Sending { to: url.to_owned(), done, total });
    Place::new(url)?.send(&from, &completions, tell).await?;
    if 0 < ordered.failed {
        let url = errors_beside(Path::new(url)).display().to_string();
        Place::new(&url)?.send(&setting.folder.errors(), &errors, |_, _| {}).await?;
    }
    Ok(())
}

/// What was sent is sent again, as it is to change.
fn forget_sent(folder: &RunFolder) {
    let (completions, errors) = folder.sent();
    for note in [completions, errors] {
        // One that can't be removed names a file of another size, unless nothing has changed.
        drop(std::fs::remove_file(note));
    }
}

/// Where the completions and the errors are in the end.
fn shown(setting: &Setting, sent: bool) -> (Option<PathBuf>, Option<PathBuf>) {
    match elsewhere(setting).filter(|_| sent).map(Path::new) {
        Some(url) => (Some(url.to_owned()), Some(errors_beside(url))),
        None => (out_path(setting), Some(errors_path(setting))),
    }
}

/// The object that the completions are meant for, if they are.
fn elsewhere(setting: &Setting) -> Option<&str> {
    object_of(&setting.plan)
}

fn object_of(plan: &Plan) -> Option<&str> {
    plan.out.as_deref()?.to_str().filter(|text| is_object(text))
}

/// Where the completions are put in order. None is standard output.
fn out_path(setting: &Setting) -> Option<PathBuf> {
    match &setting.plan.out {
        None => Some(setting.folder.completions(setting.plan.out_format)),
        Some(_) if elsewhere(setting).is_some() => {
            Some(setting.folder.completions(setting.plan.out_format))
        }
        Some(path) if path == Path::new("-") => None,
        Some(path) => Some(path.clone()),
    }
}

fn errors_path(setting: &Setting) -> PathBuf {
    errors_of(&setting.folder, &setting.plan)
}

/// Where the errors of a run go: beside its completions, where those are a file of this computer.
pub fn errors_of(folder: &RunFolder, plan: &Plan) -> PathBuf {
    match &plan.out {
        Some(path) if path != Path::new("-") && object_of(plan).is_none() => errors_beside(path),
        Some(_) | None => folder.errors(),
    }
}

/// Where the errors of completions in this file go: `out.jsonl` has `out.errors.jsonl`, and so has
/// `out.csv.gz`.
pub fn errors_beside(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let plain = [".gz", ".zst"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    let ends = [".jsonl", ".csv", ".parquet"];
    let stem = ends.iter().find_map(|end| plain.strip_suffix(end)).unwrap_or(plain);
    out.with_file_name(format!("{stem}.errors.jsonl"))
}

/// The name of a job's engine.
pub fn engine_of(job: &wire::Job) -> &str {
    match &job.engine {
        wire::EngineKind::Native if job.limits.device == Some(wire::Device::Cuda) => "native-cuda",
        wire::EngineKind::Native => "native",
        wire::EngineKind::Echo { .. } => "echo",
        wire::EngineKind::Server(server) => &server.name,
    }
}
