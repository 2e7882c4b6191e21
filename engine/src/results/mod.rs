//! Results: one row for each metric of each finished evaluation.

pub mod aggregate;
pub mod csv;
pub mod matched;
pub mod paired;
pub mod places;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use dcsft_cache::Record;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::kind::ArtifactType;
use crate::left_out;
use crate::study::{Node, NodeId, Reference, Study, plain};

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

/// An output of a stage, in the words of the spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The stage's name.
    pub stage: String,
    /// The axes of its cell.
    pub axes: BTreeMap<String, Value>,
    /// The output's name.
    pub output: String,
}

impl Origin {
    fn of(study: &Study, reference: &Reference) -> Self {
        let node = &study.nodes[reference.node.0];
        Self {
            stage: node.stage.clone(),
            axes: node.axes.clone(),
            output: reference.output.clone(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stage)?;
        let axes: Vec<String> = self
            .axes
            .iter()
            .map(|(axis, value)| format!("{axis}={}", plain(value)))
            .collect();
        if !axes.is_empty() {
            write!(f, "[{}]", axes.join(","))?;
        }
        write!(f, ".{}", self.output)
    }
}

fn as_text<S: Serializer>(origin: &Option<Origin>, serializer: S) -> Result<S::Ok, S::Error> {
    match origin {
        Some(origin) => serializer.collect_str(origin),
        None => serializer.serialize_none(),
    }
}

/// What an evaluation evaluated, and on what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The model.
    pub model: Option<Origin>,
    /// The set.
    pub data: Option<Origin>,
    /// The training step of the checkpoint; none for a final model.
    pub step: Option<u64>,
}

impl Evaluated {
    /// Of an evaluation's node.
    pub(crate) fn of(study: &Study, node: &Node) -> Self {
        let first = |artifact| reading(study, node, artifact);
        let model = first(ArtifactType::Model);
        Self {
            // A checkpoint is named for its step. An axis `step` tells it where no model is read by name.
            step: match model {
                Some(model) => step_in(&model.output),
                None => node.axes.get(STEP).and_then(step_value),
            },
            model: model.map(|model| Origin::of(study, model)),
            data: first(ArtifactType::Dataset).map(|data| Origin::of(study, data)),
        }
    }
}

/// The first reference of `node` to an artifact of this type.
fn reading<'a>(study: &Study, node: &'a Node, artifact: ArtifactType) -> Option<&'a Reference> {
    let references = node.inputs.iter().flat_map(|(_, references)| references);
    references.into_iter().find(|reference| {
        let outputs = &study.nodes[reference.node.0].outputs;
        outputs
            .iter()
            .any(|output| output.name == reference.output && output.artifact == artifact)
    })
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
    /// The row of an evaluation: `arm` of its model, stage and axes of its own node.
    pub fn row(
        self,
        arm: &str,
        stage: &str,
        axes: &BTreeMap<String, Value>,
        evaluated: &Evaluated,
    ) -> ResultRow {
        ResultRow {
            arm: arm.to_owned(),
            axes: axes.clone(),
            step: evaluated.step,
            set: self.set,
            split: self.split,
            metric: self.metric,
            value: self.value,
            n: self.n,
            ci: self.ci,
            stage: stage.to_owned(),
            model: evaluated.model.clone(),
            data: evaluated.data.clone(),
        }
    }
}

impl ResultRow {
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
            .any(|output| output.artifact == ArtifactType::Evaluation);
        let Some(record) = record else {
            found.missing.extend(evaluation.then_some(node.id));
            continue;
        };
        let results = match record.summary.get("results") {
            Some(Value::Array(results)) => results.as_slice(),
            Some(_) => {
                let what = "its `results` are no list".to_owned();
                found.unreadable.push((node.id, what));
                continue;
            }
            // A skipped stage says so in its place.
            None if left_out::skipped(&record.summary).is_some() => continue,
            None if evaluation => {
                let what = "its record holds no results".to_owned();
                found.unreadable.push((node.id, what));
                continue;
            }
            None => continue,
        };
        let evaluated = Evaluated::of(study, node);
        for (index, result) in results.iter().enumerate() {
            match SummaryResult::deserialize(result) {
                Ok(result) => {
                    let row = result.row(&node.arm, &node.stage, &node.axes, &evaluated);
                    found.rows.push(row);
                    found.nodes.push(node.id);
                }
                Err(error) => {
                    let what = format!("result {} of its record: {error}", index + 1);
                    found.unreadable.push((node.id, what));
                }
            }
        }
    }
    found
}

/// The axis that says which checkpoint is evaluated.
pub(crate) const STEP: &str = "step";

/// The step that an axis value such as `100` or `step-100` means.
fn step_value(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| step_in(value.as_str()?))
}

fn step_in(name: &str) -> Option<u64> {
    name.strip_prefix("step-").unwrap_or(name).parse().ok()
}
