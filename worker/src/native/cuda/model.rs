//! One step of the model over a ragged batch, on a GPU.

use super::{
    again::Again,
    buffers::Buffers,
    device::{Argument, Device, HALF, Half, Launch, Mark, Memory, Product, Shape, WORD},
    told::{self, Tiles, Told},
    weights::{Layer, Weights},
};
use crate::{
    engine::EngineError,
    native::{
        config::Config,
        executor::{Choice, Executor, Given},
        kv_cache::BLOCK,
        model::Batch,
        scheduler::Bounds,
    },
};
use std::{collections::VecDeque, ops::Range};

/// Threads of a block that goes over a row.
const THREADS: usize = 256;

/// Warps of a block where each has work of its own, as `kernels.cu` has it for attention.
const WARPS: usize = 4;

/// Columns of a row that a thread keeps while the row is normalised, as `kernels.cu` has it.
const COLUMNS: usize = 16;

/// Of the memory that is left, keys and values leave one part in this: products take some for themselves
/// when they are first used, and recorded steps when they are first replayed.
const LEFT: u64 = 16;

/// Bytes that they leave at least, where those are no more than a quarter.
const LEFT_AT_LEAST: u64 = 1 << 30;

/// Tokens that `choosing.cu` adds up without running over.
const MOST_TOKENS: usize = 1 << 20;

/// A model in a GPU's memory.
#[derive(Debug)]
pub(in crate::native) struct Gpu {
    pub(super) device: Box<dyn Device>,
    config: Config,
    shape: Shape,
    weights: Weights,
    pub(super) buffers: Buffers,
    /// Keys and values of each layer.
    cache: Vec<(Memory, Memory)>,
    pub(super) again: Again,
    /// Steps that were begun, the first one first.
    unfinished: VecDeque<Unfinished>,
    /// Which half of the chosen tokens is the last step's.
    turn: usize,
    /// What the step that was finished last gave: a token, if there is one, or else which of the rows of logits
    /// that were fetched.
    given: Vec<Result<Option<u32>, usize>>,
}

/// A step that was begun.
#[derive(Debug)]
struct Unfinished {
    /// When it is done.
    done: Mark,
    /// Where it puts the tokens it chooses.
    tokens: Memory,
    /// Which of its wanted rows it chooses tokens for.
    chooses: Vec<bool>,
}

impl Gpu {
    /// A model for steps within bounds.
    pub(super) fn new(
        mut device: Box<dyn Device>,
        config: Config,
        shape: Shape,
        weights: Weights,
        bounds: Bounds,
    ) -> Result<Self, EngineError> {
        if MOST_TOKENS < config.vocabulary {
            return Err(EngineError::work(format!(
                "the model has {} tokens, and on a GPU the native engine chooses among {MOST_TOKENS} at \
                 most: take another engine, or ask for the CPU",
                config.vocabulary
            )));
        }
        let buffers = Buffers::new(&mut *device, &config, shape, bounds)?;
        Ok(Self {
            device,
            config,
            shape,
            weights,
            buffers,
            cache: Vec::new(),
            again: Again::default(),
            unfinished: VecDeque::new(),
            turn: 0,
            given: Vec::new(),
        })
    }

    /// Tells what a step is about.
    pub(super) fn tell(
        &mut self,
        batch: &Batch,
        choices: &[Option<Choice>],
    ) -> Result<Told, EngineError> {
        let half = self.buffers.tokens.bytes / WORD / 2;
        let places = [(1 - self.turn) * half, self.turn * half];
        let (words, layout) = told::lay(batch, choices, self.shape, &self.config, places);
        if self.buffers.told.bytes < words.bytes.len() {
            // It grows with the length of prompts, which has no bound but the cache. What was recorded
            // reads it where it was.
            self.buffers.told = self.device.allocate(2 * words.bytes.len())?;
            self.forget()?;
        }
        self.device.write(self.buffers.told, &words.bytes)?;
        Ok(Told::new(layout, self.buffers.told))
    }

    fn run(
        &mut self,
        kernel: &'static str,
        grid: [usize; 2],
        threads: usize,
        arguments: &[Argument],
    ) -> Result<(), EngineError> {
        self.device.launch(&Launch { kernel, grid, threads, arguments })
    }

    fn multiply(
        &mut self,
        weights: Memory,
        input: Memory,
        rows: usize,
        [columns, depth]: [usize; 2],
    ) -> Result<(), EngineError> {
        let (output, is_wide) = (self.buffers.product, false);
        self.device.multiply(&Product { weights, input, output, rows, columns, depth, is_wide })
    }

    /// Adds the last product and a bias to the residual stream, and normalises it.
    pub(super) fn normalise(
        &mut self,
        product: Option<Memory>,
        bias: Option<Memory>,
        weights: Memory,
        rows: Option<Memory>,
        count: usize,
    ) -> Result<(), EngineError> {
        let Buffers { residual, normed, .. } = self.buffers;
        let arguments = [
            residual.into(),
            product.into(),
            bias.into(),
            weights.into(),
            rows.into(),
            normed.into(),
            self.config.hidden.into(),
            self.config.epsilon.into(),
        ];
        let threads = self.config.hidden.div_ceil(COLUMNS).next_multiple_of(32).min(1024);
        self.run("add_and_normalise", [count, 1], threads, &arguments)
    }

