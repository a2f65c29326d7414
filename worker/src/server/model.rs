//! What must be known of a model before a server is started with it.

use crate::{engine::EngineError, native::Metadata};
use serde_json::Value;
use std::{fs, path::Path};

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
        let heads = count("attention.head_count");
        Ok(Self {
            weight_bytes: fs::metadata(path).map_or(0, |file| file.len()),
            context: count("context_length").and_then(|context| u32::try_from(context).ok()),
            token_bytes: token_bytes(
                count("block_count"),
                count("attention.head_count_kv").or(heads),
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
        // Some keep one compressed line for all heads.
        let latent = count("kv_lora_rank").zip(count("qk_rope_head_dim"));
        let latent =
            latent.and_then(|(rank, rope)| Some(count("num_hidden_layers")? * (rank + rope) * 2));
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
                    count("num_hidden_layers"),
                    count("num_key_value_heads").or(heads),
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

/// Keys and values of 16 bits in each layer.
fn token_bytes(layers: Option<u64>, heads: Option<u64>, head: Option<u64>) -> Option<u64> {
    Some(layers? * heads? * head? * 4)
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
}
