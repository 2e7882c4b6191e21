//! What an SFT run logs.

use serde::{Deserialize, Serialize};

/// What one update did: one line of the loss log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SftRecord {
    /// The update, counted from 1.
    pub step: usize,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Its learning rate.
    pub learning_rate: f64,
    /// The mean of -log p that is trained on, before the update.
    pub loss: f64,
    /// Mean cross-entropy of the auxiliary classifier.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub auxiliary_loss: Option<f64>,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Samples seen.
    pub samples: usize,
    /// Answer tokens seen.
    pub tokens: usize,
}
