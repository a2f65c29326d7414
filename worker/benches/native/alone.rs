//! One run of the engine in a process of its own, as a worker has it: what it takes of memory, and how
//! fast it comes by it, doesn't depend on what was measured before.

use super::{PRECISIONS, PROMPT_TOKENS, job, name, peak_megabytes, processor_seconds};
use serde::{Deserialize, Serialize};
use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};
use tokio::sync::mpsc::{channel, unbounded_channel};
use wire::{Form, Outcome, Precision, Prompt};
use worker::{
    engine::{Outlet, Prompts},
    native,
};

/// The variable that tells such a process what to do.
pub(super) const WHAT: &str = "PIECEWORK_BENCH_ALONE";

/// What to do.
#[derive(Serialize, Deserialize)]
struct What {
    model: PathBuf,
    precision: String,
    batch: u32,
    prompts: u32,
    answer: u32,
}

/// What a run took.
#[derive(Serialize, Deserialize)]
pub(super) struct Ran {
    pub(super) seconds: f64,
    pub(super) processor: f64,
    pub(super) tokens_in: f64,
    pub(super) tokens_out: f64,
    /// Loading included.
    pub(super) peak_megabytes: f64,
}

/// Answers prompts in a process of its own.
pub(super) fn run(
    model: &Path,
    precision: Option<Precision>,
    batch: u32,
    prompts: u32,
    answer: u32,
) -> Ran {
    let precision = name(precision).to_owned();
    let what = What { model: model.to_owned(), precision, batch, prompts, answer };
    let done = Command::new(env::current_exe().unwrap())
        .env(WHAT, serde_json::to_string(&what).unwrap())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(done.status.success(), "the process that measures ends well");
    serde_json::from_slice(&done.stdout).unwrap()
}

/// Does, in such a process, what it was told.
pub(super) fn answer(what: &str) {
    let What { model, precision, batch, prompts, answer } = serde_json::from_str(what).unwrap();
    let precision = PRECISIONS.into_iter().find(|one| name(*one) == precision).unwrap();
    let engine = native::load(&model, &job(precision, batch), &mut |_, _| {}).unwrap();
    let (sender, receiver) = channel(prompts as usize);
    for index in 0..prompts {
        let tokens: Vec<u32> =
            (0..PROMPT_TOKENS).map(|at| 300 + (index * 7919 + at * 104_729) % 200).collect();
        let body = format!(
            r#"{{"prompt":{tokens:?},"max_tokens":{answer},"temperature":0,"ignore_eos":true}}"#
        );
        sender.try_send(Prompt { index: index.into(), form: Form::Text, body }).unwrap();
    }
    drop(sender);
    let (outlet, mut completions) = unbounded_channel();
    let (start, before) = (Instant::now(), processor_seconds());
    engine.run(Prompts::new(receiver), Outlet::new(outlet, Arc::default())).unwrap();
    let mut ran = Ran {
        seconds: start.elapsed().as_secs_f64(),
        processor: processor_seconds() - before,
        tokens_in: 0.0,
        tokens_out: 0.0,
        peak_megabytes: peak_megabytes("self").unwrap(),
    };
    while let Ok(completion) = completions.try_recv() {
        match completion.outcome {
            Outcome::Done { tokens_in, tokens_out, .. } => {
                ran.tokens_in += f64::from(tokens_in);
                ran.tokens_out += f64::from(tokens_out);
            }
            Outcome::Failed { reason, .. } => panic!("{reason}"),
        }
    }
    println!("{}", serde_json::to_string(&ran).unwrap());
}
