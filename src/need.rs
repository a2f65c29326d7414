//! A model and its prompts → the memory that they need, and the batch that fits beside the weights.
//!
//! Fitting isn't enough. What decides the speed is the batch that there is room for.

use crate::{
    engines::Engine,
    model::{Shape, Weights, whole},
};
use providers::{Mib, Need};

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workload {
    /// How many prompts.
    pub prompts: u64,
    /// Tokens of a prompt, on average.
    pub input: f64,
    /// Tokens of an answer, on average.
    pub output: f64,
}

impl Workload {
    /// Tokens of all prompts and answers.
    pub fn tokens(&self) -> f64 {
        self.prompts as f64 * (self.input + self.output)
    }

    /// Tokens of a prompt and its answer, rounded up.
    pub fn length(&self) -> u64 {
        whole((self.input + self.output).ceil())
    }
}

/// A way to put a model onto a machine's GPUs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// How the weights are kept.
    pub weights: Weights,
    /// GPUs that one copy of the model is split over.
    pub split: u32,
    /// Copies of the model in the machine, each on GPUs of its own.
    pub copies: u32,
    /// Prompts that a copy decodes at once.
    pub batch: u32,
}

/// Why a model can't be put onto a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It isn't large enough for the weights and one prompt.
    #[error("{needed} of memory wanted, {available} there")]
    TooSmall {
        /// Memory that each GPU would have to have, with the fewest bits that are allowed.
        needed: Mib,
        /// Memory that it has.
        available: Mib,
    },
    /// A prompt and its answer are longer than the model can take in.
    #[error("prompt and answer have {length} tokens, and the model takes {context}")]
    TooLong {
        /// Tokens of a prompt and its answer.
        length: u64,
        /// What the model takes.
        context: u32,
    },
    /// The engine runs the model in none of the precisions that are allowed.
    #[error("the engine runs none of the precisions that are allowed")]
    NoPrecision,
}

const MIB: f64 = 1_048_576.0;

/// GPUs of the largest machines that marketplaces rent out.
const MOST_GPUS: u32 = 8;

/// Every way to put a model onto a machine of `count` GPUs with `memory` each.
pub fn fits(
    shape: &Shape,
    engine: &Engine,
    allowed: &[Weights],
    memory: Mib,
    count: u32,
    work: &Workload,
) -> Result<Vec<Fit>, Unfit> {
    if u64::from(shape.context) < work.length() {
        return Err(Unfit::TooLong { length: work.length(), context: shape.context });
    }
    let runs = |weights: &&Weights| engine.share_of_peak(**weights).is_some();
    let allowed: Vec<_> = allowed.iter().filter(runs).copied().collect();
    if allowed.is_empty() {
        return Err(Unfit::NoPrecision);
    }
    let mut found = Vec::new();
    for split in splits(shape, engine, count) {
        for &weights in &allowed {
            let batch = batch(shape, engine, weights, memory, split, work);
            if 0 < batch {
                found.push(Fit { weights, split, copies: count / split, batch });
            }
        }
    }
    if found.is_empty() {
        let fewest = splits(shape, engine, count).last().unwrap_or(1);
        let each = |weights: &Weights| needed(shape, engine, *weights, fewest, work);
        let needed = allowed.iter().map(each).min().unwrap_or_default();
        return Err(Unfit::TooSmall { needed, available: memory });
    }
    Ok(found)
}

/// Over how many GPUs a copy may be split, in ascending order: powers of two that divide both the
/// GPUs and the attention heads.
fn splits(shape: &Shape, engine: &Engine, count: u32) -> impl Iterator<Item = u32> {
    let most = if engine.split(false).is_some() { count } else { 1 };
    let heads = shape.heads;
    [1, 2, 4, 8, 16].into_iter().filter(move |split| {
        *split <= most && count.is_multiple_of(*split) && heads.is_multiple_of(*split)
    })
}

/// Prompts that a copy can decode at once. Zero where not even the weights fit.
fn batch(
    shape: &Shape,
    engine: &Engine,
    weights: Weights,
    memory: Mib,
    split: u32,
    work: &Workload,
) -> u32 {
    let room = engine.usable(memory.0 as f64 * MIB) * f64::from(split);
    let room = room - shape.weight_bytes(weights) as f64;
    let each = shape.kv_bytes(work.length()) as f64 * engine.kv_scale();
    let batch = (room / each.max(1.0)).clamp(0.0, engine.sequences.into());
    u32::try_from(whole(batch.floor())).unwrap_or(engine.sequences)
}

/// Memory that each of `split` GPUs must have for the weights and one prompt.
fn needed(shape: &Shape, engine: &Engine, weights: Weights, split: u32, work: &Workload) -> Mib {
    let kv = shape.kv_bytes(work.length()) as f64 * engine.kv_scale();
    let each = (shape.weight_bytes(weights) as f64 + kv) / f64::from(split);
    Mib(whole((engine.memory_for(each) / MIB).ceil()))
}

