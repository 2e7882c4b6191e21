//! What a run would do: which stages are in the cache, which have to run, which cannot be known yet.
//!
//! The walk goes down the graph. Where every input's content is known, the key is known and the cache can be
//! asked. Below a stage that has to run, keys are unknown: it may well reproduce bytes that are already there.

mod walk;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use dcsft_cache::{Digest, Record, Store, StoreError};
use serde::Serialize;

use crate::graph::Dag;
use crate::key::{FilesIdentity, KeyError, KeyPreimage};
use crate::kind::Registry;
use crate::study::{Node, NodeId, Study};

/// How to plan.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// `cpu` or `cuda`, with or without an index: its arithmetic is in the keys of numeric kinds.
    pub device: String,
    /// Read every file of the user's again, and check the bytes of small cached files.
    pub paranoid: bool,
    /// Stages (by name or title) to run even if they are in the cache.
    pub force: BTreeSet<String>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            device: "cpu".to_owned(),
            paranoid: false,
            force: BTreeSet::new(),
        }
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A key cannot be computed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The cache cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name to force that no stage has.
    #[error("there is no stage `{name}` to force; stages are {}", stages.join(", "))]
    UnknownForced {
        /// What was asked for.
        name: String,
        /// The stages of the spec.
        stages: Vec<String>,
    },
}

/// What is known about one stage before the run.
#[derive(Clone, Debug)]
pub enum NodeState {
    /// Its result is in the cache.
    Cached {
        /// The key.
        key: Digest,
        /// The result.
        record: Arc<Record>,
    },
    /// It has to run.
    ToRun {
        /// The key.
        key: Digest,
        /// What the key is the digest of.
        preimage: Box<KeyPreimage>,
        /// It is in the cache, and runs because the user asked for it.
        forced: bool,
    },
    /// Its key depends on results that do not exist yet.
    Waits {
        /// The stages it waits for, directly.
        on: Vec<NodeId>,
    },
}

impl NodeState {
    /// The key, where it is known.
    pub fn key(&self) -> Option<Digest> {
        match self {
            Self::Cached { key, .. } | Self::ToRun { key, .. } => Some(*key),
            Self::Waits { .. } => None,
        }
    }

    /// The cached result.
    pub fn record(&self) -> Option<&Arc<Record>> {
        match self {
            Self::Cached { record, .. } => Some(record),
            _ => None,
        }
    }

    /// `cached`, `to run` or `waits`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Cached { .. } => "cached",
            Self::ToRun { .. } => "to run",
            Self::Waits { .. } => "waits",
        }
    }
}

/// One stage of the plan.
#[derive(Clone, Debug)]
pub struct PlannedNode {
    /// What is known about it.
    pub state: NodeState,
    /// An earlier stage that does the very same work, as far as can be known now.
    pub shares: Option<NodeId>,
    /// The identity of its files.
    pub(crate) files: BTreeMap<String, FilesIdentity>,
}

/// What a run would do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One entry for each node of the study.
    pub nodes: Vec<PlannedNode>,
    /// The graph.
    pub dag: Dag,
    /// How it was planned.
    pub options: PlanOptions,
    /// The totals.
    pub summary: PlanSummary,
}

/// The totals of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PlanSummary {
    /// Stage instances if every cell of the axes ran its own pipeline.
    pub cells: usize,
    /// Stages of the study.
    pub stages: usize,
    /// Executions that these come to once equal work is shared.
    pub distinct: usize,
    /// Stages that do the same work as another one.
    pub shared: usize,
    /// Distinct executions in the cache.
    pub cached: usize,
    /// Distinct executions that have to run.
    pub to_run: usize,
    /// Distinct executions that wait for others before their key is known.
    pub waiting: usize,
    /// Seconds that the cached executions took when they ran.
    pub reused_seconds: f64,
}

impl Plan {
    /// Plans a study against a cache.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new(
        study: &Study,
        registry: &Registry,
        store: &Store,
        options: PlanOptions,
    ) -> Result<Self, PlanError> {
        check_forced(study, &options)?;
        let nodes = walk::walk(study, registry, store, &options)?;
        let summary = summarise(study, &nodes);
        Ok(Self {
            nodes,
            dag: Dag::new(study),
            options,
            summary,
        })
    }

    /// The plan of one stage.
    pub fn node(&self, id: NodeId) -> &PlannedNode {
        &self.nodes[id.0]
    }

    /// Whether there is nothing to do.
    pub fn is_complete(&self) -> bool {
        self.nodes
            .iter()
            .all(|node| matches!(node.state, NodeState::Cached { .. }))
    }
}

/// Whether a record has every output that the study expects of the stage.
pub(crate) fn fits(record: &Record, node: &Node) -> bool {
    node.outputs
        .iter()
        .all(|output| record.outputs.contains_key(&output.name))
}

pub(crate) fn is_forced(node: &Node, options: &PlanOptions) -> bool {
    !options.force.is_empty()
        && (options.force.contains(&node.stage) || options.force.contains(&node.title()))
}

fn check_forced(study: &Study, options: &PlanOptions) -> Result<(), PlanError> {
    if options.force.is_empty() {
        return Ok(());
    }
    let stages: BTreeSet<&String> = study.nodes.iter().map(|node| &node.stage).collect();
    let titles: HashSet<String> = study.nodes.iter().map(Node::title).collect();
    let known = |name: &String| stages.contains(name) || titles.contains(name);
    match options.force.iter().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => Err(PlanError::UnknownForced {
            name: name.clone(),
            stages: stages.into_iter().cloned().collect(),
        }),
    }
}

fn summarise(study: &Study, nodes: &[PlannedNode]) -> PlanSummary {
    let mut summary = PlanSummary {
        cells: study.cells,
        stages: nodes.len(),
        ..PlanSummary::default()
    };
    for node in nodes {
        if node.shares.is_some() {
            summary.shared += 1;
            continue;
        }
        summary.distinct += 1;
        match &node.state {
            NodeState::Cached { record, .. } => {
                summary.cached += 1;
                summary.reused_seconds += record.seconds();
            }
            NodeState::ToRun { .. } => summary.to_run += 1,
            NodeState::Waits { .. } => summary.waiting += 1,
        }
    }
    summary
}
