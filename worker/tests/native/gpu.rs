//! Jobs that ask for a GPU: answered where there is one, and told plainly where there is none.

use crate::{
    harness::{answer, job, load, respond, response, skipped, text},
    small_model::SmallModel,
};
use serde_json::{Value, json};
use std::path::Path;
use wire::{Device, Fault, Form, Job, Limits, Model, Precision, Source};
use worker::{
    bring_up::{News, bring_up},
    engine::Engine,
    native,
};

fn on_gpu(batch: u32) -> Job {
    let limits = Limits { batch: Some(batch), device: Some(Device::Cuda), ..Limits::default() };
    Job { precision: Some(Precision::F16), limits, ..job() }
}

/// An engine on the machine's GPU. Without one, says which test is skipped.
fn opened(path: &Path, batch: u32, test: &str) -> Option<Box<dyn Engine>> {
    match native::load(path, &on_gpu(batch), &mut |_, _| {}) {
        Ok(engine) => Some(engine),
        Err(error) => {
            let error = error.to_string();
            // Anything else is a fault where there is one.
            let is_absent =
                ["no NVIDIA driver", "NO_DEVICE"].iter().any(|said| error.contains(said));
            assert!(is_absent, "{error}");
            skipped(test, &error);
            None
        }
    }
}

fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    SmallModel::new("llama", json!({})).write(folder.path(), 1);
    folder
}

fn bodies(count: usize) -> Vec<Value> {
    let body = |at: usize| {
        let tokens: Vec<usize> = (0..10 + at * 7 % 150).map(|i| (i * 31 + at * 17) % 256).collect();
        json!({"prompt": tokens, "max_tokens": 20, "temperature": at % 2, "ignore_eos": true})
    };
    (0..count).map(body).collect()
}

#[test]
fn without_a_gpu_a_job_that_asks_for_one_is_told_so_and_not_computed_elsewhere() {
    let folder = model();
    match native::load(folder.path(), &on_gpu(1), &mut |_, _| {}) {
        Ok(engine) => skipped(
            "without_a_gpu_a_job_that_asks_for_one_is_told_so_and_not_computed_elsewhere",
            &format!("there is one: {}", engine.facts().name),
        ),
        Err(error) => {
            assert_eq!(error.fault, Fault::Machine, "{error}");
            let error = error.to_string();
            let said = ["NVIDIA driver", "GPU", "CUDA"].iter().any(|word| error.contains(word));
            assert!(said && error.contains("take a"), "{error}");
        }
    }
}

#[test]
fn a_machine_without_a_gpu_is_found_out_before_a_model_is_fetched_for_it() {
    let test = "a_machine_without_a_gpu_is_found_out_before_a_model_is_fetched_for_it";
    if native::open(&on_gpu(1)).is_ok() {
        return skipped(test, "there is one");
    }
    let nowhere = Source::Path("/nowhere/at/all".to_owned());
    let model = Model { name: "tested".to_owned(), sources: vec![nowhere] };
    let broken = |device| {
        let job = Job { model: model.clone(), ..on_gpu(1) };
        let limits = Limits { device, ..job.limits.clone() };
        let mut running = bring_up(Job { limits, ..job }, None);
        loop {
            match running.news.blocking_recv().expect("it says how it ends") {
                News::Broken(error) => return error,
                News::Phase(_) => {}
                News::Up(facts) => panic!("{facts:?}"),
            }
        }
    };
    let error = broken(Some(Device::Cuda));
    assert_eq!(error.fault, Fault::Machine, "{error}");
    let error = broken(None);
    assert!(error.fault == Fault::Work && error.reason.contains("/nowhere"), "{error}");
}

#[test]
fn f32_on_a_gpu_is_refused_before_anything_is_opened() {
    let folder = model();
    let job = Job { precision: Some(Precision::F32), ..on_gpu(1) };
    let error = native::load(folder.path(), &job, &mut |_, _| {}).map(|_| ()).unwrap_err();
    for error in [error, native::open(&job).map(|_| ()).unwrap_err()] {
        assert_eq!(error.fault, Fault::Work);
        assert!(error.to_string().contains("bf16 or f16"), "{error}");
    }
}

#[test]
fn on_a_gpu_many_prompts_are_answered_as_one_at_a_time() {
    let test = "on_a_gpu_many_prompts_are_answered_as_one_at_a_time";
    let (folder, bodies) = (model(), bodies(64));
    let Some(many) = opened(folder.path(), 64, test) else { return };
    let many = answer(many, Form::Text, &bodies);
    let one = answer(load(folder.path(), &on_gpu(1)), Form::Text, &bodies);
    let same = many.iter().zip(&one).filter(|(a, b)| text(&response(a)) == text(&response(b)));
    // Products may choose another kernel for other numbers of rows, and a near draw falls otherwise.
    let same = same.count();
    assert!(58 <= same, "{same} of 64 are the same");
}

#[test]
fn on_a_gpu_the_first_tokens_probabilities_are_the_processors() {
    let test = "on_a_gpu_the_first_tokens_probabilities_are_the_processors";
    let folder = model();
    for length in [1, 33, 200] {
        let tokens: Vec<usize> = (0..length).map(|at| (at * 37 + length) % 256).collect();
        let body = json!({"prompt": tokens, "max_tokens": 1, "temperature": 0, "logprobs": 5,
            "return_tokens_as_token_ids": true, "ignore_eos": true});
        let Some(gpu) = opened(folder.path(), 8, test) else { return };
        let got = respond(gpu, Form::Text, &body);
        let wanted = respond(load(folder.path(), &job()), Form::Text, &body);
        let top = |response: &Value| {
            response["choices"][0]["logprobs"]["top_logprobs"][0].as_object().unwrap().clone()
        };
        let (got, wanted) = (top(&got), top(&wanted));
        for (token, logprob) in &wanted {
            let Some(got) = got.get(token).and_then(Value::as_f64) else { continue };
            let wanted = logprob.as_f64().unwrap();
            assert!((got - wanted).abs() < 0.1, "{length}: {token} {got} {wanted}");
        }
    }
}
