//! Tensors of a folder in Hugging Face's layout.
//!
//! A safetensors file is a length (u64, little-endian), a JSON header of that many bytes, and data
//! at the offsets that the header names.

use super::tensor::{Tensor, Tensors};
use crate::engine::EngineError;
use candle_core::quantized::GgmlDType;
use serde::Deserialize;
use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

/// The most bytes that a header may have: the limit of the format's own library.
const HEADER_LIMIT: u64 = 100_000_000;

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// Finds the tensors of all files of the model in `folder`.
pub(super) fn open(folder: &Path) -> Result<Tensors, EngineError> {
    let index = folder.join("model.safetensors.index.json");
    let files: BTreeSet<String> = match fs::read(&index) {
        Ok(bytes) => {
            let index: Index = serde_json::from_slice(&bytes).map_err(|error| {
                EngineError::work(format!("{} can't be understood: {error}", index.display()))
            })?;
            index.weight_map.into_values().collect()
        }
        Err(_) => BTreeSet::from(["model.safetensors".to_owned()]),
    };
    let mut tensors = Tensors::new();
    for name in files {
        let path = folder.join(&name);
        let file = File::open(&path).map_err(|error| {
            EngineError::work(format!(
                "the model's file {name} can't be opened ({error}): it is missing from {}, so \
                 fetch the model again",
                folder.display()
            ))
        })?;
        let broken = |why: String| {
            EngineError::work(format!(
                "{} is damaged ({why}): fetch the model again",
                path.display()
            ))
        };
        read_header(&Arc::new(file), &mut tensors).map_err(broken)?;
    }
    Ok(tensors)
}

fn read_header(file: &Arc<File>, tensors: &mut Tensors) -> Result<(), String> {
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    let mut length = [0; 8];
    file.read_exact_at(&mut length, 0).map_err(|error| error.to_string())?;
    let length = u64::from_le_bytes(length);
    if size.min(HEADER_LIMIT) < length {
        return Err(format!("its header has {length} bytes"));
    }
    let mut header = vec![0; usize::try_from(length).expect("it is under the limit")];
    file.read_exact_at(&mut header, 8).map_err(|error| error.to_string())?;
    let mut entries: HashMap<String, serde_json::Value> =
        serde_json::from_slice(&header).map_err(|error| error.to_string())?;
    entries.remove("__metadata__");
    for (name, entry) in entries {
        let entry: Entry = serde_json::from_value(entry).map_err(|error| error.to_string())?;
        let format = match entry.dtype.as_str() {
            "F32" => GgmlDType::F32,
            "F16" => GgmlDType::F16,
            "BF16" => GgmlDType::BF16,
            // Buffers that the model doesn't need, or a quantisation that `find` will miss.
            _ => continue,
        };
        let [start, end] = entry.data_offsets;
        let offset = 8 + length + start;
        let tensor = Tensor {
            name: name.clone(),
            file: Arc::clone(file),
            offset,
            format,
            shape: entry.shape,
            paired: None,
        };
        if end.checked_sub(start) != Some(tensor.bytes()) || size < 8 + length + end {
            return Err(format!("its tensor {name} is cut short"));
        }
        tensors.insert(name, tensor);
    }
    Ok(())
}
