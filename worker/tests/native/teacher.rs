//! How far an engine's log-probabilities are from a reference's, whose answers it is made to give.

use crate::harness::{answer, load, response};
use serde_json::{Value, json};
use std::{fs, path::Path};
use wire::{Form, Job};

/// How far each log-probability is from the reference's. A line of the file has `prompt_token_ids`,
/// `continuation_token_ids` and the `logprobs` of these.
pub(crate) fn differences(model: &Path, reference: &Path, job: &Job) -> Vec<f64> {
    let reference = fs::read_to_string(reference).unwrap();
    let ids = |value: &Value| -> Vec<u64> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
    };
    let (mut bodies, mut wanted) = (Vec::new(), Vec::new());
    for line in reference.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let mut prompt = ids(&line["prompt_token_ids"]);
        let logprobs = line["logprobs"].as_array().unwrap();
        for (token, logprob) in ids(&line["continuation_token_ids"]).into_iter().zip(logprobs) {
            bodies
                .push(json!({"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 20,
                "ignore_eos": true, "return_tokens_as_token_ids": true}));
            wanted.push((token, logprob.as_f64().unwrap()));
            prompt.push(token);
        }
    }
    let outcomes = answer(load(model, job), Form::Text, &bodies);
    let difference = |(outcome, (token, logprob)): (&_, &(u64, f64))| {
        let top = &response(outcome)["choices"][0]["logprobs"]["top_logprobs"][0];
        (top[format!("token_id:{token}")].as_f64().expect("it is the best or near it") - logprob)
            .abs()
    };
    outcomes.iter().zip(&wanted).map(difference).collect()
}

/// The largest of them.
pub(crate) fn largest(differences: &[f64]) -> f64 {
    differences.iter().copied().fold(0.0, f64::max)
}

/// Their mean.
pub(crate) fn mean(differences: &[f64]) -> f64 {
    differences.iter().sum::<f64>() / differences.len() as f64
}
