//! The GPU's path against the CPU's: on the GPU that the tests emulate, and on a real one where there is
//! one.

mod attending;
mod choosing;
mod compiling;
mod penalising;
mod replaying;
mod whole;

use super::{
    device::{Device, Half, Memory, Shape},
    driver::Driver,
    emulated::{Emulated, skipped},
    guarded,
    weights::Weights,
};
use crate::engine::EngineError;
use half::{bf16, f16};
use wire::Fault;

/// Opens a GPU for a shape of model.
pub(super) type Opener = Box<dyn Fn(Shape) -> Option<Box<dyn Device>> + Sync>;

/// The GPUs that there are, by what they are called. Those that there are not are skipped by name.
fn gpus(test: &'static str) -> Vec<(&'static str, Opener)> {
    let emulated = move |shape| {
        let emulated = Emulated::start(shape, test)?;
        Some(Box::new(emulated) as Box<dyn Device>)
    };
    let mut gpus: Vec<(_, Opener)> = vec![("emulated", Box::new(emulated))];
    match Driver::open(Shape { head_dim: 64, group: 1, half: Half::Bf16 }) {
        Ok(_) => {
            gpus.push(("real", Box::new(|shape| Some(Box::new(Driver::open(shape).unwrap())))));
        }
        Err(error) => {
            let error = error.to_string();
            // Anything else is a fault where there is one.
            let is_absent =
                ["no NVIDIA driver", "NO_DEVICE"].iter().any(|said| error.contains(said));
            assert!(is_absent, "{error}");
            skipped(&format!("{test} on a real GPU"), &error);
        }
    }
    gpus
}

#[test]
fn a_library_that_isnt_whole_is_its_machines_fault() {
    let lacks: fn() -> Result<(), EngineError> = || panic!("no symbol {}", "cublasLtMatmul");
    let error = guarded(lacks).unwrap_err();
    assert_eq!(error.fault, Fault::Machine);
    assert!(error.reason.contains("incomplete (no symbol cublasLtMatmul)"), "{error}");
    guarded(|| Ok(())).unwrap();
}

/// Those of a model of which only what needs none is run.
fn no_weights() -> Weights {
    let nothing = Memory { address: 0, bytes: 0 };
    Weights {
        embedding: nothing,
        output: nothing,
        norm: nothing,
        frequencies: nothing,
        layers: Vec::new(),
        bytes: 0,
    }
}

/// Numbers from -1 to 1.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let uniform = |at| crate::native::random::uniform(seed, at);
    (0..count as u64).map(|at| crate::native::simd::narrowed(2.0 * uniform(at) - 1.0)).collect()
}

/// A number as 16 bits keep it.
fn rounded(half: Half, value: f32) -> f32 {
    match half {
        Half::Bf16 => bf16::from_f32(value).to_f32(),
        Half::F16 => f16::from_f32(value).to_f32(),
    }
}

fn half_bytes(half: Half, values: &[f32]) -> Vec<u8> {
    let bytes = |value: &f32| match half {
        Half::Bf16 => bf16::from_f32(*value).to_le_bytes(),
        Half::F16 => f16::from_f32(*value).to_le_bytes(),
    };
    values.iter().flat_map(bytes).collect()
}

fn word_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn read_halves(device: &mut dyn Device, from: Memory, half: Half, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; 2 * count];
    let now = device.mark().unwrap();
    device.read_at(now, from, &mut bytes).unwrap();
    let widened = |bytes: &[u8; 2]| match half {
        Half::Bf16 => bf16::from_le_bytes(*bytes).to_f32(),
        Half::F16 => f16::from_le_bytes(*bytes).to_f32(),
    };
    bytes.as_chunks().0.iter().map(widened).collect()
}

/// Writes numbers to memory of their own.
fn stored(device: &mut dyn Device, bytes: &[u8]) -> Memory {
    let memory = device.allocate(bytes.len()).unwrap();
    device.write(memory, bytes).unwrap();
    memory
}
