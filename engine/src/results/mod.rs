//! Results: one row for each metric of each finished evaluation, and what tables make of them.

pub mod aggregate;
pub mod arms;
pub mod csv;
pub mod matched;
pub mod paired;
pub mod places;
pub mod statistics;

use std::collections::BTreeMap;
use std::sync::Arc;

use dcsft_cache::Record;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::stage::{Evaluated, Origin, Summary, SummaryResult};
use crate::study::{NodeId, Study};

/// One metric of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    /// The stage of the spec that evaluated. With the axes it names the evaluation.
    pub stage: String,
    /// The model that was evaluated: `sft[seed=0,subset=easy].step-100` as text.
    #[serde(serialize_with = "as_text", skip_serializing_if = "Option::is_none")]
    pub model: Option<Origin>,
    /// The set it was evaluated on, likewise.
    #[serde(serialize_with = "as_text", skip_serializing_if = "Option::is_none")]
    pub data: Option<Origin>,
}

fn as_text<S: Serializer>(origin: &Option<Origin>, serializer: S) -> Result<S::Ok, S::Error> {
    match origin {
        Some(origin) => serializer.collect_str(origin),
        None => serializer.serialize_none(),
    }
}

impl ResultRow {
    /// The row of an evaluation: `arm` of its model, stage and axes of its own node.
    pub fn of(
        result: SummaryResult,
        arm: &str,
        stage: &str,
        axes: &BTreeMap<String, Value>,
        evaluated: &Evaluated,
    ) -> Self {
        Self {
            arm: result.arm.unwrap_or_else(|| arm.to_owned()),
            axes: axes.clone(),
            step: result.step.or(evaluated.step),
            set: result.set,
            split: result.split,
            metric: result.metric,
            value: result.value,
            n: result.n,
            ci: result.ci,
            stage: stage.to_owned(),
            model: evaluated.model.clone(),
            data: evaluated.data.clone(),
        }
    }

    /// The axes of the evaluation and of the model it evaluated, which may be one cell picked by name.
    pub fn all_axes(&self) -> BTreeMap<&str, &Value> {
        let model = self.model.iter().flat_map(|model| &model.axes);
        model
            .chain(&self.axes)
            .map(|(axis, value)| (axis.as_str(), value))
            .collect()
    }
}

/// The results of a study.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// One row for each metric of each finished evaluation, in the order of the study.
    pub rows: Vec<ResultRow>,
    /// The evaluation of each row.
    pub nodes: Vec<NodeId>,
    /// What finished evaluations tell that cannot be read: the evaluation, and what is wrong.
    pub unreadable: Vec<(NodeId, String)>,
    /// Evaluations that have no result yet.
    pub missing: Vec<NodeId>,
}

/// The results that `records` hold.
pub fn rows(study: &Study, records: &[Option<Arc<Record>>]) -> Rows {
    let mut found = Rows::default();
    for (node, record) in study.nodes.iter().zip(records) {
        let evaluation = node
            .outputs
            .iter()
            .any(|output| output.artifact.holds_results());
        let Some(record) = record else {
            found.missing.extend(evaluation.then_some(node.id));
            continue;
        };
        let (summary, unreadable) = Summary::read(&record.summary);
        let told = !unreadable.is_empty() || summary.skipped.is_some();
        let unreadable = unreadable.into_iter().map(|what| (node.id, what));
        found.unreadable.extend(unreadable);
        let Some(results) = summary.results else {
            // A skipped stage says so in its place.
            if evaluation && !told {
                let what = "its record holds no results".to_owned();
                found.unreadable.push((node.id, what));
            }
            continue;
        };
        let evaluated = study.evaluated(node);
        for result in results {
            let row = ResultRow::of(result, &node.arm, &node.stage, &node.axes, &evaluated);
            found.rows.push(row);
            found.nodes.push(node.id);
        }
    }
    found
}
