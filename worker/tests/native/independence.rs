//! What a prompt yields depends on nothing beside it.

use crate::{
    formats::{wide_model, write_gguf},
    harness::{answer, bounded, load, response},
    small_model::SmallModel,
};
use candle_core::quantized::GgmlDType;
use serde_json::{Value, json};
use std::path::Path;
use wire::{Form, Job, Precision};

/// Prompts of many lengths, half of them with a long beginning in common.
fn bodies(more: &Value) -> Vec<Value> {
    let body = |index: usize| {
        let length = [3, 40, 64, 150, 9, 200][index % 6];
        let seed = if index.is_multiple_of(2) { 0 } else { index };
        let mut tokens: Vec<usize> = (0..length).map(|at| (at * 31 + seed * 17) % 256).collect();
        tokens.push(index);
        let mut body = json!({"prompt": tokens, "max_tokens": 12 + index % 30, "logprobs": 3,
            "return_tokens_as_token_ids": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    (0..40).map(body).collect()
}

/// The tokens of each answer and their log-probabilities, to the last bit.
fn yields(folder: &Path, job: &Job, bodies: &[Value]) -> Vec<Value> {
    let outcomes = answer(load(folder, job), Form::Text, bodies);
    outcomes.iter().map(|outcome| response(outcome)["choices"].clone()).collect()
}

fn check(precision: Option<Precision>, more: &Value) {
    let folder = tempfile::tempdir().unwrap();
    SmallModel::new("llama", json!({})).write(folder.path(), 1);
    // The cache of 16 blocks forces sequences out of it.
    let bytes = if precision == Some(Precision::F32) { 4 } else { 2 };
    let tight = Some(16 * 2 * 2 * (8 + 32) * 32 * bytes);
    check_at(folder.path(), precision, more, &[(1, None), (8, None), (32, None), (32, tight)]);
}

/// The same of the model there, at these sizes of a batch and of the cache.
fn check_at(
    model: &Path,
    precision: Option<Precision>,
    more: &Value,
    sizes: &[(u32, Option<u64>)],
) {
    let bodies = bodies(more);
    let job = |batch, kv_bytes| Job { precision, ..bounded(batch, kv_bytes) };
    let alone: Vec<Value> = bodies
        .iter()
        .enumerate()
        .map(|(index, body)| {
            // Alone in the engine, but at its place in the input: that is where its seed is from.
            let mut padded = vec![json!({"prompt": [], "max_tokens": 1}); index];
            padded.push(body.clone());
            let outcomes = answer(load(model, &job(1, None)), Form::Text, &padded);
            response(&outcomes[index])["choices"].clone()
        })
        .collect();
    // One prompt at a time shares no step.
    for (batch, kv_bytes) in sizes.iter().copied() {
        let together = yields(model, &job(batch, kv_bytes), &bodies);
        for (index, (together, alone)) in together.iter().zip(&alone).enumerate() {
            assert_eq!(together, alone, "prompt {index}, batch {batch}, {kv_bytes:?} bytes");
        }
    }
}

#[test]
fn greedy_answers_have_the_same_bits_in_any_company() {
    check(None, &json!({"temperature": 0}));
}

#[test]
fn answers_in_32_bits_throughout_have_the_same_bits_in_any_company() {
    check(Some(Precision::F32), &json!({"temperature": 0.9}));
}

#[test]
fn drawn_answers_have_the_same_bits_in_any_company() {
    check(None, &json!({"temperature": 1.2, "top_p": 0.95}));
}

#[test]
fn sixteen_bit_weights_have_the_same_bits_in_any_company() {
    check(Some(Precision::F16), &json!({"temperature": 0.7, "presence_penalty": 0.5}));
}

#[test]
fn quantised_weights_have_the_same_bits_in_any_company() {
    let folder = tempfile::tempdir().unwrap();
    for format in [GgmlDType::Q8_0, GgmlDType::Q4_1] {
        let file = folder.path().join("model.gguf");
        write_gguf(&wide_model("llama"), format, &file);
        for more in [json!({"temperature": 0}), json!({"temperature": 0.8, "top_p": 0.9})] {
            check_at(&file, None, &more, &[(64, None)]);
        }
    }
}
