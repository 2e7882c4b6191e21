//! Errors of reading and writing samples.

use std::path::{Path, PathBuf};

use dcsft_engine::stage::StageError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why samples or rollouts could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file does not hold what its name promises.
    #[error("{path}: {message}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line where there is one.
        message: String,
    },
    /// An image could not be decoded.
    #[error("the image cannot be read: {0}")]
    Image(String),
    /// An image has more pixels than are decoded.
    #[error("{width} x {height} pixels are too many; at most {most} are decoded")]
    TooLarge {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// The most pixels of an image.
        most: u64,
    },
    /// A sample cannot be put to a model.
    #[error("sample {id}: {message}")]
    Sample {
        /// The sample's content ID.
        id: String,
        /// What does not fit.
        message: String,
    },
}

impl DataError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn format(path: &Path, message: impl Into<String>) -> Self {
        Self::Format {
            path: path.to_owned(),
            message: message.into(),
        }
    }
}

impl From<DataError> for StageError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Io { path, source } => Self::Io { path, source },
            other => Self::failed(other),
        }
    }
}

/// Reads a whole JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, DataError> {
    let bytes = dcsft_cache::file::bytes(path).map_err(DataError::io(path))?;
    serde_json::from_slice(&bytes).map_err(|error| DataError::format(path, error.to_string()))
}

/// Writes `value` as indented JSON with a final newline.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), DataError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| DataError::format(path, error.to_string()))?;
    text.push(b'\n');
    std::fs::write(path, text).map_err(DataError::io(path))
}

/// Reads a file of JSON lines; all threads parse, the order is the file's.
pub(crate) fn read_lines<T: DeserializeOwned + Send>(path: &Path) -> Result<Vec<T>, DataError> {
    use rayon::prelude::*;
    let text = dcsft_cache::file::text(path).map_err(DataError::io(path))?;
    let lines: Vec<&str> = text.lines().collect();
    lines
        .into_par_iter()
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str(line)
                .map_err(|error| DataError::format(path, format!("line {}: {error}", index + 1)))
        })
        .collect()
}
