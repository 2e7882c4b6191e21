//! What a run would do: which stages are in the cache, which have to run, which cannot be known yet.
//!
//! The walk goes down the graph. Where every input's content is known, the key is known and the cache can be
//! asked. Below a stage that has to run, keys are unknown: it may well reproduce bytes that are already there.

mod dag;
mod drawing;
pub mod forecast;
pub(crate) mod job;
mod node;
mod unfit;
mod walk;

use std::collections::{BTreeSet, HashSet};

use dcsft_cache::Store;
use serde::Serialize;

use crate::record::Execution;
use crate::stage::Registry;
use crate::study::{Node, NodeId, Study};

pub use dag::Dag;
pub use drawing::{dot, mermaid};
pub use node::{NodeState, PlanError, PlanOptions, PlannedNode};
pub(crate) use node::{fits, is_forced};

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
                summary.reused_seconds += Execution::of(record).seconds;
            }
            NodeState::ToRun { .. } => summary.to_run += 1,
            NodeState::Waits { .. } => summary.waiting += 1,
        }
    }
    summary
}
