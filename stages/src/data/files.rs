//! The files of a dataset, and how they are written.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::error::DataError;

pub(super) const INFO: &str = "dataset.json";
pub(super) const SAMPLES: &str = "samples.jsonl";
pub(super) const IMAGES: &str = "images.pack";

/// A buffered writer onto a new file.
pub(super) fn create(path: &Path) -> Result<BufWriter<File>, DataError> {
    Ok(BufWriter::with_capacity(
        1 << 18,
        File::create_new(path).map_err(DataError::io(path))?,
    ))
}

/// Appends `value` as one JSON line.
pub(super) fn write_line<T: serde::Serialize>(
    out: &mut impl Write,
    value: &T,
    path: &Path,
) -> Result<(), DataError> {
    let mut line =
        serde_json::to_vec(value).map_err(|error| DataError::format(path, error.to_string()))?;
    line.push(b'\n');
    out.write_all(&line).map_err(DataError::io(path))
}
