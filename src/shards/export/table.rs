//! Completions as Parquet, a group of rows in memory.

use super::{
    Export,
    answer::{Answer, answers},
    packed::Packed,
};
use parquet::{
    basic::{Compression, ZstdLevel},
    data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type},
    errors::ParquetError,
    file::{
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::parser::parse_message_type,
};
use std::{
    io::{self, Write},
    sync::Arc,
};

/// A group of rows is written when it has so many, or so many bytes of text.
const GROUP: usize = 1 << 17;
const GROUP_BYTES: usize = 16 << 20;

/// In the order in which [`Parquet::write_group`] writes its columns.
const SCHEMA: &str = "message completions {
    required binary id (STRING);
    required int32 choice (INTEGER(32, false));
    optional binary text (STRING);
    optional binary finish_reason (STRING);
    optional int64 prompt_tokens (INTEGER(64, false));
    optional int64 completion_tokens (INTEGER(64, false));
}";

/// A row of Parquet for each choice.
pub(super) struct Parquet<W: Write + Send> {
    writer: SerializedFileWriter<Packed<W>>,
    rows: Vec<Answer>,
    bytes: usize,
}

impl<W: Write + Send> Parquet<W> {
    pub(super) fn new(to: Packed<W>) -> io::Result<Self> {
        let schema = parse_message_type(SCHEMA).expect("the schema is written right");
        let compression = Compression::ZSTD(ZstdLevel::default());
        let properties = WriterProperties::builder().set_compression(compression).build();
        let writer = SerializedFileWriter::new(to, Arc::new(schema), Arc::new(properties));
        Ok(Self { writer: writer.map_err(io_error)?, rows: Vec::new(), bytes: 0 })
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let text = |text: &str| Some(ByteArray::from(text));
        let number = |number: Option<u64>| number.map(u64::cast_signed);
        let mut group = self.writer.next_row_group()?;
        let all = |value: fn(&Answer) -> Option<&str>| {
            rows.iter().map(move |row| value(row).and_then(text)).collect()
        };
        column::<ByteArrayType, _>(&mut group, all(|row| Some(&row.id)), true)?;
        let choices = rows.iter().map(|row| Some(row.choice.cast_signed())).collect();
        column::<Int32Type, _>(&mut group, choices, true)?;
        column::<ByteArrayType, _>(&mut group, all(|row| row.text.as_deref()), false)?;
        column::<ByteArrayType, _>(&mut group, all(|row| row.finish_reason.as_deref()), false)?;
        let tokens = rows.iter().map(|row| number(row.prompt_tokens)).collect();
        column::<Int64Type, _>(&mut group, tokens, false)?;
        let tokens = rows.iter().map(|row| number(row.completion_tokens)).collect();
        column::<Int64Type, _>(&mut group, tokens, false)?;
        group.close().map(drop)
    }
}

impl<W: Write + Send> Export for Parquet<W> {
    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        for answer in answers(line)? {
            self.bytes += answer.id.len() + answer.text.as_ref().map_or(0, String::len);
            self.rows.push(answer);
        }
        if GROUP <= self.rows.len() || GROUP_BYTES <= self.bytes {
            self.write_group().map_err(io_error)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.write_group().map_err(io_error)?;
        self.writer.into_inner().map_err(io_error)?.finish()
    }
}

/// Writes the next column of a group.
fn column<T: DataType<T = V>, V: Clone>(
    group: &mut SerializedRowGroupWriter<'_, Packed<impl Write + Send>>,
    values: Vec<Option<V>>,
    required: bool,
) -> Result<(), ParquetError> {
    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let values: Vec<V> = values.into_iter().flatten().collect();
    let mut column = group.next_column()?.expect("the schema has as many columns as are written");
    let levels = (!required).then_some(levels.as_slice());
    column.typed::<T>().write_batch(&values, levels, None)?;
    column.close()
}

/// What the file system said, where it was that which failed.
fn io_error(error: ParquetError) -> io::Error {
    let ParquetError::External(source) = error else { return io::Error::other(error) };
    source.downcast().map_or_else(io::Error::other, |error| *error)
}
