//! Lines out of a stream of bytes, without copying them and without holding more than one.

use memchr::memchr;
use std::{
    io::{self, Read},
    ops::Range,
};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// A line of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its number, from 1.
    pub number: u64,
    /// Where it begins, in bytes from the start.
    pub offset: u64,
    /// Its bytes without the newline. None if they are more than the limit.
    pub bytes: Option<&'a [u8]>,
    /// Whether a newline ends it; false only for what follows the last one.
    pub ended: bool,
}

/// Reads lines. A line over the limit is skipped without being kept in memory.
#[derive(Debug)]
pub struct Lines<R> {
    source: R,
    buffer: Vec<u8>,
    /// `buffer[start..end]` is read and not yet given out; no newline is before `searched`.
    start: usize,
    searched: usize,
    end: usize,
    limit: usize,
    /// Bytes of the present line that were skipped, once it is over the limit.
    skipped: u64,
    /// The present line: where it is in the buffer, unless it is over the limit.
    line: Option<Range<usize>>,
    line_offset: u64,
    line_ended: bool,
    number: u64,
    offset: u64,
    exhausted: bool,
}

impl<R: Read> Lines<R> {
    /// Lines of `source` of at most `limit` bytes.
    pub fn new(source: R, limit: usize) -> Self {
        Self {
            source,
            buffer: vec![0; CHUNK],
            start: 0,
            searched: 0,
            end: 0,
            limit,
            skipped: 0,
            line: None,
            line_offset: 0,
            line_ended: false,
            number: 0,
            offset: 0,
            exhausted: false,
        }
    }

    /// The next line. None after the last.
    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        Ok(self.advance()?.then(|| self.line()))
    }

    /// The line that [`Self::advance`] came to.
    pub(super) fn line(&self) -> Line<'_> {
        Line {
            number: self.number,
            offset: self.line_offset,
            bytes: self.line.clone().map(|range| &self.buffer[range]),
            ended: self.line_ended,
        }
    }

    /// Goes to the next line. False after the last.
    pub(super) fn advance(&mut self) -> io::Result<bool> {
        let (length, ended) = loop {
            if let Some(at) = memchr(b'\n', &self.buffer[self.searched..self.end]) {
                break (self.searched + at - self.start, true);
            }
            self.searched = self.end;
            if self.limit < self.end - self.start {
                self.skipped += (self.end - self.start) as u64;
                (self.start, self.searched, self.end) = (0, 0, 0);
            }
            if self.exhausted {
                if self.skipped == 0 && self.start == self.end {
                    return Ok(false);
                }
                break (self.end - self.start, false);
            }
            self.fill()?;
        };
        let (from, offset) = (self.start, self.offset);
        let skipped = std::mem::take(&mut self.skipped);
        self.start += length + usize::from(ended);
        self.searched = self.start;
        self.offset += skipped + length as u64 + u64::from(ended);
        self.number += 1;
        let whole = skipped == 0 && length <= self.limit;
        self.line = whole.then_some(from..from + length);
        (self.line_offset, self.line_ended) = (offset, ended);
        Ok(true)
    }

    /// What is read from.
    pub fn into_source(self) -> R {
        self.source
    }

    fn fill(&mut self) -> io::Result<()> {
        if 0 < self.start {
            self.buffer.copy_within(self.start..self.end, 0);
            self.searched -= self.start;
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() < self.end + CHUNK / 2 {
            self.buffer.resize((self.buffer.len() * 2).max(self.end + CHUNK), 0);
        }
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.exhausted = true,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    /// Gives out a few bytes at a time.
    struct Drip<'a>(&'a [u8], StdRng);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = self.0.len().min(buffer.len()).min(7);
            let count = if most == 0 { 0 } else { self.1.random_range(1..=most) };
            let (now, later) = self.0.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    fn lines(text: &[u8], limit: usize) -> Vec<(u64, u64, Option<Vec<u8>>, bool)> {
        let mut lines = Lines::new(Drip(text, StdRng::seed_from_u64(1)), limit);
        let mut all = Vec::new();
        while let Some(line) = lines.next_line().expect("memory can be read") {
            all.push((line.number, line.offset, line.bytes.map(<[u8]>::to_vec), line.ended));
        }
        all
    }

    #[test]
    fn a_last_line_needs_no_newline() {
        let some = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(lines(b"", 9), []);
        assert_eq!(lines(b"a\n", 9), [(1, 0, some("a"), true)]);
        assert_eq!(
            lines(b"a\n\nb", 9),
            [(1, 0, some("a"), true), (2, 2, some(""), true), (3, 3, some("b"), false),]
        );
    }

    #[test]
    fn a_line_over_the_limit_is_skipped_and_the_next_one_is_where_it_should_be() {
        let long = "x".repeat(50);
        for text in [format!("a\n{long}\nb\n{long}"), "a\nxxxxx\nb\nxxxxx".to_owned()] {
            let found = lines(text.as_bytes(), 4);
            let length = text.len() as u64 - 5;
            assert_eq!(found[1], (2, 2, None, true));
            assert_eq!(found[2].1, 3 + length / 2);
            assert_eq!(found[2].2.as_deref(), Some(&b"b"[..]));
            assert_eq!((found[3].2.as_deref(), found[3].3, found.len()), (None, false, 4));
        }
    }

    #[test]
    fn a_line_far_over_the_limit_takes_no_memory() {
        let mut lines = Lines::new(io::repeat(b'x').take(200 << 20), 1 << 20);
        assert_eq!(lines.next_line().expect("it can be read").and_then(|line| line.bytes), None);
        assert!(lines.buffer.len() <= 4 << 20);
    }

    #[test]
    fn a_line_longer_than_a_chunk_is_whole() {
        let text = ["y".repeat(3 * CHUNK + 5), "z".to_owned()].join("\n");
        let mut lines = Lines::new(text.as_bytes(), usize::MAX);
        let first = lines.next_line().expect("it can be read").expect("it is there");
        assert_eq!(first.bytes.map(<[u8]>::len), Some(3 * CHUNK + 5));
        let second = lines.next_line().expect("it can be read").expect("it is there");
        assert_eq!(second.bytes, Some(&b"z"[..]));
    }
}
