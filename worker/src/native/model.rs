//! A decoder of the Llama family, and one step of it over a ragged batch.

use super::{
    attention::{Shape, Span, attend},
    config::Config,
    kernel::PANEL,
    kv_cache::{BLOCK, Cache, HeadMut, KvNumber},
    loops::{Normalise, TurnHeads},
    matrix::{Kept, Matrix},
    panels::Panels,
    rope::angles,
    simd::vectorized,
    tensor::{Tensors, find},
    tiles::Tiles,
};
use crate::engine::EngineError;
use rayon::prelude::*;

/// Rows of little work that are worth a thread of their own: handing them out takes as long as some of
/// them do.
const APART: usize = 8;

/// Tokens to go through the model at once: of any sequences, any number of each.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    /// The tokens, span after span.
    pub(super) tokens: Vec<u32>,
    /// Whose they are.
    pub(super) spans: Vec<Span>,
    /// The rows whose next token is wanted, ascending.
    pub(super) wanted: Vec<usize>,
    /// Rows whose token only the executor knows, and for which wanted row of the step before it chose
    /// that. What stands in `tokens` for them means nothing.
    pub(super) unknown: Vec<(usize, usize)>,
}

/// A model's weights.
#[derive(Debug)]
pub(super) struct Model {
    config: Config,
    frequencies: Vec<f32>,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// None where the embedding serves.
    output: Option<Matrix>,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    /// Queries, keys and values, in this order.
    qkv: Matrix,
    qkv_bias: Option<Vec<f32>>,
    query_norm: Option<Vec<f32>>,
    key_norm: Option<Vec<f32>>,
    output: Matrix,
    output_bias: Option<Vec<f32>>,
    mlp_norm: Vec<f32>,
    /// Panels of the gate and of what it gates, in turn.
    gate_up: Matrix,
    down: Matrix,
}

/// What a step works in; kept between steps to spare the allocations.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    residual: Vec<f32>,
    angles: Vec<f32>,
    queries: Vec<f32>,
    attended: Vec<f32>,
    tiles: Tiles,
    gated: Tiles,
    product: Panels,
    last: Vec<f32>,
}

impl Model {
    /// Loads the weights, telling `progress` the bytes read so far and in all.
    pub(super) fn load(
        config: Config,
        tensors: &Tensors,
        kept: Kept,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, EngineError> {
        let total = tensors.values().map(super::tensor::Tensor::bytes).sum();
        progress(0, total);
        let table = [config.vocabulary, config.hidden];
        let embedding = find(tensors, "model.embed_tokens.weight")?.expect(&table)?;
        let mut done = embedding.bytes();
        let load_rows =
            |tensor| Matrix::load(kept, config.vocabulary, &[tensor], |column| Some((0, column)));
        let embedding = load_rows(embedding)?;
        progress(done, total);
        let output = if config.tied || !tensors.contains_key("lm_head.weight") {
            None
        } else {
            let output = find(tensors, "lm_head.weight")?.expect(&table)?;
            done += output.bytes();
            Some(load_rows(output)?)
        };
        let mut layers = Vec::new();
        for index in 0..config.layers {
            progress(done, total);
            let names = Names { tensors, prefix: format!("model.layers.{index}.") };
            done += names.bytes();
            layers.push(Layer::load(&config, &names, kept)?);
        }
        let norm = find(tensors, "model.norm.weight")?.expect(&[config.hidden])?.values()?;
        progress(total, total);
        let frequencies = config.rope.frequencies(config.head_dim);
        Ok(Self { config, frequencies, embedding, layers, norm, output })
    }

    /// What the model is made of.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// What most of the weights are kept as, for people.
    pub(super) fn kind(&self) -> &'static str {
        self.layers.first().map_or(self.embedding.kind(), |layer| layer.gate_up.kind())
    }

    /// Bytes of the weights in memory.
    pub(super) fn bytes(&self) -> u64 {
        let layers = self.layers.iter();
        let layers = layers.flat_map(|l| [&l.qkv, &l.output, &l.gate_up, &l.down]);
        layers.chain([&self.embedding]).chain(&self.output).map(Matrix::bytes).sum()
    }

