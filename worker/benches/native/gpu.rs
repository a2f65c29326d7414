//! The native engine on this machine's GPU: prompts of 1,000 tokens with answers of 200, and others, by a model of
//! Llama-3.1-8B's shape with random weights, beside what the GPU could do at most.

#[path = "../../tests/native/small_model.rs"]
mod small_model;

use self::small_model::{SmallModel, noise};
use serde_json::{Map, Value, json};
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
    time::Instant,
};
use tokio::sync::mpsc::{channel, unbounded_channel};
use wire::{Device, EngineKind, Form, Job, Limits, Model, Outcome, Prompt};
use worker::{
    engine::{Engine, EngineError, Outlet, Prompts},
    native,
};

/// 10¹² operations that a token of a prompt or an answer takes: 2 for each weight, and attention over about a
/// thousand others.
const TFLOP_A_TOKEN: f64 = 17.3 / 1200.0;

/// Something to measure.
struct Run {
    /// What it is called.
    name: &'static str,
    /// Tokens of a prompt and of its answer.
    tokens: [usize; 2],
    /// How many of the prompts it has: one in so many.
    one_in: usize,
    /// How many are answered at once; None leaves it to the engine.
    batch: Option<u32>,
    /// How tokens are chosen.
    sampling: Value,
}

/// What models advise to be sampled with, each beside plain draws, and what a GPU is quick or slow at: many short
/// prompts, long ones, which are a third attention, and one prompt at a time.
fn runs() -> Vec<Run> {
    let plain = || json!({"temperature": 1});
    let run = |name, sampling| Run { name, tokens: [1000, 200], one_in: 4, batch: None, sampling };
    vec![
        Run { one_in: 1, ..run("plain", plain()) },
        run("top_p", json!({"temperature": 0.6, "top_p": 0.9})),
        run("top_k and top_p", json!({"temperature": 0.6, "top_k": 20, "top_p": 0.95})),
        run("repetition penalty", json!({"temperature": 0.7, "repetition_penalty": 1.05})),
        run("log-probabilities", json!({"temperature": 1, "logprobs": 1})),
        Run { tokens: [100, 10], one_in: 1, ..run("short prompts", plain()) },
        Run { tokens: [8000, 20], one_in: 32, ..run("long prompts", plain()) },
        Run { one_in: 512, batch: Some(1), ..run("one at a time", plain()) },
        Run {
            one_in: 512,
            batch: Some(1),
            ..run("one at a time, top_p", json!({"temperature": 0.6, "top_p": 0.9}))
        },
    ]
}

/// The dimensions that weights are of.
const HIDDEN: usize = 4096;
const INTERMEDIATE: usize = 14_336;
const KV_WIDTH: usize = 1024;
const VOCABULARY: usize = 128_256;

/// Measures, where there is a GPU: all runs, or those that are named, with commas between.
pub(crate) fn measure(layers: usize, prompts: usize, peak_tflops: f64, only: Option<&str>) {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    SmallModel::new("llama", json!({})).write(folder.path(), 1);
    if let Err(error) = load(folder.path(), None) {
        println!("native on a GPU: skipped, {error}");
        return;
    }
    write_model(folder.path(), layers);
    let is_meant = |run: &Run| only.is_none_or(|only| only.split(',').any(|name| name == run.name));
    for (index, run) in runs().iter().filter(|run| is_meant(run)).enumerate() {
        let start = Instant::now();
        let engine = load(folder.path(), run.batch).expect("it fits onto the GPU");
        let facts = engine.facts();
        if index == 0 {
            println!(
                "{}: loaded in {:.1} s, {:.1} GB of weights, {:.1} GB for keys and values, batch {}",
                facts.name,
                start.elapsed().as_secs_f64(),
                facts.weight_bytes as f64 / 1e9,
                facts.kv_bytes as f64 / 1e9,
                facts.batch
            );
        }
        let prompts = (prompts / run.one_in).max(1);
        let rate = rate(engine, run, prompts);
        let [tokens_in, tokens_out] = run.tokens.map(|tokens| rate * tokens as f64);
        let bound = peak_tflops / (TFLOP_A_TOKEN * layers as f64 / 32.0);
        let share = 100.0 * (tokens_in + tokens_out) / bound;
        println!(
            "{}: {rate:.2} prompts/s, {tokens_in:.0} + {tokens_out:.0} tokens/s, {share:.0} % of the {bound:.0} \
             tokens/s that {peak_tflops} TFLOP/s make",
            run.name
        );
    }
}

