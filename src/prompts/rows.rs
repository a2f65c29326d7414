//! One file's rows, whatever it is, each as a line of text.
//!
//! A row of a table becomes a JSON object of the columns that are wanted, so that after this there
//! are only lines.

use super::{
    Format, Options, PromptsError, Reason, Source,
    csv::Csv,
    format::{delimiter, detect},
    io_error,
    lines::Lines,
    parquet::Parquet,
    parse,
    shape::Shape,
    stream::{Stored, Stream, Whole, heads},
};
use std::{
    io,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

/// The columns of a table that are wanted: the position of each, and its name in JSON.
#[derive(Debug, Default)]
pub(super) struct Chosen(pub(super) Vec<(usize, String)>);

impl Chosen {
    /// Of these columns, those that prompts are made of.
    fn new(path: &Path, names: Vec<String>, shape: &Shape) -> Result<Self, PromptsError> {
        let wanted = shape.wanted(path, &names)?;
        let chosen = names.into_iter().enumerate().filter(|(_, name)| wanted.contains(name));
        let quoted = chosen.map(|(at, name)| (at, serde_json::Value::String(name).to_string()));
        Ok(Self(quoted.collect()))
    }
}

/// A row.
pub(super) struct Row<'a> {
    /// Its number in its file, from 1: of the line where it begins; of the row, in Parquet.
    pub(super) line: u64,
    /// Its text, which isn't blank.
    pub(super) content: Result<&'a [u8], Reason>,
}

/// The rows of one file.
pub(super) struct Rows {
    /// How the text of its rows is written.
    pub(super) format: Format,
    limit: usize,
    kind: Kind,
}

enum Kind {
    Lines(Lines<Stream>),
    Csv(Box<Csv<Stream>>),
    /// Read in an order of its own; what is counted and hashed is read beside it.
    Parquet(Parquet, Stored),
}

impl Rows {
    /// Opens a file and finds out what it is. `read` counts its bytes as they are read.
    pub(super) fn open(
        source: &Source,
        options: &Options,
        shape: &Shape,
        hashed: bool,
        read: Arc<AtomicU64>,
    ) -> Result<Self, PromptsError> {
        let path = &source.path;
        match path.metadata() {
            Ok(data) if data.is_dir() => {
                let (path, what) = (path.clone(), "a folder");
                let remedy = "give a file in it, or all of them as `FOLDER/*.jsonl`";
                return Err(PromptsError::Unsupported { path, what, remedy });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PromptsError::Missing(path.clone()));
            }
            Err(error) => return Err(io_error(path, "opened", error)),
        }
        let (stored_head, head) = heads(path)?;
        // A spooled stream or a fetched object is named by what it was.
        let name = Path::new(&source.name);
        let limit = options.line_limit;
        let choose = |names| Chosen::new(path, names, shape);
        let format = match options.format {
            Some(format) => format,
            None => detect(name, &head)?,
        };
        let stored = Stored::open(path, hashed, read).map_err(|e| io_error(path, "opened", e))?;
        let unpack = |stored| Stream::new(stored, &stored_head);
        let unpack = |stored| unpack(stored).map_err(|error| io_error(path, "unpacked", error));
        let kind = match format {
            Format::Text if shape.needs_columns() => {
                return Err(PromptsError::NoColumns(path.clone()));
            }
            Format::Text | Format::Jsonl => Kind::Lines(Lines::new(unpack(stored)?, limit)),
            // An empty file is no table, but one without prompts.
            Format::Csv if head.is_empty() => Kind::Lines(Lines::new(unpack(stored)?, limit)),
            Format::Csv => {
                let csv = Csv::open(path, unpack(stored)?, delimiter(name), limit, choose)?;
                Kind::Csv(Box::new(csv))
            }
            Format::Parquet => Kind::Parquet(Parquet::open(path, limit, choose)?, stored),
        };
        let format = if format == Format::Text { Format::Text } else { Format::Jsonl };
        Ok(Self { format, limit, kind })
    }

    /// Goes to the next row that isn't blank. False after the last.
    pub(super) fn advance(&mut self) -> io::Result<bool> {
        match &mut self.kind {
            Kind::Csv(csv) => csv.advance(),
            Kind::Parquet(parquet, _) => parquet.advance(),
            Kind::Lines(lines) => loop {
                if !lines.advance()? {
                    return Ok(false);
                }
                let line = lines.line();
                let blank =
                    line.bytes.is_some_and(|bytes| parse::content(line.number, bytes).is_none());
                if !blank {
                    return Ok(true);
                }
            },
        }
    }

    /// The row that [`Self::advance`] came to.
    pub(super) fn row(&self) -> Row<'_> {
        let (line, content) = match &self.kind {
            Kind::Csv(csv) => csv.row(),
            Kind::Parquet(parquet, _) => parquet.row(),
            Kind::Lines(lines) => {
                let line = lines.line();
                let content = line.bytes.and_then(|bytes| parse::content(line.number, bytes));
                let content = content.ok_or(Reason::TooLong(self.limit));
                return Row { line: line.number, content };
            }
        };
        Row { line, content: content.map_err(Clone::clone) }
    }

    /// What was read, once there are no more rows.
    pub(super) fn finish(self) -> io::Result<Whole> {
        match self.kind {
            Kind::Lines(lines) => lines.into_source().into_stored().finish(),
            Kind::Csv(csv) => csv.into_source().into_stored().finish(),
            Kind::Parquet(_, stored) => stored.finish(),
        }
    }
}
