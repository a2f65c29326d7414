//! A model's config.json → its shape.
//!
//! The formulas are those of the models' own code: what is multiplied, layer by layer. They give
//! the published parameter counts to the last digit (`tests/plan/sizes.rs`).

use super::{Cache, Shape, Weights};
use serde::Deserialize;

/// Why a config.json gives no shape.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It isn't JSON, or its fields have other types than those of all models known so far.
    #[error("config.json can't be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// A field without which nothing can be computed is missing.
    #[error(
        "config.json has no `{0}`, so it isn't of a language model that can be planned for; give the memory it needs with --vram"
    )]
    Missing(&'static str),
}

/// The fields of a config.json that are read, in Hugging Face's spelling.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are Hugging Face's, and explained in its documentation")]
pub struct Config {
    pub model_type: String,
    pub hidden_size: Option<u64>,
    pub num_hidden_layers: Option<u32>,
    pub num_attention_heads: Option<u64>,
    pub num_key_value_heads: Option<u64>,
    pub head_dim: Option<u64>,
    pub intermediate_size: Option<u64>,
    pub vocab_size: Option<u64>,
    pub tie_word_embeddings: Option<bool>,
    pub max_position_embeddings: Option<u32>,
    pub attention_bias: Option<bool>,
    pub sliding_window: Option<u32>,
    pub use_sliding_window: Option<bool>,
    pub sliding_window_pattern: Option<u32>,
    pub attention_chunk_size: Option<u32>,
    pub layer_types: Option<Vec<String>>,
    pub full_attention_interval: Option<u32>,
    // Mixtures of experts.
    pub num_experts: Option<u64>,
    pub num_local_experts: Option<u64>,
    pub n_routed_experts: Option<u64>,
    pub num_experts_per_tok: Option<u64>,
    pub moe_intermediate_size: Option<u64>,
    pub intermediate_size_mlp: Option<u64>,
    pub shared_expert_intermediate_size: Option<u64>,
    pub n_shared_experts: Option<u64>,
    pub first_k_dense_replace: Option<u32>,
    pub decoder_sparse_step: Option<u32>,
    pub interleave_moe_layer_step: Option<u32>,
    // Latent attention.
    pub kv_lora_rank: Option<u64>,
    pub q_lora_rank: Option<u64>,
    pub qk_nope_head_dim: Option<u64>,
    pub qk_rope_head_dim: Option<u64>,
    pub v_head_dim: Option<u64>,
    // Linear attention.
    pub linear_num_key_heads: Option<u64>,
    pub linear_num_value_heads: Option<u64>,
    pub linear_key_head_dim: Option<u64>,
    pub linear_value_head_dim: Option<u64>,
    pub linear_conv_kernel_dim: Option<u64>,
    pub quantization_config: Option<Quantization>,
    /// The language model's part, in models that also see.
    pub text_config: Option<Box<Config>>,
}

/// How the published weights are quantised, in Hugging Face's spelling.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are Hugging Face's, and explained in its documentation")]
pub struct Quantization {
    pub quant_method: String,
    pub bits: Option<u32>,
}

impl Quantization {
    /// Bytes of the weights as they are published. None for a method that isn't known.
    fn stored(&self, shape: &Shape) -> Option<u64> {
        match (self.quant_method.as_str(), self.bits) {
            ("fp8" | "fbgemm_fp8", _) | (_, Some(8)) => Some(shape.weight_bytes(Weights::Fp8)),
            ("awq", _) | (_, Some(4)) => Some(shape.weight_bytes(Weights::Int4)),
            // Only the experts are: 4 bits, and 8 for a scale of 32.
            ("mxfp4", _) => {
                let rest = shape.parameters - shape.expert_parameters;
                Some(shape.expert_parameters / 32 * 17 + rest * 2)
            }
            _ => None,
        }
    }
}

/// What one layer does with the sequence.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attention {
    Full,
    Windowed(u32),
    Linear,
}

