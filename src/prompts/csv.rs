//! Rows out of CSV, each as one JSON object, without holding more than one.

use super::{PromptsError, Reason, rows::Chosen};
use csv_core::ReadRecordResult;
use memchr::{memchr, memchr_iter};
use std::{
    io::{self, Read},
    path::Path,
};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// The most columns that a table may have.
const COLUMNS: usize = 1 << 14;

/// Reads the rows of a table whose first row names its columns.
///
/// A row over the limit is skipped without being kept in memory, even where a quotation mark that
/// is never closed makes one row of all the rest.
pub(super) struct Csv<R> {
    source: R,
    core: csv_core::Reader,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Lines before the byte at `start`.
    lines: u64,
    /// The bytes of the present row's cells, one after the other, and where each ends.
    cells: Vec<u8>,
    ends: Vec<usize>,
    limit: usize,
    chosen: Chosen,
    columns: usize,
    /// Where the present row begins.
    line: u64,
    row: Result<Vec<u8>, Reason>,
}

/// What was read of a row.
enum Found {
    End,
    TooLong,
    /// How many cells it has.
    Row(usize),
}

impl<R: Read> Csv<R> {
    /// Reads the names of the columns.
    pub(super) fn open(
        path: &Path,
        source: R,
        delimiter: u8,
        limit: usize,
        choose: impl FnOnce(Vec<String>) -> Result<Chosen, PromptsError>,
    ) -> Result<Self, PromptsError> {
        let mut csv = Self {
            source,
            core: csv_core::ReaderBuilder::new().delimiter(delimiter).build(),
            buffer: vec![0; CHUNK],
            start: 0,
            end: 0,
            lines: 0,
            cells: vec![0; 4096],
            ends: vec![0; 64],
            limit,
            chosen: Chosen::default(),
            columns: 0,
            line: 0,
            row: Ok(Vec::new()),
        };
        let found = csv.read_row().map_err(|source| super::io_error(path, "read", source))?;
        let odd = |what| PromptsError::Unsupported {
            path: path.to_owned(),
            what,
            remedy: "write a first row that names the columns, in UTF-8",
        };
        let count = match found {
            Found::Row(count) => count,
            Found::End => return Err(PromptsError::Empty(path.to_owned())),
            Found::TooLong => return Err(odd("a table whose first row has no end")),
        };
        let names = (0..count).map(|at| str::from_utf8(csv.cell(at)).map(str::to_owned));
        let names = names.collect::<Result<Vec<_>, _>>();
        let names = names.map_err(|_| odd("a table whose first row isn't text"))?;
        csv.columns = count;
        csv.chosen = choose(names)?;
        Ok(csv)
    }

    /// Goes to the next row. False after the last.
    pub(super) fn advance(&mut self) -> io::Result<bool> {
        let mut json = std::mem::replace(&mut self.row, Ok(Vec::new())).unwrap_or_default();
        self.row = match self.read_row()? {
            Found::End => return Ok(false),
            Found::TooLong => Err(Reason::TooLong(self.limit)),
            Found::Row(found) if found != self.columns => {
                Err(Reason::Cells { found, columns: self.columns })
            }
            Found::Row(found) => {
                let all = found.checked_sub(1).map_or(0, |last| self.ends[last]);
                self.check(all).map(|()| {
                    self.write(&mut json);
                    json
                })
            }
        };
        Ok(true)
    }

    /// The row that [`Self::advance`] came to: where it begins, and its JSON.
    pub(super) fn row(&self) -> (u64, Result<&[u8], &Reason>) {
        (self.line, self.row.as_deref())
    }

    /// What is read from.
    pub(super) fn into_source(self) -> R {
        self.source
    }

    fn check(&self, bytes: usize) -> Result<(), Reason> {
        let text = &self.cells[..bytes];
        str::from_utf8(text).map_err(|error| Reason::NotUtf8(error.valid_up_to() + 1))?;
        memchr(0, text).map_or(Ok(()), |at| Err(Reason::Nul(at + 1)))
    }

    fn write(&self, json: &mut Vec<u8>) {
        json.clear();
        json.push(b'{');
        for (at, name) in &self.chosen.0 {
            if json.len() != 1 {
                json.push(b',');
            }
            json.extend(name.as_bytes());
            json.push(b':');
            // A cell may be cut from its row between two bytes of one character only if it is odd.
            let cell = String::from_utf8_lossy(self.cell(*at));
            serde_json::to_writer(&mut *json, &cell).expect("memory can be written to");
        }
        json.push(b'}');
    }

    fn cell(&self, at: usize) -> &[u8] {
        let begin = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.cells[begin..self.ends[at]]
    }

    fn read_row(&mut self) -> io::Result<Found> {
        self.skip_blank_lines()?;
        self.line = self.lines + 1;
        let (mut bytes, mut count, mut too_long) = (0, 0, false);
        loop {
            if self.start == self.end {
                self.fill()?;
            }
            let (result, read, written, ended) = self.core.read_record(
                &self.buffer[self.start..self.end],
                &mut self.cells[bytes..],
                &mut self.ends[count..],
            );
            let taken = &self.buffer[self.start..self.start + read];
            self.lines += memchr_iter(b'\n', taken).count() as u64;
            self.start += read;
            (bytes, count) = (bytes + written, count + ended);
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.limit <= bytes => too_long = true,
                ReadRecordResult::OutputFull => self.cells.resize(self.cells.len() * 2, 0),
                ReadRecordResult::OutputEndsFull if COLUMNS <= count => too_long = true,
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record if too_long || self.limit < bytes => {
                    return Ok(Found::TooLong);
                }
                ReadRecordResult::Record => return Ok(Found::Row(count)),
                ReadRecordResult::End => return Ok(Found::End),
            }
            if too_long {
                (bytes, count) = (0, 0);
            }
        }
    }

    /// So that a row begins where its first cell does.
    fn skip_blank_lines(&mut self) -> io::Result<()> {
        loop {
            if self.start == self.end {
                self.fill()?;
            }
            match self.buffer[self.start..self.end].first() {
                Some(b'\n') => self.lines += 1,
                Some(b'\r') => {}
                Some(_) | None => return Ok(()),
            }
            self.start += 1;
        }
    }

    /// Nothing is in the buffer after this only where the source has no more.
    fn fill(&mut self) -> io::Result<()> {
        (self.start, self.end) = (0, 0);
        loop {
            match self.source.read(&mut self.buffer) {
                Ok(read) => self.end = read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }
}
