//! The bytes of a file: unpacked, counted and, where that is asked for, hashed as they are stored.

use super::{
    PromptsError,
    format::{Packing, packing},
};
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Bytes read at once from a compressed file.
const CHUNK: usize = 256 << 10;

/// Bytes of a file that tell what it is.
pub(super) const HEAD: usize = 64 << 10;

/// Bytes of a file as it is stored.
pub(super) struct Stored {
    file: File,
    read: Arc<AtomicU64>,
    hash: Option<Sha256>,
}

/// What was read of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// Its bytes, as it is stored.
    pub(super) bytes: u64,
    /// Their SHA-256, where it was asked for.
    pub(super) hash: Option<[u8; 32]>,
}

impl Stored {
    /// Reads a file from its beginning; `read` counts its bytes.
    pub(super) fn open(path: &Path, hashed: bool, read: Arc<AtomicU64>) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, read, hash: hashed.then(Sha256::new) })
    }

    /// What the whole file is. Reads what nobody has asked for, where it is to be hashed.
    pub(super) fn finish(mut self) -> io::Result<Whole> {
        if self.hash.is_none() {
            return Ok(Whole { bytes: self.file.metadata()?.len(), hash: None });
        }
        io::copy(&mut self, &mut io::sink())?;
        let hash = self.hash.map(|hash| hash.finalize().into());
        Ok(Whole { bytes: self.read.load(Relaxed), hash })
    }
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..read]);
        }
        self.read.fetch_add(read as u64, Relaxed);
        Ok(read)
    }
}

/// Bytes of a file without its compression.
pub(super) enum Stream {
    Plain(Stored),
    Gzip(Box<MultiGzDecoder<BufReader<Stored>>>),
    Zstd(zstd::Decoder<'static, BufReader<Stored>>),
}

impl Stream {
    /// Unpacks a file whose first bytes these are. A frame of zstd may ask for a window of 128 MiB,
    /// which is what `zstd` itself unpacks without being told to.
    pub(super) fn new(stored: Stored, head: &[u8]) -> io::Result<Self> {
        let buffered = |stored| BufReader::with_capacity(CHUNK, stored);
        Ok(match packing(head) {
            Packing::None => Self::Plain(stored),
            Packing::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(buffered(stored)))),
            Packing::Zstd => Self::Zstd(zstd::Decoder::with_buffer(buffered(stored))?),
        })
    }

    /// The file as it is stored.
    pub(super) fn into_stored(self) -> Stored {
        match self {
            Self::Plain(stored) => stored,
            Self::Gzip(packed) => packed.into_inner().into_inner(),
            Self::Zstd(packed) => packed.finish().into_inner(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stored) => stored.read(buffer),
            Self::Gzip(packed) => packed.read(buffer),
            Self::Zstd(packed) => packed.read(buffer),
        }
    }
}

/// The first bytes of a file, as it is stored and without its compression.
pub(super) fn heads(path: &Path) -> Result<(Vec<u8>, Vec<u8>), PromptsError> {
    let failed = |act| move |source| super::io_error(path, act, source);
    let first = |from: &mut dyn Read| {
        let mut head = Vec::new();
        from.take(HEAD as u64).read_to_end(&mut head).map(|_| head)
    };
    let open = || Stored::open(path, false, Arc::default());
    let stored = open().and_then(|mut stored| first(&mut stored)).map_err(failed("read"))?;
    let mut stream = open().and_then(|s| Stream::new(s, &stored)).map_err(failed("read"))?;
    let unpacked = first(&mut stream).map_err(failed("unpacked"))?;
    Ok((stored, unpacked))
}