impl Config {
    /// Reads a config.json.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Ok(serde_json::from_str(text)?)
    }

    /// The shape of the language model.
    pub fn shape(&self) -> Result<Shape, ConfigError> {
        let text = self.text_config.as_deref();
        let mut shape = text.unwrap_or(self).own_shape(self)?;
        let quantised = self.quantization_config.as_ref();
        let quantised = quantised.or_else(|| text?.quantization_config.as_ref());
        shape.stored = quantised.and_then(|quantised| quantised.stored(&shape));
        Ok(shape)
    }

    fn own_shape(&self, outer: &Self) -> Result<Shape, ConfigError> {
        let need = |field: Option<u64>, name| field.ok_or(ConfigError::Missing(name));
        let hidden = need(self.hidden_size, "hidden_size")?;
        let layers = self.num_hidden_layers.ok_or(ConfigError::Missing("num_hidden_layers"))?;
        let heads = need(self.num_attention_heads, "num_attention_heads")?;
        let vocabulary = need(self.vocab_size.or(outer.vocab_size), "vocab_size")?;
        need(self.intermediate_size.or(self.moe_intermediate_size), "intermediate_size")?;
        let context = self.max_position_embeddings;
        let context = context.ok_or(ConfigError::Missing("max_position_embeddings"))?;

        let one = vocabulary * hidden;
        let tied = self.is_tied(outer);
        let embedding = if tied { one } else { 2 * one };
        let kinds: Vec<_> = (0..layers).map(|layer| self.attention(layer)).collect();
        let norms = hidden * self.norms_per_layer();
        let (mut parameters, mut active, mut expert_parameters) =
            (embedding + hidden, one + hidden, 0);
        for (layer, kind) in (0..layers).zip(&kinds) {
            let mixing = match kind {
                Attention::Linear => self.linear_attention(hidden),
                Attention::Full | Attention::Windowed(_) => self.full_attention(hidden, heads),
            };
            let (all, used, routed) = self.feed_forward(layer, hidden);
            parameters += mixing + norms + all;
            active += mixing + norms + used;
            expert_parameters += routed;
        }
        let experts = self.experts().map(|(all, used)| (small(all), small(used)));
        let linear = kinds.iter().filter(|kind| **kind == Attention::Linear).count() as u64;
        Ok(Shape {
            parameters,
            active,
            embedding,
            expert_parameters,
            experts,
            caches: self.caches(&kinds, hidden, heads),
            state: linear * self.linear_state(),
            attention_width: small(heads * self.mean_head_width(hidden, heads)),
            heads: small(heads),
            context,
            stored: None,
        })
    }

    /// Whether the head is the embedding. Each family has a default of its own.
    fn is_tied(&self, outer: &Self) -> bool {
        let told = self.tie_word_embeddings.or(outer.tie_word_embeddings);
        told.unwrap_or(
            self.model_type.starts_with("gemma") || self.model_type.starts_with("cohere"),
        )
    }

    fn head_width(&self, hidden: u64, heads: u64) -> u64 {
        let of_family = self.model_type.starts_with("gemma").then_some(256);
        self.head_dim.or(of_family).unwrap_or(hidden / heads)
    }

    fn mean_head_width(&self, hidden: u64, heads: u64) -> u64 {
        match (self.kv_lora_rank, self.v_head_dim) {
            (Some(_), Some(value)) => self.latent_key_width().midpoint(value),
            _ => self.head_width(hidden, heads),
        }
    }

    fn latent_key_width(&self) -> u64 {
        self.qk_nope_head_dim.unwrap_or(0) + self.qk_rope_head_dim.unwrap_or(0)
    }

    fn norms_per_layer(&self) -> u64 {
        match self.model_type.as_str() {
            "gemma2" | "gemma3" | "gemma3_text" | "glm4" => 4,
            "cohere" => 1,
            _ => 2,
        }
    }

    /// What a layer attends with.
    fn attention(&self, layer: u32) -> Attention {
        let windowed = |window: Option<u32>| window.map_or(Attention::Full, Attention::Windowed);
        if let Some(kind) = self.layer_types.as_ref().and_then(|kinds| kinds.get(layer as usize)) {
            return match kind.as_str() {
                "linear_attention" => Attention::Linear,
                "sliding_attention" => windowed(self.sliding_window),
                "chunked_attention" => windowed(self.attention_chunk_size),
                _ => Attention::Full,
            };
        }
        let every = |interval: u32| (layer + 1).is_multiple_of(interval.max(1));
        match self.model_type.as_str() {
            "qwen3_next" if !every(self.full_attention_interval.unwrap_or(4)) => Attention::Linear,
            "llama4" | "llama4_text" if !every(4) => windowed(self.attention_chunk_size),
            "gemma2" | "gpt_oss" if every(2) => Attention::Full,
            "gemma3" | "gemma3_text" if every(self.sliding_window_pattern.unwrap_or(6)) => {
                Attention::Full
            }
            "gemma2" | "gpt_oss" | "gemma3" | "gemma3_text" | "mistral" | "mixtral" | "phi3" => {
                windowed(self.sliding_window)
            }
            // Other families carry the field, and use it only if they say so.
            _ if self.use_sliding_window == Some(true) => windowed(self.sliding_window),
            _ => Attention::Full,
        }
    }

    fn full_attention(&self, hidden: u64, heads: u64) -> u64 {
        if let Some(latent) = self.kv_lora_rank {
            let (key, rope) = (self.latent_key_width(), self.qk_rope_head_dim.unwrap_or(0));
            let value = self.v_head_dim.unwrap_or(0);
            let query = match self.q_lora_rank {
                Some(rank) => hidden * rank + rank + rank * heads * key,
                None => hidden * heads * key,
            };
            let up = latent * heads * (key - rope + value);
            return query + hidden * (latent + rope) + latent + up + heads * value * hidden;
        }
        let (width, kv) =
            (self.head_width(hidden, heads), self.num_key_value_heads.unwrap_or(heads));
        let into = (heads + 2 * kv) * width;
        let biased = self.model_type == "qwen2" || self.attention_bias == Some(true);
        let extra = match self.model_type.as_str() {
            "qwen3" | "qwen3_moe" | "gemma3" | "gemma3_text" => 2 * width,
            // Its queries carry a gate of their own size.
            "qwen3_next" => 2 * width + hidden * heads * width,
            "olmo2" => (heads + kv) * width,
            // A sink for each head, and the bias of the output.
            "gpt_oss" => heads + hidden,
            _ => 0,
        };
        hidden * into + heads * width * hidden + if biased { into } else { 0 } + extra
    }

    /// The gated delta rule of Qwen3-Next.
    fn linear_attention(&self, hidden: u64) -> u64 {
        let (keys, values, value_heads) = self.linear_widths();
        let convolved = (2 * keys + values) * self.linear_conv_kernel_dim.unwrap_or(4);
        let gates = hidden * 2 * value_heads + 2 * value_heads;
        let norm = self.linear_value_head_dim.unwrap_or(0);
        hidden * (2 * keys + 2 * values) + gates + convolved + norm + values * hidden
    }

    fn linear_widths(&self) -> (u64, u64, u64) {
        let value_heads = self.linear_num_value_heads.unwrap_or(0);
        let keys = self.linear_num_key_heads.unwrap_or(0) * self.linear_key_head_dim.unwrap_or(0);
        (keys, value_heads * self.linear_value_head_dim.unwrap_or(0), value_heads)
    }

    /// Numbers that a layer of linear attention keeps for a sequence. Its matrix is in 32 bits,
    /// so it counts twice.
    fn linear_state(&self) -> u64 {
        let (keys, values, _) = self.linear_widths();
        let matrix = values * self.linear_key_head_dim.unwrap_or(0);
        let convolution = self.linear_conv_kernel_dim.unwrap_or(4).saturating_sub(1);
        2 * matrix + (2 * keys + values) * convolution
    }

    /// Routed experts: how many, and how many a token goes to.
    fn experts(&self) -> Option<(u64, u64)> {
        let all = self.num_experts.or(self.num_local_experts).or(self.n_routed_experts)?;
        Some((all, self.num_experts_per_tok.unwrap_or(1).min(all)))
    }

    /// Parameters of a layer's feed-forward part: all, those for one token, those of experts.
    fn feed_forward(&self, layer: u32, hidden: u64) -> (u64, u64, u64) {
        let inner = self.intermediate_size.unwrap_or(0);
        let dense = 3 * hidden * self.intermediate_size_mlp.unwrap_or(inner);
        let step = self.decoder_sparse_step.or(self.interleave_moe_layer_step).unwrap_or(1);
        let is_sparse = self.first_k_dense_replace.unwrap_or(0) <= layer
            && (layer + 1).is_multiple_of(step.max(1));
        let Some((all, used)) = self.experts().filter(|_| is_sparse) else {
            return (dense, dense, 0);
        };
        let inner = self.moe_intermediate_size.unwrap_or(inner);
        let biased = self.model_type == "gpt_oss";
        let expert = 3 * hidden * inner + if biased { 2 * inner + hidden } else { 0 };
        // A bias for each expert: of the router, or to balance them.
        let balanced = biased || self.model_type == "deepseek_v3" || self.model_type == "kimi_k2";
        let router = hidden * all + if balanced { all } else { 0 };
        let is_llama4 = self.model_type.starts_with("llama4");
        let shared = match (self.shared_expert_intermediate_size, self.n_shared_experts) {
            // The last of these is a gate.
            (Some(width), _) => 3 * hidden * width + hidden,
            (None, Some(count)) => 3 * hidden * inner * count,
            (None, None) if is_llama4 => 3 * hidden * inner,
            (None, None) => 0,
        };
        (all * expert + router + shared, used * expert + router + shared, all * expert)
    }

    fn caches(&self, kinds: &[Attention], hidden: u64, heads: u64) -> Vec<Cache> {
        let width = match self.kv_lora_rank {
            Some(latent) => latent + self.qk_rope_head_dim.unwrap_or(0),
            None => 2 * self.num_key_value_heads.unwrap_or(heads) * self.head_width(hidden, heads),
        };
        let mut caches: Vec<Cache> = Vec::new();
        for kind in kinds {
            let window = match kind {
                Attention::Linear => continue,
                Attention::Full => None,
                Attention::Windowed(window) => Some(*window),
            };
            match caches.iter_mut().find(|cache| cache.window == window) {
                Some(cache) => cache.layers += 1,
                None => caches.push(Cache { layers: 1, width: small(width), window }),
            }
        }
        caches
    }
}

