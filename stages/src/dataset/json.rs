//! Lists as JSON or JSON lines, as Python writes them.

use jiter::{Jiter, JiterError, JsonErrorType, JsonValue};

use super::cell::Cell;
use super::drops::{DropReason, Dropped};
use super::limits::MOST_RECORDS;

/// Bytes of the text of one record. An image written into it as base64 fits.
const LONGEST_RECORD: usize = 64 << 20;

/// The records of a list, or why the file is none.
pub(super) fn records(bytes: &[u8]) -> Result<Vec<Result<Cell, Dropped>>, String> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err("is written in UTF-16; save it as UTF-8".into());
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match bytes.trim_ascii_start().first() {
        None => Err("the file is empty".into()),
        Some(b'[') => list(bytes),
        Some(_) => lines(bytes),
    }
}

/// A JSON list.
fn list(bytes: &[u8]) -> Result<Vec<Result<Cell, Dropped>>, String> {
    if let Err(error) = std::str::from_utf8(bytes) {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        return Err(format!("line {line} is not UTF-8"));
    }
    let mut jiter = Jiter::new(bytes).with_allow_inf_nan();
    let mut out = Vec::new();
    elements(&mut jiter, &mut out).map_err(|stop| match stop {
        Stop::Syntax(error) => format!("is not valid JSON: {}", error.description(&jiter)),
        Stop::Limit(problem) => problem,
    })?;
    Ok(out)
}

/// Why a list is not read to its end.
enum Stop {
    Syntax(JiterError),
    Limit(String),
}

impl From<JiterError> for Stop {
    fn from(error: JiterError) -> Self {
        Self::Syntax(error)
    }
}

/// One element after the other, so that none takes memory before its length is known.
fn elements(jiter: &mut Jiter<'_>, out: &mut Vec<Result<Cell, Dropped>>) -> Result<(), Stop> {
    let mut next = jiter.next_array()?;
    while let Some(peek) = next {
        let start = jiter.current_index();
        jiter.known_skip(peek)?;
        let text = jiter.slice_to_current(start);
        check_length(text.len()).map_err(|problem| {
            let number = out.len();
            Stop::Limit(format!("record {number} {problem}"))
        })?;
        // What was skipped over is whole; a number can still be out of range.
        let value = JsonValue::parse(text, true).map_err(|error| {
            let mut error = JiterError::from(error);
            error.index += start;
            Stop::Syntax(error)
        })?;
        out.push(Ok(cell(&value)));
        check_count(out.len()).map_err(Stop::Limit)?;
        next = jiter.array_step()?;
    }
    Ok(jiter.finish()?)
}

/// One JSON record per line; empty lines do not count.
fn lines(bytes: &[u8]) -> Result<Vec<Result<Cell, Dropped>>, String> {
    let mut values = Vec::new();
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    for (index, text) in lines.filter(|(_, text)| !text.trim_ascii().is_empty()) {
        let number = index + 1;
        if let Some(problem) = comma(text) {
            return Err(format!("line {number} {problem}"));
        }
        values.push(line(text, number));
        check_count(values.len())?;
    }
    // No line holds a record: this is no JSONL at all, for example one object written over many lines.
    if !values
        .iter()
        .flatten()
        .any(|value| matches!(value, Cell::Record(_)))
    {
        let first = values.into_iter().find_map(Result::err);
        let first = first.map_or_else(
            || "no line holds a record".to_owned(),
            |dropped| dropped.detail,
        );
        return Err(format!(
            "is neither a JSON list of records nor JSON lines ({first})"
        ));
    }
    Ok(values)
}

fn line(bytes: &[u8], number: usize) -> Result<Cell, Dropped> {
    check_length(bytes.len())
        .map_err(|problem| Dropped::new(DropReason::Syntax, format!("line {number} {problem}")))?;
    std::str::from_utf8(bytes)
        .map_err(|_| Dropped::new(DropReason::NotUtf8, format!("line {number} is not UTF-8")))?;
    let value = JsonValue::parse(bytes, true).map_err(|error| {
        // The parser counts lines within the text it was given.
        let problem = error.description(bytes);
        let problem = problem.replace(" at line 1 column", " at column");
        Dropped::new(DropReason::Syntax, format!("line {number}: {problem}"))
    })?;
    Ok(cell(&value))
}

/// A record with a comma after it: lines cut out of a list.
fn comma(line: &[u8]) -> Option<&'static str> {
    let cut = line.trim_ascii().strip_suffix(b",")?;
    let error = JsonValue::parse(line, true).err()?;
    let record = error.error_type == JsonErrorType::TrailingCharacters && cut.ends_with(b"}");
    record.then_some(
        "ends in a comma; JSON lines have none between records (a JSON list has, between [ and ])",
    )
}

fn check_length(bytes: usize) -> Result<(), String> {
    if bytes <= LONGEST_RECORD {
        return Ok(());
    }
    Err(format!(
        "has {bytes} bytes; at most {LONGEST_RECORD} are read"
    ))
}

fn check_count(records: usize) -> Result<(), String> {
    if records <= MOST_RECORDS {
        return Ok(());
    }
    Err(format!("has more than {MOST_RECORDS} records"))
}

fn cell(value: &JsonValue<'_>) -> Cell {
    match value {
        JsonValue::Null => Cell::Null,
        JsonValue::Bool(value) => Cell::Bool(*value),
        JsonValue::Int(value) => Cell::Number(value.to_string()),
        JsonValue::BigInt(value) => Cell::Number(value.to_string()),
        JsonValue::Float(value) => Cell::float(*value),
        JsonValue::Str(text) => Cell::Text(text.as_ref().to_owned()),
        JsonValue::Array(items) => Cell::List(items.iter().map(cell).collect()),
        JsonValue::Object(fields) => Cell::Record(
            fields
                .iter()
                .map(|(name, value)| (name.as_ref().to_owned(), cell(value)))
                .collect(),
        ),
    }
}

/// A JSON text inside a field, as tables have it that know no nesting; none where it is no JSON.
pub(super) fn nested(text: &str) -> Option<Cell> {
    let value = JsonValue::parse(text.as_bytes(), true).ok()?;
    Some(cell(&value))
}
