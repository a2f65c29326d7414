//! Rows out of Parquet, each as one JSON object, a page of each column in memory.

use super::{PromptsError, Reason, rows::Chosen};
use parquet::{
    errors::ParquetError,
    file::{reader::FileReader, serialized_reader::SerializedFileReader},
    record::{Field, reader::RowIter},
    schema::types::Type,
};
use serde_json::Value;
use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

/// Reads the chosen columns of a file's rows, in their order.
pub(super) struct Parquet {
    rows: RowIter<'static>,
    chosen: Chosen,
    limit: usize,
    number: u64,
    row: Result<Vec<u8>, Reason>,
}

impl Parquet {
    /// Reads the names of the columns.
    pub(super) fn open(
        path: &Path,
        limit: usize,
        choose: impl FnOnce(Vec<String>) -> Result<Chosen, PromptsError>,
    ) -> Result<Self, PromptsError> {
        let failed = |error| super::io_error(path, "read", io_error(error));
        let file = File::open(path).map_err(|source| super::io_error(path, "opened", source))?;
        let reader = guarded(|| SerializedFileReader::new(file)).map_err(failed)?;
        let schema = reader.metadata().file_metadata().schema_descr().root_schema_ptr();
        let columns = schema.get_fields();
        let mut chosen = choose(columns.iter().map(|column| column.name().to_owned()).collect())?;
        // The file gives its columns in its own order, whatever order they are asked for in.
        chosen.0.sort_unstable();
        let fields = chosen.0.iter().map(|(at, _)| Arc::clone(&columns[*at])).collect();
        let projection = Type::group_type_builder(schema.name()).with_fields(fields).build();
        let rows = guarded(|| RowIter::from_file_into(Box::new(reader)).project(Some(projection?)));
        let row = Ok(Vec::new());
        Ok(Self { rows: rows.map_err(failed)?, chosen, limit, number: 0, row })
    }

    /// Goes to the next row. False after the last.
    pub(super) fn advance(&mut self) -> io::Result<bool> {
        let row = guarded(|| self.rows.next().transpose()).map_err(io_error)?;
        let Some(row) = row else { return Ok(false) };
        self.number += 1;
        let mut json = std::mem::replace(&mut self.row, Ok(Vec::new())).unwrap_or_default();
        json.clear();
        json.push(b'{');
        let mut odd = None;
        for ((_, field), (_, name)) in row.get_column_iter().zip(&self.chosen.0) {
            if json.len() != 1 {
                json.push(b',');
            }
            json.extend(name.as_bytes());
            json.push(b':');
            // Not every program that writes text says that it is text.
            let value = if let Field::Bytes(bytes) = field {
                let text = str::from_utf8(bytes.data()).ok();
                odd = odd.or(text.is_none().then_some(name));
                text.map_or(Value::Null, Value::from)
            } else {
                field.to_json_value()
            };
            serde_json::to_writer(&mut json, &value).expect("memory can be written to");
        }
        json.push(b'}');
        let odd = odd.map(|name| serde_json::from_str(name).expect("it was made a JSON string"));
        self.row = match odd {
            Some(column) => Err(Reason::Field { column, fault: "is not valid UTF-8" }),
            None if self.limit < json.len() => Err(Reason::TooLong(self.limit)),
            None => Ok(json),
        };
        Ok(true)
    }

    /// The row that [`Self::advance`] came to: its number and its JSON.
    pub(super) fn row(&self) -> (u64, Result<&[u8], &Reason>) {
        (self.number, self.row.as_deref())
    }
}

/// What is read of a file, though the crate panics at some kinds of damage.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    let damaged = |_| Err(ParquetError::General("the file is damaged".to_owned()));
    // After a panic nothing of it is used again.
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(damaged)
}

fn io_error(error: ParquetError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
