//! What is fetched from the GPU in bulk: into page-locked memory, which it writes itself and at once.

use crate::native::cuda::device::Memory;
use cudarc::driver::{CudaStream, DriverError, result};
use std::{ptr, slice};

/// Memory of the host's that is read as fast as any, and what is in it.
pub(super) struct Fetched {
    start: *mut u8,
    room: usize,
    bytes: usize,
}

// SAFETY: it is plain memory, which belongs to this alone.
unsafe impl Send for Fetched {}
// SAFETY: as above; who has only a reference can only read.
unsafe impl Sync for Fetched {}

impl Default for Fetched {
    fn default() -> Self {
        Self { start: ptr::null_mut(), room: 0, bytes: 0 }
    }
}

impl Fetched {
    /// Fetches pieces of memory, one behind the other, and waits for them. The caller has seen that they were
    /// allocated, and its context is bound.
    pub(super) fn fetch(
        &mut self,
        pieces: &[Memory],
        stream: &CudaStream,
    ) -> Result<(), DriverError> {
        let bytes = pieces.iter().map(|piece| piece.bytes).sum();
        self.bytes = 0;
        self.make_room(bytes)?;
        let mut at = 0;
        for piece in pieces.iter().filter(|piece| 0 < piece.bytes) {
            // SAFETY: there is room for all pieces, each goes to a place of its own, and nobody looks at it
            // before the stream is done.
            unsafe {
                let place = slice::from_raw_parts_mut(self.start.add(at), piece.bytes);
                result::memcpy_dtoh_async(place, piece.address, stream.cu_stream())?;
            }
            at += piece.bytes;
        }
        stream.synchronize()?;
        self.bytes = bytes;
        Ok(())
    }

    /// What was fetched last.
    pub(super) fn bytes(&self) -> &[u8] {
        if self.bytes == 0 {
            return &[];
        }
        // SAFETY: so much was written there, and nothing is under way.
        unsafe { slice::from_raw_parts(self.start, self.bytes) }
    }

    /// Steps come to want more and more rows, so that it grows by more than is asked for.
    fn make_room(&mut self, bytes: usize) -> Result<(), DriverError> {
        if bytes <= self.room {
            return Ok(());
        }
        let room = bytes.max(2 * self.room);
        self.free();
        // Without flags: write-combined memory is slow to read.
        // SAFETY: it is written before it is read, and is that long.
        unsafe {
            self.start = result::malloc_host(room, 0)?.cast();
            self.start.write_bytes(0, room);
        }
        self.room = room;
        Ok(())
    }

    /// Frees its memory. Nothing of it may be under way, and the context is bound.
    pub(super) fn free(&mut self) {
        if !self.start.is_null() {
            // SAFETY: it was allocated here, and is freed once.
            unsafe { result::free_host(self.start.cast()) }.unwrap_or_default();
        }
        *self = Self::default();
    }
}
