//! Sampled answers as a table with a row for each: `id`, `generation`, `text`, `reward`, `finished`, `tokens`,
//! `logprobs`.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, FloatType, Int32Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde::Serialize;

use super::ExportError;
use crate::data::{RolloutRecord, Rollouts};

const JSONL: &str = "rollouts.jsonl";
const PARQUET: &str = "rollouts.parquet";
/// Samples in one row group.
const GROUP: usize = 4096;

const SCHEMA: &str = "
message rollouts {
    required binary id (STRING);
    required int32 generation;
    required binary text (STRING);
    required float reward;
    required boolean finished;
    required group tokens (LIST) { repeated group list { required int32 element (INTEGER(32, false)); } }
    required group logprobs (LIST) { repeated group list { required float element; } }
}";

/// One row.
#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    generation: usize,
    text: &'a str,
    reward: f32,
    finished: bool,
    tokens: &'a [u32],
    logprobs: &'a [f32],
}

fn rows(records: &[RolloutRecord]) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for record in records {
        for (generation, answer) in record.generations.iter().enumerate() {
            rows.push(Row {
                id: &record.id,
                generation,
                text: &answer.text,
                reward: answer.reward,
                finished: answer.finished,
                tokens: &answer.tokens,
                logprobs: &answer.logprobs,
            });
        }
    }
    rows
}

/// Writes JSON lines; gives the number of rows.
pub(super) fn write_jsonl(from: &Path, to: &Path) -> Result<usize, ExportError> {
    let rollouts = Rollouts::open(from)?;
    let path = to.join(JSONL);
    let mut out = BufWriter::new(File::create_new(&path).map_err(ExportError::io(&path))?);
    let rows = rows(&rollouts.records);
    for row in &rows {
        let line = serde_json::to_string(row).map_err(|error| ExportError::Table {
            path: path.clone(),
            problem: error.to_string(),
        })?;
        writeln!(out, "{line}").map_err(ExportError::io(&path))?;
    }
    out.flush().map_err(ExportError::io(&path))?;
    Ok(rows.len())
}

/// Writes a Parquet file; gives the number of rows.
pub(super) fn write_parquet(from: &Path, to: &Path) -> Result<usize, ExportError> {
    let rollouts = Rollouts::open(from)?;
    let path = to.join(PARQUET);
    let file = File::create_new(&path).map_err(ExportError::io(&path))?;
    write_table(file, &rollouts.records).map_err(|error| ExportError::Table {
        path: path.clone(),
        problem: error.to_string(),
    })?;
    Ok(rollouts.records.len() * rollouts.info.n)
}

fn write_table(file: File, records: &[RolloutRecord]) -> Result<(), ParquetError> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by("dcsft".to_owned())
        .build();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
    for part in records.chunks(GROUP) {
        let rows = rows(part);
        let mut group = writer.next_row_group()?;
        let texts = |text: fn(&Row<'_>) -> String| -> Vec<ByteArray> {
            rows.iter()
                .map(|row| ByteArray::from(text(row).into_bytes()))
                .collect()
        };
        column::<ByteArrayType>(&mut group, &texts(|row| row.id.to_owned()))?;
        let numbers: Vec<i32> = rows.iter().map(|row| row.generation as i32).collect();
        column::<Int32Type>(&mut group, &numbers)?;
        column::<ByteArrayType>(&mut group, &texts(|row| row.text.to_owned()))?;
        let rewards: Vec<f32> = rows.iter().map(|row| row.reward).collect();
        column::<FloatType>(&mut group, &rewards)?;
        let finished: Vec<bool> = rows.iter().map(|row| row.finished).collect();
        column::<BoolType>(&mut group, &finished)?;
        // Parquet keeps unsigned numbers in the bits of signed ones.
        let tokens = rows
            .iter()
            .map(|row| row.tokens.iter().map(|&token| token as i32).collect());
        lists::<Int32Type>(&mut group, tokens)?;
        let logprobs = rows.iter().map(|row| row.logprobs.to_vec());
        lists::<FloatType>(&mut group, logprobs)?;
        group.close()?;
    }
    writer.close().map(drop)
}

type Group<'a> = SerializedRowGroupWriter<'a, File>;

/// The next column, one value per row.
fn column<T: DataType>(group: &mut Group<'_>, values: &[T::T]) -> Result<(), ParquetError> {
    levelled::<T>(group, values, None, None)
}

/// The next column, a list per row. In Parquet's levels a value of definition 1 is there, one of 0 stands for an empty
/// list; repetition 0 begins a row.
fn lists<T: DataType>(
    group: &mut Group<'_>,
    rows: impl Iterator<Item = Vec<T::T>>,
) -> Result<(), ParquetError> {
    let (mut values, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        definitions.extend(std::iter::repeat_n(1, row.len()));
        repetitions.extend((0..row.len()).map(|index| i16::from(index > 0)));
        if row.is_empty() {
            definitions.push(0);
            repetitions.push(0);
        }
        values.extend(row);
    }
    levelled::<T>(group, &values, Some(&definitions), Some(&repetitions))
}

fn levelled<T: DataType>(
    group: &mut Group<'_>,
    values: &[T::T],
    definitions: Option<&[i16]>,
    repetitions: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("a column too many".into()));
    };
    column
        .typed::<T>()
        .write_batch(values, definitions, repetitions)?;
    column.close()
}
