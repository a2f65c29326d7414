//! llama.cpp, measured by its own program.

use super::{ANSWER_TOKENS, PROMPT_TOKENS, Rates, peak_megabytes, processor_seconds_of_children};
use serde_json::Value;
use std::{
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// Answers one batch with `llama-batched-bench`.
pub(super) fn measure(program: &str, model: &Path, batch: u32) -> Rates {
    let threads = thread::available_parallelism().unwrap().to_string();
    let context = (batch * (PROMPT_TOKENS + ANSWER_TOKENS + 56)).to_string();
    let before = processor_seconds_of_children();
    let mut child = Command::new(program)
        .arg("--model")
        .arg(model)
        .args(["-npp", &PROMPT_TOKENS.to_string(), "-ntg", &ANSWER_TOKENS.to_string()])
        .args(["-npl", &batch.to_string(), "--ctx-size", &context])
        .args(["--threads", &threads, "--threads-batch", &threads, "--output-format", "jsonl"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("llama-batched-bench runs");
    let process = child.id().to_string();
    let mut peak = 0.0;
    while child.try_wait().unwrap().is_none() {
        peak = peak_megabytes(&process).unwrap_or(peak);
        thread::sleep(Duration::from_millis(20));
    }
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let line = text.lines().rfind(|line| line.starts_with('{')).expect("it tells what it measured");
    let told: Value = serde_json::from_str(line).unwrap();
    let rate = |name: &str| told[name].as_f64().unwrap();
    let tokens = f64::from(batch * (PROMPT_TOKENS + ANSWER_TOKENS));
    Rates {
        prefill: rate("speed_pp"),
        decode: rate("speed_tg"),
        total: rate("speed"),
        per_processor: tokens / (processor_seconds_of_children() - before),
        peak_megabytes: peak,
    }
}
