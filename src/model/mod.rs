//! What decides a model's size and speed: its weights, its KV cache, its work for a token.
//!
//! A [`Shape`] comes from a config.json ([`config`]), a GGUF header ([`gguf`]) or, for the models
//! that are known by name, from `templates/models.toml`; one that is only on a hub has those files
//! there ([`hub`]). All of it is arithmetic. A [`Tokenizer`] counts what the prompts have.

mod access;
mod config;
mod find;
mod gguf;
mod hub;
mod tokenizer;

pub use access::hub_access;
pub use config::{Config, ConfigError, Quantization};
pub use find::{ShapeError, shape_of};
pub use gguf::{GgufError, read_header};
pub use hub::{HubError, find_shape};
pub use tokenizer::{NoTokenizer, Tokenizer, find_tokenizer};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How the numbers of the weights are kept.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// 16 bits, as most models are published.
    Bf16,
    /// 8 bits. GPUs that can't compute with them still gain the memory.
    Fp8,
    /// 4-bit integers in groups of 128, with 16-bit arithmetic (AWQ, GPTQ).
    Int4,
    /// 4-bit floats in groups of 16, which only the newest GPUs compute with (NVFP4).
    Fp4,
}

impl Weights {
    /// Every kind, the most exact first.
    pub const ALL: [Self; 4] = [Self::Bf16, Self::Fp8, Self::Int4, Self::Fp4];

    /// Bits of one weight, its share of the group's scale included.
    fn bits(self) -> f64 {
        match self {
            Self::Bf16 => 16.0,
            Self::Fp8 => 8.0,
            // A 16-bit scale and a 4-bit zero for 128 of them.
            Self::Int4 => 4.0 + 20.0 / 128.0,
            // An 8-bit scale for 16 of them.
            Self::Fp4 => 4.5,
        }
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bf16 => "BF16",
            Self::Fp8 => "FP8",
            Self::Int4 => "INT4",
            Self::Fp4 => "FP4",
        })
    }
}

/// Layers that cache alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// How many layers.
    pub layers: u32,
    /// Numbers that one of them keeps for a token: keys and values, or one latent of both.
    pub width: u32,
    /// The most tokens that it keeps of a sequence. None keeps all.
    pub window: Option<u32>,
}

/// What decides a model's size and speed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Parameters in all. A head that shares the embedding counts once.
    pub parameters: u64,
    /// Parameters that one token is multiplied with: a mixture's chosen experts, the head, and
    /// not the embedding, of which a token reads one row.
    pub active: u64,
    /// Parameters of embedding and head, which stay in 16 bits however the rest is quantised.
    pub embedding: u64,
    /// Parameters of all routed experts.
    pub expert_parameters: u64,
    /// Routed experts in a layer: how many there are, and how many a token goes to.
    pub experts: Option<(u32, u32)>,
    /// The layers with a KV cache.
    pub caches: Vec<Cache>,
    /// Numbers that the other layers keep for a sequence of any length (linear attention).
    pub state: u64,
    /// Attention heads times the mean width of a key and a value, in one layer.
    pub attention_width: u32,
    /// Attention heads. A model is split over a divisor of them.
    pub heads: u32,
    /// Tokens that a prompt and its answer may have together.
    pub context: u32,
    /// Bytes of the weights as they are published, where they are quantised already.
    pub stored: Option<u64>,
}

/// Bytes of a number in the KV cache, which is kept in 16 bits.
const KV_BYTES: u64 = 2;

impl Shape {
    /// Bytes of the weights on a GPU.
    pub fn weight_bytes(&self, weights: Weights) -> u64 {
        let rest = (self.parameters - self.embedding) as f64;
        let bytes = rest * weights.bits() / 8.0 + self.embedding as f64 * 2.0;
        let bytes = whole(bytes);
        // What was published in fewer bits is not blown up.
        self.stored.map_or(bytes, |stored| bytes.min(stored))
    }

    /// Bytes of weights that a step reads which decodes `batch` sequences: all but the embedding,
    /// and of the experts those that any of the sequences goes to.
    pub fn bytes_read(&self, weights: Weights, batch: f64) -> f64 {
        let (all, idle) =
            (self.weight_bytes(weights) as f64, self.parameters as f64 - self.multiplied());
        let all = match self.stored {
            None => all - 2.0 * idle,
            Some(_) => all * self.multiplied() / self.parameters as f64,
        };
        let Some((experts, used)) = self.experts else { return all };
        let share = self.expert_parameters as f64 / self.multiplied();
        let missed = (1.0 - f64::from(used) / f64::from(experts)).powf(batch);
        all * (1.0 - share * missed)
    }

    /// Parameters that some token is multiplied with: all but an embedding of its own.
    fn multiplied(&self) -> f64 {
        let idle = self.experts.map_or(0, |(experts, used)| {
            self.expert_parameters / u64::from(experts) * u64::from(experts - used)
        });
        (self.active + idle) as f64
    }

    /// Bytes of KV cache that one more token takes, at the beginning of a sequence.
    pub fn kv_bytes_per_token(&self) -> u64 {
        self.kv_bytes(1) - self.kv_bytes(0)
    }

    /// Bytes of KV cache of a sequence of so many tokens.
    pub fn kv_bytes(&self, tokens: u64) -> u64 {
        let numbers = |cache: &Cache| {
            let kept = cache.window.map_or(tokens, |window| tokens.min(window.into()));
            u64::from(cache.layers) * u64::from(cache.width) * kept
        };
        (self.caches.iter().map(numbers).sum::<u64>() + self.state) * KV_BYTES
    }

    /// Floating-point operations to process the tokens from `from` to `to` of a sequence.
    pub fn flops(&self, from: f64, to: f64) -> f64 {
        let linear = 2.0 * self.active as f64 * (to - from);
        // Each token meets the keys and the values of those before it.
        let layer = |cache: &Cache| {
            let met = |until: f64| match cache.window.map(f64::from) {
                Some(window) if window < until => window * window / 2.0 + window * (until - window),
                _ => until * until / 2.0,
            };
            f64::from(cache.layers) * 4.0 * f64::from(self.attention_width) * (met(to) - met(from))
        };
        linear + self.caches.iter().map(layer).sum::<f64>()
    }
}

/// Rounds a count that is positive and far below 2^64; one that isn't becomes the nearest that is.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float outside the integers becomes the nearest of them"
)]
pub(crate) fn whole(count: f64) -> u64 {
    count.round() as u64
}