    /// Finds the angles of all rows' positions.
    pub(super) fn find_angles(&mut self, told: &Told) -> Result<(), EngineError> {
        let threads = (self.config.head_dim / 2).next_multiple_of(32);
        let (frequencies, angles) = (self.weights.frequencies, self.buffers.angles);
        let arguments = [told.positions.into(), frequencies.into(), angles.into()];
        self.run("find_angles", [told.rows, 1], threads, &arguments)
    }

    fn layer(&mut self, index: usize, told: &Told) -> Result<(), EngineError> {
        let rows = told.rows;
        let Layer { attention_norm, qkv, output, output_bias, mlp_norm, gate_up, down, .. } =
            self.weights.layers[index];
        let Config { hidden, intermediate, .. } = self.config;
        let Buffers { normed, product, attended, gated, .. } = self.buffers;
        let (width, kv_width) = (self.config.query_width(), self.config.kv_width());
        let before = (0 < index).then_some(product);
        self.normalise(before, None, attention_norm, None, rows)?;
        self.multiply(qkv, normed, rows, [width + 2 * kv_width, hidden])?;
        self.attend(index, told)?;
        self.multiply(output, attended, rows, [hidden, width])?;
        self.normalise(Some(product), output_bias, mlp_norm, None, rows)?;
        self.multiply(gate_up, normed, rows, [2 * intermediate, hidden])?;
        let arguments = [product.into(), gated.into(), intermediate.into()];
        self.run("gate", [rows, 1], THREADS, &arguments)?;
        self.multiply(down, gated, rows, [hidden, intermediate])
    }

    /// Makes queries, keys and values of the last product, keeps keys and values, and attends.
    pub(super) fn attend(&mut self, index: usize, told: &Told) -> Result<(), EngineError> {
        let Buffers { product, angles, queries, attended, parts, part_sums, .. } = self.buffers;
        let Layer { qkv_bias, query_norm, key_norm, .. } = self.weights.layers[index];
        let (keys, values) = self.cache[index];
        let Config { heads, kv_heads, head_dim, epsilon, .. } = self.config;
        // Softmax goes by powers of 2.
        let scale = std::f32::consts::LOG2_E / (head_dim as f32).sqrt();
        let arguments = [
            product.into(),
            qkv_bias.into(),
            query_norm.into(),
            key_norm.into(),
            angles.into(),
            told.slots.into(),
            queries.into(),
            keys.into(),
            values.into(),
            kv_heads.into(),
            epsilon.into(),
            scale.into(),
        ];
        let grid = [told.rows, (heads + 2 * kv_heads).div_ceil(WARPS)];
        self.run("turn_and_keep", grid, WARPS * 32, &arguments)?;
        let window = self.config.window_of(index);
        let Tiles { tasks, task_count, merges, merge_count } =
            told.attention[usize::from(window.is_some())];
        let window = window.and_then(|window| i32::try_from(window).ok()).unwrap_or(i32::MAX);
        let arguments = [
            queries.into(),
            keys.into(),
            values.into(),
            told.tables.into(),
            tasks.into(),
            task_count.into(),
            attended.into(),
            parts.into(),
            part_sums.into(),
            kv_heads.into(),
            Argument::Number(window),
        ];
        self.run("attend", [task_count.div_ceil(WARPS), kv_heads], WARPS * 32, &arguments)?;
        if merge_count == 0 {
            return Ok(());
        }
        let arguments =
            [merges.into(), parts.into(), part_sums.into(), attended.into(), kv_heads.into()];
        self.run("merge", [merge_count, heads], head_dim.next_multiple_of(32), &arguments)
    }

    /// Chooses tokens where they are chosen here.
    pub(super) fn choose(&mut self, told: &Told) -> Result<(), EngineError> {
        if !told.chooses {
            return Ok(());
        }
        let Buffers { logits, tokens, .. } = self.buffers;
        let vocabulary = self.config.vocabulary.into();
        let arguments = [logits.into(), told.choices.into(), tokens.into(), vocabulary];
        self.run("choose", [told.wanted, 1], 2 * THREADS, &arguments)
    }

    /// Ends a step, which was told all.
    pub(super) fn end(&mut self, choices: &[Option<Choice>]) -> Result<(), EngineError> {
        let half = self.buffers.tokens.bytes / 2;
        let tokens = self.buffers.tokens.part(self.turn * half, half);
        let chooses = choices.iter().map(Option::is_some).collect();
        let done = self.device.mark()?;
        self.unfinished.push_back(Unfinished { done, tokens, chooses });
        Ok(())
    }

