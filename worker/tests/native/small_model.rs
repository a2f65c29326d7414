//! Small models with seeded random weights, written as a hub would hold them.

use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fs, path::Path};

/// A tensor's dimensions and numbers.
pub(crate) type Array = (Vec<usize>, Vec<f32>);

/// The token that ends an answer.
pub(crate) const END: u64 = 256;

/// Tokens of the vocabulary: the bytes, an end, and some to fill a panel of no round size.
pub(crate) const VOCABULARY: usize = 270;

/// A model.
#[derive(Clone, Debug)]
pub(crate) struct SmallModel {
    /// Its configuration.
    pub(crate) config: Value,
    /// Its weights.
    pub(crate) tensors: BTreeMap<String, Array>,
}

impl SmallModel {
    /// A model of an architecture; `more` is laid over its configuration.
    pub(crate) fn new(kind: &str, more: Value) -> Self {
        let mut config = json!({
            "model_type": kind, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
            "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 80, "rms_norm_eps": 1e-5,
            "vocab_size": VOCABULARY, "max_position_embeddings": 512, "rope_theta": 10000.0,
            "tie_word_embeddings": true, "eos_token_id": END,
        });
        merge(&mut config, more);
        let mut model = Self { config, tensors: BTreeMap::new() };
        model.fill();
        model
    }

    /// A whole number of the configuration.
    pub(crate) fn size(&self, name: &str) -> usize {
        usize::try_from(self.config[name].as_u64().unwrap()).unwrap()
    }

    fn fill(&mut self) {
        let [hidden, inner, vocabulary] =
            ["hidden_size", "intermediate_size", "vocab_size"].map(|name| self.size(name));
        let dim = self.size("head_dim");
        let q = self.size("num_attention_heads") * dim;
        let kv = self.size("num_key_value_heads") * dim;
        let kind = self.config["model_type"].as_str().unwrap().to_owned();
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden])];
        shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
        if self.config["tie_word_embeddings"] == json!(false) {
            shapes.push(("lm_head.weight".to_owned(), vec![vocabulary, hidden]));
        }
        for layer in 0..self.size("num_hidden_layers") {
            let mut add = |name: &str, shape: &[usize]| {
                shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
            };
            add("input_layernorm.weight", &[hidden]);
            add("post_attention_layernorm.weight", &[hidden]);
            for (name, rows, columns) in [
                ("self_attn.q_proj", q, hidden),
                ("self_attn.k_proj", kv, hidden),
                ("self_attn.v_proj", kv, hidden),
                ("self_attn.o_proj", hidden, q),
                ("mlp.gate_proj", inner, hidden),
                ("mlp.up_proj", inner, hidden),
                ("mlp.down_proj", hidden, inner),
            ] {
                add(&format!("{name}.weight"), &[rows, columns]);
                if kind == "qwen2" && rows != hidden && !name.starts_with("mlp") {
                    add(&format!("{name}.bias"), &[rows]);
                }
            }
            if kind == "qwen2" && q == hidden {
                add("self_attn.q_proj.bias", &[q]);
            }
            if kind == "qwen3" {
                add("self_attn.q_norm.weight", &[dim]);
                add("self_attn.k_norm.weight", &[dim]);
            }
        }
        for (seed, (name, shape)) in (1..).zip(shapes) {
            let count = shape.iter().product();
            let values = noise(seed, count);
            let is_norm = name.ends_with("norm.weight");
            let scale = 2.5 / (*shape.last().unwrap() as f32).sqrt();
            let scale = if name.contains("embed") || shape.len() == 1 { 1.0 } else { scale };
            let values =
                values.into_iter().map(|v| if is_norm { 1.0 + v / 4.0 } else { v * scale });
            self.tensors.insert(name, (shape, values.collect()));
        }
    }

    /// Writes the model to `folder`, its weights in `files` files.
    pub(crate) fn write(&self, folder: &Path, files: usize) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        fs::write(folder.join("tokenizer.json"), tokenizer().to_string()).unwrap();
        let settings = json!({"eos_token": "<|end|>", "chat_template":
            "{% for m in messages %}\n[{{ m.role }}]{{ m.content }}\n{% endfor %}\n{{ '>' }}"});
        fs::write(folder.join("tokenizer_config.json"), settings.to_string()).unwrap();
        if files == 1 {
            let all: Vec<_> = self.tensors.iter().collect();
            return fs::write(folder.join("model.safetensors"), safetensors(&all)).unwrap();
        }
        let mut map = Map::new();
        for file in 0..files {
            let name = format!("model-{}-of-{files}.safetensors", file + 1);
            let some: Vec<_> = self.tensors.iter().skip(file).step_by(files).collect();
            map.extend(some.iter().map(|(tensor, _)| ((*tensor).clone(), json!(name))));
            fs::write(folder.join(name), safetensors(&some)).unwrap();
        }
        let index = json!({"metadata": {}, "weight_map": map});
        fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
}

fn merge(config: &mut Value, more: Value) {
    let Value::Object(more) = more else { panic!("a configuration is an object") };
    config.as_object_mut().unwrap().extend(more);
}

/// Numbers from -1 to 1.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x5851_f42d_4c95_7f2d) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = u16::try_from(state >> 48).unwrap();
        f32::from(bits) / 32_768.0 - 1.0
    };
    std::iter::repeat_with(&mut next).take(count).collect()
}

fn safetensors(tensors: &[(&String, &Array)]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, (shape, values)) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert((*name).clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(data);
    file
}

/// The names of the bytes in GPT-2's alphabet.
pub(crate) fn alphabet() -> Vec<String> {
    let mut others = 256..;
    let name = |byte: u32| {
        let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let code = if printable { byte } else { others.next().unwrap() };
        char::from_u32(code).unwrap().to_string()
    };
    (0..256).map(name).collect()
}

fn tokenizer() -> Value {
    let mut vocabulary: Map<String, Value> =
        alphabet().into_iter().zip(0..).map(|(name, id)| (name, json!(id))).collect();
    vocabulary.insert("<|end|>".to_owned(), json!(END));
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{"id": END, "content": "<|end|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": []}
    })
}
