//! What inference engines get out of a GPU, from `templates/engines.toml`.

use crate::model::Weights;
use providers::Cuda;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{sync::LazyLock, time::Duration};

/// An engine's coefficients. The file that they come from says what each one is, and its source.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// Its name.
    pub name: String,
    /// Whether these are its coefficients on a machine without a GPU.
    #[serde(default)]
    pub processor: bool,
    /// Whether they are so only on this computer, which doesn't tell what GPUs it has.
    #[serde(default)]
    pub here: bool,
    /// How many of a machine's GPUs it uses at most. None is all.
    pub gpus: Option<u32>,
    /// Whether it needs a GPU of NVIDIA's Ampere generation or a later one.
    #[serde(default)]
    pub ampere: bool,
    /// The oldest CUDA that a machine's driver must be for.
    #[serde(default, deserialize_with = "version")]
    pub cuda: Option<Cuda>,
    bf16: f64,
    fp8: Option<f64>,
    int4: Option<f64>,
    fp4: Option<f64>,
    /// Share of the memory's bandwidth.
    pub bandwidth: f64,
    step: f64,
    token: f64,
    /// Prompts decoded at once, at most.
    pub sequences: u32,
    memory: f64,
    reserve: f64,
    kv: u32,
    pcie: Option<f64>,
    nvlink: Option<f64>,
    image: f64,
    load: u64,
    /// The factor by which a modelled speed may be off, either way.
    pub error: f64,
}

impl Engine {
    /// The engine of this name, on a GPU or on a processor.
    pub fn named(name: &str, processor: bool) -> Option<&'static Self> {
        all().iter().find(|engine| engine.name == name && engine.processor == processor)
    }

    /// Share of the peak that is reached with weights kept like this. None where it can't run them.
    pub fn share_of_peak(&self, weights: Weights) -> Option<f64> {
        match weights {
            Weights::Bf16 => Some(self.bf16),
            Weights::Fp8 => self.fp8,
            Weights::Int4 => self.int4,
            Weights::Fp4 => self.fp4,
        }
    }

    /// Seconds that decoding one token takes beside arithmetic and memory, in a batch.
    pub fn overhead(&self, batch: f64) -> f64 {
        self.step / batch + self.token
    }

    /// Bytes for weights and KV cache in a memory of so many bytes.
    pub fn usable(&self, bytes: f64) -> f64 {
        bytes * self.memory - self.reserve * 1e9
    }

    /// Bytes of memory of which so many are usable.
    pub fn memory_for(&self, usable: f64) -> f64 {
        (usable + self.reserve * 1e9) / self.memory
    }

    /// The size of the KV cache, where 16 bits a number are 1.
    pub fn kv_scale(&self) -> f64 {
        f64::from(self.kv) / 16.0
    }

    /// What is left of the speed when a model is split over GPUs. None where it can't be split.
    pub fn split(&self, nvlink: bool) -> Option<f64> {
        if nvlink { self.nvlink } else { self.pcie }
    }

    /// Bytes to pull onto a machine before the engine runs.
    pub fn image_bytes(&self) -> f64 {
        self.image * 1e9
    }

    /// From the image and the model being there to the first prompt.
    pub fn load(&self) -> Duration {
        Duration::from_secs(self.load)
    }
}

/// Reads `12.4`.
fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cuda>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let version = Cuda::parse(&text);
    version.map(Some).ok_or_else(|| D::Error::custom(format!("{text} is no version of CUDA")))
}

/// Every engine that is known.
pub fn all() -> &'static [Engine] {
    #[derive(Deserialize)]
    struct Table {
        engine: Vec<Engine>,
    }
    static ENGINES: LazyLock<Vec<Engine>> = LazyLock::new(|| {
        let text = include_str!("../templates/engines.toml");
        let table: Table = toml::from_str(text).expect("a test reads this file");
        table.engine
    });
    &ENGINES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_gets_out_less_than_there_is() {
        for engine in all() {
            let shares =
                Weights::ALL.into_iter().filter_map(|weights| engine.share_of_peak(weights));
            for share in shares.chain([engine.bandwidth, engine.memory]) {
                assert!(0.0 < share && share <= 1.0, "{}: {share}", engine.name);
            }
            assert!(1.0 < engine.error, "{}", engine.name);
            let there = engine.memory_for(engine.usable(24e9));
            assert!((there - 24e9).abs() < 1.0, "{}", engine.name);
        }
    }
}