    /// Takes the batch's tokens in. `logits` gets a row for each wanted token, and `cache` all
    /// keys and values.
    pub(super) fn step<N: KvNumber>(
        &self,
        batch: &Batch,
        cache: &mut Cache<N>,
        work: &mut Workspace,
        logits: &mut Panels,
    ) {
        let (hidden, rows) = (self.config.hidden, batch.tokens.len());
        work.residual.resize(rows * hidden, 0.0);
        let rows_of_residual = work.residual.par_chunks_mut(hidden).with_min_len(APART);
        rows_of_residual.zip(&batch.tokens).for_each(|(row, token)| {
            self.embedding.column(*token as usize, row);
        });
        let positions: Vec<usize> =
            batch.spans.iter().flat_map(|span| span.position..span.position + span.count).collect();
        let head_dim = self.config.head_dim;
        work.angles.resize(rows * head_dim, 0.0);
        work.angles
            .par_chunks_mut(head_dim)
            .with_min_len(APART)
            .zip(&positions)
            .for_each(|(row, position)| angles(&self.frequencies, *position, row));
        for (index, layer) in self.layers.iter().enumerate() {
            let shape = Shape {
                kv_heads: self.config.kv_heads,
                group: self.config.group(),
                head_dim,
                window: self.config.window_of(index),
            };
            layer.step(&self.config, shape, batch, (index, &mut *cache), work);
        }
        work.last.clear();
        for (place, row) in batch.wanted.iter().enumerate() {
            work.last.extend(&work.residual[row * hidden..(row + 1) * hidden]);
            work.product.add_to(*row, &mut work.last[place * hidden..]);
        }
        let output = self.output.as_ref().unwrap_or(&self.embedding);
        work.tiles.fill(&mut work.last, hidden, output.intake(), |_, values, out| {
            let (weights, epsilon) = (&self.norm, self.config.epsilon);
            vectorized(Normalise { values, weights, epsilon, out });
        });
        output.multiply(&work.tiles, logits);
    }
}

impl Layer {
    fn load(config: &Config, names: &Names<'_>, kept: Kept) -> Result<Self, EngineError> {
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        let (q, kv) = (config.query_width(), config.kv_width());
        let matrix = |name: &str, rows: usize, columns: usize| {
            names.find(&format!("{name}.weight"))?.expect(&[rows, columns])
        };
        let projections = [
            matrix("self_attn.q_proj", q, hidden)?,
            matrix("self_attn.k_proj", kv, hidden)?,
            matrix("self_attn.v_proj", kv, hidden)?,
        ];
        let qkv = Matrix::load(kept, q + 2 * kv, &projections, |column| {
            Some(match column {
                column if column < q => (0, column),
                column if column < q + kv => (1, column - q),
                column => (2, column - q - kv),
            })
        })?;
        let output = matrix("self_attn.o_proj", hidden, q)?;
        let gated = [
            matrix("mlp.gate_proj", intermediate, hidden)?,
            matrix("mlp.up_proj", intermediate, hidden)?,
        ];
        let pairs = intermediate.div_ceil(PANEL);
        let gate_up = Matrix::load(kept, 2 * pairs * PANEL, &gated, |column| {
            let row = column / PANEL / 2 * PANEL + column % PANEL;
            (row < intermediate).then_some((column / PANEL % 2, row))
        })?;
        let down = matrix("mlp.down_proj", hidden, intermediate)?;
        Ok(Self {
            attention_norm: names.vector("input_layernorm.weight", hidden)?,
            qkv,
            qkv_bias: names.biases(config)?,
            query_norm: names.optional("self_attn.q_norm.weight", config.head_dim)?,
            key_norm: names.optional("self_attn.k_norm.weight", config.head_dim)?,
            output: Matrix::load(kept, hidden, &[output], |column| Some((0, column)))?,
            output_bias: names.optional("self_attn.o_proj.bias", hidden)?,
            mlp_norm: names.vector("post_attention_layernorm.weight", hidden)?,
            gate_up,
            down: Matrix::load(kept, hidden, &[down], |column| Some((0, column)))?,
        })
    }

    /// Leaves the last product to be added to the residual by whoever reads that next.
    fn step<N: KvNumber>(
        &self,
        config: &Config,
        shape: Shape,
        batch: &Batch,
        (layer, cache): (usize, &mut Cache<N>),
        work: &mut Workspace,
    ) {
        let Workspace { residual, angles, queries, attended, tiles, gated, product, .. } = work;
        let (hidden, epsilon) = (config.hidden, config.epsilon);
        tiles.fill(residual, hidden, self.qkv.intake(), |row, values, out| {
            if 0 < layer {
                product.add_to(row, values);
            }
            vectorized(Normalise { values, weights: &self.attention_norm, epsilon, out });
        });
        self.qkv.multiply(tiles, product);
        self.split(config, batch, product, angles, cache.heads_mut(layer), queries);
        attended.resize(queries.len(), 0.0);
        attend(shape, cache, layer, &batch.spans, queries, attended);
        let width = config.query_width();
        tiles.fill(attended, width, self.output.intake(), |_, values, out| {
            out.copy_from_slice(values);
        });
        self.output.multiply(tiles, product);
        tiles.fill(residual, hidden, self.gate_up.intake(), |row, values, out| {
            product.add_to(row, values);
            add(values, self.output_bias.as_deref());
            vectorized(Normalise { values, weights: &self.mlp_norm, epsilon, out });
        });
        self.gate_up.gate(tiles, gated, self.down.intake());
        self.down.multiply(gated, product);
    }

