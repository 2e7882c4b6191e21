//! Why an artifact could not be exported.

use std::path::{Path, PathBuf};

use dcsft_vlm::error::VlmError;

use super::format::Format;
use crate::data::DataError;

/// Why an artifact could not be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A format that this kind of artifact does not have.
    #[error("it has no format `{}`; it has {}", format.name(), names(known))]
    Format {
        /// What was asked for.
        format: Format,
        /// What there is.
        known: &'static [Format],
    },
    /// The folder to write to holds something.
    #[error("{0} is not empty; name a new folder, or empty this one")]
    NotEmpty(PathBuf),
    /// A model without adapters.
    #[error("the model has no adapters; `--format merged` writes its weights")]
    NoAdapter,
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Samples or answers could not be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model could not be read or written.
    #[error(transparent)]
    Model(#[from] VlmError),
    /// A table could not be written.
    #[error("{path}: {problem}")]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl ExportError {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

fn names(formats: &[Format]) -> String {
    let names: Vec<String> = formats
        .iter()
        .map(|format| format!("`{}`", format.name()))
        .collect();
    names.join(", ")
}
