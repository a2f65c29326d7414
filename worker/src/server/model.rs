//! What must be known of a model before a server is started with it.

use crate::{engine::EngineError, native::Metadata};
use serde_json::Value;
use std::{fs, path::Path};

/// Kinds of layers that keep no keys and values: some a state, which is as large for any length, and some nothing.
const KEEP_NONE: [&str; 5] = ["linear_attention", "mamba", "conv", "mlp", "moe"];

/// A model, from outside. What its files don't say is None.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outline {
    /// Bytes of its weights.
    pub(super) weight_bytes: u64,
    /// Tokens that it was trained for.
    pub(super) context: Option<u32>,
    /// Bytes of the KV cache for a token, in 16 bits.
    pub(super) token_bytes: Option<u64>,
    /// Whether some layers keep only the last tokens, so that long prompts take less than that.
    pub(super) is_windowed: bool,
    /// Whether it has a chat template.
    pub(super) has_template: bool,
}

impl Outline {
    /// Of a folder in Hugging Face's layout, or a GGUF file.
    pub(super) fn of(path: &Path) -> Result<Self, EngineError> {
        if path.is_dir() { Self::of_folder(path) } else { Self::of_gguf(path) }
    }

    fn of_gguf(path: &Path) -> Result<Self, EngineError> {
        let metadata = Metadata::read(path)?;
        let architecture = metadata.text("general.architecture").unwrap_or("llama");
        let count = |name: &str| {
            let count = metadata.count(&format!("{architecture}.{name}"))?;
            u64::try_from(count).ok()
        };
        let counts = |name: &str| {
            let counts = metadata.counts(&format!("{architecture}.{name}"))?;
            Some(counts.into_iter().map(|count| count as u64).collect::<Vec<_>>())
        };
        let heads = counts("attention.head_count").unwrap_or_default();
        let keeping = counts("attention.head_count_kv").unwrap_or_else(|| heads.clone());
        let keeping = match keeping[..] {
            // The same in each layer of attention, of which Qwen3-Next has one in so many.
            [each] => count("block_count")
                .map(|layers| layers / count("full_attention_interval").unwrap_or(1).max(1) * each),
            // None in layers that keep no keys and values.
            ref layers => Some(layers.iter().sum()),
        };
        let heads = heads.into_iter().find(|heads| 0 < *heads);
        Ok(Self {
            weight_bytes: fs::metadata(path).map_or(0, |file| file.len()),
            context: count("context_length").and_then(|context| u32::try_from(context).ok()),
            token_bytes: token_bytes(
                keeping,
                count("attention.key_length").or_else(|| Some(count("embedding_length")? / heads?)),
            ),
            is_windowed: count("attention.sliding_window").is_some(),
            has_template: metadata.text("tokenizer.chat_template").is_some(),
        })
    }

    fn of_folder(folder: &Path) -> Result<Self, EngineError> {
        let json = |name: &str| -> Option<Value> {
            serde_json::from_str(&fs::read_to_string(folder.join(name)).ok()?).ok()
        };
        let config = json("config.json").ok_or_else(|| {
            EngineError::work(format!(
                "{} has no config.json that can be read: it is no model, or incomplete",
                folder.display()
            ))
        })?;
        // Models that see as well keep what concerns text in a part of its own.
        let config = config.get("text_config").unwrap_or(&config);
        let count = |name: &str| config.get(name)?.as_u64();
        let heads = count("num_attention_heads");
        let settings = json("tokenizer_config.json").unwrap_or(Value::Null);
        let layers = count("num_hidden_layers").map(|layers| keeping(config, layers));
        // Some keep one compressed line for all heads.
        let latent = count("kv_lora_rank").zip(count("qk_rope_head_dim"));
        let latent = latent.and_then(|(rank, rope)| Some(layers? * (rank + rope) * 2));
        let window_is_used = config.get("use_sliding_window") != Some(&Value::Bool(false));
        let weights = fs::read_dir(folder).into_iter().flatten().flatten();
        let weights = weights.filter(|file| {
            let name = file.file_name();
            Path::new(&name).extension().is_some_and(|end| end == "safetensors" || end == "bin")
        });
        Ok(Self {
            weight_bytes: weights
                .filter_map(|file| Some(fs::metadata(file.path()).ok()?.len()))
                .sum(),
            context: count("max_position_embeddings").and_then(|count| u32::try_from(count).ok()),
            token_bytes: latent.or_else(|| {
                token_bytes(
                    layers
                        .zip(count("num_key_value_heads").or(heads))
                        .map(|(layers, heads)| layers * heads),
                    count("head_dim").or_else(|| Some(count("hidden_size")? / heads?)),
                )
            }),
            is_windowed: window_is_used && count("sliding_window").is_some(),
            has_template: settings.get("chat_template").is_some_and(|template| !template.is_null())
                || folder.join("chat_template.jinja").is_file()
                || folder.join("chat_template.json").is_file(),
        })
    }
}

