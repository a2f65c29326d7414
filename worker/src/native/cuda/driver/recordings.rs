//! Steps that are done again at one word of the host: CUDA's graphs.

use crate::native::cuda::device::Recording;
use cudarc::driver::{CudaStream, DriverError, result, sys};

/// What was recorded.
#[derive(Default)]
pub(super) struct Recordings(Vec<sys::CUgraphExec>);

// SAFETY: a graph that is ready to run may be run by any thread, one at a time, and is changed by nobody.
unsafe impl Send for Recordings {}
// SAFETY: as above; who has only a reference can do nothing with it.
unsafe impl Sync for Recordings {}

impl Recordings {
    /// Begins to record what a stream is told. Libraries may do meanwhile what isn't recorded.
    pub(super) fn begin(stream: &CudaStream) -> Result<(), DriverError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is there.
        unsafe { result::stream::begin_capture(stream.cu_stream(), mode) }
    }

    /// Ends recording, also where something could not be recorded: then the stream is free again.
    pub(super) fn end(&mut self, stream: &CudaStream) -> Result<Recording, DriverError> {
        // SAFETY: the stream is there.
        let graph = unsafe { result::stream::end_capture(stream.cu_stream()) }?;
        if graph.is_null() {
            return Err(DriverError(sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
        }
        // SAFETY: the graph was made just now, and what runs it outlives it.
        let ready = unsafe {
            let ready = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            result::graph::destroy(graph)?;
            ready
        }?;
        self.0.push(ready);
        Ok(Recording(self.0.len() - 1))
    }

    /// Runs what was recorded.
    pub(super) fn replay(
        &self,
        recording: Recording,
        stream: &CudaStream,
    ) -> Result<(), DriverError> {
        // SAFETY: it was made here and isn't freed; what it reads and writes is there as long as the device is.
        unsafe { result::graph::launch(self.0[recording.0], stream.cu_stream()) }
    }

    /// Frees all. Nothing of it may be under way.
    pub(super) fn free(&mut self) {
        for ready in self.0.drain(..) {
            // SAFETY: it was made here, and is freed once.
            unsafe { result::graph::exec_destroy(ready) }.unwrap_or_default();
        }
    }
}
