//! What a run would do: which stages are in the cache, which have to run, which cannot be known yet.
//!
//! The walk goes down the graph. Where every input's content is known, the key is known and the cache can be
//! asked. Below a stage that has to run, keys are unknown: it may well reproduce bytes that are already there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use dcsft_cache::canonical;
use dcsft_cache::{Digest, Record, Store, StoreError};
use serde::Serialize;

use crate::graph::Dag;
use crate::key::{self, FileDigests, FilesIdentity, KeyError, KeyPreimage};
use crate::kind::Registry;
use crate::study::{Node, NodeId, Reference, Study};

const PROSPECT_DOMAIN: &str = "dcsft 1 stage that has not run";

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
        let mut planner = Planner {
            study,
            registry,
            store,
            files: FileDigests::new(store, options.paranoid),
            records: HashMap::new(),
            prospects: HashMap::new(),
            prospect_of: Vec::with_capacity(study.nodes.len()),
            nodes: Vec::with_capacity(study.nodes.len()),
            options: &options,
        };
        for node in &study.nodes {
            planner.add(node)?;
        }
        let nodes = planner.nodes;
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

struct Planner<'a> {
    study: &'a Study,
    registry: &'a Registry,
    store: &'a Store,
    options: &'a PlanOptions,
    files: FileDigests<'a>,
    /// Look-ups by key: stages that share a key are looked up once.
    records: HashMap<Digest, Option<Arc<Record>>>,
    /// The first node that does a piece of work.
    prospects: HashMap<Digest, NodeId>,
    prospect_of: Vec<Digest>,
    nodes: Vec<PlannedNode>,
}

impl Planner<'_> {
    fn add(&mut self, node: &Node) -> Result<(), PlanError> {
        let kind = self
            .registry
            .get(&node.kind)
            .ok_or_else(|| KeyError::UnknownKind {
                title: node.title(),
                kind: node.kind.clone(),
            })?;
        let files = self.files.of(node)?;
        let canonical = |source| KeyError::Canonical {
            title: node.title(),
            source,
        };
        let preimage = key::preimage(
            self.study,
            node,
            kind,
            &self.options.device,
            &files,
            |reference| self.digest_of(reference),
        );
        let (state, prospect) = match preimage {
            Some(preimage) => {
                let key = preimage.digest().map_err(canonical)?;
                (self.known(node, key, preimage)?, key)
            }
            None => {
                let prospect = self.prospect(node, &files).map_err(canonical)?;
                (
                    NodeState::Waits {
                        on: self.missing_parents(node),
                    },
                    prospect,
                )
            }
        };
        let first = *self.prospects.entry(prospect).or_insert(node.id);
        self.prospect_of.push(prospect);
        self.nodes.push(PlannedNode {
            state,
            shares: (first != node.id).then_some(first),
            files,
        });
        Ok(())
    }

    fn known(
        &mut self,
        node: &Node,
        key: Digest,
        preimage: KeyPreimage,
    ) -> Result<NodeState, StoreError> {
        let record = match self.records.get(&key) {
            Some(known) => known.clone(),
            None => {
                let found = if self.options.paranoid {
                    self.store.lookup_verified(&key)?
                } else {
                    self.store.lookup(&key)?
                };
                let found = found.map(Arc::new);
                self.records.insert(key, found.clone());
                found
            }
        };
        let forced = is_forced(node, self.options);
        Ok(match record.filter(|record| fits(record, node)) {
            Some(record) if !forced => NodeState::Cached { key, record },
            record => NodeState::ToRun {
                key,
                preimage: Box::new(preimage),
                forced: record.is_some(),
            },
        })
    }

    fn digest_of(&self, reference: &Reference) -> Option<Digest> {
        self.nodes[reference.node.0]
            .state
            .record()?
            .outputs
            .get(&reference.output)
            .map(|output| output.digest)
    }

    fn missing_parents(&self, node: &Node) -> Vec<NodeId> {
        let references = node.inputs.iter().flat_map(|(_, references)| references);
        let missing: BTreeSet<NodeId> = references
            .filter(|reference| self.digest_of(reference).is_none())
            .map(|reference| reference.node)
            .collect();
        missing.into_iter().collect()
    }

    /// Stands for the key of a stage whose inputs do not exist yet: equal for stages that ask for the same work
    /// of the same upstream work, so that a plan can say how many executions it comes to.
    fn prospect(
        &self,
        node: &Node,
        files: &BTreeMap<String, FilesIdentity>,
    ) -> Result<Digest, canonical::CanonicalError> {
        let labelled = self
            .registry
            .get(&node.kind)
            .is_some_and(|kind| kind.labelled());
        let inputs: BTreeMap<&str, Vec<_>> = node
            .inputs
            .iter()
            .map(|(name, references)| {
                let identities = references.iter().map(|reference| {
                    let label = labelled.then(|| key::label(self.study, reference));
                    (self.prospect_of[reference.node.0], &reference.output, label)
                });
                (name.as_str(), identities.collect())
            })
            .collect();
        canonical::digest(PROSPECT_DOMAIN, &(&node.kind, &node.params, files, inputs))
    }
}

pub(crate) fn is_forced(node: &Node, options: &PlanOptions) -> bool {
    !options.force.is_empty()
        && (options.force.contains(&node.stage) || options.force.contains(&node.title()))
}

fn check_forced(study: &Study, options: &PlanOptions) -> Result<(), PlanError> {
    for name in &options.force {
        if !study
            .nodes
            .iter()
            .any(|node| node.stage == *name || node.title() == *name)
        {
            let stages: BTreeSet<&String> = study.nodes.iter().map(|node| &node.stage).collect();
            let stages = stages.into_iter().cloned().collect();
            return Err(PlanError::UnknownForced {
                name: name.clone(),
                stages,
            });
        }
    }
    Ok(())
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
