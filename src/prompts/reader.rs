//! Reads an input again as the work goes on, on a thread of its own.

use super::{
    Entry, Format, Input, Line, Lines, Options, PromptsError, Reason, Survey, default_id, parse,
    survey::{io_error, open},
};
use crate::shards::Bits;
use std::{
    io::{Read, Seek},
    thread,
};
use tokio::sync::mpsc;
use wire::Prompt;

/// A batch has no more than this many entries, and no more than this many bytes, unless its one
/// entry has.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

/// Batches that wait to be taken.
const BATCHES: usize = 4;

/// The receiving end of a reader.
///
/// At most six batches are in memory: four waiting, one being made and the one last taken. That is
/// 6 MiB; where the lines are as long as they may be, six of those lines.
#[derive(Debug)]
pub struct Reader {
    batches: mpsc::Receiver<Result<Vec<Entry>, PromptsError>>,
}

impl Reader {
    /// The next entries, in ascending order. None when the input is over. After an error there is
    /// nothing more.
    ///
    /// Cancel-safe: a future that is dropped loses no entry.
    pub async fn next(&mut self) -> Option<Result<Vec<Entry>, PromptsError>> {
        self.batches.recv().await
    }
}

/// Begins to read an input that was surveyed, leaving out the prompts that are done.
///
/// The thread ends when the input does, or when the [`Reader`] is dropped.
pub fn spawn_reader(input: &Input, survey: &Survey, done: Bits) -> Result<Reader, PromptsError> {
    let (mut file, _) = open(input)?;
    file.rewind().map_err(|source| io_error(&input.path, "read", source))?;
    let (sender, batches) = mpsc::channel(BATCHES);
    let (input, survey) = (input.clone(), survey.clone());
    let reading = Reading {
        lines: Lines::new(file, input.options.line_limit),
        format: survey.format,
        options: input.options.clone(),
        done,
        duplicates: survey.duplicates.clone(),
        index: 0,
    };
    thread::Builder::new()
        .name("prompts".into())
        .spawn(move || send_all(reading, &input, &survey, &sender))
        .expect("the system has room for a thread");
    Ok(Reader { batches })
}

type Sender = mpsc::Sender<Result<Vec<Entry>, PromptsError>>;

fn send_all<R: Read>(mut reading: Reading<R>, input: &Input, survey: &Survey, sender: &Sender) {
    loop {
        let batch = match reading.batch() {
            // It has become longer or shorter since it was surveyed, while we were at it.
            Ok(batch) if batch.is_empty() && reading.index != survey.prompts => {
                Err(PromptsError::Changed(input.path.clone()))
            }
            Ok(batch) if batch.is_empty() => return,
            Ok(_) if survey.prompts < reading.index => {
                Err(PromptsError::Changed(input.path.clone()))
            }
            Ok(batch) => Ok(batch),
            Err(source) => Err(io_error(&input.path, "read", source)),
        };
        let failed = batch.is_err();
        if sender.blocking_send(batch).is_err() || failed {
            return;
        }
    }
}

/// A reader at work.
struct Reading<R> {
    lines: Lines<R>,
    format: Format,
    options: Options,
    done: Bits,
    duplicates: Bits,
    /// The index of the next line that isn't blank.
    index: u64,
}

impl<R: Read> Reading<R> {
    /// The next entries; none only at the end.
    fn batch(&mut self) -> std::io::Result<Vec<Entry>> {
        let (mut batch, mut size) = (Vec::new(), 0);
        while batch.len() < BATCH && size < BATCH_BYTES {
            let Some(line) = self.lines.next_line()? else { break };
            let content = match line.bytes.map(|bytes| parse::content(line.number, bytes)) {
                Some(None) => continue,
                Some(content) => content,
                None => None,
            };
            let index = self.index;
            self.index += 1;
            if self.done.contains(index) {
                continue;
            }
            let duplicate = self.duplicates.contains(index);
            size += content.map_or(0, <[u8]>::len) + size_of::<Entry>();
            batch.push(entry(index, &line, content, duplicate, self.format, &self.options));
        }
        Ok(batch)
    }
}

/// What a line is. `content` is None where the line is over the limit.
fn entry(
    index: u64,
    line: &Line<'_>,
    content: Option<&[u8]>,
    duplicate: bool,
    format: Format,
    options: &Options,
) -> Entry {
    let line = line.number;
    let bad = |custom_id, reason| Entry::Bad { index, line, custom_id, reason };
    let Some(content) = content else {
        return bad(None, Reason::TooLong(options.line_limit));
    };
    match parse::parse(content, format, options) {
        Ok(request) => {
            let custom_id = request.id.as_ref().map(ToString::to_string);
            if duplicate {
                return bad(custom_id, Reason::DuplicateId);
            }
            let custom_id = custom_id.unwrap_or_else(|| default_id(index));
            let prompt = Prompt { index, form: request.form, body: request.into_body() };
            Entry::Good { prompt, custom_id, line }
        }
        Err(fault) => bad(fault.id, fault.reason),
    }
}
