//! One fast look through an input, before anything is rented.

use super::{
    Format, Lines, Options, PromptsError, Reason,
    format::detect,
    ids::Ids,
    parse::{self, Fault},
};
use crate::shards::Bits;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
};

/// How many bad lines a survey names.
const NAMED: usize = 20;

/// How many prompts a survey keeps the length of, at least half of it in a large input.
const SAMPLES: usize = 2048;

/// Lines between two signs of progress.
const STRIDE: u64 = 4096;

/// An input, and how to read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The file. Standard input is spooled to one first ([`super::spool()`]).
    pub path: PathBuf,
    /// How to read it.
    pub options: Options,
}

/// What a whole look through an input found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// How its lines are written.
    pub format: Format,
    /// Its prompts, the bad lines included. Every index is below this.
    pub prompts: u64,
    /// Its bad lines, the duplicates included.
    pub bad: u64,
    /// The prompts whose id an earlier line has.
    pub duplicates: Bits,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes of all the good prompts' bodies, nearly.
    pub body_bytes: u64,
    /// The SHA-256 of its content.
    pub fingerprint: Fingerprint,
    /// The first of its bad lines, duplicates left out.
    pub first_bad: Vec<BadLine>,
    /// Good prompts in equal distances over the whole input, for estimates.
    pub samples: Vec<Sample>,
}

/// The SHA-256 of an input's content, in hex: what `sha256sum` says of it.
///
/// A cryptographic hash, as a changed file that passed for the old one would mix the completions of
/// two inputs unnoticed; and one that a person can check without this program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(pub String);

/// A line that can't be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: Reason,
}

/// One prompt of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Bytes of its body.
    pub bytes: usize,
    /// The most tokens that its answer may have, where it says so.
    pub max_tokens: Option<u32>,
}

impl Survey {
    /// Refuses an input that isn't the one a run began with.
    pub fn check_unchanged(
        &self,
        input: &Input,
        recorded: &Fingerprint,
    ) -> Result<(), PromptsError> {
        if self.fingerprint == *recorded {
            Ok(())
        } else {
            Err(PromptsError::Changed(input.path.clone()))
        }
    }
}

/// Looks through a whole input. `progress` is told now and then how many bytes are behind it.
///
/// Blocks for as long as it takes to read and check every line. Takes 16 bytes of memory for each
/// prompt that has an id of its own: 64 MB for 4,000,000 of them, until it returns.
pub fn survey(input: &Input, mut progress: impl FnMut(u64)) -> Result<Survey, PromptsError> {
    let (mut file, format) = open(input)?;
    let failed = |source| io_error(&input.path, "read", source);
    file.rewind().map_err(failed)?;
    let hashed = Hashed { source: file, hash: Sha256::new() };
    let mut lines = Lines::new(hashed, input.options.line_limit);
    let mut seen = Seen::default();
    let mut bytes = 0;
    while let Some(line) = lines.next_line().map_err(failed)? {
        let content = match line.bytes {
            Some(bytes) => match parse::content(line.number, bytes) {
                Some(content) => Ok(content),
                None => continue,
            },
            None => Err(Reason::TooLong(input.options.line_limit).into()),
        };
        let request = content.and_then(|content| parse::parse(content, format, &input.options));
        seen.note(line.number, request);
        if line.number % STRIDE == 0 {
            bytes = line.offset;
            progress(bytes);
        }
    }
    let Hashed { mut source, hash } = lines.into_source();
    bytes = bytes.max(source.stream_position().map_err(failed)?);
    progress(bytes);
    if seen.prompts == 0 {
        return Err(PromptsError::Empty(input.path.clone()));
    }
    let duplicates = seen.ids.duplicates(seen.prompts);
    Ok(Survey {
        format,
        prompts: seen.prompts,
        bad: seen.bad + duplicates.count(),
        duplicates,
        bytes,
        body_bytes: seen.body_bytes,
        fingerprint: Fingerprint(hex::encode(hash.finalize())),
        first_bad: seen.first_bad,
        samples: seen.samples,
    })
}

/// Opens an input and finds out how its lines are written. The position is anywhere.
pub(super) fn open(input: &Input) -> Result<(File, Format), PromptsError> {
    let mut file = File::open(&input.path).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            PromptsError::Missing(input.path.clone())
        } else {
            io_error(&input.path, "opened", source)
        }
    })?;
    if file.metadata().is_ok_and(|data| data.is_dir()) {
        let (path, what, remedy) = (input.path.clone(), "a folder", "give a file in it");
        return Err(PromptsError::Unsupported { path, what, remedy });
    }
    let mut head = Vec::new();
    file.by_ref()
        .take(64 << 10)
        .read_to_end(&mut head)
        .map_err(|source| io_error(&input.path, "read", source))?;
    let detected = detect(&input.path, &head)?;
    Ok((file, input.options.format.unwrap_or(detected)))
}

pub(super) fn io_error(path: &Path, act: &'static str, source: io::Error) -> PromptsError {
    PromptsError::Io { path: path.to_owned(), act, source }
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    prompts: u64,
    bad: u64,
    body_bytes: u64,
    ids: Ids,
    first_bad: Vec<BadLine>,
    samples: Vec<Sample>,
    /// A good prompt is sampled when this many came since the last one.
    distance: u64,
    since: u64,
}

impl Seen {
    fn note(&mut self, line: u64, request: Result<parse::Request<'_>, Fault>) {
        let index = self.prompts;
        self.prompts += 1;
        match request {
            Ok(request) => {
                if let Some(id) = &request.id {
                    self.ids.add(index, id);
                }
                self.body_bytes += request.bytes() as u64;
                self.sample(&request);
            }
            Err(fault) => {
                self.bad += 1;
                if self.first_bad.len() < NAMED {
                    self.first_bad.push(BadLine { line, reason: fault.reason });
                }
            }
        }
    }

    fn sample(&mut self, request: &parse::Request<'_>) {
        self.since += 1;
        if self.since <= self.distance {
            return;
        }
        self.since = 0;
        self.samples.push(Sample { bytes: request.bytes(), max_tokens: request.max_tokens() });
        if self.samples.len() == SAMPLES {
            // Every other one goes, and from now on one is taken half as often.
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
            self.distance = self.distance * 2 + 1;
            // The next one kept in the old distance would be an odd one.
            self.since = self.distance.div_ceil(2);
        }
    }
}

/// Hashes what is read through it.
struct Hashed<R> {
    source: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_evenly_however_long_the_input() {
        for count in [1, 100, 2047, 2048, 50_000_u64] {
            let mut seen = Seen::default();
            let options = Options::default();
            for number in 0..count {
                let line = format!("{number:010}");
                seen.note(number, parse::parse(line.as_bytes(), Format::Text, &options));
            }
            assert!(seen.samples.len() < SAMPLES);
            let expected = usize::try_from(count).expect("small").min(SAMPLES / 2);
            assert!(expected <= seen.samples.len(), "{} of {count}", seen.samples.len());
        }
    }
}
