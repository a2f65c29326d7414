//! Runs an engine on prompts and collects what comes out.

use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::mpsc::{channel, unbounded_channel};
use wire::{EngineKind, Form, Job, Limits, Model, Outcome, Precision, Prompt};
use worker::{
    engine::{Engine, Outlet, Prompts},
    native,
};

/// A job without wishes.
pub(crate) fn job() -> Job {
    Job {
        engine: EngineKind::Native,
        model: Model { name: "tested".to_owned(), sources: Vec::new() },
        precision: None,
        limits: Limits::default(),
        seed: 7,
        defaults: String::new(),
    }
}

/// A job in some precision.
pub(crate) fn in_precision(precision: Precision) -> Job {
    Job { precision: Some(precision), ..job() }
}

/// Loads a model that must load.
pub(crate) fn load(path: &Path, job: &Job) -> Box<dyn Engine> {
    native::load(path, job, &mut |_, _| {}).unwrap()
}

/// Answers bodies, all there from the start, and returns what came of each in their order.
pub(crate) fn answer(engine: Box<dyn Engine>, form: Form, bodies: &[Value]) -> Vec<Outcome> {
    let (prompts, receiver) = channel(bodies.len().max(1));
    for (index, body) in (0..).zip(bodies) {
        prompts.try_send(Prompt { index, form, body: body.to_string() }).unwrap();
    }
    drop(prompts);
    let (outlet, mut completions) = unbounded_channel();
    engine.run(Prompts::new(receiver), Outlet::new(outlet, Arc::default())).unwrap();
    let mut outcomes = vec![None; bodies.len()];
    while let Ok(completion) = completions.try_recv() {
        let slot = &mut outcomes[usize::try_from(completion.index).unwrap()];
        assert!(slot.replace(completion.outcome).is_none(), "prompt {} twice", completion.index);
    }
    outcomes.into_iter().map(|outcome| outcome.expect("each prompt ends")).collect()
}

/// The response of a prompt that was answered.
pub(crate) fn response(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Done { body, tokens_in, tokens_out } => {
            assert!(!body.contains('\n'), "a response is one line");
            let body: Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["usage"]["prompt_tokens"], json!(tokens_in));
            assert_eq!(body["usage"]["completion_tokens"], json!(tokens_out));
            body
        }
        Outcome::Failed { failure, reason } => panic!("{failure:?}: {reason}"),
    }
}

/// The one response to one body.
pub(crate) fn respond(engine: Box<dyn Engine>, form: Form, body: &Value) -> Value {
    response(&answer(engine, form, std::slice::from_ref(body))[0])
}

/// The text of a text completion.
pub(crate) fn text(response: &Value) -> &str {
    response["choices"][0]["text"].as_str().unwrap()
}

/// A path from the environment. Without one, says which test is skipped.
pub(crate) fn provided(variable: &str, test: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        skipped(test, &format!("{variable} isn't set"));
    }
    path
}

/// Says which test is skipped, and why.
#[expect(clippy::print_stderr, reason = "a skipped test says so to whoever reads the run")]
pub(crate) fn skipped(test: &str, why: &str) {
    eprintln!("{test}: skipped, {why}");
}

/// A job with some bounds.
pub(crate) fn bounded(batch: u32, kv_bytes: Option<u64>) -> Job {
    Job { limits: Limits { batch: Some(batch), kv_bytes, ..Limits::default() }, ..job() }
}

/// Why a model doesn't load.
pub(crate) fn load_error(path: &Path) -> String {
    match native::load(path, &job(), &mut |_, _| {}) {
        Ok(engine) => panic!("{:?} loads", engine.facts()),
        Err(error) => error.to_string(),
    }
}
