//! Comparing a study with its lock file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use dcsft_cache::{Digest, Record, Store, StoreError};
use serde::Serialize;
use serde_json::Value;

use super::{Lock, LockedStage};
use crate::key::KeyPreimage;
use crate::plan::{NodeState, Plan};
use crate::study::{NodeId, Study};
use crate::why::{self, Change};

/// Where a study first differs from its lock file, in topological order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// The stage's title.
    pub stage: String,
    /// What differs.
    #[serde(flatten)]
    pub what: Difference,
}

/// What differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "divergence", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Difference {
    /// The stage is not in the lock file.
    NotLocked,
    /// The stage is in the lock file only.
    Gone,
    /// The stage is asked to do something else.
    Key {
        /// In the lock file.
        locked: Digest,
        /// Now.
        found: Digest,
        /// What makes the keys differ, if the cache still knows the locked one.
        changes: Vec<Change>,
    },
    /// The same work gave other bytes.
    Output {
        /// The output.
        output: String,
        /// In the lock file.
        locked: Option<Digest>,
        /// Now.
        found: Option<Digest>,
    },
    /// The same work gave another number.
    Metric {
        /// The metric.
        metric: String,
        /// In the lock file.
        locked: Option<Value>,
        /// Now.
        found: Option<Value>,
    },
}

impl Lock {
    /// Compares with what is known before anything runs: stages that come or went, keys, and results in the cache.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn check_plan(
        &self,
        study: &Study,
        plan: &Plan,
        store: &Store,
    ) -> Result<Option<Divergence>, StoreError> {
        self.check(study, |id| match &plan.node(id).state {
            NodeState::Cached { record, .. } => self.check_record(study, id, record, store),
            NodeState::ToRun { key, preimage, .. } => {
                self.check_key(study, id, key, Some(preimage), store)
            }
            NodeState::Waits { .. } => Ok(None),
        })
    }

    /// Compares with the results of a run; stages without a result are left out.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn check_results(
        &self,
        study: &Study,
        records: &[Option<Arc<Record>>],
        store: &Store,
    ) -> Result<Option<Divergence>, StoreError> {
        self.check(study, |id| match &records[id.0] {
            Some(record) => self.check_record(study, id, record, store),
            None => Ok(None),
        })
    }

    fn check(
        &self,
        study: &Study,
        mut difference: impl FnMut(NodeId) -> Result<Option<Difference>, StoreError>,
    ) -> Result<Option<Divergence>, StoreError> {
        let mut titles = BTreeSet::new();
        for node in &study.nodes {
            let stage = node.title();
            if !self.stages.contains_key(&stage) {
                return Ok(Some(Divergence {
                    stage,
                    what: Difference::NotLocked,
                }));
            }
            if let Some(what) = difference(node.id)? {
                return Ok(Some(Divergence { stage, what }));
            }
            titles.insert(stage);
        }
        let gone = self.stages.keys().find(|stage| !titles.contains(*stage));
        Ok(gone.map(|stage| Divergence {
            stage: stage.clone(),
            what: Difference::Gone,
        }))
    }

    fn check_key(
        &self,
        study: &Study,
        id: NodeId,
        found: &Digest,
        preimage: Option<&KeyPreimage>,
        store: &Store,
    ) -> Result<Option<Difference>, StoreError> {
        let node = &study.nodes[id.0];
        let Some(locked) = self
            .stages
            .get(&node.title())
            .map(|stage| stage.key)
            .filter(|key| key != found)
        else {
            return Ok(None);
        };
        let old = store
            .lookup(&locked)?
            .and_then(|record| why::preimage_of(&record));
        let changes = match (&old, preimage) {
            (Some(old), Some(new)) => why::changes(study, node, old, &new.sketch()),
            _ => Vec::new(),
        };
        Ok(Some(Difference::Key {
            locked,
            found: *found,
            changes,
        }))
    }

    fn check_record(
        &self,
        study: &Study,
        id: NodeId,
        record: &Record,
        store: &Store,
    ) -> Result<Option<Difference>, StoreError> {
        if let Some(difference) = self.check_key(
            study,
            id,
            &record.key,
            why::preimage_of(record).as_ref(),
            store,
        )? {
            return Ok(Some(difference));
        }
        let Some(locked) = self.stages.get(&study.nodes[id.0].title()) else {
            return Ok(None);
        };
        let found = LockedStage::of(record);
        let output =
            first_difference(&locked.outputs, &found.outputs).map(|(output, locked, found)| {
                Difference::Output {
                    output,
                    locked,
                    found,
                }
            });
        Ok(output.or_else(|| {
            first_difference(&locked.metrics, &found.metrics).map(|(metric, locked, found)| {
                Difference::Metric {
                    metric,
                    locked,
                    found,
                }
            })
        }))
    }
}

fn first_difference<V: Clone + PartialEq>(
    a: &BTreeMap<String, V>,
    b: &BTreeMap<String, V>,
) -> Option<(String, Option<V>, Option<V>)> {
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let name = names
        .into_iter()
        .find(|name| a.get(*name) != b.get(*name))?;
    Some((name.clone(), a.get(name).cloned(), b.get(name).cloned()))
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = &self.stage;
        match &self.what {
            Difference::NotLocked => write!(f, "{stage} is not in the lock file"),
            Difference::Gone => write!(f, "{stage} is in the lock file and no longer in the spec"),
            Difference::Key {
                locked,
                found,
                changes,
            } => {
                write!(
                    f,
                    "{stage} has key {} instead of {}",
                    found.short(),
                    locked.short()
                )?;
                changes
                    .iter()
                    .try_for_each(|change| write!(f, "\n  {change}"))
            }
            Difference::Output {
                output,
                locked,
                found,
            } => {
                let short = |digest: &Option<Digest>| {
                    digest.map_or_else(|| "none".to_owned(), |digest| digest.short())
                };
                write!(
                    f,
                    "{stage} did the same work and its output `{output}` is {} instead of {}",
                    short(found),
                    short(locked)
                )
            }
            Difference::Metric {
                metric,
                locked,
                found,
            } => {
                let shown = |value: &Option<Value>| {
                    value
                        .as_ref()
                        .map_or_else(|| "none".to_owned(), Value::to_string)
                };
                write!(
                    f,
                    "{stage} did the same work and {metric} is {} instead of {}",
                    shown(found),
                    shown(locked)
                )
            }
        }
    }
}
