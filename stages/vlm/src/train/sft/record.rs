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
    /// Mean of -log p over the answer tokens, before the update.
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

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SftSummary {
    /// Updates made.
    pub steps: usize,
    /// Updates that the run has.
    pub total: usize,
    /// The run came to its end; otherwise the observer stopped it.
    pub finished: bool,
    /// Mean loss of the last tenth of the updates, but of at least one.
    pub loss: f64,
}

impl SftSummary {
    /// The summary of a log; the run has `total` updates.
    pub fn of(log: &[SftRecord], total: usize) -> Self {
        let tail = &log[log.len() - log.len().div_ceil(10)..];
        let loss = tail.iter().map(|record| record.loss).sum::<f64>() / tail.len().max(1) as f64;
        Self {
            steps: log.len(),
            total,
            finished: log.len() == total,
            loss,
        }
    }
}
