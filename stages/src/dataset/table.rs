//! Lists as Parquet files, as Hugging Face's datasets writes them: images are {bytes, path}.

use std::fs::File;

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Field, Row};

use super::cell::Cell;
use super::limits::{MOST_BYTES, MOST_RECORDS};

/// The records of a Parquet file.
pub(super) fn records(file: File) -> Result<Vec<Cell>, String> {
    let fail = |error: parquet::errors::ParquetError| format!("cannot be read as Parquet: {error}");
    let reader = SerializedFileReader::new(file).map_err(fail)?;
    let metadata = reader.metadata();
    let rows = metadata.file_metadata().num_rows();
    if usize::try_from(rows).map_or(true, |rows| rows > MOST_RECORDS) {
        return Err(format!(
            "says that it has {rows} rows; at most {MOST_RECORDS} are read"
        ));
    }
    let bytes: i64 = metadata
        .row_groups()
        .iter()
        .map(|group| group.total_byte_size().max(0))
        .fold(0, i64::saturating_add);
    check_size(bytes as u64)?;
    let mut records = Vec::new();
    let mut size = Size(0);
    for row in reader.get_row_iter(None).map_err(fail)? {
        records.push(record(&row.map_err(fail)?, &mut size));
        // A page may repeat one long text a million times in a few bytes.
        check_size(size.0)?;
    }
    Ok(records)
}

fn check_size(bytes: u64) -> Result<(), String> {
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    Err(format!(
        "unpacks to more than {MOST_BYTES} bytes; split it into several files"
    ))
}

/// Bytes of texts so far.
struct Size(u64);

fn record(row: &Row, size: &mut Size) -> Cell {
    let fields = row.get_column_iter();
    Cell::Record(
        fields
            .map(|(name, field)| (name.clone(), cell(field, size)))
            .collect(),
    )
}

fn cell(field: &Field, size: &mut Size) -> Cell {
    match field {
        Field::Null => Cell::Null,
        Field::Bool(value) => Cell::Bool(*value),
        Field::Float16(value) => Cell::float(f64::from(*value)),
        Field::Float(value) => Cell::float(f64::from(*value)),
        Field::Double(value) => Cell::float(*value),
        Field::Str(text) => {
            size.0 += text.len() as u64;
            Cell::Text(text.clone())
        }
        Field::Bytes(bytes) => {
            size.0 += bytes.len() as u64;
            Cell::Bytes(bytes.data().to_vec())
        }
        Field::Group(row) => record(row, size),
        Field::ListInternal(list) => Cell::List(
            list.elements()
                .iter()
                .map(|item| cell(item, size))
                .collect(),
        ),
        Field::MapInternal(map) => {
            let entries = map.entries().iter();
            Cell::List(
                entries
                    .map(|(key, value)| Cell::List(vec![cell(key, size), cell(value, size)]))
                    .collect(),
            )
        }
        Field::Byte(_)
        | Field::Short(_)
        | Field::Int(_)
        | Field::Long(_)
        | Field::UByte(_)
        | Field::UShort(_)
        | Field::UInt(_)
        | Field::ULong(_) => Cell::Number(field.to_string()),
        Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => Cell::Text(field.to_string()),
    }
}
