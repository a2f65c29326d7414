//! How completions are written: which fields of each, in which format, how compressed.
//!
//! What a run keeps while it goes on is always `OpenAI`'s batch output, which loses nothing. This is
//! what the final ordering makes of it.

mod answer;
mod packed;
mod table;
mod text;

use packed::Packed;
use serde::{Deserialize, Serialize};
use std::{
    io::{self, Write},
    path::Path,
};

/// How completions are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutFormat {
    /// What is written of each.
    pub layout: Layout,
    /// How it is compressed.
    pub packing: Packing,
}

/// What is written of each completion.
///
/// All but [`Layout::OpenAi`] have the columns of a table, a row for each choice of each answer:
/// `id`, `choice`, `text`, `finish_reason`, `prompt_tokens`, `completion_tokens`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// All of it: a line of `OpenAI`'s batch output.
    #[default]
    OpenAi,
    /// A plain JSON object a line.
    Jsonl,
    /// CSV as RFC 4180 has it, with a first row of names.
    Csv,
    /// Apache Parquet, its columns compressed with zstd.
    Parquet,
}

/// How a file is compressed as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// Not at all.
    #[default]
    None,
    /// With gzip.
    Gzip,
    /// With zstd.
    Zstd,
}

impl OutFormat {
    /// The format that a file's name asks for: `.csv`, `.parquet`, and `.gz` or `.zst` after
    /// another ending. What isn't known is `OpenAI`'s lines.
    pub fn named(path: &Path) -> Self {
        let lower = |path: &Path| path.extension().map(|e| e.to_string_lossy().to_lowercase());
        let packing = match lower(path).as_deref() {
            Some("gz" | "gzip") => Packing::Gzip,
            Some("zst" | "zstd") => Packing::Zstd,
            Some(_) | None => Packing::None,
        };
        let stem = path.file_stem().map_or(path, Path::new);
        let inner = if packing == Packing::None { path } else { stem };
        let layout = match lower(inner).as_deref() {
            Some("csv") => Layout::Csv,
            Some("parquet") => Layout::Parquet,
            Some(_) | None => Layout::OpenAi,
        };
        Self { layout, packing }
    }

    /// The ending of a file's name that says so.
    pub const fn extension(self) -> &'static str {
        match self.layout {
            Layout::OpenAi | Layout::Jsonl => "jsonl",
            Layout::Csv => "csv",
            Layout::Parquet => "parquet",
        }
    }

    /// Whether what is written is what the run has kept, byte for byte.
    pub(super) fn is_as_kept(self) -> bool {
        self == Self::default()
    }
}

/// Writes completions.
pub(super) trait Export {
    /// Takes one line of `OpenAI`'s batch output, with its newline.
    fn line(&mut self, line: &[u8]) -> io::Result<()>;

    /// Writes what is still to be written.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// What writes completions in this format.
pub(super) fn export<'a>(
    format: OutFormat,
    to: &'a mut (dyn Write + Send),
) -> io::Result<Box<dyn Export + 'a>> {
    let to = Packed::new(format.packing, to)?;
    Ok(match format.layout {
        Layout::OpenAi => Box::new(text::Lines(to)),
        Layout::Jsonl => Box::new(text::Jsonl(to)),
        Layout::Csv => Box::new(text::Csv::new(to)?),
        Layout::Parquet => Box::new(table::Parquet::new(to)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_format() {
        let of = |layout, packing| OutFormat { layout, packing };
        for (name, format) in [
            ("a.jsonl", of(Layout::OpenAi, Packing::None)),
            ("a", of(Layout::OpenAi, Packing::None)),
            ("a.csv", of(Layout::Csv, Packing::None)),
            ("a.CSV.gz", of(Layout::Csv, Packing::Gzip)),
            ("a.jsonl.zst", of(Layout::OpenAi, Packing::Zstd)),
            ("csv.gz", of(Layout::OpenAi, Packing::Gzip)),
            ("a.parquet", of(Layout::Parquet, Packing::None)),
        ] {
            assert_eq!(OutFormat::named(Path::new(name)), format, "{name}");
        }
    }
}
