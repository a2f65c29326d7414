//! Tokens chosen by the GPU.

use super::{Opener, gpus, no_weights, noise, word_bytes};
use crate::{
    engine::EngineError,
    native::{
        config::Config,
        cuda::{
            device::{Half, Shape},
            model::Gpu,
        },
        executor::{Choice, Executor, Given},
        model::Batch,
        penalties::History,
        rope::{Rope, Scaling},
        sampling::Sampling,
        scheduler::Bounds,
    },
};

pub(super) const ROWS: usize = 40;

/// Those whose logits are wanted.
const READ: [usize; 4] = [7, 8, 20, 39];

fn config(vocabulary: usize) -> Config {
    Config {
        hidden: 32,
        layers: 0,
        heads: 1,
        kv_heads: 1,
        head_dim: 32,
        intermediate: 32,
        vocabulary,
        context: 64,
        epsilon: 1e-5,
        rope: Rope { base: 10_000.0, scaling: Scaling::None },
        window: None,
        tied: true,
    }
}

/// Ways to choose, of all kinds.
fn samplings() -> Vec<Sampling> {
    let mut all = Vec::new();
    for (temperature, top_k, top_p, min_p) in [
        (0.0, 0, 1.0, 0.0),
        (1.0, 0, 1.0, 0.0),
        (0.7, 0, 1.0, 0.05),
        (1.0, 1, 1.0, 0.0),
        (1.3, 7, 1.0, 0.0),
        (1.0, 50, 0.9, 0.0),
        (0.8, 0, 0.5, 0.0),
        (1.0, 0, 0.0, 0.0),
        (1.0, 20, 0.95, 0.3),
        (2.0, 100_000, 0.99, 0.01),
    ] {
        for seed in 0..ROWS as u64 {
            all.push(Sampling { temperature, top_p, top_k, min_p, seed, ..Sampling::default() });
        }
    }
    all
}

/// Rows of logits: smooth, with many equal ones, with some that are none, and with none at all.
pub(super) fn logits(vocabulary: usize, row: usize) -> Vec<f32> {
    let mut logits = noise(row as u64, vocabulary);
    for (at, logit) in logits.iter_mut().enumerate() {
        *logit = match row % 4 {
            0 => *logit * 8.0,
            1 => (*logit * 6.0).round(),
            2 if at % 3 == 1 => [f32::NAN, f32::NEG_INFINITY][at % 2],
            2 => *logit * 5.0,
            _ if row == 3 => f32::NAN,
            _ => *logit * 3.0 - 20.0,
        };
    }
    logits
}

/// A model that only chooses tokens; None without that GPU.
pub(super) fn model(vocabulary: usize, open: &Opener) -> Option<Result<Gpu, EngineError>> {
    let shape = Shape { head_dim: 32, group: 1, half: Half::Bf16 };
    let device = open(shape)?;
    let bounds = Bounds { sequences: ROWS, tokens: 128 };
    Some(Gpu::new(device, config(vocabulary), shape, no_weights(), bounds))
}

/// Chooses a token for each row of the logits that are there.
pub(super) fn choose(gpu: &mut Gpu, batch: &Batch, choices: &[Option<Choice>]) {
    let told = gpu.tell(batch, choices).unwrap();
    gpu.choose(&told).unwrap();
    gpu.end(choices).unwrap();
    gpu.finish().unwrap();
}

#[test]
fn tokens_are_those_that_the_processor_chooses() {
    for (name, open) in gpus("tokens_are_those_that_the_processor_chooses") {
        for vocabulary in [1, 33, 1000, 5001] {
            let Some(gpu) = model(vocabulary, &open) else { continue };
            let mut gpu = gpu.unwrap();
            let all: Vec<f32> = (0..ROWS).flat_map(|row| logits(vocabulary, row)).collect();
            gpu.device.write(gpu.buffers.logits, &word_bytes(&all)).unwrap();
            for samplings in samplings().chunks(ROWS) {
                let choice = |sampling: &Sampling| Some(sampling.choice(5, &History::default()));
                let mut choices: Vec<_> = samplings.iter().map(choice).collect();
                // Those whose logits are wanted are no trouble to the others.
                for row in READ {
                    choices[row] = None;
                }
                choose(&mut gpu, &Batch::default(), &choices);
                for (row, sampling) in samplings.iter().enumerate() {
                    let mut own = logits(vocabulary, row);
                    let mut given = Vec::new();
                    let got = gpu.given(row, &mut given);
                    if READ.contains(&row) {
                        assert_eq!((got, given), (Given::Logits, own));
                        continue;
                    }
                    let is_number = own.iter().any(|logit| logit.is_finite());
                    let wanted =
                        is_number.then(|| sampling.choose(&mut own, 5, &History::default(), &[]));
                    assert_eq!(
                        got,
                        Given::Token(wanted),
                        "{name}, {vocabulary}, {row}: {sampling:?}"
                    );
                }
            }
        }
    }
}

/// So many tokens of about the same probability fall on one digit that sums come near to what they hold.
#[test]
fn many_tokens_of_one_kind_are_added_up_in_full() {
    let vocabulary = 150_000;
    for (name, open) in gpus("many_tokens_of_one_kind_are_added_up_in_full") {
        let Some(gpu) = model(vocabulary, &open) else { continue };
        let mut gpu = gpu.unwrap();
        let logits: Vec<f32> = noise(1, vocabulary).iter().map(|at| 5.0 + at / 1024.0).collect();
        gpu.device.write(gpu.buffers.logits, &word_bytes(&logits.repeat(4))).unwrap();
        let limits = [(0, 0.9), (0, 0.3), (100_000, 1.0), (120_000, 0.7)];
        let samplings =
            limits.map(|(top_k, top_p)| Sampling { top_p, top_k, ..Sampling::default() });
        let choice = |sampling: &Sampling| Some(sampling.choice(5, &History::default()));
        choose(&mut gpu, &Batch::default(), &samplings.each_ref().map(choice));
        for (row, sampling) in samplings.iter().enumerate() {
            let wanted = sampling.choose(&mut logits.clone(), 5, &History::default(), &[]);
            let got = gpu.given(row, &mut Vec::new());
            assert_eq!(got, Given::Token(Some(wanted)), "{name}, {sampling:?}");
        }
    }
}

#[test]
fn a_model_of_more_tokens_than_are_added_up_is_refused() {
    for (_, open) in gpus("a_model_of_more_tokens_than_are_added_up_is_refused") {
        let Some(gpu) = model((1 << 20) + 1, &open) else { continue };
        let error = gpu.unwrap_err();
        assert!(error.reason.contains("1048577 tokens"), "{error}");
    }
}
