//! Whole steps of whole models, and whole answers.

use super::{Opener, gpus};
use crate::{
    engine::EngineError,
    native::{
        ahead::{answers, bodies, job, model, tight},
        blocks::Blocks,
        cuda::{self, device::Half, emulated::skipped},
        executor::{Executor, Given},
        matrix::Kept,
        model::Model,
        model_files::ModelFiles,
        processor::Processor,
        sampling::best,
        scheduler::{Bounds, Scheduler},
        setup::Loaded,
        small_model::SmallModel,
    },
};
use serde_json::json;
use std::path::{Path, PathBuf};
use wire::{Device, Precision};

const BOUNDS: Bounds = Bounds { sequences: 4, tokens: 64 };

/// What is said where a GPU can't be opened.
pub(super) const NONE: &str = "there is none";

/// What was loaded, or None without a GPU. Another error is a fault.
pub(super) fn there_is<T>(loaded: Result<T, EngineError>) -> Option<T> {
    match loaded {
        Ok(loaded) => Some(loaded),
        Err(error) => {
            assert_eq!(error.reason, NONE);
            None
        }
    }
}

/// The same model on the processor in 32 bits, and on a GPU; None without that GPU.
fn pair(path: &Path, half: Half, open: &Opener) -> Option<[Box<dyn Executor>; 2]> {
    let files = ModelFiles::open(path).unwrap();
    let silent: &mut dyn FnMut(u64, u64) = &mut |_, _| {};
    let opened = |shape| open(shape).ok_or_else(|| EngineError::machine(NONE));
    let precision = match half {
        Half::Bf16 => Precision::Bf16,
        Half::F16 => Precision::F16,
    };
    let config = files.config.clone();
    let gpu = cuda::load(config, &files.tensors, Some(precision), BOUNDS, &opened, silent);
    let gpu = Box::new(there_is(gpu)?);
    let model = Model::load(files.config, &files.tensors, Kept::F32, silent).unwrap();
    Some([Box::new(Processor::<f32>::new(model, 1)), gpu])
}

/// Decodes prompts of these lengths on both, as the first one says, and returns how far the second's logits
/// are off at most and on average, in standard deviations of the logits.
fn difference(
    executors: &mut [Box<dyn Executor>; 2],
    lengths: &[usize],
    answer: usize,
) -> [f64; 2] {
    let vocabulary = executors[0].config().vocabulary;
    // Too few for all at once: some are preempted and begin again.
    let blocks = lengths.iter().max().unwrap().div_ceil(32) + 3;
    for executor in &mut *executors {
        executor.keep(blocks).unwrap();
    }
    let mut scheduler = Scheduler::new(BOUNDS, Blocks::new(blocks, true));
    let mut left = std::collections::HashMap::new();
    for (seed, length) in lengths.iter().enumerate() {
        // The first 40 tokens are the same for all, and their block is shared.
        let token =
            |at: usize| (at * 37 + if at < 40 { 0 } else { seed * 11 }) % vocabulary.min(256);
        let tokens = (0..*length).map(|at| u32::try_from(token(at)).unwrap()).collect();
        left.insert(scheduler.add(tokens, length + answer), answer);
    }
    let (mut most, mut sum, mut count): (f64, f64, f64) = (0.0, 0.0, 0.0);
    while !scheduler.is_idle() {
        let step = scheduler.plan();
        for executor in &mut *executors {
            executor.begin(&step.batch, &vec![None; step.wanted.len()]).unwrap();
            executor.finish().unwrap();
        }
        for (row, id) in step.wanted.iter().enumerate() {
            let [wanted, got] = executors.each_ref().map(|executor| {
                let mut logits = Vec::new();
                assert_eq!(executor.given(row, &mut logits), Given::Logits);
                logits
            });
            let mean = wanted.iter().sum::<f32>() / vocabulary as f32;
            let variance = wanted.iter().map(|logit| (logit - mean).powi(2)).sum::<f32>();
            let deviation = f64::from((variance / vocabulary as f32).sqrt());
            for (got, wanted) in got.iter().zip(&wanted) {
                assert!(got.is_finite());
                let off = f64::from((got - wanted).abs()) / deviation;
                most = most.max(off);
                (sum, count) = (sum + off, count + 1.0);
            }
            scheduler.append(*id, best(&wanted));
            let left = left.get_mut(id).unwrap();
            *left -= 1;
            if *left == 0 {
                scheduler.finish(*id);
            }
        }
    }
    [most, sum / count]
}

