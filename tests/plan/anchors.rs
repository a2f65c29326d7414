//! The modelled speed against every published run that says what it ran.
//!
//! Where a source gives a range, its middle is taken; where it gives tokens a second, they are
//! divided by the lengths. Sources: silybench-data (2026), mushfiqrahman, databasemart,
//! r/LocalLLaMA (May 2025), cloudrift's server-benchmark (October 2025), gigagpu, ray#52634,
//! price-compass, `PegaInfer`'s README (its vLLM column), NVIDIA's TensorRT-LLM overview v1.0.

use crate::{gpu, gpus, shape};
use piecework::{
    cost::seconds,
    engines::Engine,
    model::Weights::{self, Bf16, Fp4, Fp8, Int4},
    need::{Fit, Workload, fits},
};

/// A published run: model, GPU, how many, weights, tokens in and out, prompts at once at most,
/// prompts a second.
type Run = (&'static str, &'static str, u32, Weights, f64, f64, u32, f64);

const QWEN3: &str = "Qwen3-8B";
const LLAMA8: &str = "Llama-3.1-8B-Instruct";
const LLAMA70: &str = "Llama-3.3-70B-Instruct";
const MIXTURE: &str = "Qwen3-30B-A3B";

/// vLLM (and `SGLang`) on one card. The last four are called doubtful by who collected them:
/// untuned, or with lengths that had to be guessed.
const ONE_CARD: [Run; 23] = [
    (QWEN3, "H100 SXM", 1, Fp8, 1024.0, 128.0, 256, 35.6),
    (QWEN3, "H100 SXM", 1, Fp8, 1024.0, 128.0, 512, 34.5),
    (QWEN3, "H100 SXM", 1, Bf16, 1024.0, 128.0, 256, 28.3),
    (QWEN3, "H100 SXM", 1, Fp8, 128.0, 1024.0, 512, 14.65),
    (QWEN3, "H100 SXM", 1, Fp8, 2048.0, 2048.0, 512, 2.13),
    (QWEN3, "H100 SXM", 1, Fp8, 8192.0, 512.0, 512, 2.26),
    ("Mistral-7B-Instruct-v0.3", "RTX 4090", 1, Bf16, 256.0, 128.0, 48, 11.87),
    (LLAMA8, "RTX 4090", 1, Bf16, 100.0, 600.0, 512, 3.96),
    ("Qwen2.5-7B-Instruct", "RTX 4090", 1, Bf16, 100.0, 600.0, 512, 5.9),
    (LLAMA8, "A40", 1, Bf16, 100.0, 600.0, 50, 2.29),
    ("Qwen2.5-14B-Instruct", "A40", 1, Bf16, 100.0, 600.0, 50, 1.17),
    (QWEN3, "RTX 3090", 1, Fp8, 4096.0, 1024.0, 512, 0.295),
    ("Qwen3-14B", "RTX 3090", 1, Int4, 4096.0, 1024.0, 512, 0.19),
    (MIXTURE, "RTX 4090", 1, Int4, 1000.0, 1000.0, 400, 1.13),
    (MIXTURE, "RTX 5090", 1, Int4, 1000.0, 1000.0, 400, 2.29),
    (MIXTURE, "RTX PRO 6000", 1, Int4, 1000.0, 1000.0, 400, 4.22),
    (LLAMA70, "RTX PRO 6000", 1, Int4, 1000.0, 1000.0, 400, 0.52),
    (LLAMA8, "RTX 5090", 1, Int4, 128.0, 256.0, 64, 9.8),
    ("Qwen3-4B", "RTX 5090", 1, Bf16, 1000.0, 128.0, 512, 13.2),
    (LLAMA8, "RTX 5090", 1, Bf16, 128.0, 256.0, 64, 6.7),
    (LLAMA8, "L40S", 1, Bf16, 215.0, 198.0, 512, 12.0),
    (LLAMA8, "L4", 1, Bf16, 215.0, 198.0, 512, 2.6),
    (LLAMA8, "H100 SXM", 1, Bf16, 215.0, 198.0, 512, 28.2),
];

