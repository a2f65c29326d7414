//! A model in a folder of Hugging Face's layout.

use super::{
    config::Config, model_files::ModelFiles, safetensors, template::Template,
    vocabulary::Vocabulary,
};
use crate::engine::EngineError;
use serde_json::Value;
use std::{collections::HashSet, fs, io::ErrorKind, path::Path};

/// Opens the folder. The weights are not read yet.
pub(super) fn open(folder: &Path) -> Result<ModelFiles, EngineError> {
    let config_text = required(folder, "config.json")?;
    let config = Config::from_json(&config_text)?;
    let json = |name: &str| -> Result<Value, EngineError> {
        let Some(text) = optional(folder, name)? else { return Ok(Value::Null) };
        serde_json::from_str(&text).map_err(|error| {
            EngineError::work(format!("the model's {name} can't be understood: {error}"))
        })
    };
    let (generation, settings) = (json("generation_config.json")?, json("tokenizer_config.json")?);
    let tokenizer = Vocabulary::parse(required(folder, "tokenizer.json")?.as_bytes())?;
    let named = |field: &str| {
        let token = settings.get(field)?;
        token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
    };
    let (begin, end) = (named("bos_token"), named("eos_token"));
    let plain: Value = serde_json::from_str(&config_text).expect("it was read as JSON before");
    let mut ends: HashSet<u32> = ids(&plain).chain(ids(&generation)).collect();
    ends.extend(end.as_deref().and_then(|end| tokenizer.token_to_id(end)));
    let template = match optional(folder, "chat_template.jinja")? {
        Some(source) => Some(source),
        None => template_of(&settings),
    };
    Ok(ModelFiles {
        config,
        tensors: safetensors::open(folder)?,
        vocabulary: Vocabulary::new(tokenizer, ends, begin, end),
        template: template.map(Template::new).transpose()?,
        generation: generation.as_object().cloned().unwrap_or_default(),
    })
}

/// The tokens that end an answer: one, or a list.
fn ids(config: &Value) -> impl Iterator<Item = u32> {
    let ends = config.get("eos_token_id");
    let list = ends.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let all = ends.into_iter().chain(list).filter_map(Value::as_u64);
    all.filter_map(|id| u32::try_from(id).ok()).collect::<Vec<_>>().into_iter()
}

/// The template in `tokenizer_config.json`: one, or a list of named ones.
fn template_of(settings: &Value) -> Option<String> {
    let template = settings.get("chat_template")?;
    if let Some(source) = template.as_str() {
        return Some(source.to_owned());
    }
    let default = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some("default");
    let entry = template.as_array()?.iter().find(default)?;
    Some(entry.get("template")?.as_str()?.to_owned())
}

fn optional(folder: &Path, name: &str) -> Result<Option<String>, EngineError> {
    match fs::read_to_string(folder.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EngineError::work(format!("the model's {name} can't be read: {error}"))),
    }
}

fn required(folder: &Path, name: &str) -> Result<String, EngineError> {
    optional(folder, name)?.ok_or_else(|| {
        EngineError::work(format!(
            "{} has no {name}: it is no model in Hugging Face's layout, or incomplete",
            folder.display()
        ))
    })
}
