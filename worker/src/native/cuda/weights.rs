//! Weights, from files into a GPU's memory.

use super::device::{Device, Half, Memory};
use crate::{
    engine::EngineError,
    native::{
        config::Config,
        model::Names,
        tensor::{Tensor, Tensors, find},
    },
};
use candle_core::quantized::GgmlDType;
use half::{bf16, f16};
use rayon::prelude::*;

/// Numbers that are read and written at once.
const PIECE: usize = 4 << 20;

/// One layer's weights. Matrices have a row for each output.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) attention_norm: Memory,
    /// Queries, keys and values, in this order.
    pub(super) qkv: Memory,
    pub(super) qkv_bias: Option<Memory>,
    pub(super) query_norm: Option<Memory>,
    pub(super) key_norm: Option<Memory>,
    pub(super) output: Memory,
    pub(super) output_bias: Option<Memory>,
    pub(super) mlp_norm: Memory,
    /// The gates, then what they gate.
    pub(super) gate_up: Memory,
    pub(super) down: Memory,
}

/// A model's weights.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) embedding: Memory,
    pub(super) output: Memory,
    pub(super) norm: Memory,
    pub(super) frequencies: Memory,
    pub(super) layers: Vec<Layer>,
    /// Bytes that they take.
    pub(super) bytes: u64,
}

impl Weights {
    /// Loads them, telling `progress` the bytes read so far and in all.
    pub(super) fn load(
        device: &mut dyn Device,
        config: &Config,
        tensors: &Tensors,
        half: Half,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, EngineError> {
        let total = tensors.values().map(Tensor::bytes).sum();
        progress(0, total);
        let mut loader = Loader { device, half, bytes: 0 };
        let table = [config.vocabulary, config.hidden];
        let embedding = find(tensors, "model.embed_tokens.weight")?.expect(&table)?;
        let mut done = embedding.bytes();
        let embedding = loader.matrix(&[embedding])?;
        let output = if config.tied || !tensors.contains_key("lm_head.weight") {
            embedding
        } else {
            let output = find(tensors, "lm_head.weight")?.expect(&table)?;
            done += output.bytes();
            loader.matrix(&[output])?
        };
        let mut layers = Vec::new();
        for index in 0..config.layers {
            progress(done, total);
            let names = Names { tensors, prefix: format!("model.layers.{index}.") };
            layers.push(loader.layer(config, &names)?);
            done += names.bytes();
        }
        let norm = find(tensors, "model.norm.weight")?.expect(&[config.hidden])?.values()?;
        let norm = loader.vector(&norm)?;
        let frequencies = loader.vector(&config.rope.frequencies(config.head_dim))?;
        progress(total, total);
        Ok(Self { embedding, output, norm, frequencies, layers, bytes: loader.bytes })
    }
}

struct Loader<'a> {
    device: &'a mut dyn Device,
    half: Half,
    bytes: u64,
}

impl Loader<'_> {
    fn layer(&mut self, config: &Config, names: &Names<'_>) -> Result<Layer, EngineError> {
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        let (q, kv) = (config.query_width(), config.kv_width());
        let matrix = |name: &str, rows: usize, columns: usize| {
            names.find(&format!("{name}.weight"))?.expect(&[rows, columns])
        };
        let qkv = [
            matrix("self_attn.q_proj", q, hidden)?,
            matrix("self_attn.k_proj", kv, hidden)?,
            matrix("self_attn.v_proj", kv, hidden)?,
        ];
        let gate_up = [
            matrix("mlp.gate_proj", intermediate, hidden)?,
            matrix("mlp.up_proj", intermediate, hidden)?,
        ];
        Ok(Layer {
            attention_norm: self.vector(&names.vector("input_layernorm.weight", hidden)?)?,
            qkv: self.matrix(&qkv)?,
            qkv_bias: self.optional(names.biases(config)?)?,
            query_norm: self
                .optional(names.optional("self_attn.q_norm.weight", config.head_dim)?)?,
            key_norm: self.optional(names.optional("self_attn.k_norm.weight", config.head_dim)?)?,
            output: self.matrix(&[matrix("self_attn.o_proj", hidden, q)?])?,
            output_bias: self.optional(names.optional("self_attn.o_proj.bias", hidden)?)?,
            mlp_norm: self.vector(&names.vector("post_attention_layernorm.weight", hidden)?)?,
            gate_up: self.matrix(&gate_up)?,
            down: self.matrix(&[matrix("mlp.down_proj", hidden, intermediate)?])?,
        })
    }

    fn allocate(&mut self, bytes: usize) -> Result<Memory, EngineError> {
        self.bytes += bytes as u64;
        self.device.allocate(bytes)
    }

    fn optional(&mut self, values: Option<Vec<f32>>) -> Result<Option<Memory>, EngineError> {
        values.map(|values| self.vector(&values)).transpose()
    }

    fn vector(&mut self, values: &[f32]) -> Result<Memory, EngineError> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let memory = self.allocate(bytes.len())?;
        self.device.write(memory, &bytes)?;
        Ok(memory)
    }

    /// Matrices of one width, one below the other. Pieces are read by all threads and written in turn.
    fn matrix(&mut self, tensors: &[&Tensor]) -> Result<Memory, EngineError> {
        let row_bytes = tensors[0].width() * size_of::<u16>();
        let rows: usize = tensors.iter().map(|tensor| tensor.height()).sum();
        let memory = self.allocate(rows * row_bytes)?;
        let together = PIECE.div_ceil(tensors[0].width());
        let mut at = 0;
        for tensor in tensors {
            let pieces: Vec<usize> = (0..tensor.height()).step_by(together).collect();
            for some in pieces.chunks(rayon::current_num_threads()) {
                let half = self.half;
                let read = |first: &usize| {
                    read_rows(tensor, half, *first, together.min(tensor.height() - first))
                };
                let read: Vec<_> = some.par_iter().map(read).collect();
                for bytes in read {
                    let bytes = bytes?;
                    self.device.write(memory.part(at, bytes.len()), &bytes)?;
                    at += bytes.len();
                }
            }
        }
        Ok(memory)
    }
}

/// Rows as 16-bit numbers.
fn read_rows(
    tensor: &Tensor,
    half: Half,
    first: usize,
    count: usize,
) -> Result<Vec<u8>, EngineError> {
    let format = match half {
        Half::Bf16 => GgmlDType::BF16,
        Half::F16 => GgmlDType::F16,
    };
    if let Some(bytes) = tensor.raw_rows(format, first, count) {
        return bytes;
    }
    let mut values = vec![0.0; count * tensor.width()];
    tensor.read(first, &mut values)?;
    let narrowed = |value: &f32| match half {
        Half::Bf16 => bf16::from_f32(*value).to_le_bytes(),
        Half::F16 => f16::from_f32(*value).to_le_bytes(),
    };
    Ok(values.iter().flat_map(narrowed).collect())
}
