//! What is known about each stage before the run, and how it was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dcsft_cache::{Digest, Record, StoreError};

use crate::key::{FilesIdentity, KeyError, KeyPreimage};
use crate::stage::{Numerics, Registry};
use crate::study::{Node, NodeId};

/// How to plan.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// `cpu` or `cuda`, with or without an index: its arithmetic is in the keys of numeric kinds.
    pub device: String,
    /// The arithmetic in the keys of numeric kinds; none for the device's.
    pub numerics: Option<Numerics>,
    /// Read every file of the user's again, and check the bytes of small cached files.
    pub paranoid: bool,
    /// Stages (by name or title) to run even if they are in the cache.
    pub force: BTreeSet<String>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            device: "cpu".to_owned(),
            numerics: None,
            paranoid: false,
            force: BTreeSet::new(),
        }
    }
}

impl PlanOptions {
    /// The arithmetic in the keys of numeric kinds.
    pub fn arithmetic(&self, registry: &Registry) -> Numerics {
        let own = || registry.numerics(&self.device);
        self.numerics.clone().unwrap_or_else(own)
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

/// Whether a record has every output that the study expects of the stage.
pub(crate) fn fits(record: &Record, node: &Node) -> bool {
    node.outputs
        .iter()
        .all(|output| record.outputs.contains_key(&output.name))
}

/// Whether the user asked for it to run though there is a result.
pub(crate) fn is_forced(node: &Node, options: &PlanOptions) -> bool {
    !options.force.is_empty()
        && (options.force.contains(&node.stage) || options.force.contains(&node.title()))
}
