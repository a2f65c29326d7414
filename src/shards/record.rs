//! One result as one line, and a line told apart from a torn one. Pure.
//!
//! A completion is a line of `OpenAI`'s batch output:
//!
//! ```text
//! {"id":"piecework-RUN-7","custom_id":"a","response":{"status_code":200,"request_id":"piecework-RUN-7","body":{…}},"error":null}
//! ```
//!
//! and an error is
//!
//! ```text
//! {"id":"piecework-RUN-8","line":9,"custom_id":null,"failure":"bad_line","reason":"…"}
//! ```
//!
//! with `"file":"…"` after the line's number where the input has several files.
//!
//! The number in `id` is the prompt's position, from 0. As it stands first, a file is read back
//! without looking into its bodies, which are put there as they came.

use crate::prompts::Place;
use memchr::{memchr, memchr2, memmem};
use std::io::Write;
use wire::Failure;

/// What became of a prompt, to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// It was answered.
    Done {
        /// The prompt's position, from 0.
        index: u64,
        /// The id that the user knows it by.
        custom_id: String,
        /// A JSON object: the body of an `OpenAI` response.
        body: String,
    },
    /// It can't be answered.
    Failed {
        /// The prompt's position, from 0.
        index: u64,
        /// Its line in the input.
        line: Place,
        /// The id that the user knows it by, where it could be read.
        custom_id: Option<String>,
        /// Whose fault it is.
        cause: Cause,
        /// Why, as a sentence without a full stop.
        reason: String,
    },
}

/// Whose fault it is that a prompt can't be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The line is no prompt.
    BadLine,
    /// The request is malformed, or asks for what the engine can't do.
    BadRequest,
    /// The prompt doesn't fit into the model's context.
    TooLong,
    /// The engine failed at this prompt.
    Engine,
}

impl From<Failure> for Cause {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::BadRequest => Self::BadRequest,
            Failure::TooLong => Self::TooLong,
            Failure::Engine => Self::Engine,
        }
    }
}

impl Cause {
    /// As it is written in the errors file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadLine => "bad_line",
            Self::BadRequest => "bad_request",
            Self::TooLong => "too_long",
            Self::Engine => "engine",
        }
    }
}

impl Record {
    /// Bytes that its line will have, nearly.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Done { custom_id, body, .. } => 200 + custom_id.len() + body.len(),
            Self::Failed { custom_id, reason, .. } => {
                160 + custom_id.as_ref().map_or(4, String::len) + reason.len()
            }
        }
    }
}

/// The two files of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Completions,
    Errors,
}

/// How the lines of one run look.
#[derive(Clone, Debug)]
pub(super) struct Dialect {
    /// The beginning of an id.
    stem: String,
    /// The beginning of a line.
    prefix: String,
    /// What says which file a line is of, for each file; none if there is only one.
    files: Vec<String>,
}

impl Dialect {
    pub(super) fn new(run: &str, inputs: &[String]) -> Self {
        let stem = format!("piecework-{}-", quoted(run).trim_matches('"'));
        let files = inputs.iter().map(|name| format!("\"file\":{},", quoted(name))).collect();
        Self { prefix: format!("{{\"id\":\"{stem}"), stem, files }
    }

    /// Appends a record's line.
    pub(super) fn write(&self, record: &Record, to: &mut Vec<u8>) {
        let written = match record {
            Record::Done { index, custom_id, body } => write!(
                to,
                "{}{index}\",\"custom_id\":{},\"response\":{{\"status_code\":200,\
                 \"request_id\":\"{}{index}\",\"body\":",
                self.prefix,
                quoted(custom_id),
                self.stem
            )
            .and_then(|()| {
                one_line(body, to);
                to.write_all(b"},\"error\":null}\n")
            }),
            Record::Failed { index, line, custom_id, cause, reason } => writeln!(
                to,
                "{}{index}\",\"line\":{},{}\"custom_id\":{},\"failure\":\"{}\",\"reason\":{}}}",
                self.prefix,
                line.line,
                self.files.get(line.file as usize).map_or("", String::as_str),
                custom_id.as_ref().map_or_else(|| "null".into(), |id| quoted(id)),
                cause.name(),
                quoted(reason)
            ),
        };
        written.expect("memory can be written to");
    }

    /// The position of a line's prompt. None if the line isn't one that [`Self::write`] wrote.
    pub(super) fn index(&self, line: &[u8], kind: Kind) -> Option<u64> {
        let rest = line.strip_prefix(self.prefix.as_bytes())?;
        let digits = rest.iter().take(20).take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = rest.split_at(digits);
        let (next, end): (&[u8], &[u8]) = match kind {
            Kind::Completions => (b"\",\"custom_id\":", b"},\"error\":null}"),
            Kind::Errors => (b"\",\"line\":", b"\"}"),
        };
        // After a power failure a hole in a file reads as zeros, which no JSON contains.
        let whole = rest.starts_with(next) && rest.ends_with(end) && memchr(0, rest).is_none();
        whole.then_some(())?;
        str::from_utf8(digits).ok()?.parse().ok()
    }
}

