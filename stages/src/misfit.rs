//! Samples that a model cannot take: counted by reason and left out, or the stage fails.

use std::collections::BTreeMap;

use dcsft_engine::context::StageContext;
use dcsft_engine::kind::StageError;
use dcsft_vlm::error::VlmError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::data::DataError;

/// What happens to a sample that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// It is left out and counted under its reason.
    #[default]
    Drop,
    /// The stage fails and names the sample.
    Fail,
}

/// Why one sample does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Misfit {
    /// A short constant to count by: `vocabulary`, `too_long`, `image`, `answer`, `other`.
    pub(crate) reason: String,
    /// The sample and what does not fit, for people.
    pub(crate) detail: String,
}

impl Misfit {
    /// A misfit of the sample with content ID `id`.
    pub(crate) fn new(reason: &str, id: &str, detail: impl std::fmt::Display) -> Self {
        Self {
            reason: reason.to_owned(),
            detail: format!("sample {id}: {detail}"),
        }
    }

    /// What the model says of the sample with content ID `id`.
    pub(crate) fn of_model(id: &str, error: &VlmError) -> Self {
        let reason = match error {
            VlmError::Vocabulary { .. } => "vocabulary",
            VlmError::TooLong { .. } => "too_long",
            _ => "other",
        };
        Self::new(reason, id, error)
    }

    /// A problem of the sample's own data, or the error back where the whole set cannot be read.
    pub(crate) fn of_data(id: &str, error: DataError) -> Result<Self, StageError> {
        match error {
            DataError::Image(_) | DataError::Sample { .. } => Ok(Self::new("image", id, error)),
            other => Err(other.into()),
        }
    }
}

/// Counts of samples left out.
#[derive(Debug)]
pub(crate) struct Dropped {
    on_error: OnError,
    counts: BTreeMap<String, u64>,
}

/// Samples named in the log for each reason.
const NAMED: u64 = 3;

impl Dropped {
    pub(crate) fn new(on_error: OnError) -> Self {
        Self {
            on_error,
            counts: BTreeMap::new(),
        }
    }

    /// Leaves a sample out, or fails.
    pub(crate) fn add(&mut self, ctx: &mut StageContext, misfit: Misfit) -> Result<(), StageError> {
        if self.on_error == OnError::Fail {
            let message = format!(
                "{} (`on_error: drop` leaves such samples out)",
                misfit.detail
            );
            return Err(StageError::failed(message));
        }
        let count = self.counts.entry(misfit.reason.clone()).or_default();
        *count += 1;
        if *count <= NAMED {
            ctx.log(format!("left out ({}): {}", misfit.reason, misfit.detail));
        }
        Ok(())
    }

    /// How many samples were left out.
    pub(crate) fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// `{"total": 3, "by_reason": {...}}` for summaries and outputs.
    pub(crate) fn to_json(&self) -> Value {
        json!({"total": self.total(), "by_reason": self.counts})
    }

    /// Fails where no sample of `all` is left for `what`.
    pub(crate) fn ensure_some_left(&self, all: usize, what: &str) -> Result<(), StageError> {
        if all == 0 {
            return Err(StageError::failed(format!(
                "the input `data` has no samples, so there is nothing to {what}"
            )));
        }
        if self.total() == all as u64 {
            let reasons: Vec<String> = self
                .counts
                .iter()
                .map(|(reason, count)| format!("{reason}: {count}"))
                .collect();
            return Err(StageError::failed(format!(
                "none of the {all} samples fits the model ({}), so there is nothing to {what}",
                reasons.join(", ")
            )));
        }
        Ok(())
    }
}
