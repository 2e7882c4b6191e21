//! What can go wrong while training.

use std::path::PathBuf;

use crate::error::VlmError;

/// An error of a trainer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting that no training run can have.
    #[error("`{field}` is {value}: {expected}")]
    Config {
        /// The setting's name, as the user writes it.
        field: &'static str,
        /// The value it has.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// Training data that cannot be trained on.
    #[error("training data: {0}")]
    Data(String),
    /// The model refused an example, or failed.
    #[error(transparent)]
    Model(#[from] VlmError),
    /// The loss or the gradient is no number any more.
    #[error(
        "step {step}: the {what} is {value}; training diverged (a smaller `learning_rate` or a smaller `max_grad_norm` helps)"
    )]
    Diverged {
        /// The step, counted from 1.
        step: usize,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// A trainer state that does not belong to this run, or is damaged.
    #[error("{path}: {problem}")]
    State {
        /// The state's file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file that could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The observer could not store a checkpoint.
    #[error("checkpoint of step {step}: {source}")]
    Checkpoint {
        /// The step, counted from 1.
        step: usize,
        /// The observer's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A tensor could not be read back from the device.
    #[error("reading {what} from the device: {problem}")]
    Device {
        /// The tensor.
        what: String,
        /// The backend's answer.
        problem: String,
    },
}

impl TrainError {
    /// A wrong setting.
    pub(crate) fn config(
        field: &'static str,
        value: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self::Config {
            field,
            value: value.to_string(),
            expected: expected.into(),
        }
    }
}
