//! The shape of a model that is on this computer, or known by name.

use super::{Config, ConfigError, GgufError, HubError, Shape, read_header};
use crate::catalogue::entry_of;
use std::{
    fs::{self, File},
    io::{self, BufReader},
    path::{Path, PathBuf},
};
use wire::{Model, Source};

/// Why nothing is known of a model's size.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// It is on a hub, and not among those that are known without one.
    #[error("the size of `{0}` is not known: download it and give its path")]
    Unknown(String),
    /// The hub doesn't say.
    #[error("the size of `{model}` is not known: {source}")]
    Hub {
        /// The model's name.
        model: String,
        /// Why it doesn't.
        source: HubError,
    },
    /// It can't be read.
    #[error("`{}` can't be read", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// Its config.json says too little.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its GGUF header says too little.
    #[error(transparent)]
    Gguf(#[from] GgufError),
}

/// What decides a model's size and speed: of its files, where they are here, else of its name.
pub fn shape_of(model: &Model) -> Result<Shape, ShapeError> {
    let path = model.sources.iter().find_map(|source| match source {
        Source::Path(path) => Some(Path::new(path)),
        Source::Hub { .. } | Source::Package { .. } => None,
    });
    if let Some(path) = path {
        return of_files(path);
    }
    match entry_of(model) {
        Some(entry) => Ok(entry.config.shape()?),
        None => Err(ShapeError::Unknown(model.name.clone())),
    }
}

fn of_files(path: &Path) -> Result<Shape, ShapeError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |error| ShapeError::Unreadable(path, error)
    };
    if path.is_dir() {
        let config = path.join("config.json");
        let text = fs::read_to_string(&config).map_err(unreadable(&config))?;
        return Ok(Config::parse(&text)?.shape()?);
    }
    let file = File::open(path).map_err(unreadable(path))?;
    Ok(read_header(BufReader::new(file))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{default_model, resolve};

    #[test]
    fn a_models_own_files_come_before_its_name() {
        assert_eq!(shape_of(&default_model()).unwrap().parameters, 134_515_008);
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 512}"#;
        fs::write(folder.path().join("config.json"), config).unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        let name = "SmolLM2-135M-Instruct".to_owned();
        let model = Model { name, sources: vec![Source::Path(path)] };
        assert_eq!(shape_of(&model).unwrap().context, 512);
    }

    #[test]
    fn a_model_that_nothing_is_known_of_says_what_to_do() {
        let error = shape_of(&resolve("acme/new").unwrap()).unwrap_err();
        assert!(error.to_string().contains("give its path"), "{error}");
    }
}
