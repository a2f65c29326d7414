//! The model on an NVIDIA GPU.
//!
//! ```text
//! libraries ─▶ driver ─▶ device ◀─ weights
//!    *.cu ──┘              ▲
//! batch ─▶ plan ─▶ told ─▶ model ──┘ ─▶ tokens, or logits
//! ```
//!
//! Whoever builds the worker needs nothing of CUDA: its libraries are opened when a job asks for a GPU
//! ([`libraries`], [`driver`]). Products are cuBLASLt's, in 16 bits with sums in 32. The rest is
//! `kernels.cu` and `choosing.cu`, compiled for the model and the card when the engine comes up. Everything above
//! [`device`] runs on any machine, against a GPU that the tests emulate.
//!
//! A step begins while the one before is under way: tokens that were chosen stay here for the next step, and
//! are read a step late. A step in which all sequences decode one token is filled up to a round size
//! ([`told`]), recorded, and replayed from then on ([`again`]): a small model's kernels are done sooner than the host can
//! name them one by one.
//!
//! Unlike on the CPU, what a prompt yields may differ in its last bits with what runs beside it: which
//! kernel multiplies depends on how many rows there are.

mod again;
mod buffers;
mod device;
mod driver;
#[cfg(test)]
mod emulated;
mod libraries;
mod model;
mod plan;
#[cfg(test)]
mod tests;
mod told;
mod weights;
mod words;

use self::{
    device::{Device, Half, Shape},
    driver::{Card, Driver},
    model::Gpu,
    weights::Weights,
};
use super::{config::Config, scheduler::Bounds, tensor::Tensors};
use crate::engine::EngineError;
use candle_core::quantized::GgmlDType;
use std::panic::{AssertUnwindSafe, catch_unwind};
use wire::Precision;

/// Opens a GPU for a shape of model.
pub(super) type Open<'a> = &'a (dyn Fn(Shape) -> Result<Box<dyn Device>, EngineError> + Sync);

/// Opens the machine's first GPU, whatever the model.
pub(super) fn find(precision: Option<Precision>) -> Result<Card, EngineError> {
    if precision == Some(Precision::F32) { Err(no_f32()) } else { guarded(Card::open) }
}

/// Opens the machine's first GPU.
pub(super) fn open(shape: Shape) -> Result<Box<dyn Device>, EngineError> {
    Ok(Box::new(guarded(|| Driver::open(shape))?))
}

/// Opens what needs CUDA's libraries to be whole. Where one can't be loaded after all, or lacks a function, who
/// calls it for us panics; that is the machine's fault, and another machine's libraries are others.
fn guarded<T>(open: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no more is known");
        Err(EngineError::machine(format!(
            "CUDA's libraries on this machine are broken or incomplete ({said}): take another image, or \
             another machine"
        )))
    })
}

/// Loads a model onto a GPU.
pub(super) fn load(
    config: Config,
    tensors: &Tensors,
    precision: Option<Precision>,
    bounds: Bounds,
    open: Open<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Gpu, EngineError> {
    let half = half_for(tensors, precision)?;
    let shape = Shape { head_dim: config.head_dim, group: config.group(), half };
    let mut device = open(shape)?;
    let weights = Weights::load(&mut *device, &config, tensors, half, progress)?;
    Gpu::new(device, config, shape, weights, bounds)
}

fn half_for(tensors: &Tensors, precision: Option<Precision>) -> Result<Half, EngineError> {
    let is_f16 = |tensor: &super::tensor::Tensor| tensor.format == GgmlDType::F16;
    match precision {
        Some(Precision::F16) => Ok(Half::F16),
        Some(Precision::F32) => Err(no_f32()),
        None if tensors.get("model.embed_tokens.weight").is_some_and(is_f16) => Ok(Half::F16),
        None | Some(Precision::Bf16) => Ok(Half::Bf16),
    }
}

fn no_f32() -> EngineError {
    EngineError::work(
        "on a GPU the native engine computes in bf16 or f16, and f32 is asked for: ask for one of those, or \
         for the CPU",
    )
}
