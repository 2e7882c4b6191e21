//! What a state says of the run that it is of.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::train::error::TrainError;

/// All of the state that is not tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    /// `sft` or `grpo`.
    pub(crate) trainer: String,
    /// Who may go on from the state.
    pub(crate) owner: String,
    /// The run's settings.
    pub(crate) config: Value,
    /// Digest of the training data.
    pub(crate) data: String,
    /// Updates of the optimiser.
    pub(crate) updates: u64,
    /// One record per step done.
    pub(crate) log: Vec<Value>,
}

impl Header {
    /// Describes a run that has made no step yet.
    pub(crate) fn new(
        trainer: &str,
        config: &impl Serialize,
        data: String,
    ) -> Result<Self, TrainError> {
        let config =
            serde_json::to_value(config).map_err(|error| TrainError::Data(error.to_string()))?;
        Ok(Self {
            trainer: trainer.to_owned(),
            owner: String::new(),
            config,
            data,
            updates: 0,
            log: Vec::new(),
        })
    }

    /// The same run, with a state of `owner`'s.
    pub(crate) fn owned_by(&self, owner: &str) -> Self {
        Self {
            owner: owner.to_owned(),
            ..self.clone()
        }
    }
}
