//! Frames: how a message travels.
//!
//! ```text
//! ┌────────────┬────────────┬────────────────┬──────────────────────────┐
//! │ length u32 │ crc32  u32 │ generation u64 │ zstd of a postcard value │   all little-endian
//! └────────────┴────────────┴────────────────┴──────────────────────────┘
//! ```
//!
//! `length` counts the bytes after the header; the checksum covers the generation and those bytes.
//! A frame that is cut short, too long or damaged is an error and ends the conversation: nothing
//! of it is used. The worker keeps its spool in the same frames.
//!
//! Each frame is compressed for itself, without a dictionary. A busy worker gets its prompts by the
//! hundred, so what they share is sent once a frame: 8 kB that are common to all and 400 bytes that
//! aren't take 180 bytes a prompt so, of which a dictionary could save some 30. Eight H100s at 30
//! prompts a second each, of 1,000 tokens that have nothing in common, take 3.4 Mbit/s
//! (`benches/feeding`).

use serde::{Serialize, de::DeserializeOwned};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What the worker's side sends before its first frame.
pub const PREAMBLE: &[u8] = b"\npiecework-conversation\n";

/// Bytes of a frame's header.
pub const HEADER: usize = 16;

/// The most bytes that a message may have, before compression. A frame is never larger either.
pub const LIMIT: usize = 64 << 20;

/// How much a login shell may print before [`PREAMBLE`].
const NOISE_LIMIT: usize = 1 << 20;

/// Compression level. 1 is the fastest that still finds what prompts share.
const LEVEL: i32 = 1;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The stream failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The stream ended inside a frame or before the preamble.
    #[error("the connection ended in the middle of a message")]
    Truncated,
    /// A frame's checksum is wrong.
    #[error("a message arrived damaged")]
    Damaged,
    /// A frame or its message is larger than [`LIMIT`].
    #[error("a message of {0} bytes is over the limit of {LIMIT}")]
    TooLong(usize),
    /// No preamble came.
    #[error("the other side is not a piecework worker")]
    NoPreamble,
    /// The bytes are whole, but no message of this version.
    #[error("a message could not be understood")]
    Unreadable(#[source] postcard::Error),
}

/// Makes a frame of a message.
pub fn encode<M: Serialize>(message: &M, generation: u64) -> Result<Vec<u8>, CodecError> {
    let plain = postcard::to_stdvec(message).map_err(CodecError::Unreadable)?;
    if LIMIT < plain.len() {
        return Err(CodecError::TooLong(plain.len()));
    }
    let body = zstd::bulk::compress(&plain, LEVEL)?;
    let mut frame = Vec::with_capacity(HEADER + body.len());
    let length = u32::try_from(body.len()).map_err(|_| CodecError::TooLong(body.len()))?;
    frame.extend(length.to_le_bytes());
    frame.extend(checksum(generation, &body).to_le_bytes());
    frame.extend(generation.to_le_bytes());
    frame.extend(body);
    Ok(frame)
}

/// Reads the frame that `bytes` begins with: its generation, its message, and its length in bytes.
/// None if `bytes` ends before the frame does.
pub fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(u64, M, usize)>, CodecError> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER) else {
        return Ok(None);
    };
    let header = Header::read(header);
    header.check()?;
    let Some(body) = rest.get(..header.length) else {
        return Ok(None);
    };
    let message = header.open(body)?;
    Ok(Some((header.generation, message, HEADER + header.length)))
}

struct Header {
    length: usize,
    checksum: u32,
    generation: u64,
}

impl Header {
    fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Self {
            length: word(0) as usize,
            checksum: word(4),
            generation: u64::from(word(8)) | u64::from(word(12)) << 32,
        }
    }

    fn check(&self) -> Result<(), CodecError> {
        if LIMIT < self.length { Err(CodecError::TooLong(self.length)) } else { Ok(()) }
    }

    fn open<M: DeserializeOwned>(&self, body: &[u8]) -> Result<M, CodecError> {
        if checksum(self.generation, body) != self.checksum {
            return Err(CodecError::Damaged);
        }
        // A frame says how large it will be; one that lies stops at the limit.
        let size = zstd::bulk::Decompressor::upper_bound(body).unwrap_or(LIMIT).min(LIMIT);
        let plain = zstd::bulk::decompress(body, size)?;
        postcard::from_bytes(&plain).map_err(CodecError::Unreadable)
    }
}

