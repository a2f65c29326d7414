//! What an input is, told by its name and its first bytes. Pure.

use super::{Format, PromptsError};
use std::{ffi::OsStr, path::Path};

/// Beginnings of files that can't be read, what they are, and what makes lines of them.
const OTHERS: [(&[u8], &str, &str); 3] = [
    (b"PK\x03\x04", "a zip archive", "unpack it with `unzip`"),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8"),
];

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gzip,
    Zstd,
}

/// How a file is compressed, by its first bytes. Its name says nothing that these don't.
pub(super) fn packing(head: &[u8]) -> Packing {
    if head.starts_with(b"\x1f\x8b") {
        Packing::Gzip
    } else if head.starts_with(b"\x28\xb5\x2f\xfd") {
        Packing::Zstd
    } else {
        Packing::None
    }
}

/// How the rows of an input are written: by its first bytes or its name where one of them says so,
/// else by whether the first line that isn't blank begins like a JSON object. `head` is unpacked.
pub(super) fn detect(path: &Path, head: &[u8]) -> Result<Format, PromptsError> {
    let unsupported =
        |what, remedy| PromptsError::Unsupported { path: path.to_owned(), what, remedy };
    if let Some((_, what, remedy)) = OTHERS.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return Err(unsupported(what, remedy));
    }
    if packing(head) != Packing::None {
        return Err(unsupported("compressed twice", "unpack it once"));
    }
    if head.starts_with(b"PAR1") {
        return Ok(Format::Parquet);
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    match extension(path).as_deref() {
        Some("txt") => Ok(Format::Text),
        Some("csv" | "tsv") => Ok(Format::Csv),
        Some("parquet") => Err(unsupported("no Parquet file, or damaged", "write it again")),
        Some("json") if text.starts_with(b"[") => {
            Err(unsupported("one JSON array", "make lines of it with `jq -c '.[]'`"))
        }
        Some("jsonl" | "ndjson" | "json") => Ok(Format::Jsonl),
        _ if text.starts_with(b"{") => Ok(Format::Jsonl),
        _ => Ok(Format::Text),
    }
}

/// What parts the cells of a table's rows.
pub(super) fn delimiter(path: &Path) -> u8 {
    if extension(path).as_deref() == Some("tsv") { b'\t' } else { b',' }
}

/// The extension of a file's name, without what only says how it is compressed.
fn extension(path: &Path) -> Option<String> {
    let of =
        |path: &Path| path.extension().map(OsStr::to_ascii_lowercase)?.to_str().map(str::to_owned);
    match of(path)?.as_str() {
        "gz" | "gzip" | "zst" | "zstd" => of(Path::new(path.file_stem()?)),
        other => Some(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides_and_then_the_first_line() {
        let cases: [(&str, &[u8], Format); 14] = [
            ("a.txt", b"{\"prompt\": 1}", Format::Text),
            ("a.TXT", b"{", Format::Text),
            ("a.jsonl", b"no json", Format::Jsonl),
            ("a.ndjson", b"", Format::Jsonl),
            ("a.json", b"{}", Format::Jsonl),
            ("a", b"\n \r\n{\"prompt\"", Format::Jsonl),
            ("a", b"\xef\xbb\xbf{\"prompt\"", Format::Jsonl),
            ("a", b"How do you do?\n{}", Format::Text),
            ("a.md", b"[1]", Format::Text),
            ("a.csv", b"{", Format::Csv),
            ("a.tsv", b"", Format::Csv),
            ("a.TXT.gz", b"{", Format::Text),
            ("a.csv.zst", b"prompt", Format::Csv),
            ("a", b"PAR1", Format::Parquet),
        ];
        for (name, head, format) in cases {
            let found = detect(Path::new(name), head).expect("it is lines");
            assert_eq!(found, format, "{name} {head:?}");
        }
    }

    #[test]
    fn what_is_no_text_is_named_with_what_to_do() {
        let cases: [(&str, &[u8], &str); 3] = [
            ("a.gz", b"\x1f\x8b\x08", "`a.gz` is compressed twice; unpack it once"),
            ("b", b"\xff\xfeh\0", "`b` is text in UTF-16; save it as UTF-8"),
            (
                "c.json",
                b" [{\"prompt\"",
                "`c.json` is one JSON array; make lines of it with `jq -c '.[]'`",
            ),
        ];
        for (name, head, message) in cases {
            let error = detect(Path::new(name), head).expect_err("it is no lines");
            assert_eq!(error.to_string(), message);
        }
    }
}
