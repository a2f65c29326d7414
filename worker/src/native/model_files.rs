//! What the files of a model say, whatever their layout.

use super::{
    config::Config, folder, gguf, template::Template, tensor::Tensors, vocabulary::Vocabulary,
};
use crate::engine::EngineError;
use std::path::Path;

/// A model's files, opened; the weights are not read yet.
#[derive(Debug)]
pub(super) struct ModelFiles {
    /// What the model is made of.
    pub(super) config: Config,
    /// Its weights.
    pub(super) tensors: Tensors,
    /// Its tokenizer.
    pub(super) vocabulary: Vocabulary,
    /// Its chat template.
    pub(super) template: Option<Template>,
    /// The sampling parameters that its makers advise, as `generation_config.json` names them.
    pub(super) generation: serde_json::Map<String, serde_json::Value>,
}

impl ModelFiles {
    /// Opens a folder in Hugging Face's layout, or a GGUF file.
    pub(super) fn open(path: &Path) -> Result<Self, EngineError> {
        if path.is_dir() { folder::open(path) } else { gguf::open(path) }
    }
}
