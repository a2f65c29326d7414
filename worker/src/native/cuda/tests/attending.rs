//! Queries, keys, values and attention, over ragged batches.

use super::{
    Opener, gpus, half_bytes, no_weights, noise, read_halves, rounded, stored, word_bytes,
};
use crate::native::{
    attention::{self, Span},
    config::Config,
    cuda::{
        device::{Half, Memory, Shape},
        model::Gpu,
        weights::{Layer, Weights},
    },
    executor::Executor,
    kv_cache::{BLOCK, Cache},
    loops::{Normalise, TurnHeads},
    model::Batch,
    rope::{Rope, Scaling, angles},
    scheduler::Bounds,
    simd::vectorized,
};
use rayon::prelude::*;

struct Case {
    half: Half,
    head_dim: usize,
    kv_heads: usize,
    group: usize,
    window: Option<usize>,
    /// Whether there are biases and norms of heads.
    more: bool,
}

impl Case {
    fn config(&self) -> Config {
        Config {
            hidden: 64,
            layers: 1,
            heads: self.kv_heads * self.group,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            intermediate: 32,
            vocabulary: 32,
            context: 2048,
            epsilon: 1e-5,
            rope: Rope { base: 10_000.0, scaling: Scaling::None },
            window: self.window.map(|window| (window, 0)),
            tied: true,
        }
    }
}

const BLOCKS: usize = 120;

/// Batches, one after another: where each span of a sequence begins and how long it is. The first fill what
/// the others look back at.
const BATCHES: [&[(usize, usize, usize)]; 3] = [
    &[(0, 0, 31), (1, 0, 700), (2, 0, 5), (3, 0, 300)],
    &[(0, 31, 1), (1, 700, 3), (2, 5, 70), (3, 300, 1)],
    &[(1, 703, 1), (2, 75, 1), (0, 32, 1), (3, 301, 1), (4, 0, 1)],
];

fn batch(spans: &[(usize, usize, usize)]) -> Batch {
    let mut batch = Batch::default();
    for (sequence, position, count) in spans {
        // Blocks of sequences lie between each other's, backwards.
        let block = |index: usize| u32::try_from(BLOCKS - 1 - index * 5 - sequence).unwrap();
        let blocks = (0..(position + count).div_ceil(BLOCK)).map(block).collect();
        let row = batch.tokens.len();
        batch.spans.push(Span { row, count: *count, position: *position, blocks });
        batch.tokens.resize(row + count, 0);
    }
    if spans.iter().all(|(_, _, count)| *count == 1) {
        batch.wanted = (0..spans.len()).collect();
    }
    batch
}

/// What the CPU makes of the same product.
struct Reference {
    cache: Cache<f32>,
    frequencies: Vec<f32>,
    bias: Option<Vec<f32>>,
    norms: Option<[Vec<f32>; 2]>,
}

impl Reference {
    fn attend(&mut self, case: &Case, config: &Config, batch: &Batch, product: &[f32]) -> Vec<f32> {
        let (dim, half) = (case.head_dim, case.half);
        let (width, kv_width) = (config.query_width(), config.kv_width());
        let mut product = product.to_vec();
        let mut queries = Vec::new();
        for (row, values) in product.chunks_mut(width + 2 * kv_width).enumerate() {
            let span = batch.spans.iter().find(|span| row < span.row + span.count).unwrap();
            let position = span.position + row - span.row;
            for (value, bias) in values.iter_mut().zip(self.bias.iter().flatten()) {
                *value += bias;
            }
            let mut turn = vec![0.0; dim];
            angles(&self.frequencies, position, &mut turn);
            let (query, rest) = values.split_at_mut(width);
            let (key, value) = rest.split_at_mut(kv_width);
            for (heads, norm) in [(&mut *query, 0), (&mut *key, 1)] {
                let weights = self.norms.as_ref().map(|norms| norms[norm].as_slice());
                let scale = if norm == 0 { 1.0 / (dim as f32).sqrt() } else { 1.0 };
                let epsilon = config.epsilon;
                vectorized(TurnHeads { heads, weights, epsilon, turn: &turn, scale });
            }
            queries.extend_from_slice(query);
            for value in key.iter_mut().chain(&mut *value) {
                *value = rounded(half, *value);
            }
            self.cache.heads_mut(0).enumerate().for_each(|(index, mut head)| {
                let part = index * dim..(index + 1) * dim;
                let block = span.blocks[position / BLOCK];
                head.store(block, position % BLOCK, &key[part.clone()], &value[part]);
            });
        }
        let shape = attention::Shape {
            kv_heads: case.kv_heads,
            group: case.group,
            head_dim: dim,
            window: case.window,
        };
        let mut out = vec![0.0; queries.len()];
        attention::attend(shape, &self.cache, 0, &batch.spans, &queries, &mut out);
        out
    }
}

/// How far attention is off at most, where values are from -1 to 1. Half a unit in the last place of the
/// result, and as much of each of its shares and queries.
fn tolerance(half: Half) -> f32 {
    match half {
        Half::Bf16 => 0.02,
        Half::F16 => 0.0025,
    }
}

