//! Penalties and biases on the GPU.

use super::{
    choosing::{ROWS, choose, logits, model},
    gpus, word_bytes,
};
use crate::native::{
    cuda::device::WORD,
    executor::{Executor, Given},
    model::Batch,
    penalties::History,
    sampling::Sampling,
};

const VOCABULARY: usize = 1000;

/// Some tokens, of which a few are there several times.
fn tokens(seed: usize, count: usize) -> Vec<u32> {
    let token = |at: usize| u32::try_from((seed * 17 + at * at * 7) % VOCABULARY).unwrap();
    (0..count).map(token).collect()
}

/// One way to penalise, chosen by the best or by a draw; every third row has biases, too, of which one is for a
/// token that isn't there.
fn sampling([repetition, frequency, presence]: [f32; 3], row: usize) -> Sampling {
    let biases = if row.is_multiple_of(3) { 600 } else { 0 };
    Sampling {
        temperature: if row.is_multiple_of(2) { 1.0 } else { 0.0 },
        top_p: 0.95,
        seed: row as u64,
        repetition_penalty: repetition,
        frequency_penalty: frequency,
        presence_penalty: presence,
        biases: (0..biases).map(|at| (at * 3, at as f32 / 64.0 - 3.1)).collect(),
        ..Sampling::default()
    }
}

#[test]
fn logits_are_changed_as_the_processor_changes_them() {
    let last: Vec<u32> = (0..ROWS).map(|row| tokens(row, 5)[row % 5]).collect();
    // Of two rows in three only the GPU knows the last token: one that was in the prompt, or in the answer, or in
    // both, or in neither.
    let unknown: Vec<_> =
        (0..ROWS).filter(|row| row % 3 < 2).map(|row| (row, ROWS - 1 - row)).collect();
    let wanted = (0..ROWS).collect();
    let batch = Batch { tokens: vec![0; ROWS], wanted, unknown, ..Batch::default() };
    for (name, open) in gpus("logits_are_changed_as_the_processor_changes_them") {
        let Some(gpu) = model(VOCABULARY, &open) else { continue };
        let mut gpu = gpu.unwrap();
        let half = gpu.buffers.tokens.bytes / 2;
        let chosen = gpu.buffers.tokens.part(half, half);
        let bytes: Vec<u8> = last.iter().flat_map(|token| token.to_le_bytes()).collect();
        gpu.device.write(chosen, &bytes).unwrap();
        let all: Vec<f32> = (0..ROWS).flat_map(|row| logits(VOCABULARY, row)).collect();
        for penalties in [
            [1.1, 0.0, 0.0],
            [0.7, 0.3, 0.0],
            [1.0, -0.37, 0.71],
            [1.3, 0.1, -0.2],
            [1.0, 0.0, 0.0],
        ] {
            gpu.device.write(gpu.buffers.logits, &word_bytes(&all)).unwrap();
            let samplings: Vec<_> = (0..ROWS).map(|row| sampling(penalties, row)).collect();
            let mut histories: Vec<_> = samplings
                .iter()
                .enumerate()
                .map(|(row, sampling)| {
                    let mut history = History::new(sampling, &tokens(row, row % 4 * 30));
                    // Row 6 begins an answer, row 7 has a long one.
                    let answer = tokens(row + row % 2, [0, 900, 3, 40, 2][row % 5]);
                    for token in answer {
                        history.note(sampling, token);
                    }
                    history
                })
                .collect();
            let choices: Vec<_> = samplings
                .iter()
                .zip(&histories)
                .map(|(sampling, history)| Some(sampling.choice(5, history)))
                .collect();
            choose(&mut gpu, &batch, &choices);
            let mut changed = vec![0; ROWS * VOCABULARY * WORD];
            let now = gpu.device.mark().unwrap();
            gpu.device.read_at(now, gpu.buffers.logits, &mut changed).unwrap();
            for (row, wanted) in &batch.unknown {
                histories[*row].note(&samplings[*row], last[*wanted]);
            }
            for (row, (sampling, history)) in samplings.iter().zip(&histories).enumerate() {
                let mut own = logits(VOCABULARY, row);
                if let Some(change) = sampling.choice(5, history).change {
                    change.apply(&mut own);
                }
                let got = &changed[row * VOCABULARY * WORD..][..VOCABULARY * WORD];
                let who = format!("{name}, {penalties:?}, {row}");
                for (token, (got, wanted)) in got.as_chunks().0.iter().zip(&own).enumerate() {
                    let got = f32::from_le_bytes(*got);
                    let are_same =
                        got.to_bits() == wanted.to_bits() || (got.is_nan() && wanted.is_nan());
                    assert!(are_same, "{who}, {token}: {got}, not {wanted}");
                }
                let is_number = own.iter().any(|logit| logit.is_finite());
                let mut own = logits(VOCABULARY, row);
                let wanted = is_number.then(|| sampling.choose(&mut own, 5, history, &[]));
                assert_eq!(gpu.given(row, &mut Vec::new()), Given::Token(wanted), "{who}");
            }
        }
    }
}
