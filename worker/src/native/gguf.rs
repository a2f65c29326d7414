//! A model in a GGUF file.
//!
//! Names and shapes are those of llama.cpp's converter; here they become Hugging Face's.

use super::{
    config::Config,
    gguf_tokenizer,
    model_files::ModelFiles,
    rope::{Rope, Scaling},
    simd::narrowed,
    template::Template,
    tensor::{Tensor, Tensors},
};
use crate::engine::EngineError;
use candle_core::quantized::gguf_file::{Content, Value};
use std::{collections::HashMap, fs::File, io::BufReader, path::Path, sync::Arc};

/// A file's metadata.
pub(crate) struct Metadata(HashMap<String, Value>);

impl Metadata {
    /// Reads those of a file.
    pub(crate) fn read(path: &Path) -> Result<Self, EngineError> {
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        let content = Content::read(&mut BufReader::with_capacity(1 << 20, &file));
        Ok(Self(content.map_err(|error| unreadable(path, &error))?.metadata))
    }

    /// A number that counts something.
    pub(crate) fn count(&self, key: &str) -> Option<usize> {
        whole(self.0.get(key)?)
    }

    /// Numbers that count something: one for each layer, or a single one for all of them.
    pub(crate) fn counts(&self, key: &str) -> Option<Vec<usize>> {
        match self.list(key) {
            Some(list) => list.iter().map(whole).collect(),
            None => Some(vec![self.count(key)?]),
        }
    }

    fn required(&self, key: &str) -> Result<usize, EngineError> {
        self.count(key).filter(|count| 0 < *count).ok_or_else(|| {
            EngineError::work(format!("the GGUF file has no usable {key}: it is incomplete"))
        })
    }

    fn number(&self, key: &str) -> Option<f64> {
        let value = self.0.get(key)?;
        value.to_f64().ok().or_else(|| value.to_f32().ok().map(f64::from))
    }

    /// A text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_string().ok().map(String::as_str)
    }

    /// A truth value.
    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        self.0.get(key)?.to_bool().ok()
    }

    /// The elements of an array.
    pub(crate) fn list(&self, key: &str) -> Option<&[Value]> {
        self.0.get(key)?.to_vec().ok().map(Vec::as_slice)
    }
}

fn whole(value: &Value) -> Option<usize> {
    match value {
        Value::U8(value) => Some(usize::from(*value)),
        Value::U16(value) => Some(usize::from(*value)),
        Value::U32(value) => usize::try_from(*value).ok(),
        Value::U64(value) => usize::try_from(*value).ok(),
        Value::I8(value) => usize::try_from(*value).ok(),
        Value::I16(value) => usize::try_from(*value).ok(),
        Value::I32(value) => usize::try_from(*value).ok(),
        Value::I64(value) => usize::try_from(*value).ok(),
        Value::F32(_) | Value::F64(_) | Value::Bool(_) | Value::String(_) | Value::Array(_) => None,
    }
}

/// Opens the file. The weights are not read yet.
pub(super) fn open(path: &Path) -> Result<ModelFiles, EngineError> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let content = Content::read(&mut BufReader::with_capacity(1 << 20, &file))
        .map_err(|error| unreadable(path, &error))?;
    let metadata = Metadata(content.metadata);
    let architecture = metadata.text("general.architecture").unwrap_or("unnamed").to_owned();
    if !matches!(architecture.as_str(), "llama" | "mistral" | "qwen2" | "qwen3") {
        return Err(EngineError::work(format!(
            "the native engine can't run this model: its architecture is {architecture}; choose \
             another engine or model"
        )));
    }
    let mut tensors = Tensors::new();
    let file = Arc::new(file);
    for (name, info) in content.tensor_infos {
        let name = hugging_face_name(&name);
        let tensor = Tensor {
            name: name.clone(),
            file: Arc::clone(&file),
            offset: content.tensor_data_offset + info.offset,
            format: info.ggml_dtype,
            shape: info.shape.into_dims(),
            paired: None,
        };
        tensors.insert(name, tensor);
    }
    let config = read_config(&metadata, &architecture, &tensors)?;
    if matches!(architecture.as_str(), "llama" | "mistral") {
        for (name, tensor) in &mut tensors {
            if name.contains(".q_proj.") || name.contains(".k_proj.") {
                tensor.paired = Some(config.head_dim);
            }
        }
    }
    let template = metadata.text("tokenizer.chat_template").map(str::to_owned);
    Ok(ModelFiles {
        config,
        tensors,
        vocabulary: gguf_tokenizer::build(&metadata)?,
        template: template.map(Template::new).transpose()?,
        generation: serde_json::Map::new(),
    })
}

fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> EngineError {
    EngineError::work(format!("{} can't be read as a GGUF file: {why}", path.display()))
}

fn read_config(
    metadata: &Metadata,
    architecture: &str,
    tensors: &Tensors,
) -> Result<Config, EngineError> {
    let key = |name: &str| format!("{architecture}.{name}");
    let required = |name: &str| metadata.required(&key(name));
    let (hidden, heads) = (required("embedding_length")?, required("attention.head_count")?);
    let head_dim = metadata.count(&key("attention.key_length")).unwrap_or(hidden / heads);
    let rotated = metadata.count(&key("rope.dimension_count")).unwrap_or(head_dim);
    if rotated != head_dim {
        return Err(EngineError::work(format!(
            "the native engine can't run this model: its rotary embedding is partial ({rotated} of \
             {head_dim}); choose another engine or model"
        )));
    }
    let embedding = super::tensor::find(tensors, "model.embed_tokens.weight")?;
    let factors = tensors.get("rope_freqs.weight").map(Tensor::values).transpose()?;
    let scaling = match (factors, metadata.text(&key("rope.scaling.type"))) {
        (Some(factors), _) => Scaling::Each(factors),
        (None, None | Some("none")) => Scaling::None,
        (None, Some("linear")) => {
            Scaling::Linear(metadata.number(&key("rope.scaling.factor")).unwrap_or(1.0))
        }
        (None, Some(other)) => {
            return Err(EngineError::work(format!(
                "the native engine can't run this model: its rotary embedding is scaled by \
                 {other}; choose another engine or model"
            )));
        }
    };
    let window = metadata.count(&key("attention.sliding_window")).filter(|window| 0 < *window);
    let epsilon = metadata.number(&key("attention.layer_norm_rms_epsilon"));
    Config {
        hidden,
        layers: required("block_count")?,
        heads,
        kv_heads: metadata.count(&key("attention.head_count_kv")).unwrap_or(heads),
        head_dim,
        intermediate: required("feed_forward_length")?,
        vocabulary: embedding.height(),
        context: required("context_length")?,
        epsilon: narrowed(epsilon.unwrap_or(1e-5)),
        rope: Rope { base: metadata.number(&key("rope.freq_base")).unwrap_or(1e4), scaling },
        window: window.map(|window| (window, 0)),
        tied: !tensors.contains_key("lm_head.weight"),
    }
    .check()
}

/// The name that Hugging Face gives a tensor; its own name where that isn't known.
fn hugging_face_name(name: &str) -> String {
    match name {
        "token_embd.weight" => return "model.embed_tokens.weight".to_owned(),
        "output_norm.weight" => return "model.norm.weight".to_owned(),
        "output.weight" => return "lm_head.weight".to_owned(),
        _ => {}
    }
    let parts: Vec<&str> = name.split('.').collect();
    let [block @ "blk", layer, module, kind] = parts[..] else { return name.to_owned() };
    debug_assert_eq!(block, "blk");
    let module = match module {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return name.to_owned(),
    };
    format!("model.layers.{layer}.{module}.{kind}")
}