/// Of so many layers those that keep keys and values.
///
/// Each family says it in its own way. The ways are those of their configurations in `transformers`, by which vLLM
/// counts as well (`ModelConfig.get_num_layers_by_block_type` in its `vllm/config/model.py`).
fn keeping(config: &Value, layers: u64) -> u64 {
    let list = |name: &str| config.get(name).and_then(Value::as_array);
    let count = |name: &str| config.get(name).and_then(Value::as_u64);
    let number = |found: usize| found as u64;
    // Qwen3-Next, Granite 4, LFM2; Zamba 2, later Nemotrons.
    if let Some(kinds) = list("layer_types").or_else(|| list("layers_block_type")) {
        let keeps_none =
            |kind: &&Value| kind.as_str().is_some_and(|kind| KEEP_NONE.contains(&kind));
        return layers.saturating_sub(number(kinds.iter().filter(keeps_none).count()));
    }
    // Nemotron-H has a letter for each layer, and a star for attention.
    if let Some(pattern) = config.get("hybrid_override_pattern").and_then(Value::as_str) {
        return number(pattern.matches('*').count());
    }
    // Bamba. Falcon-H1 has the field and nothing in it, and attention in all layers.
    if let Some(indices) = list("attn_layer_indices") {
        return number(indices.len());
    }
    // MiniMax: 1 is attention to everything, 0 the linear kind.
    if let Some(kinds) = list("attn_type_list") {
        return number(kinds.iter().filter(|kind| kind.as_u64() == Some(1)).count());
    }
    // Jamba.
    if let (Some(period @ 1..), Some(offset)) =
        (count("attn_layer_period"), count("attn_layer_offset"))
    {
        return layers.saturating_sub(offset).div_ceil(period);
    }
    // Qwen3-Next, where it doesn't list them.
    match count("full_attention_interval") {
        Some(interval @ 1..) => layers / interval,
        _ => layers,
    }
}

