//! Brings an engine up: gets the model, loads it, and lets it work, on a thread of its own.

use crate::{
    cache,
    echo::Echo,
    engine::{Engine, EngineError, Gauge, Outlet, Prompts},
    fetch, native, server,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};
use tokio::sync::mpsc::{Sender, UnboundedSender, channel, unbounded_channel};
use wire::{Completion, EngineFacts, EngineKind, HubAccess, Job, Phase, Prompt};

/// What an engine says of itself.
#[derive(Debug)]
pub enum News {
    /// What it is at.
    Phase(Phase),
    /// It is up.
    Up(EngineFacts),
    /// It is of no more use, and why.
    Broken(EngineError),
}

/// The near ends of an engine on its thread. Dropping them ends it.
#[derive(Debug)]
pub struct Running {
    /// Takes a prompt as soon as the engine can begin one.
    pub prompts: Sender<Prompt>,
    /// What came of them.
    pub completions: tokio::sync::mpsc::UnboundedReceiver<Completion>,
    /// How it is doing.
    pub news: tokio::sync::mpsc::UnboundedReceiver<News>,
    /// What it has counted.
    pub gauge: Arc<Gauge>,
}

/// How many prompts lie ready for the engine beyond those it is at. They can't be given up.
const READY: usize = 16;

/// Starts bringing up what `job` asks for. Its model's hub is asked with `access`, if there is any.
pub fn bring_up(job: Job, access: Option<HubAccess>) -> Running {
    let (prompts, prompts_end) = channel(READY);
    let (completions_end, completions) = unbounded_channel();
    let (news_end, news) = unbounded_channel();
    let gauge = Arc::new(Gauge::default());
    let outlet = Outlet::new(completions_end, gauge.clone());
    let prompts_end = Prompts::new(prompts_end).gauged(gauge.clone());
    let work = move || {
        let work = || work(&job, access, prompts_end, outlet, &news_end);
        let error = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => EngineError::work("the engine crashed; the worker's log has the details"),
        };
        drop(news_end.send(News::Broken(error)));
    };
    thread::Builder::new()
        .name("engine".to_owned())
        .spawn(work)
        .expect("a thread can be had before anything else runs");
    Running { prompts, completions, news, gauge }
}

fn work(
    job: &Job,
    access: Option<HubAccess>,
    prompts: Prompts,
    outlet: Outlet,
    news: &UnboundedSender<News>,
) -> Result<(), EngineError> {
    // Nobody listening means that the worker is ending.
    let tell = |item| drop(news.send(item));
    let model = || {
        let mut fetching = |source: &str, done, total| {
            tell(News::Phase(Phase::Fetching { source: source.to_owned(), done, total }));
        };
        let mut settings = fetch::Settings::from_environment();
        if let Some(HubAccess { endpoint, token }) = access {
            (settings.endpoint, settings.token) = (endpoint, Some(token));
        }
        fetch::fetch(&settings, &job.model, &cache::folder(), &mut fetching)
            .map_err(|error| EngineError::work(chain(&error)))
    };
    let mut loading = |done, total| tell(News::Phase(Phase::Loading { done, total }));
    let engine: Box<dyn Engine> = match &job.engine {
        EngineKind::Echo { pace } => Box::new(Echo::new(job.model.name.clone(), *pace)),
        EngineKind::Native => {
            // First, and until it is loaded: a machine that is of no use costs no download.
            let _opened = native::open(job)?;
            native::load(&model()?, job, &mut loading)?
        }
        EngineKind::Server(server) => server::start(server, &model()?, job, &mut loading)?,
    };
    tell(News::Up(engine.facts()));
    engine.run(prompts, outlet)
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