#[expect(clippy::print_stderr, reason = "how far logits are off is worth a look")]
fn agrees(path: &Path, name: &str, lengths: &[usize], test: &'static str) {
    for (who, open) in gpus(test) {
        for (half, limits) in [(Half::F16, [0.06, 0.01]), (Half::Bf16, [0.5, 0.08])] {
            let Some(mut executors) = pair(path, half, &open) else { continue };
            let off = difference(&mut executors, lengths, 6);
            eprintln!(
                "{name}, {who} GPU, {half:?}: logits off by {:.4} at most, {:.5} on average",
                off[0], off[1]
            );
            assert!(off[0] < limits[0] && off[1] < limits[1], "{name}, {who}, {half:?}: {off:?}");
        }
    }
}

#[test]
fn steps_of_every_architecture_agree_with_the_processors() {
    let test = "steps_of_every_architecture_agree_with_the_processors";
    let wide = json!({"tie_word_embeddings": false, "num_attention_heads": 7,
        "num_key_value_heads": 1, "head_dim": 36, "intermediate_size": 33});
    for (kind, more) in [
        ("llama", json!({})),
        ("llama", wide),
        ("mistral", json!({"sliding_window": 20})),
        ("qwen2", json!({})),
        ("qwen3", json!({"head_dim": 16})),
    ] {
        let folder = tempfile::tempdir().unwrap();
        SmallModel::new(kind, more).write(folder.path(), 1);
        agrees(folder.path(), kind, &[1, 31, 33, 90, 70], test);
    }
}

#[test]
fn steps_of_a_trained_model_agree_with_the_processors() {
    let test = "steps_of_a_trained_model_agree_with_the_processors";
    let Some(models) = std::env::var_os("PIECEWORK_TEST_MODELS").map(PathBuf::from) else {
        return skipped(test, "PIECEWORK_TEST_MODELS isn't set");
    };
    let lengths = [1, 300, 45, 130];
    agrees(&models.join("stories260K"), "stories260K", &lengths, test);
    agrees(&models.join("stories260K/stories260K-f32.gguf"), "stories260K.gguf", &lengths, test);
}

#[test]
fn steps_of_a_quantised_model_agree_with_the_processors() {
    let test = "steps_of_a_quantised_model_agree_with_the_processors";
    let Some(path) = std::env::var_os("PIECEWORK_TEST_SMOLLM2_GGUF").map(PathBuf::from) else {
        return skipped(test, "PIECEWORK_TEST_SMOLLM2_GGUF isn't set");
    };
    agrees(&path, "SmolLM2-135M", &[5, 20], test);
}

/// The engine on a GPU; None without that GPU.
fn engine(path: &Path, batch: u32, open: &Opener) -> Option<Loaded> {
    let opened = |shape| open(shape).ok_or_else(|| EngineError::machine(NONE));
    there_is(Loaded::load(path, &job(batch, Some(Device::Cuda)), &opened, &mut |_, _| {}))
}

#[test]
fn answers_depend_on_their_prompt_only_where_products_do() {
    let test = "answers_depend_on_their_prompt_only_where_products_do";
    let folder = model();
    // On a real GPU products choose their kernels by the number of rows.
    for (who, open) in gpus(test).into_iter().filter(|(who, _)| *who == "emulated") {
        let engine = |batch| engine(folder.path(), batch, &open);
        // Those that choose on the GPU only run ahead all the time.
        for bodies in [bodies(false), bodies(true)] {
            let Some(mut alone) = engine(1) else { continue };
            alone.native.ahead = false;
            let alone = answers(alone, &bodies);
            assert_eq!(answers(engine(6).unwrap(), &bodies), alone, "{who}");
            assert_eq!(answers(tight(engine(6).unwrap()), &bodies), alone, "{who}, tight");
        }
    }
}
