//! Results: one row for each metric of each finished evaluation.

pub mod aggregate;
pub mod matched;

use std::collections::BTreeMap;
use std::sync::Arc;

use dcsft_cache::Record;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kind::ArtifactType;
use crate::study::{Node, Study};

/// One metric of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultRow {
    /// The arm that the evaluated model belongs to, such as `sft/easy+medium`.
    pub arm: String,
    /// The axes of the evaluation's node.
    pub axes: BTreeMap<String, Value>,
    /// The training step of the checkpoint; none for a final model.
    pub step: Option<u64>,
    /// The set that it was evaluated on.
    pub set: String,
    /// `id` or `ood`.
    pub split: String,
    /// What was measured, such as `accuracy`.
    pub metric: String,
    /// The value.
    pub value: f64,
    /// The number of samples.
    pub n: Option<u64>,
    /// A 95% interval.
    pub ci: Option<[f64; 2]>,
}

/// An entry of `results` in a stage's summary: how an evaluation kind reports a metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SummaryResult {
    /// The set.
    pub set: String,
    /// `id` or `ood`.
    pub split: String,
    /// What was measured.
    pub metric: String,
    /// The value.
    pub value: f64,
    /// The number of samples.
    #[serde(default)]
    pub n: Option<u64>,
    /// A 95% interval.
    #[serde(default)]
    pub ci: Option<[f64; 2]>,
}

impl SummaryResult {
    /// The row of an evaluation: `arm` and `step` of the model, `axes` of the evaluation's node.
    pub fn row(self, arm: &str, axes: &BTreeMap<String, Value>, step: Option<u64>) -> ResultRow {
        ResultRow {
            arm: arm.to_owned(),
            axes: axes.clone(),
            step,
            set: self.set,
            split: self.split,
            metric: self.metric,
            value: self.value,
            n: self.n,
            ci: self.ci,
        }
    }
}

impl ResultRow {
    /// The columns that a table of rows has beside arm and axes.
    pub const COLUMNS: [&str; 8] = [
        "step", "set", "split", "metric", "value", "n", "ci_low", "ci_high",
    ];

    /// What the row has in these columns, empty where there is nothing.
    pub fn cells(&self) -> [String; 8] {
        let step = self.step.map(|step| step.to_string());
        let n = self.n.map(|n| n.to_string());
        let end = |index: usize| self.ci.map(|ci| ci[index].to_string()).unwrap_or_default();
        [
            step.unwrap_or_default(),
            self.set.clone(),
            self.split.clone(),
            self.metric.clone(),
            self.value.to_string(),
            n.unwrap_or_default(),
            end(0),
            end(1),
        ]
    }
}

/// The rows of all evaluations that have a result, in the order of the study. Entries of a summary that are not
/// [`SummaryResult`]s are left out.
pub fn rows(study: &Study, records: &[Option<Arc<Record>>]) -> Vec<ResultRow> {
    let mut rows = Vec::new();
    for (node, record) in study.nodes.iter().zip(records) {
        let Some(record) = record else { continue };
        let Some(Value::Array(results)) = record.summary.get("results") else {
            continue;
        };
        let step = step_of(study, node);
        for result in results {
            let Ok(result) = SummaryResult::deserialize(result) else {
                continue;
            };
            rows.push(result.row(&node.arm, &node.axes, step));
        }
    }
    rows
}

/// The axis that says which checkpoint is evaluated.
pub(crate) const STEP: &str = "step";

/// The step of the checkpoint that an evaluation reads: its axis `step`, else the number in the model output's name
/// (`step-100`); none for a final model.
pub(crate) fn step_of(study: &Study, node: &Node) -> Option<u64> {
    if let Some(step) = node.axes.get(STEP) {
        return step_value(step);
    }
    let references = node.inputs.iter().flat_map(|(_, references)| references);
    let mut models = references.filter(|reference| {
        let outputs = &study.nodes[reference.node.0].outputs;
        outputs
            .iter()
            .any(|output| output.name == reference.output && output.artifact == ArtifactType::Model)
    });
    step_in(&models.next()?.output)
}

/// The step that an axis value such as `100` or `step-100` means.
pub(crate) fn step_value(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| step_in(value.as_str()?))
}

fn step_in(name: &str) -> Option<u64> {
    name.strip_prefix("step-").unwrap_or(name).parse().ok()
}
