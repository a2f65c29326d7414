//! All rows of all files of an input, one after the other.

use super::{
    Format, Input, Place, PromptsError, Reason, io_error,
    rows::{Row, Rows},
    shape::Shape,
    stream::Whole,
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Goes through an input once.
pub(super) struct Walk<'a> {
    input: &'a Input,
    shape: &'a Shape,
    hashed: bool,
    rows: Option<Rows>,
    /// What the present file has given so far.
    read: Arc<AtomicU64>,
    /// What was read of those that are over.
    over: Vec<Whole>,
}

impl<'a> Walk<'a> {
    /// Goes through an input from its beginning.
    pub(super) fn new(input: &'a Input, shape: &'a Shape, hashed: bool) -> Self {
        Self { input, shape, hashed, rows: None, read: Arc::default(), over: Vec::new() }
    }

    /// Goes to the next row that isn't blank. False after the last one of the last file.
    pub(super) fn advance(&mut self) -> Result<bool, PromptsError> {
        while let Some(source) = self.input.sources.get(self.over.len()) {
            let failed = |act| move |error| io_error(&source.path, act, error);
            let rows = if let Some(rows) = &mut self.rows {
                rows
            } else {
                self.read = Arc::default();
                let (read, options) = (Arc::clone(&self.read), &self.input.options);
                self.rows.insert(Rows::open(source, options, self.shape, self.hashed, read)?)
            };
            if rows.advance().map_err(failed("read"))? {
                return Ok(true);
            }
            let rows = self.rows.take().expect("it was there a line ago");
            self.over.push(rows.finish().map_err(failed("read"))?);
        }
        Ok(false)
    }

    /// The row that [`Self::advance`] came to, and how its text is written.
    pub(super) fn row(&self) -> (Place, Format, Result<&[u8], Reason>) {
        let rows = self.rows.as_ref().expect("the walk has come to a row");
        let Row { line, content } = rows.row();
        let file = u32::try_from(self.over.len()).unwrap_or(u32::MAX);
        (Place { file, line }, rows.format, content)
    }

    /// Bytes read so far, as they are stored.
    pub(super) fn bytes(&self) -> u64 {
        let present = if self.rows.is_some() { self.read.load(Relaxed) } else { 0 };
        self.over.iter().map(|whole| whole.bytes).sum::<u64>() + present
    }

    /// What was read of each file, once there are no more rows.
    pub(super) fn finish(self) -> Vec<Whole> {
        self.over
    }
}