/// vLLM over several cards that only the mainboard joins.
const SPLIT: [Run; 5] = [
    (LLAMA70, "RTX 4090", 2, Int4, 1000.0, 1000.0, 400, 0.23),
    (LLAMA70, "RTX 4090", 4, Int4, 1000.0, 1000.0, 400, 0.45),
    (LLAMA70, "RTX 5090", 2, Int4, 1000.0, 1000.0, 400, 0.62),
    (LLAMA70, "RTX 5090", 4, Int4, 1000.0, 1000.0, 400, 1.22),
    (LLAMA70, "L40S", 2, Int4, 1000.0, 1000.0, 400, 0.25),
];

/// TensorRT-LLM.
const TENSORRT: [Run; 16] = [
    (LLAMA8, "H100 SXM", 1, Fp8, 1000.0, 1000.0, 2048, 15.22),
    (LLAMA8, "H100 SXM", 1, Fp8, 2048.0, 128.0, 2048, 26.95),
    (LLAMA8, "H200", 1, Fp8, 1000.0, 1000.0, 2048, 17.74),
    (LLAMA8, "H200", 1, Fp8, 2048.0, 128.0, 2048, 27.64),
    (LLAMA70, "H200", 1, Fp8, 1000.0, 1000.0, 2048, 2.909),
    (LLAMA70, "H200", 1, Fp8, 2048.0, 128.0, 2048, 3.453),
    (LLAMA70, "H100 SXM", 2, Fp8, 1000.0, 1000.0, 2048, 4.205),
    (LLAMA70, "H100 SXM", 2, Fp8, 2048.0, 128.0, 2048, 5.95),
    (LLAMA70, "B200", 1, Fp4, 1000.0, 1000.0, 2048, 7.007),
    (LLAMA70, "B200", 1, Fp4, 2048.0, 128.0, 2048, 10.46),
    (LLAMA70, "RTX PRO 6000", 1, Fp4, 1000.0, 1000.0, 2048, 1.787),
    (LLAMA70, "RTX PRO 6000", 1, Fp4, 2048.0, 128.0, 2048, 3.07),
    (MIXTURE, "B200", 1, Fp4, 1000.0, 1000.0, 2048, 25.828),
    (MIXTURE, "B200", 1, Fp4, 2048.0, 128.0, 2048, 48.8),
    (MIXTURE, "RTX PRO 6000", 1, Fp4, 1000.0, 1000.0, 2048, 9.91),
    (MIXTURE, "RTX PRO 6000", 1, Fp4, 2048.0, 128.0, 2048, 25.4),
];

/// Our own on one card: `cargo bench -p worker --bench native -- gpu`, November 2026.
const NATIVE: [Run; 7] = [
    (LLAMA8, "H100 SXM", 1, Bf16, 1000.0, 200.0, 512, 23.35),
    (LLAMA8, "H100 SXM", 1, Bf16, 100.0, 10.0, 512, 358.0),
    (LLAMA8, "H100 SXM", 1, Bf16, 1000.0, 200.0, 1, 0.675),
    (LLAMA8, "H200", 1, Bf16, 1000.0, 200.0, 512, 26.98),
    (LLAMA8, "H200", 1, Bf16, 100.0, 10.0, 512, 384.0),
    (LLAMA8, "H200", 1, Bf16, 1000.0, 200.0, 1, 0.870),
    (LLAMA8, "H200", 1, Bf16, 8000.0, 20.0, 512, 3.64),
];

/// The modelled speed over the published one.
fn ratio(engine: &str, run: &Run) -> f64 {
    let &(model, card, count, weights, input, output, at_once, published) = run;
    let (shape, engine) = (shape(model), Engine::named(engine, false).unwrap());
    let work = Workload { prompts: 1, input, output };
    let memory = gpus(card, count).vram;
    let found = fits(&shape, engine, &[weights], memory, count, &work).unwrap();
    let fit = found.iter().find(|fit| fit.split == count).unwrap();
    let fit = Fit { batch: fit.batch.min(at_once), ..*fit };
    1.0 / seconds(&shape, &gpu(card), engine, &fit, &work) / published
}

