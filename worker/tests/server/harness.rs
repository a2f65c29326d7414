//! A worker that drives a server, and what comes of prompts given to it.

use crate::support::{Controller, Home};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tokio::time::{Instant, sleep};
use wire::{
    EngineFacts, EngineKind, Failure, Fault, Form, Job, Limits, Model, Outcome, Prompt, Server,
    Source, ToController, ToWorker,
};

/// A worker with a server. Both end with it.
pub(crate) struct Bench {
    pub(crate) home: Home,
    pub(crate) controller: Controller,
    _model: tempfile::TempDir,
}

/// What became of prompts, by index.
pub(crate) type Outcomes = BTreeMap<u64, Outcome>;

impl Bench {
    /// Starts a worker for a server and a model that it doesn't look at.
    pub(crate) async fn new(server: Server) -> Self {
        Self::small(Home::new(), server).await
    }

    /// The same, where the worker finds programs in a folder before all others.
    pub(crate) async fn with_tools(server: Server, tools: &Path) -> Self {
        Self::small(Home::finding(Some(tools)), server).await
    }

    async fn small(home: Home, server: Server) -> Self {
        let model = tempfile::tempdir().expect("a folder");
        let config = r#"{"max_position_embeddings": 100}"#;
        fs::write(model.path().join("config.json"), config).expect("it is written");
        fs::write(model.path().join("chat_template.jinja"), "").expect("it is written");
        let path = model.path().to_owned();
        Self::with_model(home, server, &path, Limits::default(), model).await
    }

    /// Starts a worker for a server with this model.
    pub(crate) async fn with_model(
        home: Home,
        server: Server,
        path: &Path,
        limits: Limits,
        keep: tempfile::TempDir,
    ) -> Self {
        let (mut controller, _) = Controller::greet(&home, 1).await;
        let source = Source::Path(path.to_string_lossy().into_owned());
        let job = Job {
            engine: EngineKind::Server(Box::new(server)),
            model: Model { name: "tested".to_owned(), sources: vec![source] },
            precision: None,
            limits,
            seed: 7,
            defaults: r#"{"temperature":0.5}"#.to_owned(),
        };
        controller.say(ToWorker::Work { job, access: None }).await;
        Self { home, controller, _model: keep }
    }

    /// Waits until the engine is up; what it is, or why it isn't.
    pub(crate) async fn ready(&mut self) -> Result<EngineFacts, String> {
        loop {
            let heard = self.controller.hear().await.expect("it goes on");
            if let ToController::Ready(facts) = heard {
                return Ok(facts);
            }
            if let ToController::Broken { reason, .. } = heard {
                return Err(reason);
            }
        }
    }

    /// Gives it prompts, numbered from 0.
    pub(crate) async fn ask(&mut self, texts: &[String]) {
        self.ask_from(0, texts).await;
    }

    /// Gives it prompts, numbered from `first`.
    pub(crate) async fn ask_from(&mut self, first: u64, texts: &[String]) {
        let prompt = |(index, text): (u64, &String)| Prompt {
            index,
            form: Form::Auto,
            body: json!({"prompt": text}).to_string(),
        };
        let prompts = (first..).zip(texts).map(prompt).collect();
        self.controller.say(ToWorker::Prompts(prompts)).await;
    }

    /// Waits until some have ended.
    pub(crate) async fn some_outcomes(&mut self) -> Outcomes {
        loop {
            let heard = self.controller.hear().await.expect("it goes on");
            if let ToController::Completions { completions, .. } = heard {
                return completions.into_iter().map(|one| (one.index, one.outcome)).collect();
            }
            if let ToController::Broken { reason, .. } = heard {
                panic!("the engine broke: {reason}");
            }
        }
    }

    /// Waits until so many have ended. `at` is told how many, whenever more have.
    pub(crate) async fn outcomes(&mut self, count: usize, mut at: impl FnMut(usize)) -> Outcomes {
        let mut outcomes = Outcomes::new();
        while outcomes.len() < count {
            for (index, outcome) in self.some_outcomes().await {
                let before = outcomes.insert(index, outcome);
                assert_eq!(before, None, "{index} twice");
            }
            at(outcomes.len());
        }
        outcomes
    }

    /// Waits until the engine breaks, and tells whose fault it is and why.
    pub(crate) async fn broken(&mut self) -> (Fault, String) {
        loop {
            if let Some(ToController::Broken { fault, reason }) = self.controller.hear().await {
                return (fault, reason);
            }
        }
    }

    /// Gives it prompts and waits until all have ended.
    pub(crate) async fn answer(&mut self, texts: &[String]) -> Outcomes {
        self.ask(texts).await;
        self.outcomes(texts.len(), |_| {}).await
    }

    /// What is noted on its servers.
    pub(crate) fn notes(&self) -> String {
        fs::read_to_string(self.home.path().join("servers.log")).unwrap_or_default()
    }
}

/// The body of an answer.
pub(crate) fn body(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Done { body, .. } => serde_json::from_str(body).expect("it is JSON"),
        Outcome::Failed { reason, .. } => panic!("it failed: {reason}"),
    }
}

/// Why a prompt can't be answered.
pub(crate) fn failure(outcome: &Outcome) -> (Failure, &str) {
    match outcome {
        Outcome::Done { body, .. } => panic!("it was answered: {body}"),
        Outcome::Failed { failure, reason } => (*failure, reason),
    }
}

/// So many prompts that nothing is wrong with.
pub(crate) fn good(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("good prompt {index}")).collect()
}

/// A file in which stand-ins note their starts.
pub(crate) struct Starts {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

/// A start of a stand-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) process: u32,
    pub(crate) parallel: u32,
    pub(crate) devices: String,
}

impl Starts {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("starts");
        Self { _folder: folder, path }
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().expect("a plain path")
    }

    /// All starts so far.
    pub(crate) fn all(&self) -> Vec<Start> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let start = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().expect("there are three").to_owned();
            let (process, parallel) = (word(), word());
            Start {
                process: process.parse().expect("a number"),
                parallel: parallel.parse().expect("a number"),
                devices: word(),
            }
        };
        text.lines().map(start).collect()
    }

    /// Sends a signal to the one that was started last.
    pub(crate) fn signal(&self, signal: &str) {
        let last = self.all().pop().expect("one was started");
        send_signal(last.process, signal);
    }
}

/// Sends a signal to a process.
pub(crate) fn send_signal(process: u32, signal: &str) {
    let sent = Command::new("kill").args([signal, &process.to_string()]).status();
    assert!(sent.expect("kill runs").success(), "{process} is there");
}

/// Waits until a process has ended.
pub(crate) async fn gone(process: u32) {
    let begin = Instant::now();
    while runs(process) {
        assert!(begin.elapsed() < Duration::from_secs(20), "{process} still runs");
        sleep(Duration::from_millis(10)).await;
    }
}

fn runs(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // A zombie has ended; whoever should reap it may take its time.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
