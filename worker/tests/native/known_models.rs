//! Real models against what is known of them. They are found by environment variables:
//! `PIECEWORK_TEST_MODELS` (a folder with `stories260K/` and `reference/smollm2-f32.jsonl`),
//! `PIECEWORK_TEST_SMOLLM2_HF` and `PIECEWORK_TEST_SMOLLM2_GGUF`.

use crate::{
    harness::{answer, in_precision, job, load, provided, respond, response, text},
    teacher::{differences, largest, mean},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{fs, path::Path};
use wire::{Form, Precision};

const MODELS: &str = "PIECEWORK_TEST_MODELS";

/// SHA-256 and length of what stories260K tells greedily from nothing: 200 steps, the expected
/// output in llama2.c's tests.
const STORY: (&str, usize) =
    ("beeb5cb46785efee81a8545300b31e396b595e5ce6f3b77db201545501981d14", 464);

fn tell(path: &Path) -> String {
    let body = json!({"prompt": [1], "max_tokens": 200, "temperature": 0});
    text(&respond(load(path, &job()), Form::Text, &body)).to_owned()
}

#[test]
fn stories260k_tells_its_known_story_byte_for_byte_in_both_formats() {
    let Some(models) = provided(MODELS, "stories260k_tells_its_known_story") else { return };
    for file in ["stories260K", "stories260K/stories260K-f32.gguf"] {
        let story = tell(&models.join(file));
        assert!(
            story.starts_with("Once upon a time, there was a little girl named Lily."),
            "{story}"
        );
        assert_eq!((hex(&Sha256::digest(&story)).as_str(), story.len()), STORY, "{file}: {story}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn smollm2(variable: &str, test: &str) -> Option<(std::path::PathBuf, std::path::PathBuf)> {
    let reference = provided(MODELS, test)?.join("reference/smollm2-f32.jsonl");
    Some((provided(variable, test)?, reference))
}

#[test]
fn smollm2_agrees_with_the_reference_in_each_precision() {
    let test = "smollm2_agrees_with_the_reference_in_each_precision";
    let Some((model, reference)) = smollm2("PIECEWORK_TEST_SMOLLM2_HF", test) else { return };
    for (job, bound) in
        [(job(), 0.02), (in_precision(Precision::F16), 0.1), (in_precision(Precision::Bf16), 0.4)]
    {
        let differences = differences(&model, &reference, &job);
        assert!(100 < differences.len());
        let largest = largest(&differences);
        assert!(largest < bound, "{:?}: {largest}", job.precision);
    }
}

#[test]
fn smollm2_as_gguf_agrees_with_the_reference() {
    let test = "smollm2_as_gguf_agrees_with_the_reference";
    let Some((model, reference)) = smollm2("PIECEWORK_TEST_SMOLLM2_GGUF", test) else { return };
    let differences = differences(&model, &reference, &job());
    let mean = mean(&differences);
    assert!(mean < 0.15, "{mean}");
}

#[test]
fn smollm2s_template_and_tokenizer_give_the_references_tokens_in_both_formats() {
    let test = "smollm2s_template_and_tokenizer_give_the_references_tokens_in_both_formats";
    for variable in ["PIECEWORK_TEST_SMOLLM2_HF", "PIECEWORK_TEST_SMOLLM2_GGUF"] {
        let Some((model, reference)) = smollm2(variable, test) else { return };
        let lines: Vec<Value> = fs::read_to_string(reference)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let bodies: Vec<Value> =
            lines.iter().map(|line| json!({"prompt": line["prompt"], "max_tokens": 1})).collect();
        for (outcome, line) in answer(load(&model, &job()), Form::Auto, &bodies).iter().zip(&lines)
        {
            let tokens = line["prompt_token_ids"].as_array().unwrap().len();
            assert_eq!(response(outcome)["usage"]["prompt_tokens"], json!(tokens));
            assert_eq!(response(outcome)["object"], json!("chat.completion"));
        }
    }
}