/// How far the runs are off: a table, the median and the worst factor.
fn errors(engine: &str, runs: &[Run]) -> (String, f64, f64) {
    let line = |run: &Run| {
        let (model, card, count, weights, input, output, ..) = run;
        let ratio = ratio(engine, run);
        format!("{ratio:5.2}  {model} {weights} on {count} {card}, {input}/{output}\n")
    };
    let table = runs.iter().map(line).collect();
    let off = |run| ratio(engine, run).max(1.0 / ratio(engine, run));
    let mut factors: Vec<f64> = runs.iter().map(off).collect();
    factors.sort_by(f64::total_cmp);
    (table, factors[factors.len() / 2], factors[factors.len() - 1])
}

#[expect(clippy::print_stdout, reason = "what was measured is said")]
fn say(what: &str, runs: &[Run], median: f64, worst: f64) {
    let runs = runs.len();
    println!(
        "{what}: {runs} published runs, off by {median:.3} (median), {worst:.2} (worst), as factors"
    );
}

#[test]
fn on_one_card_the_median_is_within_15_percent_and_none_is_off_by_2() {
    let (table, median, worst) = errors("vllm", &ONE_CARD);
    say("vLLM on one card", &ONE_CARD, median, worst);
    assert!(median < 1.15 && worst < 2.0, "median {median:.3}, worst {worst:.2}\n{table}");
    let (table, _, worst) = errors("vllm", &ONE_CARD[..19]);
    assert!(worst < 1.45, "of the runs that nobody doubts: {worst:.2}\n{table}");
}

#[test]
fn over_several_cards_none_is_off_by_more_than_2() {
    let (table, median, worst) = errors("vllm", &SPLIT);
    say("vLLM over several cards", &SPLIT, median, worst);
    assert!(worst < 2.05, "worst {worst:.2}\n{table}");
}

#[test]
fn of_tensorrt_the_median_is_within_20_percent() {
    let (table, median, worst) = errors("tensorrt-llm", &TENSORRT);
    say("TensorRT-LLM", &TENSORRT, median, worst);
    assert!(median < 1.2 && worst < 2.4, "median {median:.3}, worst {worst:.2}\n{table}");
}

#[test]
fn of_our_own_on_a_gpu_none_is_off_by_10_percent_but_that_of_long_prompts() {
    let (table, median, worst) = errors("native-cuda", &NATIVE);
    say("native on a GPU", &NATIVE, median, worst);
    assert!(worst < 1.4, "worst {worst:.2}\n{table}");
    let (table, _, worst) = errors("native-cuda", &NATIVE[..6]);
    assert!(worst < 1.1, "of the shorter ones: {worst:.2}\n{table}");
}

/// What the article's job takes, as linear fits through two published lengths of one source say.
#[test]
fn the_articles_job_is_as_fast_as_its_fits_say() {
    for (engine, run) in [
        ("vllm", (QWEN3, "H100 SXM", 1, Fp8, 1000.0, 200.0, 512, 30.8)),
        ("vllm", (QWEN3, "H100 SXM", 1, Bf16, 1000.0, 200.0, 512, 25.0)),
        ("tensorrt-llm", (LLAMA8, "H100 SXM", 1, Fp8, 1000.0, 200.0, 2048, 39.8)),
        ("tensorrt-llm", (LLAMA8, "H200", 1, Fp8, 1000.0, 200.0, 2048, 42.8)),
        ("tensorrt-llm", (LLAMA70, "H200", 1, Fp8, 1000.0, 200.0, 2048, 5.8)),
        ("tensorrt-llm", (LLAMA70, "RTX PRO 6000", 1, Fp4, 1000.0, 200.0, 2048, 4.6)),
        ("tensorrt-llm", (MIXTURE, "RTX PRO 6000", 1, Fp4, 1000.0, 200.0, 2048, 32.1)),
    ] {
        let ratio = ratio(engine, &run);
        assert!((0.75..1.45).contains(&ratio), "{engine} {run:?}: {ratio:.2}");
    }
}
