//! The implicit filter: which difficulty bin the gradient came from, with the bins' names.

use dcsft_engine::stage::StageError;
use dcsft_vlm::model::Prompt;
use dcsft_vlm::train::grpo::{GrpoRecord, GrpoSummary};
use serde_json::{Map, Value, json};

use crate::difficulty::Scores;

/// The bin of prompts whose sample has none.
const NO_BIN: &str = "unbinned";
/// The one bin where no difficulty is given.
const ALL: &str = "all";

/// Bins by number.
pub(super) struct Bins {
    /// Their names: those of the difficulty stage in its order, then [`NO_BIN`] if there are prompts in it.
    pub(super) names: Vec<String>,
    /// The bin of each prompt.
    pub(super) of_prompt: Vec<usize>,
}

impl Bins {
    pub(super) fn new(scores: Option<&Scores>, prompts: &[Prompt]) -> Self {
        let Some(scores) = scores else {
            return Self {
                names: vec![ALL.to_owned()],
                of_prompt: vec![0; prompts.len()],
            };
        };
        let mut names = scores.bin_names();
        let by_id = scores.bins();
        let unbinned = names.len();
        let bin = |prompt: &Prompt| {
            let name = by_id.get(prompt.id.as_ref())?;
            names.iter().position(|known| known == name)
        };
        let of_prompt: Vec<usize> = prompts
            .iter()
            .map(|prompt| bin(prompt).unwrap_or(unbinned))
            .collect();
        if of_prompt.contains(&unbinned) {
            names.push(NO_BIN.to_owned());
        }
        Self { names, of_prompt }
    }

    /// A line of the log, with bins by name.
    pub(super) fn record(&self, record: &GrpoRecord) -> Result<Value, StageError> {
        let mut line = serde_json::to_value(record).map_err(StageError::failed)?;
        let named: Map<String, Value> = self
            .names
            .iter()
            .zip(&record.bins)
            .map(|(name, bin)| (name.clone(), json!(bin)))
            .collect();
        line["bins"] = Value::Object(named);
        Ok(line)
    }

    /// Each bin's part in the run, easiest bin first.
    pub(super) fn shares(&self, summary: &GrpoSummary) -> Vec<Value> {
        let share = |(name, bin): (&String, _)| {
            let mut share = json!({"bin": name});
            if let (Value::Object(share), Value::Object(fields)) = (&mut share, json!(bin)) {
                share.extend(fields);
            }
            share
        };
        self.names.iter().zip(&summary.bins).map(share).collect()
    }
}