/// Keys and values of 16 bits, for so many heads of all layers together.
fn token_bytes(heads: Option<u64>, head: Option<u64>) -> Option<u64> {
    Some(heads? * head? * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folders_files_say_what_must_be_known() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Outline::of(folder.path()).is_err());
        let config = r#"{"text_config":{"num_hidden_layers":32,"num_attention_heads":32,
            "num_key_value_heads":8,"hidden_size":4096,"max_position_embeddings":8192}}"#;
        fs::write(folder.path().join("config.json"), config).unwrap();
        fs::write(folder.path().join("model.safetensors"), [0; 40]).unwrap();
        let outline = Outline::of(folder.path()).unwrap();
        let expected = Outline {
            weight_bytes: 40,
            context: Some(8192),
            token_bytes: Some(131_072),
            is_windowed: false,
            has_template: false,
        };
        assert_eq!(outline, expected);
        fs::write(folder.path().join("chat_template.jinja"), "").unwrap();
        assert!(Outline::of(folder.path()).unwrap().has_template);
    }

    #[test]
    fn what_a_token_takes_is_known_of_other_kinds_of_attention_too() {
        let folder = tempfile::tempdir().unwrap();
        let outline = |more: &str| {
            let config = format!(
                r#"{{"num_hidden_layers":10,"num_attention_heads":8,"hidden_size":512{more}}}"#
            );
            fs::write(folder.path().join("config.json"), config).unwrap();
            let outline = Outline::of(folder.path()).unwrap();
            (outline.token_bytes, outline.is_windowed)
        };
        assert_eq!(outline(""), (Some(10 * 8 * 64 * 4), false));
        let latent = r#","kv_lora_rank":512,"qk_rope_head_dim":64"#;
        assert_eq!(outline(latent), (Some(10 * 576 * 2), false));
        assert!(outline(r#","sliding_window":4096"#).1);
        assert!(!outline(r#","sliding_window":4096,"use_sliding_window":false"#).1);
        assert!(!outline(r#","sliding_window":null"#).1);
    }

    #[test]
    fn layers_that_keep_a_state_take_nothing_for_a_token() {
        let mixed = |first: &str, others: &str| {
            let kind = |at: u64| if at.is_multiple_of(10) { first } else { others };
            let kinds: Vec<&str> = (0..40).map(kind).collect();
            serde_json::json!(kinds)
        };
        let pattern = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-";
        for (field, value, keeping) in [
            ("layer_types", mixed("full_attention", "linear_attention"), 4),
            ("layer_types", mixed("attention", "mamba"), 4),
            ("layer_types", mixed("full_attention", "conv"), 4),
            ("layer_types", mixed("full_attention", "sliding_attention"), 40),
            ("layers_block_type", mixed("hybrid", "mamba"), 4),
            ("hybrid_override_pattern", pattern.into(), 4),
            ("attn_layer_indices", serde_json::json!([9, 18, 27]), 3),
            ("attn_layer_indices", Value::Null, 40),
            (
                "attn_type_list",
                serde_json::json!(vec![0; 35].into_iter().chain([1; 5]).collect::<Vec<_>>()),
                5,
            ),
            ("full_attention_interval", 4.into(), 10),
            ("full_attention_interval", 0.into(), 40),
        ] {
            let mut config = serde_json::json!({});
            config[field] = value;
            assert_eq!(super::keeping(&config, 40), keeping, "{config}");
        }
        let jamba = serde_json::json!({"attn_layer_period": 8, "attn_layer_offset": 4});
        assert_eq!(super::keeping(&jamba, 32), 4);
    }

    #[test]
    fn a_gguf_file_says_what_each_layer_keeps_or_all_alike() {
        use candle_core::quantized::gguf_file::{self, Value};
        let numbers =
            |numbers: &[i32]| Value::Array(numbers.iter().map(|n| Value::I32(*n)).collect());
        let file = tempfile::NamedTempFile::new().unwrap();
        for (more, lines) in [
            (vec![("attention.head_count_kv", Value::U32(2))], Some(6 * 2)),
            (vec![("attention.head_count_kv", numbers(&[0, 0, 4, 0, 0, 2]))], Some(6)),
            (vec![], Some(6 * 8)),
            (vec![("attention.head_count", numbers(&[0, 8, 0, 8, 8, 8]))], Some(4 * 8)),
            (
                vec![
                    ("attention.head_count_kv", Value::U32(2)),
                    ("full_attention_interval", Value::U32(3)),
                ],
                Some(2 * 2),
            ),
            (vec![("block_count", Value::String("six".into()))], None),
        ] {
            let mut fields = std::collections::BTreeMap::from([
                ("general.architecture".to_owned(), Value::String("lfm2".into())),
                ("lfm2.block_count".to_owned(), Value::U32(6)),
                ("lfm2.embedding_length".to_owned(), Value::U32(512)),
                ("lfm2.attention.head_count".to_owned(), Value::U32(8)),
            ]);
            fields.extend(more.into_iter().map(|(name, value)| (format!("lfm2.{name}"), value)));
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| (name.as_str(), value)).collect();
            gguf_file::write(&mut file.reopen().unwrap(), &fields, &[]).unwrap();
            let expected = lines.map(|lines| lines * (512 / 8) * 4);
            assert_eq!(Outline::of(file.path()).unwrap().token_bytes, expected, "{fields:?}");
        }
    }

    #[test]
    fn a_hybrid_has_the_context_that_its_few_layers_of_attention_leave_room_for() {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"num_hidden_layers":48,"num_attention_heads":16,"num_key_value_heads":2,
            "head_dim":256,"full_attention_interval":4}"#;
        fs::write(folder.path().join("config.json"), config).unwrap();
        // Qwen3-Next 80B: 12 of 48 layers.
        assert_eq!(Outline::of(folder.path()).unwrap().token_bytes, Some(12 * 2 * 256 * 4));
    }
}
