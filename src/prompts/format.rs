//! What an input is, told by its name and its first bytes. Pure.

use super::{Format, PromptsError};
use std::{ffi::OsStr, path::Path};

/// Beginnings of files that aren't lines of text, what they are, and what makes lines of them.
const OTHERS: [(&[u8], &str, &str); 6] = [
    (b"\x1f\x8b", "compressed with gzip", "unpack it with `gunzip`"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with `unzstd`"),
    (b"PK\x03\x04", "a zip archive", "unpack it with `unzip`"),
    (b"PAR1", "a Parquet file", "write it as JSON lines first"),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8"),
];

/// How the lines of an input are written: by its name where that says so, else by whether the first
/// line that isn't blank begins like a JSON object.
pub(super) fn detect(path: &Path, head: &[u8]) -> Result<Format, PromptsError> {
    let unsupported =
        |what, remedy| PromptsError::Unsupported { path: path.to_owned(), what, remedy };
    if let Some((_, what, remedy)) = OTHERS.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return Err(unsupported(what, remedy));
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let extension = path.extension().map(OsStr::to_ascii_lowercase);
    match extension.as_ref().and_then(|extension| extension.to_str()) {
        Some("txt") => Ok(Format::Text),
        Some("json") if text.starts_with(b"[") => {
            Err(unsupported("one JSON array", "make lines of it with `jq -c '.[]'`"))
        }
        Some("jsonl" | "ndjson" | "json") => Ok(Format::Jsonl),
        _ if text.starts_with(b"{") => Ok(Format::Jsonl),
        _ => Ok(Format::Text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides_and_then_the_first_line() {
        let cases: [(&str, &[u8], Format); 9] = [
            ("a.txt", b"{\"prompt\": 1}", Format::Text),
            ("a.TXT", b"{", Format::Text),
            ("a.jsonl", b"no json", Format::Jsonl),
            ("a.ndjson", b"", Format::Jsonl),
            ("a.json", b"{}", Format::Jsonl),
            ("a", b"\n \r\n{\"prompt\"", Format::Jsonl),
            ("a", b"\xef\xbb\xbf{\"prompt\"", Format::Jsonl),
            ("a", b"How do you do?\n{}", Format::Text),
            ("a.md", b"[1]", Format::Text),
        ];
        for (name, head, format) in cases {
            let found = detect(Path::new(name), head).expect("it is lines");
            assert_eq!(found, format, "{name} {head:?}");
        }
    }

    #[test]
    fn what_is_no_text_is_named_with_what_to_do() {
        let cases: [(&str, &[u8], &str); 3] = [
            ("a.gz", b"\x1f\x8b\x08", "`a.gz` is compressed with gzip; unpack it with `gunzip`"),
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