fn agrees(case: &Case, open: &Opener, who: &str) {
    let config = case.config();
    let shape = Shape { head_dim: case.head_dim, group: case.group, half: case.half };
    let Some(mut device) = open(shape) else { return };
    let frequencies = config.rope.frequencies(case.head_dim);
    let (width, kv_width) = (config.query_width(), config.kv_width());
    let bias = case.more.then(|| noise(1, width + 2 * kv_width));
    let norms = case.more.then(|| [2, 3].map(|seed| noise(seed, case.head_dim)));
    let nothing = Memory { address: 0, bytes: 0 };
    let mut store = |values: &[f32]| stored(&mut *device, &word_bytes(values));
    let layer = Layer {
        attention_norm: nothing,
        qkv: nothing,
        qkv_bias: bias.as_deref().map(&mut store),
        query_norm: norms.as_ref().map(|norms| store(&norms[0])),
        key_norm: norms.as_ref().map(|norms| store(&norms[1])),
        output: nothing,
        output_bias: None,
        mlp_norm: nothing,
        gate_up: nothing,
        down: nothing,
    };
    let weights = Weights {
        embedding: nothing,
        output: nothing,
        norm: nothing,
        frequencies: store(&frequencies),
        layers: vec![layer],
        bytes: 0,
    };
    let bounds = Bounds { sequences: 8, tokens: 1100 };
    let mut gpu = Gpu::new(device, config.clone(), shape, weights, bounds).unwrap();
    gpu.keep(BLOCKS).unwrap();
    let cache = Cache::new(&config, BLOCKS);
    let mut reference = Reference { cache, frequencies, bias, norms };
    for (seed, spans) in (10..).zip(BATCHES) {
        let batch = batch(spans);
        let rows = batch.tokens.len();
        let product = noise(seed, rows * (width + 2 * kv_width));
        let product: Vec<f32> =
            product.iter().map(|value| rounded(case.half, 2.0 * value)).collect();
        let told = gpu.tell(&batch, &vec![None; batch.wanted.len()]).unwrap();
        assert_eq!(told.sizes.is_some(), seed == 12);
        gpu.device.write(gpu.buffers.product, &half_bytes(case.half, &product)).unwrap();
        gpu.find_angles(&told).unwrap();
        gpu.attend(0, &told).unwrap();
        let got = read_halves(&mut *gpu.device, gpu.buffers.attended, case.half, rows * width);
        let wanted = reference.attend(case, &config, &batch, &product);
        let values = if case.more { 3.0 } else { 2.0 };
        let limit = values * tolerance(case.half);
        for (at, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
            let off = (got - wanted).abs();
            let place = (at / width, at % width);
            assert!(off <= limit, "{who}, batch {seed}, {place:?}: {got}, not {wanted}");
        }
    }
}

#[test]
fn attention_agrees_with_the_processors() {
    let case = |half, head_dim, kv_heads, group, window, more| Case {
        half,
        head_dim,
        kv_heads,
        group,
        window,
        more,
    };
    let cases = [
        case(Half::F16, 64, 2, 3, None, false),
        case(Half::F16, 128, 1, 4, Some(100), true),
        case(Half::F16, 36, 2, 7, None, true),
        case(Half::Bf16, 128, 1, 8, None, false),
        case(Half::Bf16, 8, 3, 1, Some(33), true),
        case(Half::F16, 32, 1, 20, Some(300), false),
    ];
    for (name, open) in gpus("attention_agrees_with_the_processors") {
        for case in &cases {
            let Case { half, head_dim, group, window, .. } = case;
            agrees(case, &open, &format!("{name}, {half:?}, {head_dim}, {group}, {window:?}"));
        }
    }
}

/// Rows that threads keep, in whole and in part, and rows that they go over twice: those that four don't
/// divide, and long ones.
#[test]
fn rows_are_added_and_normalised_as_on_the_processor() {
    for (name, open) in gpus("rows_are_added_and_normalised_as_on_the_processor") {
        for hidden in [36, 1000, 1001, 4096, 16_388] {
            normalises(hidden, &open, &format!("{name}, {hidden}"));
        }
    }
}

fn normalises(hidden: usize, open: &Opener, who: &str) {
    let case =
        Case { half: Half::F16, head_dim: 32, kv_heads: 1, group: 1, window: None, more: false };
    let shape = Shape { head_dim: 32, group: 1, half: case.half };
    let Some(mut device) = open(shape) else { return };
    let config = Config { hidden, ..case.config() };
    let [weight, bias] = [noise(1, hidden), noise(2, hidden)];
    let [weights, biases] =
        [&weight, &bias].map(|values| stored(&mut *device, &word_bytes(values)));
    let bounds = Bounds { sequences: 8, tokens: 64 };
    let mut gpu = Gpu::new(device, config, shape, no_weights(), bounds).unwrap();
    let residual = noise(3, 5 * hidden);
    let product: Vec<f32> =
        noise(4, 5 * hidden).iter().map(|value| rounded(case.half, *value)).collect();
    let buffer = gpu.buffers.product;
    gpu.device.write(gpu.buffers.residual, &word_bytes(&residual)).unwrap();
    gpu.device.write(buffer, &half_bytes(case.half, &product)).unwrap();
    let some: Vec<u8> = [4_i32, 1, 2].iter().flat_map(|row| row.to_le_bytes()).collect();
    let rows = stored(&mut *gpu.device, &some);
    // What was added the first time is there the second time.
    for more in [Some((buffer, biases)), None] {
        let (product_memory, biases) = more.unzip();
        gpu.normalise(product_memory, biases, weights, Some(rows), 3).unwrap();
        let got = read_halves(&mut *gpu.device, gpu.buffers.normed, case.half, 3 * hidden);
        for (row, got) in [4, 1, 2].into_iter().zip(got.chunks(hidden)) {
            let mut values = residual[row * hidden..(row + 1) * hidden].to_vec();
            for (at, value) in values.iter_mut().enumerate() {
                *value += product[row * hidden + at] + bias[at];
            }
            let mut wanted = vec![0.0; hidden];
            let (values, out) = (&values[..], &mut wanted[..]);
            vectorized(Normalise { values, weights: &weight, epsilon: 1e-5, out });
            for (got, wanted) in got.iter().zip(&wanted) {
                assert!((got - wanted).abs() < 2e-3, "{who}, row {row}: {got}, not {wanted}");
            }
        }
    }
}