/// A count that fits 32 bits in any model; one that doesn't is cut to the most that does.
fn small(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA: &str = r#""hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
        "max_position_embeddings": 131072, "model_type": "llama""#;

    fn shape(config: &str) -> Shape {
        Config::parse(config).unwrap().shape().unwrap()
    }

    #[test]
    fn the_text_part_of_a_model_that_also_sees_is_what_counts() {
        let seeing = format!(r#"{{"model_type": "llava", "text_config": {{{LLAMA}}}}}"#);
        assert_eq!(shape(&seeing), shape(&format!("{{{LLAMA}}}")));
    }

    #[test]
    fn what_is_published_in_fewer_bits_is_not_blown_up() {
        let plain = shape(&format!("{{{LLAMA}}}"));
        for (method, weights) in [
            (r#"{"quant_method": "awq", "bits": 4}"#, Weights::Int4),
            (r#"{"quant_method": "gptq", "bits": 4}"#, Weights::Int4),
            (r#"{"quant_method": "fp8"}"#, Weights::Fp8),
            (r#"{"quant_method": "new"}"#, Weights::Bf16),
        ] {
            let quantised = shape(&format!(r#"{{{LLAMA}, "quantization_config": {method}}}"#));
            let bytes = quantised.weight_bytes(Weights::Bf16);
            assert_eq!(bytes, plain.weight_bytes(weights), "{method}");
        }
    }

    #[test]
    fn windows_bound_the_cache_of_long_sequences_only() {
        let windowed = format!(
            r#"{{{LLAMA}, "sliding_window": 1024, "layer_types": [{}"full_attention"]}}"#,
            r#""sliding_attention", "#.repeat(31)
        );
        let (windowed, full) = (shape(&windowed), shape(&format!("{{{LLAMA}}}")));
        assert_eq!(windowed.kv_bytes(1024), full.kv_bytes(1024));
        let each = full.kv_bytes_per_token() / 32;
        assert_eq!(windowed.kv_bytes(10_000), each * (31 * 1024 + 10_000));
        assert!(windowed.flops(0.0, 10_000.0) < full.flops(0.0, 10_000.0));
    }

    #[test]
    fn linear_attention_keeps_as_much_of_any_sequence() {
        let hybrid = format!(
            r#"{{{LLAMA}, "layer_types": [{}"full_attention"], "linear_num_key_heads": 16,
            "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128}}"#,
            r#""linear_attention", "#.repeat(31)
        );
        let hybrid = shape(&hybrid);
        let state = 31 * (2 * 32 * 128 * 128 + (2 * 2048 + 4096) * 3) * 2;
        assert_eq!(hybrid.kv_bytes(0), state);
        assert_eq!(hybrid.kv_bytes(1_000) - state, 1_000 * 2 * 8 * 128 * 2);
    }

    #[test]
    fn a_config_that_says_too_little_names_what_it_lacks() {
        let error = Config::parse(r#"{"model_type": "bert", "hidden_size": 768}"#).unwrap().shape();
        assert!(matches!(error, Err(ConfigError::Missing("num_hidden_layers"))));
        assert!(matches!(Config::parse("not JSON"), Err(ConfigError::Unreadable(_))));
    }
}