    /// Makes queries, keys and values of a product, and keeps keys and values.
    fn split<'a, N: KvNumber + 'a>(
        &self,
        config: &Config,
        batch: &Batch,
        product: &Panels,
        angles: &[f32],
        heads: impl IndexedParallelIterator<Item = HeadMut<'a, N>>,
        queries: &mut Vec<f32>,
    ) {
        let (width, dim) = (config.query_width(), config.head_dim);
        let bias = |start: usize, count: usize| {
            self.qkv_bias.as_ref().map(|bias| &bias[start..start + count])
        };
        let scale = 1.0 / (dim as f32).sqrt();
        queries.resize(batch.tokens.len() * width, 0.0);
        let (query_norm, key_norm) = (self.query_norm.as_deref(), self.key_norm.as_deref());
        let rows = queries.par_chunks_mut(width).with_min_len(APART);
        rows.zip(angles.par_chunks(dim)).enumerate().for_each(|(row, (out, turn))| {
            product.copy(row, 0..width, out);
            add(out, bias(0, width));
            let (weights, epsilon) = (query_norm, config.epsilon);
            vectorized(TurnHeads { heads: out, weights, epsilon, turn, scale });
        });
        let together = APART.div_ceil(batch.tokens.len().max(1));
        heads.with_min_len(together).enumerate().for_each(|(index, mut head)| {
            let (mut key, mut value) = (vec![0.0; dim], vec![0.0; dim]);
            let key_at = width + index * dim;
            let value_at = key_at + config.kv_width();
            for span in &batch.spans {
                for token in 0..span.count {
                    let row = span.row + token;
                    let turn = &angles[row * dim..(row + 1) * dim];
                    product.copy(row, key_at..key_at + dim, &mut key);
                    product.copy(row, value_at..value_at + dim, &mut value);
                    add(&mut key, bias(key_at, dim));
                    add(&mut value, bias(value_at, dim));
                    let (weights, epsilon, heads) = (key_norm, config.epsilon, key.as_mut_slice());
                    vectorized(TurnHeads { heads, weights, epsilon, turn, scale: 1.0 });
                    let position = span.position + token;
                    head.store(span.blocks[position / BLOCK], position % BLOCK, &key, &value);
                }
            }
        });
    }
}

fn add(values: &mut [f32], bias: Option<&[f32]>) {
    for (value, bias) in values.iter_mut().zip(bias.unwrap_or_default()) {
        *value += bias;
    }
}

/// The tensors of one layer.
pub(super) struct Names<'a> {
    /// All tensors.
    pub(super) tensors: &'a Tensors,
    /// What the names of the layer's begin with.
    pub(super) prefix: String,
}

impl Names<'_> {
    /// One that must be there.
    pub(super) fn find(&self, name: &str) -> Result<&super::tensor::Tensor, EngineError> {
        find(self.tensors, &format!("{}{name}", self.prefix))
    }

    /// The numbers of a vector that must be there.
    pub(super) fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, EngineError> {
        self.find(name)?.expect(&[length])?.values()
    }

    /// The numbers of a vector that may be there.
    pub(super) fn optional(
        &self,
        name: &str,
        length: usize,
    ) -> Result<Option<Vec<f32>>, EngineError> {
        let present = self.tensors.contains_key(&format!("{}{name}", self.prefix));
        present.then(|| self.vector(name, length)).transpose()
    }

    /// The biases of queries, keys and values together.
    pub(super) fn biases(&self, config: &Config) -> Result<Option<Vec<f32>>, EngineError> {
        let (q, kv) = (config.query_width(), config.kv_width());
        let mut all = Vec::new();
        for (name, length) in [("q", q), ("k", kv), ("v", kv)] {
            match self.optional(&format!("self_attn.{name}_proj.bias"), length)? {
                Some(bias) => all.extend(bias),
                None => all.resize(all.len() + length, 0.0),
            }
        }
        Ok(all.iter().any(|bias| *bias != 0.0).then_some(all))
    }

    /// Bytes of the layer's tensors.
    pub(super) fn bytes(&self) -> u64 {
        let own = self.tensors.iter().filter(|(name, _)| name.starts_with(&self.prefix));
        own.map(|(_, tensor)| tensor.bytes()).sum()
    }
}
