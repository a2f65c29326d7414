//! Formats of lines: as they are kept, plain JSON, and CSV.

use super::{
    Export,
    answer::{Answer, COLUMNS, answers},
    packed::Packed,
};
use serde_json::json;
use std::io::{self, Write};

/// `OpenAI`'s batch output, as it is kept.
pub(super) struct Lines<W: Write>(pub(super) Packed<W>);

impl<W: Write> Export for Lines<W> {
    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.0.write_all(line)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.0.finish()
    }
}

/// A JSON object for each choice.
pub(super) struct Jsonl<W: Write>(pub(super) Packed<W>);

impl<W: Write> Export for Jsonl<W> {
    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        for answer in answers(line)? {
            let Answer { id, choice, text, finish_reason, prompt_tokens, completion_tokens } =
                answer;
            let row = json!({
                "id": id,
                "choice": choice,
                "text": text,
                "finish_reason": finish_reason,
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
            });
            writeln!(self.0, "{row}")?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.0.finish()
    }
}

/// A row of CSV for each choice.
pub(super) struct Csv<W: Write>(Packed<W>);

impl<W: Write> Csv<W> {
    pub(super) fn new(mut to: Packed<W>) -> io::Result<Self> {
        write!(to, "{}\r\n", COLUMNS.join(","))?;
        Ok(Self(to))
    }
}

impl<W: Write> Export for Csv<W> {
    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let number = |number: Option<u64>| number.map_or_else(String::new, |n| n.to_string());
        for answer in answers(line)? {
            write!(
                self.0,
                "{},{},{},{},{},{}\r\n",
                cell(&answer.id),
                answer.choice,
                cell(answer.text.as_deref().unwrap_or_default()),
                cell(answer.finish_reason.as_deref().unwrap_or_default()),
                number(answer.prompt_tokens),
                number(answer.completion_tokens)
            )?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.0.finish()
    }
}

/// A cell, in quotation marks where it needs them (RFC 4180, 2.6 and 2.7).
fn cell(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