/// The tokens that a completion's `usage` counts: of the prompt and of the answer. 0 where it
/// doesn't say.
///
/// Within a JSON string a quotation mark is escaped, so that no text of the model can look like the
/// key.
pub(super) fn tokens(line: &[u8]) -> (u64, u64) {
    (number_after(line, b"\"prompt_tokens\":"), number_after(line, b"\"completion_tokens\":"))
}

fn number_after(line: &[u8], key: &[u8]) -> u64 {
    // Engines put `usage` last, or nearly so.
    let tail = &line[line.len().saturating_sub(512)..];
    let digits = match memmem::find(tail, key) {
        Some(at) => &tail[at + key.len()..],
        None => match memmem::find(line, key) {
            Some(at) => &line[at + key.len()..],
            None => return 0,
        },
    };
    let digits = digits.trim_ascii_start().iter().take_while(|byte| byte.is_ascii_digit());
    digits.take(18).fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// Appends JSON without its line breaks, which can only stand between its tokens.
fn one_line(json: &str, to: &mut Vec<u8>) {
    let mut rest = json.trim_ascii().as_bytes();
    while let Some(at) = memchr2(b'\n', b'\r', rest) {
        to.extend(&rest[..at]);
        to.push(b' ');
        rest = &rest[at + 1..];
    }
    to.extend(rest);
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string can always be written as JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(record: &Record) -> String {
        let mut line = Vec::new();
        Dialect::new("r1", &[]).write(record, &mut line);
        String::from_utf8(line).expect("it is text")
    }

    fn done(body: &str) -> Record {
        Record::Done { index: 7, custom_id: "a \"b\"".into(), body: body.into() }
    }

    #[test]
    fn a_completion_is_a_line_of_the_batch_output_format() {
        assert_eq!(
            line(&done("{\"choices\":[]}")),
            "{\"id\":\"piecework-r1-7\",\"custom_id\":\"a \\\"b\\\"\",\"response\":\
             {\"status_code\":200,\"request_id\":\"piecework-r1-7\",\"body\":{\"choices\":[]}},\
             \"error\":null}\n"
        );
    }

    #[test]
    fn an_error_says_which_line_and_why() {
        let record = Record::Failed {
            index: 8,
            line: Place { file: 0, line: 9 },
            custom_id: None,
            cause: Cause::BadLine,
            reason: "the line is \"odd\"".into(),
        };
        assert_eq!(
            line(&record),
            "{\"id\":\"piecework-r1-8\",\"line\":9,\"custom_id\":null,\"failure\":\"bad_line\",\
             \"reason\":\"the line is \\\"odd\\\"\"}\n"
        );
        let found =
            Dialect::new("r1", &[]).index(line(&record).trim_end().as_bytes(), Kind::Errors);
        assert_eq!(found, Some(8));
    }

    #[test]
    fn a_body_over_several_lines_becomes_one_line() {
        let line = line(&done("{\r\n  \"text\": \"a\\nb\"\n}\n"));
        assert!(line.contains("\"body\":{    \"text\": \"a\\nb\" }}"), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
        serde_json::from_str::<serde_json::Value>(&line).expect("it is still JSON");
    }

    #[test]
    fn a_line_is_known_only_if_it_is_whole_and_of_this_run() {
        let (dialect, line) = (Dialect::new("r1", &[]), line(&done("{\"choices\":[]}")));
        let line = line.trim_end().as_bytes();
        assert_eq!(dialect.index(line, Kind::Completions), Some(7));
        assert_eq!(dialect.index(line, Kind::Errors), None);
        assert_eq!(Dialect::new("r2", &[]).index(line, Kind::Completions), None);
        for end in 0..line.len() {
            assert_eq!(dialect.index(&line[..end], Kind::Completions), None, "cut at {end}");
        }
        let mut hole = line.to_vec();
        hole[60] = 0;
        assert_eq!(dialect.index(&hole, Kind::Completions), None);
    }

    #[test]
    fn tokens_are_found_wherever_usage_is_and_not_in_the_text() {
        let usage =
            "\"usage\":{\"prompt_tokens\":12,\"completion_tokens\": 34,\"total_tokens\":46}";
        let text = "\"text\":\"\\\"prompt_tokens\\\":99 \\\"completion_tokens\\\":99\"";
        let long = format!("\"more\":\"{}\"", "x".repeat(2000));
        for body in [
            format!("{{{text},{usage}}}"),
            format!("{{{usage},{text}}}"),
            format!("{{{usage},{text},{long}}}"),
        ] {
            assert_eq!(tokens(line(&done(&body)).as_bytes()), (12, 34), "{body}");
        }
        assert_eq!(tokens(line(&done(&format!("{{{text}}}"))).as_bytes()), (0, 0));
    }
}
