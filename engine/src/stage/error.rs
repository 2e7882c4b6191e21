//! Why a stage fails.

use std::path::PathBuf;

/// Why a stage failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The stage's own reason, in words for the user.
    #[error("{0}")]
    Failed(String),
    /// A file of the stage could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The run was interrupted; the stage saved what it can resume from.
    #[error("interrupted")]
    Interrupted,
}

impl StageError {
    /// A failure with the stage's own reason.
    pub fn failed(reason: impl std::fmt::Display) -> Self {
        Self::Failed(reason.to_string())
    }

    /// For `map_err` on file operations.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
