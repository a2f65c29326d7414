//! What a model is made of, read from Hugging Face's `config.json`.

use super::{
    rope::{Rope, Scaling},
    simd::narrowed,
};
use crate::engine::EngineError;
use serde_json::{Map, Value};

/// The dimensions and constants of a decoder of the Llama family.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Config {
    /// Floats of the residual stream.
    pub(super) hidden: usize,
    /// Layers.
    pub(super) layers: usize,
    /// Heads of queries.
    pub(super) heads: usize,
    /// Heads of keys and values.
    pub(super) kv_heads: usize,
    /// Floats of a head.
    pub(super) head_dim: usize,
    /// Floats inside the feed-forward network.
    pub(super) intermediate: usize,
    /// Tokens in the vocabulary.
    pub(super) vocabulary: usize,
    /// Positions that the model was trained for.
    pub(super) context: usize,
    /// Added to the mean square before its root is taken.
    pub(super) epsilon: f32,
    /// The rotary position embedding.
    pub(super) rope: Rope,
    /// Positions that attention looks back, itself included; and the first layer that is so limited.
    pub(super) window: Option<(usize, usize)>,
    /// Whether the weights of the output are those of the input embedding.
    pub(super) tied: bool,
}

impl Config {
    /// Reads a `config.json`.
    pub(super) fn from_json(text: &str) -> Result<Self, EngineError> {
        let fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
            EngineError::work(format!("the model's config.json can't be understood: {error}"))
        })?;
        let fields = Fields(&fields);
        fields.check_supported()?;
        let (hidden, heads) = (fields.count("hidden_size")?, fields.count("num_attention_heads")?);
        let context = fields.count("max_position_embeddings")?;
        let config = Self {
            hidden,
            layers: fields.count("num_hidden_layers")?,
            heads,
            kv_heads: fields.optional("num_key_value_heads").unwrap_or(heads),
            head_dim: fields.optional("head_dim").unwrap_or(hidden / heads),
            intermediate: fields.count("intermediate_size")?,
            vocabulary: fields.count("vocab_size")?,
            context,
            epsilon: narrowed(fields.number("rms_norm_eps").unwrap_or(1e-6)),
            rope: fields.rope(context)?,
            window: fields.window(),
            tied: fields.flag("tie_word_embeddings"),
        };
        config.check()
    }

    /// Checks that the dimensions agree.
    pub(super) fn check(self) -> Result<Self, EngineError> {
        let whole = 0 < self.kv_heads
            && self.heads.is_multiple_of(self.kv_heads)
            && 0 < self.head_dim
            && self.head_dim.is_multiple_of(2);
        if whole {
            Ok(self)
        } else {
            Err(EngineError::work(format!(
                "the model's configuration makes no sense: {} heads, {} of keys, of {} floats",
                self.heads, self.kv_heads, self.head_dim
            )))
        }
    }

    /// Query heads that share one head of keys and values.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Floats of all query heads.
    pub(super) fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Floats of all heads of keys, or of values.
    pub(super) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Positions that attention looks back in this layer.
    pub(super) fn window_of(&self, layer: usize) -> Option<usize> {
        self.window.filter(|(_, first)| *first <= layer).map(|(window, _)| window)
    }
}

struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn count(&self, name: &str) -> Result<usize, EngineError> {
        self.optional(name).filter(|count| 0 < *count).ok_or_else(|| {
            EngineError::work(format!(
                "the model's config.json has no usable {name}: it is incomplete"
            ))
        })
    }

    fn optional(&self, name: &str) -> Option<usize> {
        self.0.get(name)?.as_u64().and_then(|value| usize::try_from(value).ok())
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.as_f64()
    }

    fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    fn check_supported(&self) -> Result<(), EngineError> {
        let refuse = |what: String| {
            Err(EngineError::work(format!(
                "the native engine can't run this model: {what}; choose another engine or model"
            )))
        };
        match self.text("model_type") {
            Some("llama" | "mistral" | "qwen2" | "qwen3") => {}
            other => return refuse(format!("its architecture is {}", other.unwrap_or("unnamed"))),
        }
        if self.0.get("quantization_config").is_some_and(|value| !value.is_null()) {
            return refuse("its safetensors are quantised".to_owned());
        }
        if let Some(activation) = self.text("hidden_act").filter(|name| *name != "silu") {
            return refuse(format!("its activation is {activation}"));
        }
        if self.flag("mlp_bias") {
            return refuse("its feed-forward network has biases".to_owned());
        }
        if self.number("partial_rotary_factor").is_some_and(|share| share < 1.0) {
            return refuse("its rotary embedding is partial".to_owned());
        }
        Ok(())
    }

    fn rope(&self, context: usize) -> Result<Rope, EngineError> {
        // Newer files hold the base and the scaling together as `rope_parameters`.
        let nested = ["rope_parameters", "rope_scaling"];
        let scaling = nested.iter().find_map(|name| self.0.get(*name)?.as_object());
        let scaling = scaling.map(Fields);
        let base = scaling.as_ref().and_then(|fields| fields.number("rope_theta"));
        let base = base.or_else(|| self.number("rope_theta")).unwrap_or(10_000.0);
        let Some(fields) = scaling else {
            return Ok(Rope { base, scaling: Scaling::None });
        };
        let factor = fields.number("factor").unwrap_or(1.0);
        let kind = fields.text("rope_type").or_else(|| fields.text("type"));
        let scaling = match kind.unwrap_or("default") {
            "default" => Scaling::None,
            "linear" => Scaling::Linear(factor),
            "llama3" => Scaling::Llama3 {
                factor,
                low: fields.number("low_freq_factor").unwrap_or(1.0),
                high: fields.number("high_freq_factor").unwrap_or(4.0),
                original: fields
                    .number("original_max_position_embeddings")
                    .unwrap_or(context as f64),
            },
            other => {
                return Err(EngineError::work(format!(
                    "the native engine can't run this model: its rotary embedding is scaled by \
                     {other}; choose another engine or model"
                )));
            }
        };
        Ok(Rope { base, scaling })
    }

    fn window(&self) -> Option<(usize, usize)> {
        let window = self.optional("sliding_window").filter(|window| 0 < *window)?;
        match self.0.get("use_sliding_window").and_then(Value::as_bool) {
            Some(false) => None,
            Some(true) => Some((window, self.optional("max_window_layers").unwrap_or(0))),
            // Qwen's default is off; Mistral has no such switch.
            None if self.text("model_type").is_some_and(|kind| kind.starts_with("qwen")) => None,
            None => Some((window, 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA: &str = r#"{"model_type":"llama","hidden_size":64,"num_hidden_layers":2,
        "num_attention_heads":8,"num_key_value_heads":4,"intermediate_size":128,"vocab_size":99,
        "max_position_embeddings":256,"rms_norm_eps":1e-5,"tie_word_embeddings":true"#;

    fn read(more: &str) -> Result<Config, String> {
        Config::from_json(&format!("{LLAMA}{more}}}")).map_err(|error| error.to_string())
    }

    #[test]
    fn dimensions_that_are_left_out_follow_from_the_others() {
        let config = read("").expect("it is whole");
        assert_eq!((config.head_dim, config.group(), config.kv_width()), (8, 2, 32));
        assert_eq!(config.rope, Rope { base: 10_000.0, scaling: Scaling::None });
    }

    #[test]
    fn rope_is_read_in_the_old_and_in_the_new_layout() {
        let old = read(r#","rope_theta":5e5,"rope_scaling":{"type":"linear","factor":2.0}"#);
        let new =
            read(r#","rope_parameters":{"rope_theta":500000,"rope_type":"linear","factor":2}"#);
        assert_eq!(old, new);
        assert_eq!(old.expect("it is whole").rope.scaling, Scaling::Linear(2.0));
    }

    #[test]
    fn what_cant_be_run_is_refused_by_name() {
        for (more, named) in [
            (r#","model_type":"gpt2""#, "gpt2"),
            (r#","rope_scaling":{"rope_type":"yarn","factor":4.0}"#, "yarn"),
            (r#","quantization_config":{"quant_method":"awq"}"#, "quantised"),
            (r#","hidden_act":"gelu""#, "gelu"),
            (r#","num_key_value_heads":3"#, "3 of keys"),
            (r#","vocab_size":0"#, "vocab_size"),
        ] {
            let error = read(more).expect_err(more);
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_window_counts_for_mistral_and_for_qwen_only_when_switched_on() {
        let window = |more: &str| read(more).expect("it is whole").window;
        assert_eq!(window(r#","model_type":"mistral","sliding_window":9"#), Some((9, 0)));
        assert_eq!(window(r#","model_type":"mistral","sliding_window":null"#), None);
        assert_eq!(window(r#","model_type":"qwen2","sliding_window":9"#), None);
        let on = r#","model_type":"qwen2","sliding_window":9,"use_sliding_window":true"#;
        assert_eq!(window(&format!("{on},\"max_window_layers\":1")), Some((9, 1)));
    }
}