/// Prompts that are answered in a second.
fn rate(engine: Box<dyn Engine>, run: &Run, prompts: usize) -> f64 {
    let (sender, receiver) = channel(prompts);
    let [prompt_tokens, answer_tokens] = run.tokens;
    for index in 0..prompts {
        let tokens: Vec<usize> =
            (0..prompt_tokens).map(|at| (index * 7919 + at * 104_729) % VOCABULARY).collect();
        let mut body = json!({"prompt": tokens, "max_tokens": answer_tokens, "ignore_eos": true});
        for (name, value) in run.sampling.as_object().expect("it is one") {
            body[name] = value.clone();
        }
        let prompt = Prompt { index: index as u64, form: Form::Text, body: body.to_string() };
        sender.try_send(prompt).expect("there is room for all");
    }
    drop(sender);
    let (outlet, mut completions) = unbounded_channel();
    let start = Instant::now();
    engine.run(Prompts::new(receiver), Outlet::new(outlet, Arc::default())).expect("it works");
    let seconds = start.elapsed().as_secs_f64();
    let mut done = 0.0;
    while let Ok(completion) = completions.try_recv() {
        match completion.outcome {
            Outcome::Done { .. } => done += 1.0,
            Outcome::Failed { reason, .. } => panic!("{reason}"),
        }
    }
    done / seconds
}

fn load(path: &Path, batch: Option<u32>) -> Result<Box<dyn Engine>, EngineError> {
    let job = Job {
        engine: EngineKind::Native,
        model: Model { name: "measured".to_owned(), sources: Vec::new() },
        precision: Some(wire::Precision::Bf16),
        limits: Limits { batch, device: Some(Device::Cuda), ..Limits::default() },
        seed: 0,
        defaults: String::new(),
    };
    native::load(path, &job, &mut |_, _| {})
}

/// Writes a model of so many layers over the small one, whose tokenizer stays.
fn write_model(folder: &Path, layers: usize) {
    let config = json!({
        "model_type": "llama", "hidden_size": HIDDEN, "num_hidden_layers": layers,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "intermediate_size": INTERMEDIATE, "rms_norm_eps": 1e-5, "vocab_size": VOCABULARY,
        "max_position_embeddings": 131_072, "rope_theta": 500_000.0, "tie_word_embeddings": false,
        "eos_token_id": 256,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("there is room");
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
        ("lm_head.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
    ];
    for layer in 0..layers {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![KV_WIDTH, HIDDEN]),
            ("self_attn.v_proj", vec![KV_WIDTH, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INTERMEDIATE]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in &shapes {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let file = File::create(folder.join("model.safetensors")).expect("there is room");
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut write = |bytes: &[u8]| file.write_all(bytes).expect("there is room");
    write(&(header.len() as u64).to_le_bytes());
    write(header.as_bytes());
    // Numbers that aren't all alike, which a GPU would multiply with less power and so faster.
    let scale = 1.0 / (HIDDEN as f32).sqrt();
    let random: Vec<u8> = noise(1, 8 << 20)
        .iter()
        .flat_map(|value| half::bf16::from_f32(value * scale).to_le_bytes())
        .collect();
    for (name, shape) in &shapes {
        let mut left = 2 * shape.iter().product::<usize>();
        if name.ends_with("norm.weight") {
            write(&half::bf16::ONE.to_le_bytes().repeat(left / 2));
            continue;
        }
        while 0 < left {
            let some = left.min(random.len());
            write(&random[..some]);
            left -= some;
        }
    }
    file.flush().expect("there is room");
}
