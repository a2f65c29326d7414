//! Whether there is a GPU, and all that any model needs of it.

use super::failed;
use crate::{
    engine::EngineError,
    native::cuda::libraries::{self, Libraries},
};
use cudarc::driver::{CudaContext, DriverError, sys};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::{path::Path, sync::Arc};

/// The oldest kind of card whose tensor cores multiply both kinds of 16-bit numbers.
const OLDEST: (i32, i32) = (8, 0);

/// A machine's GPU that is of use, whatever the model.
#[derive(Debug)]
pub(in crate::native) struct Card {
    pub(super) name: String,
    /// Its compute capability.
    pub(super) kind: (i32, i32),
    pub(super) context: Arc<CudaContext>,
}

impl Card {
    /// Opens the machine's first GPU, and CUDA's libraries.
    pub(in crate::native) fn open() -> Result<Self, EngineError> {
        // SAFETY: opening the driver's library runs nothing but its own start.
        let is_there = || unsafe { sys::is_culib_present() };
        // Once it is open, it is found under its own name.
        let elsewhere = || libraries::driver().is_some_and(|path| open_library(&path).is_ok());
        let is_found = is_there() || (elsewhere() && is_there());
        if !is_found {
            return Err(EngineError::machine(
                "there is no NVIDIA driver on this machine (libcuda.so.1 isn't found), and the job asks \
                 for CUDA: take a machine with an NVIDIA GPU, or ask for the CPU",
            ));
        }
        let context = CudaContext::new(0).map_err(|error| failed("be opened", error))?;
        let told = |error: DriverError| failed("be asked what it is", error);
        let kind @ (major, minor) = context.compute_capability().map_err(told)?;
        let card = context.name().map_err(told)?;
        if kind < OLDEST {
            return Err(EngineError::machine(format!(
                "the GPU is a {card}, whose kind is {major}.{minor}; the native engine needs 8.0 (Ampere) \
                 or later: take another GPU, another engine, or ask for the CPU"
            )));
        }
        let count = CudaContext::device_count().map_err(told)?;
        let name = if count == 1 { card } else { format!("{card} (one of {count})") };
        let Libraries { cublas_lt, nvrtc } = libraries::find(cuda_version()?)?;
        open_library(&cublas_lt)?;
        open_nvrtc(&nvrtc)?;
        Ok(Self { name, kind, context })
    }
}

/// The newest version of CUDA that the driver runs.
fn cuda_version() -> Result<u32, EngineError> {
    let mut version = 0;
    // SAFETY: the driver writes an integer to where there is one.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    asked.map_err(|error| failed("say what its driver is", error))?;
    let major = u32::try_from(version / 1000).unwrap_or(0);
    if major < 12 {
        return Err(EngineError::machine(format!(
            "the GPU's driver runs CUDA {major}, and the native engine needs 12 or later: take a machine \
             with a newer driver, or another engine"
        )));
    }
    Ok(major)
}

/// Opens the compiler, and before it what it opens itself when it is used.
pub(in crate::native::cuda) fn open_nvrtc(path: &Path) -> Result<(), EngineError> {
    libraries::builtins_of(path)
        .iter()
        .chain([&path.to_owned()])
        .try_for_each(|path| open_library(path))
}

/// Opens a library by its path. Who asks for its own name later gets what is open already; where the loader
/// finds a library of another name that is tried first, that one is used.
fn open_library(path: &Path) -> Result<(), EngineError> {
    // SAFETY: a library of CUDA's runs nothing but its own start when it is opened.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    let library = library.map_err(|error| {
        EngineError::machine(format!(
            "{} can't be opened ({error}): take another image",
            path.display()
        ))
    })?;
    // It stays open.
    std::mem::forget(library);
    Ok(())
}
