//! From a file to records.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::drops::{DropReason, Dropped};
use super::layout::{self, Layout, RawRecord};

/// Why a list cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: {problem}")]
    Content { path: PathBuf, problem: String },
}

/// A list of records, each parsed or with the reason why not.
pub(super) struct Source {
    pub(super) layout: Layout,
    pub(super) records: Vec<Result<RawRecord, Dropped>>,
}

impl Source {
    pub(super) fn read(path: &Path, layout: Layout) -> Result<Self, SourceError> {
        let bytes = std::fs::read(path).map_err(|source| SourceError::Io {
            path: path.to_owned(),
            source,
        })?;
        parse(&bytes, layout).map_err(|problem| SourceError::Content {
            path: path.to_owned(),
            problem,
        })
    }
}

fn parse(bytes: &[u8], layout: Layout) -> Result<Source, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let values = match bytes.trim_ascii_start().first() {
        None => return Err("the file is empty".into()),
        Some(b'[') => list(bytes)?,
        Some(_) => lines(bytes)?,
    };
    if values.is_empty() {
        return Err("the list has no records".into());
    }
    let layout = match layout {
        Layout::Auto => detect(&values)?,
        given => given,
    };
    let records = values
        .into_iter()
        .map(|value| layout::read(layout, value?))
        .collect();
    Ok(Source { layout, records })
}

/// A JSON list.
fn list(bytes: &[u8]) -> Result<Vec<Result<Value, Dropped>>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        format!("line {line} is not UTF-8")
    })?;
    let values: Vec<Value> =
        serde_json::from_str(text).map_err(|error| format!("is not valid JSON: {error}"))?;
    Ok(values.into_iter().map(Ok).collect())
}

/// One JSON record per line; empty lines do not count.
fn lines(bytes: &[u8]) -> Result<Vec<Result<Value, Dropped>>, String> {
    let values: Vec<Result<Value, Dropped>> = bytes
        .split(|byte| *byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(index, line)| {
            let number = index + 1;
            let text = std::str::from_utf8(line).map_err(|_| {
                Dropped::new(DropReason::NotUtf8, format!("line {number} is not UTF-8"))
            })?;
            serde_json::from_str(text).map_err(|error| {
                // serde_json counts lines within the text it was given.
                let problem = error.to_string().replace(" at line 1 column", " at column");
                Dropped::new(DropReason::Syntax, format!("line {number}: {problem}"))
            })
        })
        .collect();
    // No line holds a record: this is no JSONL at all, for example one object written over many lines.
    if !values.iter().flatten().any(Value::is_object) {
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

/// The layout of the first record that has one.
fn detect(values: &[Result<Value, Dropped>]) -> Result<Layout, String> {
    let mut records = values.iter().flatten();
    if let Some(layout) = records.clone().find_map(layout::detect) {
        return Ok(layout);
    }
    let fields = records.find_map(Value::as_object).map(|record| {
        let names: Vec<&str> = record.keys().map(String::as_str).collect();
        format!("; the first record has the fields {}", names.join(", "))
    });
    Err(format!(
        "no known layout{}. Known are records with {}",
        fields.unwrap_or_default(),
        layout::KNOWN.map(|(_, fields)| fields).join("; ")
    ))
}
