//! A study with its results.

use std::cell::OnceCell;
use std::sync::Arc;

use dcsft_cache::{Digest, Record, Store};
use dcsft_engine::key::KeyPreimage;
use dcsft_engine::results::arms::{self, Group};
use dcsft_engine::results::places::{Place, places};
use dcsft_engine::results::{self, ResultRow};
use dcsft_engine::stage::ArtifactType;
use dcsft_engine::study::{NodeId, Reference, Study};

use crate::report::data::Comparison;

/// The metric of the study's tables.
pub(crate) const ACCURACY: &str = "accuracy";
/// Share of answers that are in the task's format at all.
pub(crate) const FORMAT_ACCURACY: &str = "format_accuracy";
/// Arms that others are compared with, the first that exists.
const BASELINES: [&str; 3] = ["cold_start", "baseline", "base"];

/// A study with those of its results that exist.
pub(crate) struct Results<'a> {
    /// The study.
    pub(crate) study: &'a Study,
    /// The result of each node.
    pub(crate) records: &'a [Option<Arc<Record>>],
    /// Where their artifacts are.
    pub(crate) store: &'a Store,
    /// Evaluations.
    pub(crate) rows: Vec<ResultRow>,
    /// The evaluation's node of each row.
    pub(crate) nodes: Vec<NodeId>,
    /// Where each row stands in the tables.
    pub(crate) places: Vec<Place>,
    /// Of each row, the content of the set that was evaluated, where it is known.
    samples: Vec<Option<Digest>>,
    /// Results that cannot be read, and why.
    pub(crate) unreadable: Vec<(NodeId, String)>,
    /// Evaluations that have no result yet.
    pub(crate) missing: Vec<NodeId>,
    /// Single runs compared sample by sample, and what kept others from it: made once, since it reads all answers.
    pub(super) compared: OnceCell<(Vec<Comparison>, Vec<String>)>,
}

impl<'a> Results<'a> {
    /// Gathers the evaluations among `records`.
    pub(crate) fn new(
        study: &'a Study,
        records: &'a [Option<Arc<Record>>],
        store: &'a Store,
    ) -> Self {
        let results::Rows {
            rows,
            nodes,
            unreadable,
            missing,
        } = results::rows(study, records);
        Self {
            study,
            records,
            store,
            places: places(&rows, arms::SEED),
            samples: nodes
                .iter()
                .map(|node| samples_of(study, records, *node))
                .collect(),
            rows,
            nodes,
            unreadable,
            missing,
            compared: OnceCell::new(),
        }
    }

    /// The rows of a metric by arm and step.
    pub(crate) fn groups(&self, metric: &str) -> Vec<Group> {
        arms::group(&self.rows, &self.places, metric)
    }

    /// Whether two rows are of the same samples: their sets have one content, or come from one cell of a stage where the
    /// content is not known.
    pub(crate) fn same_samples(&self, a: usize, b: usize) -> bool {
        match (self.samples[a], self.samples[b]) {
            (Some(a), Some(b)) => a == b,
            _ => self.rows[a].data == self.rows[b].data,
        }
    }

    /// The arm that the others are compared with.
    pub(crate) fn baseline(&self) -> Option<&'static str> {
        BASELINES
            .into_iter()
            .find(|arm| self.rows.iter().any(|row| row.arm == *arm))
    }
}

/// The content of the set that a node evaluated: of the record that made it, else of the evaluation's own key.
fn samples_of(study: &Study, records: &[Option<Arc<Record>>], node: NodeId) -> Option<Digest> {
    let is_set = |reference: &&Reference| {
        let mut outputs = study.nodes[reference.node.0].outputs.iter();
        outputs.any(|output| {
            output.name == reference.output && output.artifact == ArtifactType::Dataset
        })
    };
    let inputs = &study.nodes[node.0].inputs;
    let (name, set) = inputs
        .iter()
        .find_map(|(name, references)| Some((name, references.iter().find(is_set)?)))?;
    let made = records[set.node.0].as_ref();
    if let Some(made) = made.and_then(|record| record.outputs.get(&set.output)) {
        return Some(made.digest);
    }
    let preimage: KeyPreimage = records[node.0].as_ref()?.explain.parse().ok()?;
    Some(preimage.inputs.get(name)?.first()?.digest)
}