fn checksum(generation: u64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&generation.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// The receiving end of a conversation.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    body: Vec<u8>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames from `stream`.
    pub fn new(stream: R) -> Self {
        Self { stream, body: Vec::new() }
    }

    /// Skips everything up to and including [`PREAMBLE`].
    pub async fn skip_preamble(&mut self) -> Result<(), CodecError> {
        let mut matched = 0;
        for _ in 0..NOISE_LIMIT {
            let byte = match self.stream.read_u8().await {
                Ok(byte) => byte,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(CodecError::NoPreamble);
                }
                Err(error) => return Err(error.into()),
            };
            // The preamble's first byte occurs in it again only as its last, so a mismatch can
            // only be the start of a new match.
            matched = match byte {
                byte if byte == PREAMBLE[matched] => matched + 1,
                byte if byte == PREAMBLE[0] => 1,
                _ => 0,
            };
            if matched == PREAMBLE.len() {
                return Ok(());
            }
        }
        Err(CodecError::NoPreamble)
    }

    /// The next message and its generation. None when the stream ended between two frames.
    ///
    /// Not cancel-safe: a reader whose future was dropped half-way is of no more use.
    pub async fn next<M: DeserializeOwned>(&mut self) -> Result<Option<(u64, M)>, CodecError> {
        let mut header = [0; HEADER];
        let first = self.stream.read(&mut header).await?;
        if first == 0 {
            return Ok(None);
        }
        self.stream.read_exact(&mut header[first..]).await.map_err(cut_short)?;
        let header = Header::read(&header);
        header.check()?;
        self.body.resize(header.length, 0);
        self.stream.read_exact(&mut self.body).await.map_err(cut_short)?;
        Ok(Some((header.generation, header.open(&self.body)?)))
    }
}

fn cut_short(error: io::Error) -> CodecError {
    if error.kind() == io::ErrorKind::UnexpectedEof { CodecError::Truncated } else { error.into() }
}

/// The sending end of a conversation.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
    generation: u64,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes frames of this generation to `stream`.
    pub fn new(stream: W, generation: u64) -> Self {
        Self { stream, generation }
    }

    /// The stream, to be used otherwise.
    pub fn into_inner(self) -> W {
        self.stream
    }

    /// Sends [`PREAMBLE`].
    pub async fn preamble(&mut self) -> Result<(), CodecError> {
        self.stream.write_all(PREAMBLE).await?;
        Ok(self.stream.flush().await?)
    }

    /// Sends a message.
    ///
    /// Not cancel-safe: a writer whose future was dropped half-way is of no more use.
    pub async fn send<M: Serialize>(&mut self, message: &M) -> Result<(), CodecError> {
        self.stream.write_all(&encode(message, self.generation)?).await?;
        Ok(self.stream.flush().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Form, Prompt, ToWorker};

    fn message() -> ToWorker {
        let body = "{\"prompt\":\"how much is a pound of flesh?\"}".repeat(20);
        ToWorker::Prompts(vec![Prompt { index: 7, form: Form::Auto, body }])
    }

    #[test]
    fn a_frame_is_read_back_as_it_was_written() {
        let frame = encode(&message(), 3).expect("it is small");
        let (generation, back, length) = decode(&frame).expect("it is whole").expect("it is all");
        assert_eq!((generation, back, length), (3, message(), frame.len()));
    }

    #[test]
    fn a_frame_cut_at_any_byte_is_unfinished_and_never_wrong() {
        let frame = encode(&message(), 3).expect("it is small");
        for end in 0..frame.len() {
            let read = decode::<ToWorker>(&frame[..end]).expect("nothing in it is wrong");
            assert!(read.is_none(), "cut at {end}");
        }
    }

    #[test]
    fn a_frame_with_any_bit_flipped_is_refused() {
        let frame = encode(&message(), 3).expect("it is small");
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A longer length leaves a frame unfinished; anything else is an error.
            assert!(!matches!(decode::<ToWorker>(&bad), Ok(Some(_))), "bit {bit}");
        }
    }

    #[tokio::test]
    async fn what_a_shell_prints_before_the_preamble_is_skipped() {
        let mut stream = b"Welcome!\n\n\npiecework-conv\n\npiecework-conversation\n".to_vec();
        stream.extend(encode(&ToWorker::Drain, 1).expect("it is small"));
        let mut reader = FrameReader::new(stream.as_slice());
        reader.skip_preamble().await.expect("it is there");
        let next = reader.next::<ToWorker>().await.expect("it is whole");
        assert_eq!(next, Some((1, ToWorker::Drain)));
        assert!(reader.next::<ToWorker>().await.expect("it ends well").is_none());
    }

    #[tokio::test]
    async fn a_stream_that_ends_in_a_frame_is_truncated() {
        let frame = encode(&message(), 3).expect("it is small");
        let mut reader = FrameReader::new(&frame[..frame.len() - 1]);
        assert!(matches!(reader.next::<ToWorker>().await, Err(CodecError::Truncated)));
    }
}
