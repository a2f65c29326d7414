//! How fast the native engine is on this computer, beside what its processor can do.
//!
//! `cargo bench -p worker --bench native -- MODEL` with a folder in Hugging Face's layout or a GGUF
//! file; `PIECEWORK_BENCH_MODEL` names one too, and `PIECEWORK_BENCH_PROMPTS` how many prompts are
//! answered (256). Prompts have about 200 tokens and share nothing; answers have 64.
#![expect(clippy::print_stdout, reason = "a bench's table is its output")]

use candle_core::{
    DType, Device, Module, Tensor,
    quantized::{GgmlDType, QMatMul, QTensor, gguf_file::Content},
};
use std::{
    hint::black_box,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};
use tokio::sync::mpsc::{channel, unbounded_channel};
use wire::{EngineKind, Form, Job, Limits, Model, Outcome, Precision, Prompt};
use worker::{
    engine::{Outlet, Prompts},
    native,
};

const PROMPT_TOKENS: u32 = 200;
const ANSWER_TOKENS: u32 = 64;

fn main() {
    // Cargo passes flags of its own.
    let argument = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let variable = || std::env::var("PIECEWORK_BENCH_MODEL").ok();
    let Some(model) = argument.or_else(variable).map(PathBuf::from) else {
        println!("native: skipped, no model is named");
        return;
    };
    let prompts = std::env::var("PIECEWORK_BENCH_PROMPTS").ok().and_then(|text| text.parse().ok());
    let prompts: u32 = prompts.unwrap_or(256);
    let best = products();
    println!();
    for precision in [Precision::F32, Precision::F16] {
        load(&model, precision);
    }
    println!(
        "\n{:>9} {:>6} {:>8} {:>9} {:>9} {:>10} {:>12} {:>14}",
        "precision",
        "batch",
        "prompts",
        "seconds",
        "cpu-s",
        "out tok/s",
        "in+out tok/s",
        "in+out tok/cpu"
    );
    for precision in [Precision::F32, Precision::F16] {
        for batch in [1, 8, 32, 64] {
            // Few prompts tell as much where they come one by one.
            let prompts = if batch == 1 { prompts.div_ceil(16) } else { prompts };
            let ran = run(&model, precision, batch, prompts, ANSWER_TOKENS);
            println!(
                "{:>9} {batch:>6} {prompts:>8} {:>9.2} {:>9.2} {:>10.1} {:>12.1} {:>14.1}",
                format!("{precision:?}"),
                ran.seconds,
                ran.processor,
                ran.tokens_out / ran.seconds,
                (ran.tokens_in + ran.tokens_out) / ran.seconds,
                (ran.tokens_in + ran.tokens_out) / ran.processor,
            );
        }
        let ran = run(&model, precision, 64, prompts.div_ceil(2), 1);
        println!(
            "{:>9} prefill alone: {:.1} tok/s, {:.1} tok/cpu-s",
            format!("{precision:?}"),
            ran.tokens_in / ran.seconds,
            ran.tokens_in / ran.processor
        );
        if let Some(weights) = weights_per_token(&model) {
            let rate = 2.0 * weights * ran.tokens_in / ran.processor / 1e9;
            let share = 100.0 * rate / best;
            println!("{:>9} {rate:.1} GFLOP/cpu-s, {share:.0} % of candle's best product", "");
        }
    }
}

/// Weights that each token of a prompt goes through: all but the vocabulary's. Known for GGUF files.
fn weights_per_token(model: &Path) -> Option<f64> {
    let content = Content::read(&mut std::fs::File::open(model).ok()?).ok()?;
    let blocks = content.tensor_infos.iter().filter(|(name, _)| name.starts_with("blk."));
    Some(blocks.map(|(_, info)| info.shape.elem_count() as f64).sum())
}

/// Seconds of processors that this program has used.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = text.rsplit_once(')').unwrap();
    let ticks: Vec<f64> =
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse().unwrap()).collect();
    // Linux tells them in hundredths, whatever the kernel's own clock.
    (ticks[0] + ticks[1]) / 100.0
}

/// Shows the rates of candle's products of 32-bit floats and of quantised weights, in 10⁹ operations
/// a second of processor, and returns the best.
fn products() -> f64 {
    let mut best: f64 = 0.0;
    println!("{:>22} {:>9} {:>9} {:>9}  GFLOP/cpu-s", "rows × 576 × 3072", "f32", "Q8_0", "Q4_1");
    let weights = Tensor::randn(0_f32, 1.0, (3072, 576), &Device::Cpu).unwrap();
    let plain = weights.t().unwrap().contiguous().unwrap();
    let quantised =
        |format| QMatMul::from_qtensor(QTensor::quantize(&weights, format).unwrap()).unwrap();
    let quantised = [quantised(GgmlDType::Q8_0), quantised(GgmlDType::Q4_1)];
    for rows in [1, 8, 32, 512] {
        let input = Tensor::randn(0_f32, 1.0, (rows, 576), &Device::Cpu).unwrap();
        assert_eq!(input.dtype(), DType::F32);
        let operations = 2.0 * 576.0 * 3072.0 * rows as f64;
        let f32s = rate(operations, || drop(black_box(input.matmul(&plain).unwrap())));
        let [q8, q4] = quantised
            .each_ref()
            .map(|weights| rate(operations, || drop(black_box(weights.forward(&input).unwrap()))));
        println!("{rows:>22} {f32s:>9.1} {q8:>9.1} {q4:>9.1}");
        best = best.max(f32s);
    }
    best
}

fn rate(operations: f64, work: impl Fn()) -> f64 {
    work();
    let (start, before, mut count) = (Instant::now(), processor_seconds(), 0.0);
    while start.elapsed().as_millis() < 1000 {
        work();
        count += 1.0;
    }
    operations * count / (processor_seconds() - before) / 1e9
}

fn job(precision: Precision, batch: u32) -> Job {
    Job {
        engine: EngineKind::Native,
        model: Model { name: "measured".to_owned(), sources: Vec::new() },
        precision: Some(precision),
        limits: Limits { batch: Some(batch), ..Limits::default() },
        seed: 0,
        defaults: String::new(),
    }
}

fn load(model: &Path, precision: Precision) {
    let start = Instant::now();
    let engine = native::load(model, &job(precision, 64), &mut |_, _| {}).unwrap();
    let facts = engine.facts();
    println!(
        "{}: loaded in {:.3} s, {:.1} MB of weights",
        facts.name,
        start.elapsed().as_secs_f64(),
        facts.weight_bytes as f64 / 1e6
    );
}

/// What a run took.
struct Ran {
    seconds: f64,
    processor: f64,
    tokens_in: f64,
    tokens_out: f64,
}

/// Answers prompts.
fn run(model: &Path, precision: Precision, batch: u32, prompts: u32, answer: u32) -> Ran {
    let engine = native::load(model, &job(precision, batch), &mut |_, _| {}).unwrap();
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
    let (seconds, processor) = (start.elapsed().as_secs_f64(), processor_seconds() - before);
    let (mut all_in, mut all_out) = (0, 0);
    while let Ok(completion) = completions.try_recv() {
        match completion.outcome {
            Outcome::Done { tokens_in, tokens_out, .. } => {
                all_in += tokens_in;
                all_out += tokens_out;
            }
            Outcome::Failed { reason, .. } => panic!("{reason}"),
        }
    }
    Ran { seconds, processor, tokens_in: all_in.into(), tokens_out: all_out.into() }
}
