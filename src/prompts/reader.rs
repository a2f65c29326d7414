//! Reads an input again as the work goes on, on a thread of its own.

use super::{
    Entry, Format, Input, Place, PromptsError, Reason, Survey, default_id,
    shape::{self, Shape},
    walk::Walk,
};
use crate::shards::Bits;
use std::thread;
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
    let shape = Shape::new(&input.options)?;
    let (sender, batches) = mpsc::channel(BATCHES);
    let (input, survey) = (input.clone(), survey.clone());
    thread::Builder::new()
        .name("prompts".into())
        .spawn(move || {
            let walk = Walk::new(&input, &shape, false);
            let reading = Reading {
                walk,
                shape: &shape,
                survey: &survey,
                done,
                index: 0,
                begun: false,
                over: false,
            };
            reading.send_all(&input, &sender);
        })
        .expect("the system has room for a thread");
    Ok(Reader { batches })
}

type Sender = mpsc::Sender<Result<Vec<Entry>, PromptsError>>;

/// A reader at work.
struct Reading<'a> {
    walk: Walk<'a>,
    shape: &'a Shape,
    survey: &'a Survey,
    done: Bits,
    /// The index of the next row that isn't blank.
    index: u64,
    /// Whether the first row was looked for, and whether there are no more.
    begun: bool,
    over: bool,
}

impl Reading<'_> {
    fn send_all(mut self, input: &Input, sender: &Sender) {
        loop {
            let batch = match self.batch() {
                // It has become longer or shorter since it was surveyed, while we were at it. Its
                // last line may have been cut, and what is left of that is no prompt.
                Ok(_) if self.over && !self.is_as_surveyed() => Err(input.changed()),
                Ok(batch) if batch.is_empty() => return,
                Ok(_) if self.survey.prompts < self.index => Err(input.changed()),
                batch => batch,
            };
            let failed = batch.is_err();
            if sender.blocking_send(batch).is_err() || failed {
                return;
            }
        }
    }

    /// Whether what was read, now that it is over, is as long as it was.
    fn is_as_surveyed(&self) -> bool {
        self.index == self.survey.prompts && self.walk.bytes() == self.survey.bytes
    }

    /// The next entries; none only at the end. It has looked for the row after them too, so that
    /// the file's last row is never taken before it is known to be that.
    fn batch(&mut self) -> Result<Vec<Entry>, PromptsError> {
        let (mut batch, mut size) = (Vec::new(), 0);
        if !self.begun {
            self.begun = true;
            self.over = !self.walk.advance()?;
        }
        while !self.over && batch.len() < BATCH && size < BATCH_BYTES {
            let index = self.index;
            self.index += 1;
            if !self.done.contains(index) {
                let (place, format, content) = self.walk.row();
                size += content.as_ref().map_or(0, |text| text.len()) + size_of::<Entry>();
                let duplicate = self.survey.duplicates.contains(index);
                batch.push(entry(index, place, format, content, duplicate, self.shape));
            }
            self.over = !self.walk.advance()?;
        }
        Ok(batch)
    }
}

/// What a row is.
fn entry(
    index: u64,
    line: Place,
    format: Format,
    content: Result<&[u8], Reason>,
    duplicate: bool,
    shape: &Shape,
) -> Entry {
    let bad = |custom_id, reason| Entry::Bad { index, line, custom_id, reason };
    let content = match content {
        Ok(content) => content,
        Err(reason) => return bad(None, reason),
    };
    match shape::request(content, format, shape) {
        Ok(request) => {
            let custom_id = request.id.as_ref().map(ToString::to_string);
            let custom_id = custom_id.unwrap_or_else(|| default_id(index));
            if duplicate {
                return bad(Some(custom_id), Reason::DuplicateId);
            }
            let prompt = Prompt { index, form: request.form, body: request.into_body() };
            Entry::Good { prompt, custom_id, line }
        }
        Err(fault) => bad(fault.id, fault.reason),
    }
}