/// What to ask marketplaces for: the least that could do. They may list less, never more, and
/// every offer is looked at again.
pub fn need(
    shape: &Shape,
    engine: &Engine,
    allowed: &[Weights],
    work: &Workload,
    interruptible: bool,
) -> Need {
    let vram = least(shape, engine, allowed, work).map_or(Mib(0), |(_, each)| each);
    let disk = disk(shape, engine, allowed);
    Need { vram, disk, interruptible, ..Need::default() }
}

/// The least that could do: over how many GPUs a copy is then split, and the memory that each of
/// them must have. None where the engine runs none of the precisions that are allowed.
pub fn least(
    shape: &Shape,
    engine: &Engine,
    allowed: &[Weights],
    work: &Workload,
) -> Option<(u32, Mib)> {
    let runs = |weights: &&Weights| engine.share_of_peak(**weights).is_some();
    let split = splits(shape, engine, MOST_GPUS).last().unwrap_or(1);
    let each = |weights: &Weights| needed(shape, engine, *weights, split, work);
    Some((split, allowed.iter().filter(runs).map(each).min()?))
}

/// Disk for the image, the model as it is published, and 10 GB of room.
pub fn disk(shape: &Shape, engine: &Engine, allowed: &[Weights]) -> Mib {
    let largest = allowed.iter().map(|weights| shape.weight_bytes(*weights)).max().unwrap_or(0);
    // An image is kept packed and unpacked for a while.
    let bytes = largest as f64 + 2.5 * engine.image_bytes() + 10e9;
    Mib(whole((bytes / MIB).ceil()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::entries;

    fn shape(name: &str) -> Shape {
        entries().iter().find(|entry| entry.name == name).unwrap().config.shape().unwrap()
    }

    fn vllm() -> &'static Engine {
        Engine::named("vllm", false).unwrap()
    }

    const JOB: Workload = Workload { prompts: 4_000_000, input: 1_000.0, output: 200.0 };

    /// A marketing gigabyte, as the tables of published studies count them.
    fn gb(count: u64) -> Mib {
        Mib(count * 1_000_000_000 / 1_048_576)
    }

    fn batch_of(name: &str, weights: Weights, memory: Mib, count: u32, split: u32) -> u32 {
        let found = fits(&shape(name), vllm(), &[weights], memory, count, &JOB).unwrap();
        found.iter().find(|fit| fit.split == split).map_or(0, |fit| fit.batch)
    }

    #[test]
    fn the_batch_is_what_fits_beside_the_weights() {
        // The study that these come from counts 1,200 tokens, and a parameter as 1 byte in FP8.
        for (weights, memory, expected) in [
            (Weights::Bf16, gb(24), 25),
            (Weights::Bf16, gb(32), 71),
            (Weights::Bf16, gb(48), 163),
            (Weights::Bf16, gb(80), 346),
            (Weights::Fp8, gb(24), 69),
            (Weights::Fp8, gb(48), 207),
        ] {
            let batch = batch_of("Llama-3.1-8B-Instruct", weights, memory, 1, 1);
            assert!(batch.abs_diff(expected) <= 1, "{weights} on {memory}: {batch}");
        }
    }

    #[test]
    fn a_large_model_is_split_only_where_it_must_be() {
        let llama = "Llama-3.3-70B-Instruct";
        let fits = |count| fits(&shape(llama), vllm(), &[Weights::Fp8], gb(80), count, &JOB);
        assert!(matches!(fits(1), Err(Unfit::TooSmall { .. })));
        let splits: Vec<_> = fits(8).unwrap().iter().map(|fit| (fit.split, fit.copies)).collect();
        assert_eq!(splits, [(2, 4), (4, 2), (8, 1)]);
    }

    #[test]
    fn what_is_missing_is_said() {
        let shape = shape("Llama-3.3-70B-Instruct");
        let on = |memory| fits(&shape, vllm(), &[Weights::Bf16, Weights::Int4], memory, 1, &JOB);
        let Err(Unfit::TooSmall { needed, .. }) = on(gb(24)) else { panic!("70B on 24 GB") };
        assert!(on(needed).is_ok());
        assert!(on(Mib(needed.0 - 2)).is_err());
        let long = Workload { input: 200_000.0, ..JOB };
        let error = fits(&shape, vllm(), &Weights::ALL, gb(9_999), 1, &long).unwrap_err();
        assert_eq!(error, Unfit::TooLong { length: 200_200, context: 131_072 });
        let native = Engine::named("native", true).unwrap();
        let error = fits(&shape, native, &[Weights::Int4], gb(9_999), 1, &JOB).unwrap_err();
        assert_eq!(error, Unfit::NoPrecision);
    }

    #[test]
    fn marketplaces_are_asked_for_no_more_than_would_do() {
        let shape = shape("Llama-3.3-70B-Instruct");
        let need = need(&shape, vllm(), &[Weights::Fp8], &JOB, false);
        assert!(fits(&shape, vllm(), &[Weights::Fp8], need.vram, 8, &JOB).is_ok());
        assert!(need.vram < gb(24));
        assert!(gb(70) < need.disk);
    }
}
