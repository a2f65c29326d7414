//! Running ahead changes no answer.

mod late;

use self::late::Late;
use super::{setup::Loaded, small_model::SmallModel};
use crate::engine::{Engine, Gauge, Outlet, Prompts};
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};
use tempfile::TempDir;
use tokio::sync::mpsc::{channel, unbounded_channel};
use wire::{Device, EngineKind, Form, Job, Limits, Outcome, Precision, Prompt};

/// Answers so many prompts at once.
pub(super) fn job(batch: u32, device: Option<Device>) -> Job {
    Job {
        engine: EngineKind::Native,
        model: wire::Model { name: "tested".to_owned(), sources: Vec::new() },
        precision: Some(Precision::F16),
        limits: Limits { batch: Some(batch), device, ..Limits::default() },
        seed: 7,
        defaults: String::new(),
    }
}

/// A token whose prompts can't be computed.
const BROKEN: usize = 255;

/// A small model that computes no numbers where [`BROKEN`] is, and never chooses that.
pub(super) fn model() -> TempDir {
    let mut model = SmallModel::new("llama", json!({"tie_word_embeddings": false}));
    let width = model.size("hidden_size");
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let (_, values) = model.tensors.get_mut(name).unwrap();
        values[BROKEN * width..][..width].fill(f32::NAN);
    }
    let folder = tempfile::tempdir().unwrap();
    model.write(folder.path(), 1);
    folder
}

/// Prompts whose tokens are chosen by the executor, the last without any; with `more`, some whose tokens are
/// chosen by the host, too.
pub(super) fn bodies(more: bool) -> Vec<Value> {
    let mut ways = vec![
        json!({"temperature": 0}),
        json!({"temperature": 1, "top_p": 0.8, "max_tokens": 1}),
        json!({"temperature": 1, "stop_token_ids": (0..40).collect::<Vec<_>>()}),
        json!({"temperature": 0.7, "top_k": 5, "n": 2}),
        json!({"temperature": 1.2, "seed": 3, "min_p": 0.1, "max_tokens": 40}),
        json!({"temperature": 1, "stop": ["a", "b", "c", "x"], "max_tokens": 30}),
        json!({"temperature": 1, "frequency_penalty": 0.5, "presence_penalty": 0.25}),
        json!({"temperature": 0, "repetition_penalty": 1.3, "max_tokens": 40}),
        json!({"temperature": 0.8, "repetition_penalty": 0.6, "frequency_penalty": -0.7, "n": 2,
            "logit_bias": {"5": 4, "9": -100, "40": 3.5, "100000": 1}}),
    ];
    if more {
        ways.extend([
            json!({"temperature": 0, "logprobs": 3}),
            json!({"temperature": 1, "frequency_penalty": 0.5, "logprobs": 1}),
            json!({"temperature": 0, "ignore_eos": false, "min_tokens": 5}),
        ]);
    }
    let body = |(at, way): (usize, &Value)| {
        let tokens: Vec<usize> = (0..20 + at * 5).map(|token| (token * 31 + at) % BROKEN).collect();
        let mut body = json!({"prompt": tokens, "max_tokens": 12, "ignore_eos": true});
        body.as_object_mut().unwrap().extend(way.as_object().unwrap().clone());
        body
    };
    let broken = json!({"prompt": [1, 2, BROKEN], "n": 2});
    ways.iter().chain(&ways).enumerate().map(body).chain([broken]).collect()
}

/// What bodies yield, whenever that was, and the tokens that were counted. The last one fails.
pub(super) fn answers(engine: Loaded, bodies: &[Value]) -> (Vec<Value>, [u64; 2]) {
    let (sender, receiver) = channel(bodies.len());
    for (index, body) in (0..).zip(bodies) {
        sender.try_send(Prompt { index, form: Form::Text, body: body.to_string() }).unwrap();
    }
    drop(sender);
    let ((outlet, mut completions), gauge) = (unbounded_channel(), Arc::default());
    let outlet = Outlet::new(outlet, Arc::clone(&gauge));
    Box::new(engine).run(Prompts::new(receiver), outlet).unwrap();
    let mut all = Vec::new();
    while let Ok(completion) = completions.try_recv() {
        let mut body: Value = match completion.outcome {
            Outcome::Done { body, .. } => serde_json::from_str(&body).unwrap(),
            Outcome::Failed { reason, .. } => json!({"reason": reason}),
        };
        body["created"].take();
        all.push((completion.index, body));
    }
    all.sort_by_key(|(index, _)| *index);
    assert_eq!(all.len(), bodies.len());
    for (at, (_, body)) in all.iter().enumerate() {
        assert_eq!(body["reason"].is_string(), at + 1 == all.len(), "{body}");
    }
    let counted = [&gauge.tokens_in, &gauge.tokens_out].map(|count| count.load(Relaxed));
    (all.into_iter().map(|(_, body)| body).collect(), counted)
}

/// The same with so few blocks that sequences must give theirs up and begin again.
pub(super) fn tight(mut engine: Loaded) -> Loaded {
    (engine.native.blocks, engine.native.context) = (8, 8 * super::kv_cache::BLOCK);
    engine
}

#[test]
fn who_learns_tokens_a_step_late_answers_alike() {
    let folder = model();
    let load = |batch| {
        let open = &super::cuda::open;
        Loaded::load(folder.path(), &job(batch, None), open, &mut |_, _| {}).unwrap()
    };
    for bodies in [bodies(false), bodies(true)] {
        let wanted = answers(load(1), &bodies);
        assert_eq!(answers(load(6), &bodies), wanted);
        let squeeze: [fn(Loaded) -> Loaded; 2] = [|engine| engine, tight];
        for (batch, squeeze) in [(1, squeeze[0]), (6, squeeze[0]), (6, squeeze[1])] {
            let mut engine = squeeze(load(batch));
            let ahead = Arc::<AtomicUsize>::default();
            engine.executor = Box::new(Late::new(engine.executor, Arc::clone(&ahead)));
            engine.native.ahead = true;
            assert_eq!(answers(engine, &bodies), wanted, "batch {batch}");
            assert!(100 < ahead.load(Relaxed), "batch {batch}: {ahead:?}");
        }
    }
}

#[test]
fn while_a_device_is_at_a_step_the_worker_can_see_it() {
    let folder = model();
    let open = &super::cuda::open;
    let mut engine = Loaded::load(folder.path(), &job(2, None), open, &mut |_, _| {}).unwrap();
    let (gauge, ahead) = (Arc::<Gauge>::default(), Arc::default());
    let mut late = Late::new(engine.executor, ahead);
    late.gauge = Some(Arc::clone(&gauge));
    (engine.executor, engine.native.ahead) = (Box::new(late), true);
    let bodies = bodies(true);
    let (sender, receiver) = channel(bodies.len());
    for (index, body) in (0..).zip(&bodies) {
        sender.try_send(Prompt { index, form: Form::Text, body: body.to_string() }).unwrap();
    }
    drop(sender);
    let (outlet, mut completions) = unbounded_channel();
    let outlet = Outlet::new(outlet, Arc::clone(&gauge));
    Box::new(engine).run(Prompts::new(receiver), outlet).unwrap();
    assert!(completions.try_recv().is_ok());
    assert_eq!(gauge.waiting_since(), None, "it is at nothing any more");
}
