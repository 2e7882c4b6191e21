//! What an evaluation counts.

use dcsft_engine::stage::SummaryResult;
use serde::{Deserialize, Serialize};

use super::wilson::wilson;
use crate::data::{DatasetInfo, Split};

/// One line of `answers.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The sample's content ID.
    pub id: String,
    /// What the model answered.
    pub text: String,
    /// The right answer.
    pub expected: String,
    /// The reward.
    pub reward: f32,
    /// The reward is the full one.
    pub correct: bool,
    /// The answer ended by itself and has the form that the set's answers have.
    pub well_formed: bool,
}

/// Running counts of an evaluation.
#[derive(Clone, Debug)]
pub struct Metrics {
    set: String,
    split: Split,
    n: u64,
    correct: u64,
    well_formed: u64,
}

impl Metrics {
    /// Counts of nothing yet.
    pub fn new(set: &DatasetInfo) -> Self {
        Self {
            set: set.set.clone(),
            split: set.split,
            n: 0,
            correct: 0,
            well_formed: 0,
        }
    }

    /// Counts an answer.
    pub fn add(&mut self, answer: &Answer) {
        self.n += 1;
        self.correct += u64::from(answer.correct);
        self.well_formed += u64::from(answer.well_formed);
    }

    /// `accuracy` and `format_accuracy` as shares in `[0, 1]`, with their 95% Wilson intervals.
    pub fn results(&self) -> Vec<SummaryResult> {
        [
            ("accuracy", self.correct),
            ("format_accuracy", self.well_formed),
        ]
        .map(|(metric, count)| SummaryResult {
            set: self.set.clone(),
            split: self.split.name().to_owned(),
            metric: metric.to_owned(),
            value: count as f64 / self.n.max(1) as f64,
            n: Some(self.n),
            ci: Some(wilson(count, self.n)),
            ..SummaryResult::default()
        })
        .into()
    }
}
