//! Comparing a study with its lock file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use dcsft_cache::{Digest, Record, Store, StoreError};
use serde::Serialize;
use serde_json::Value;

use super::tolerance::{self, Tolerance};
use super::{Lock, LockedStage, work};
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
    /// The same work, by another arithmetic, gave a result that is further away than is tolerated.
    Beyond {
        /// The metric.
        metric: String,
        /// In the lock file.
        locked: Option<Value>,
        /// Now.
        found: Option<Value>,
        /// How far it may be.
        tolerance: Tolerance,
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
    /// Compares with what is known before anything runs: stages that come or went, keys, and results in the cache. With a
    /// tolerance, a stage may have another key that is asked to do the same, by another arithmetic or with inputs that
    /// another one computed; the results of evaluations then have to be within it.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn check_plan(
        &self,
        study: &Study,
        plan: &Plan,
        store: &Store,
        tolerance: Option<Tolerance>,
    ) -> Result<Option<Divergence>, StoreError> {
        self.check(study, |id| match &plan.node(id).state {
            NodeState::Cached { record, .. } => {
                self.check_record(study, id, record, store, tolerance)
            }
            NodeState::ToRun { key, preimage, .. } => {
                self.check_key(study, id, key, Some(preimage), store, tolerance)
            }
            NodeState::Waits { .. } => Ok(None),
        })
    }

    /// Compares with the results of a run, as [`Lock::check_plan`] does; stages without a result are left out.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn check_results(
        &self,
        study: &Study,
        records: &[Option<Arc<Record>>],
        store: &Store,
        tolerance: Option<Tolerance>,
    ) -> Result<Option<Divergence>, StoreError> {
        self.check(study, |id| match &records[id.0] {
            Some(record) => self.check_record(study, id, record, store, tolerance),
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
        tolerance: Option<Tolerance>,
    ) -> Result<Option<Difference>, StoreError> {
        let node = &study.nodes[id.0];
        let Some(stage) = self
            .stages
            .get(&node.title())
            .filter(|stage| stage.key != *found)
        else {
            return Ok(None);
        };
        let same = |preimage| stage.work.is_some() && stage.work == work(study, node, preimage);
        if tolerance.is_some() && preimage.is_some_and(same) {
            return Ok(None);
        }
        let locked = stage.key;
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
        tolerance: Option<Tolerance>,
    ) -> Result<Option<Difference>, StoreError> {
        let preimage = why::preimage_of(record);
        let (key, preimage) = (&record.key, preimage.as_ref());
        if let Some(difference) = self.check_key(study, id, key, preimage, store, tolerance)? {
            return Ok(Some(difference));
        }
        let node = &study.nodes[id.0];
        let title = node.title();
        let Some(locked) = self.stages.get(&title) else {
            return Ok(None);
        };
        let found = LockedStage::of(study, node, record);
        if let Some(tolerance) = tolerance.filter(|_| locked.key != record.key) {
            let results = tolerance::results(record);
            let apart = tolerance::differences(&title, locked, &found, &results);
            let beyond = apart.into_iter().find(|apart| {
                apart.judged && !tolerance.holds(apart.locked.as_ref(), apart.found.as_ref())
            });
            return Ok(beyond.map(|apart| Difference::Beyond {
                metric: apart.metric,
                locked: apart.locked,
                found: apart.found,
                tolerance,
            }));
        }
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

fn shown(value: &Option<Value>) -> String {
    let value = value.as_ref();
    value.map_or_else(|| "none".to_owned(), Value::to_string)
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
            Difference::Beyond {
                metric,
                locked,
                found,
                tolerance,
            } => write!(
                f,
                "{stage} did the same work by another arithmetic and {metric} is {} instead of {}, which is more than {} \
                 away",
                shown(found),
                shown(locked),
                tolerance.most()
            ),
            Difference::Metric {
                metric,
                locked,
                found,
            } => {
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
