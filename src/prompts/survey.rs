//! One fast look through an input, before anything is rented.

use super::{
    Input, Place, PromptsError, Reason,
    ids::Ids,
    index_of_default,
    parse::{self, Fault},
    sample::Sample,
    shape::{self, Shape},
    stream::Whole,
    walk::Walk,
};
use crate::shards::Bits;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// How many bad lines a survey names.
const NAMED: usize = 20;

/// How many prompts a survey keeps the text of, at least half of it in a large input.
const SAMPLES: usize = 2048;

/// Lines between two signs of progress.
const STRIDE: u64 = 4096;

/// What a whole look through an input found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
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

/// The SHA-256 of an input's content, in hex: what `sha256sum` says of its only file, or `sha256sum
/// A B | cut -c -64 | sha256sum` of several.
///
/// A cryptographic hash, as a changed file that passed for the old one would mix the completions of
/// two inputs unnoticed; and one that a person can check without this program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(pub String);

/// A line that can't be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Where it is.
    pub line: Place,
    /// What is wrong with it.
    pub reason: Reason,
}

impl Survey {
    /// Refuses an input that isn't the one a run began with.
    pub fn check_unchanged(
        &self,
        input: &Input,
        recorded: &Fingerprint,
    ) -> Result<(), PromptsError> {
        if self.fingerprint == *recorded { Ok(()) } else { Err(input.changed()) }
    }
}

impl Input {
    /// What is said of an input that isn't what it was: nobody can tell which of its files.
    pub(super) fn changed(&self) -> PromptsError {
        PromptsError::Changed(self.first())
    }

    fn first(&self) -> PathBuf {
        self.sources.first().map(|source| source.path.clone()).unwrap_or_default()
    }
}

/// Looks through a whole input. `progress` is told now and then how many bytes are behind it.
///
/// Blocks for as long as it takes to read and check every line. Takes 16 bytes of memory for each
/// prompt that has an id of its own: 64 MB for 4,000,000 of them, until it returns; and as much again
/// where those are like the ids of prompts that bring none.
pub fn survey(input: &Input, mut progress: impl FnMut(u64)) -> Result<Survey, PromptsError> {
    let shape = Shape::new(&input.options)?;
    let mut walk = Walk::new(input, &shape, true);
    let mut seen = Seen::default();
    while walk.advance()? {
        let (place, format, content) = walk.row();
        let request = content.map_err(Fault::from);
        seen.note(place, request.and_then(|text| shape::request(text, format, &shape)));
        if seen.prompts % STRIDE == 0 {
            progress(walk.bytes());
        }
    }
    progress(walk.bytes());
    if seen.prompts == 0 {
        return Err(PromptsError::Empty(input.first()));
    }
    let files = walk.finish();
    let duplicates = seen.duplicates();
    Ok(Survey {
        prompts: seen.prompts,
        bad: seen.bad + duplicates.count(),
        duplicates,
        bytes: files.iter().map(|whole| whole.bytes).sum(),
        body_bytes: seen.body_bytes,
        fingerprint: Fingerprint::of(&files),
        first_bad: seen.first_bad,
        samples: seen.samples,
    })
}

impl Fingerprint {
    fn of(files: &[Whole]) -> Self {
        let mut hashes = files.iter().filter_map(|whole| whole.hash).map(hex::encode);
        if files.len() == 1 {
            return Self(hashes.next().expect("a survey hashes its files"));
        }
        let mut all = Sha256::new();
        hashes.for_each(|hash| all.update(format!("{hash}\n")));
        Self(hex::encode(all.finalize()))
    }
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    prompts: u64,
    bad: u64,
    body_bytes: u64,
    ids: Ids,
    /// The good prompts without an id, a bit each, and the prompts with an id that one of those may
    /// get, each with its number.
    nameless: Vec<u64>,
    named_alike: Vec<(u64, u64)>,
    first_bad: Vec<BadLine>,
    samples: Vec<Sample>,
    /// A good prompt is sampled when this many came since the last one.
    distance: u64,
    since: u64,
}

impl Seen {
    fn note(&mut self, line: Place, request: Result<parse::Request<'_>, Fault>) {
        let index = self.prompts;
        self.prompts += 1;
        match request {
            Ok(request) => {
                if let Some(id) = &request.id {
                    self.ids.add(index, id);
                    self.named_alike.extend(index_of_default(id).map(|other| (other, index)));
                } else {
                    self.note_nameless(index);
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

    fn note_nameless(&mut self, index: u64) {
        let word = usize::try_from(index / 64).expect("a bit a prompt fits into memory");
        if self.nameless.len() <= word {
            self.nameless.resize(word + 1, 0);
        }
        self.nameless[word] |= 1 << (index % 64);
    }

    fn is_nameless(&self, index: u64) -> bool {
        let word = usize::try_from(index / 64).ok().and_then(|at| self.nameless.get(at));
        word.is_some_and(|word| word & 1 << (index % 64) != 0)
    }

    /// The prompts whose id an earlier one has, be it its own or the one that it gets.
    fn duplicates(&mut self) -> Bits {
        let mut duplicates = std::mem::take(&mut self.ids).duplicates(self.prompts);
        for (nameless, named) in &self.named_alike {
            if self.is_nameless(*nameless) {
                duplicates.insert(*nameless.max(named));
            }
        }
        duplicates
    }

    fn sample(&mut self, request: &parse::Request<'_>) {
        self.since += 1;
        if self.since <= self.distance {
            return;
        }
        self.since = 0;
        self.samples.push(Sample::of(request));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompts::{Format, Options};

    #[test]
    fn a_sample_is_spread_evenly_however_long_the_input() {
        for count in [1, 100, 2047, 2048, 50_000_u64] {
            let mut seen = Seen::default();
            let shape = Shape::new(&Options::default()).expect("there is no template");
            for line in 0..count {
                let text = format!("{line:010}");
                let request = shape::request(text.as_bytes(), Format::Text, &shape);
                seen.note(Place { file: 0, line }, request);
            }
            assert!(seen.samples.len() < SAMPLES);
            let expected = usize::try_from(count).expect("small").min(SAMPLES / 2);
            assert!(expected <= seen.samples.len(), "{} of {count}", seen.samples.len());
        }
    }
}
