//! Tokens chosen by the GPU.

use super::{gpus, noise, word_bytes};
use crate::native::{
    config::Config,
    cuda::{
        device::{Half, Memory, Shape},
        model::Gpu,
        weights::Weights,
    },
    executor::{Executor, Given},
    model::Batch,
    rope::{Rope, Scaling},
    sampling::{History, Sampling},
    scheduler::Bounds,
};

const ROWS: usize = 40;

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
fn logits(vocabulary: usize, row: usize) -> Vec<f32> {
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

#[test]
fn tokens_are_those_that_the_processor_chooses() {
    for (name, open) in gpus("tokens_are_those_that_the_processor_chooses") {
        for vocabulary in [1, 33, 1000, 5001] {
            let shape = Shape { head_dim: 32, group: 1, half: Half::Bf16 };
            let Some(device) = open(shape) else { return };
            let nothing = Memory { address: 0, bytes: 0 };
            let weights = Weights {
                embedding: nothing,
                output: nothing,
                norm: nothing,
                frequencies: nothing,
                layers: Vec::new(),
                bytes: 0,
            };
            let bounds = Bounds { sequences: ROWS, tokens: 128 };
            let mut gpu = Gpu::new(device, config(vocabulary), shape, weights, bounds).unwrap();
            let all: Vec<f32> = (0..ROWS).flat_map(|row| logits(vocabulary, row)).collect();
            gpu.device.write(gpu.buffers.logits, &word_bytes(&all)).unwrap();
            for samplings in samplings().chunks(ROWS) {
                let mut choices: Vec<_> =
                    samplings.iter().map(|sampling| sampling.choice(5)).collect();
                // One whose logits are wanted is no trouble to the others.
                choices[7] = None;
                let told = gpu.tell(&Batch::default(), &choices).unwrap();
                gpu.choose(&told).unwrap();
                gpu.end(&choices).unwrap();
                gpu.finish().unwrap();
                for (row, sampling) in samplings.iter().enumerate() {
                    let mut own = logits(vocabulary, row);
                    let mut given = vec![0.0; vocabulary];
                    let got = gpu.given(row, &mut given);
                    if row == 7 {
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