    /// Goes through the model, from tokens to tokens.
    pub(super) fn step(&mut self, told: &Told) -> Result<(), EngineError> {
        let Buffers { residual, product, normed, logits, tokens: chosen, .. } = self.buffers;
        let Config { hidden, vocabulary, .. } = self.config;
        let Weights { embedding, norm, output, .. } = self.weights;
        let (tokens, residual) = (told.tokens.into(), residual.into());
        let arguments = [embedding.into(), tokens, chosen.into(), residual, hidden.into()];
        self.run("embed", [told.rows, 1], THREADS, &arguments)?;
        self.find_angles(told)?;
        for index in 0..self.config.layers {
            self.layer(index, told)?;
        }
        if told.wanted == 0 {
            return Ok(());
        }
        let before = (0 < self.config.layers).then_some(product);
        self.normalise(before, None, norm, told.wanted_rows, told.wanted)?;
        let (columns, depth, is_wide) = (vocabulary, hidden, true);
        let (weights, input, output, rows) = (output, normed, logits, told.wanted);
        self.device.multiply(&Product { weights, input, output, rows, columns, depth, is_wide })?;
        self.choose(told)
    }

    /// Brings a step's tokens, and logits where no token was chosen, to the host.
    fn bring(&mut self, step: &Unfinished) -> Result<(), EngineError> {
        let Unfinished { done, tokens, chooses } = step;
        let mut chosen = vec![0; chooses.len() * WORD];
        self.device.read_at(*done, *tokens, &mut chosen)?;
        self.given.clear();
        let (chosen, _) = chosen.as_chunks::<WORD>();
        let row_bytes = self.config.vocabulary * WORD;
        // Rows that lie one behind the other are one piece.
        let (mut pieces, mut rows): (Vec<Range<usize>>, usize) = (Vec::new(), 0);
        for (row, (chooses, token)) in chooses.iter().zip(chosen).enumerate() {
            if *chooses {
                self.given.push(Ok(u32::try_from(i32::from_le_bytes(*token)).ok()));
                continue;
            }
            self.given.push(Err(rows));
            rows += 1;
            match pieces.last_mut() {
                Some(piece) if piece.end == row => piece.end += 1,
                _ => pieces.push(row..row + 1),
            }
        }
        if pieces.is_empty() {
            return Ok(());
        }
        assert!(self.unfinished.is_empty(), "no step goes over logits that are wanted");
        let logits = self.buffers.logits;
        let part =
            |rows: &Range<usize>| logits.part(rows.start * row_bytes, rows.len() * row_bytes);
        self.device.fetch_at(*done, &pieces.iter().map(part).collect::<Vec<_>>())
    }
}

impl Executor for Gpu {
    fn config(&self) -> &Config {
        &self.config
    }

    fn kind(&self) -> String {
        let half = match self.shape.half {
            Half::Bf16 => "bf16",
            Half::F16 => "f16",
        };
        format!("{}, {half}", self.device.name())
    }

    fn weight_bytes(&self) -> u64 {
        self.weights.bytes
    }

    fn block_bytes(&self) -> u64 {
        let head = 2 * self.shape.padded() * BLOCK * HALF;
        (head * self.config.kv_heads * self.config.layers) as u64
    }

    fn room(&self) -> Result<Option<u64>, EngineError> {
        let free = self.device.free_bytes()?;
        Ok(Some(free - (free / LEFT).max(LEFT_AT_LEAST.min(free / 4))))
    }

    fn keep(&mut self, blocks: usize) -> Result<(), EngineError> {
        let bytes = blocks * self.config.kv_heads * self.shape.padded() * BLOCK * HALF;
        for _ in 0..self.config.layers {
            self.cache.push((self.device.allocate(bytes)?, self.device.allocate(bytes)?));
        }
        Ok(())
    }

    fn runs_ahead(&self) -> bool {
        true
    }

    fn begin(&mut self, batch: &Batch, choices: &[Option<Choice>]) -> Result<(), EngineError> {
        assert!(
            self.unfinished.len() < 2,
            "a step is finished before the second one after it begins"
        );
        let (rows, wanted) = (batch.tokens.len(), batch.wanted.len());
        let bounds = self.buffers.bounds;
        assert!(rows <= bounds.tokens && wanted <= bounds.sequences, "steps keep to their bounds");
        self.turn = 1 - self.turn;
        let told = self.tell(batch, choices)?;
        self.step_again(&told)?;
        self.end(choices)
    }

    fn finish(&mut self) -> Result<(), EngineError> {
        let step = self.unfinished.pop_front().expect("a step was begun");
        self.bring(&step)
    }

    fn given(&self, row: usize, logits: &mut Vec<f32>) -> Given {
        match self.given[row] {
            Ok(token) => Given::Token(token),
            Err(row) => {
                let bytes = self.config.vocabulary * WORD;
                let (words, _) = self.device.fetched()[row * bytes..][..bytes].as_chunks::<WORD>();
                logits.clear();
                logits.extend(words.iter().map(|word| f32::from_le_bytes(*word)));
                Given::Logits
            }
        }
    }
}
