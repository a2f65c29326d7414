//! Tensors in files, read a few rows at a time as 32-bit floats.

use crate::engine::EngineError;
use candle_core::{
    CpuStorage, Device, Storage,
    quantized::{GgmlDType, QStorage, QTensor},
};
use std::{borrow::Cow, collections::HashMap, fs::File, os::unix::fs::FileExt, sync::Arc};

/// The tensors of a model under the names that Hugging Face gives them.
pub(super) type Tensors = HashMap<String, Tensor>;

/// A tensor in a file.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    /// Its name, for messages.
    pub(super) name: String,
    /// The file that holds it.
    pub(super) file: Arc<File>,
    /// Where in the file it begins, in bytes.
    pub(super) offset: u64,
    /// How its numbers are written.
    pub(super) format: GgmlDType,
    /// Its dimensions; the last is contiguous.
    pub(super) shape: Vec<usize>,
    /// Floats of a head, where the file has the pairs of rotary embedding side by side, as
    /// llama.cpp's converter leaves them, and not half a head apart.
    pub(super) paired: Option<usize>,
}

impl Tensor {
    /// Floats of a row.
    pub(super) fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Rows. A vector is one row.
    pub(super) fn height(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Bytes in the file.
    pub(super) fn bytes(&self) -> u64 {
        let blocks = self.width() * self.height() / self.format.block_size();
        (blocks * self.format.type_size()) as u64
    }

    /// Checks the dimensions.
    pub(super) fn expect(&self, shape: &[usize]) -> Result<&Self, EngineError> {
        if self.shape == shape && self.width().is_multiple_of(self.format.block_size()) {
            return Ok(self);
        }
        Err(EngineError::work(format!(
            "the model's tensor {} is {:?} where its configuration says {shape:?}: the files don't \
             belong together",
            self.name, self.shape
        )))
    }

    /// Reads rows from `first` on, until `out` is full.
    pub(super) fn read(&self, first: usize, out: &mut [f32]) -> Result<(), EngineError> {
        let Some(head) = self.paired else { return self.read_plain(first, out) };
        for (index, out) in out.chunks_mut(self.width()).enumerate() {
            self.read_plain(unpaired(first + index, head), out)?;
        }
        Ok(())
    }

    /// Reads a row as the file has it.
    pub(super) fn raw_row(&self, row: usize) -> Result<Vec<u8>, EngineError> {
        self.raw(self.paired.map_or(row, |head| unpaired(row, head)), self.width())
    }

    /// Reads rows as the file has them, where they stand in the file's order and in `format`.
    pub(super) fn raw_rows(
        &self,
        format: GgmlDType,
        first: usize,
        count: usize,
    ) -> Option<Result<Vec<u8>, EngineError>> {
        let is_plain = self.format == format && self.paired.is_none();
        is_plain.then(|| self.raw(first, count * self.width()))
    }

    fn raw(&self, first: usize, count: usize) -> Result<Vec<u8>, EngineError> {
        let bytes_of = |count: usize| count / self.format.block_size() * self.format.type_size();
        let mut bytes = vec![0; bytes_of(count)];
        let offset = self.offset + bytes_of(first * self.width()) as u64;
        self.file.read_exact_at(&mut bytes, offset).map_err(|error| {
            EngineError::work(format!(
                "the model's tensor {} can't be read ({error}): fetch the model again",
                self.name
            ))
        })?;
        Ok(bytes)
    }

    fn read_plain(&self, first: usize, out: &mut [f32]) -> Result<(), EngineError> {
        let bytes = self.raw(first, out.len())?;
        dequantise(self.format, &bytes, out).map_err(|error| {
            EngineError::work(format!("the model's tensor {}: {error}", self.name))
        })
    }

    /// Reads all of it.
    pub(super) fn values(&self) -> Result<Vec<f32>, EngineError> {
        let mut values = vec![0.0; self.width() * self.height()];
        match self.paired {
            Some(head) if self.shape.len() == 1 => {
                self.read_plain(0, &mut values)?;
                Ok((0..values.len()).map(|index| values[unpaired(index, head)]).collect())
            }
            _ => {
                self.read(0, &mut values)?;
                Ok(values)
            }
        }
    }
}

/// Where a row is when the pairs of a head lie side by side.
fn unpaired(row: usize, head: usize) -> usize {
    let (start, within) = (row / head * head, row % head);
    start + within % (head / 2) * 2 + within / (head / 2)
}

fn dequantise(format: GgmlDType, bytes: &[u8], out: &mut [f32]) -> candle_core::Result<()> {
    let storage = QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, format)?;
    let tensor = QTensor::new(storage, out.len())?.dequantize(&Device::Cpu)?;
    let (storage, _) = tensor.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(values)) = &*storage else {
        candle_core::bail!("dequantised to something else than floats");
    };
    out.copy_from_slice(values);
    Ok(())
}

/// The tensor of this name.
pub(super) fn find<'a>(tensors: &'a Tensors, name: &str) -> Result<&'a Tensor, EngineError> {
    tensors.get(name).ok_or_else(|| {
        EngineError::work(format!(
            "the model's files have no tensor {name}: they are incomplete, or of an architecture \
             that the native engine doesn't know"
        ))
    })
}
