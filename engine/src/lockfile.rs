//! Lock files: what a study came to, as stable text, to compare a later run with.
//!
//! The first line says what it is; then comes one JSON object per stage, sorted by title, so that `diff` shows
//! which stages differ. A lock holds keys, output digests and metrics: no time, no path, no host.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use dcsft_cache::{Digest, Record, Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::{NodeState, Plan};
use crate::study::{NodeId, Study};
use crate::why::{self, Change};

/// Version of the text.
pub const FORMAT: u32 = 1;

/// A lock file's content.
#[derive(Clone, Debug, PartialEq)]
pub struct Lock {
    /// `name:` of the spec.
    pub spec: String,
    /// Stages by title.
    pub stages: BTreeMap<String, LockedStage>,
}

/// What one stage came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LockedStage {
    /// Its key.
    pub key: Digest,
    /// Content digests of its outputs.
    pub outputs: BTreeMap<String, Digest>,
    /// The numbers, words and flags of its summary, by dotted path; results as `set/metric`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    dcsft_lock: u32,
    spec: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    stage: String,
    #[serde(flatten)]
    locked: LockedStage,
}

/// A text that is not a lock file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// A line cannot be read.
    #[error("line {line} of the lock file: {message}; write it anew with `dcsft lock`")]
    Line {
        /// 1-based.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Some stages have no result, so there is nothing to lock.
    #[error("these stages have no result yet: {}; run the spec first", .0.join(", "))]
    Incomplete(Vec<String>),
}

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
    /// What a finished run came to.
    ///
    /// # Errors
    /// [`LockError::Incomplete`] if a stage has no result.
    pub fn of(study: &Study, records: &[Option<Arc<Record>>]) -> Result<Self, LockError> {
        let mut stages = BTreeMap::new();
        let mut missing = Vec::new();
        for (node, record) in study.nodes.iter().zip(records) {
            match record {
                Some(record) => drop(stages.insert(node.title(), LockedStage::of(record))),
                None => missing.push(node.title()),
            }
        }
        if missing.is_empty() { Ok(Self { spec: study.name.clone(), stages }) } else { Err(LockError::Incomplete(missing)) }
    }

    /// The text of the lock file.
    pub fn to_text(&self) -> String {
        let head = serde_json::json!(Head { dcsft_lock: FORMAT, spec: self.spec.clone() });
        let mut text = format!("{head}\n");
        for (stage, locked) in &self.stages {
            let line = serde_json::json!(Line { stage: stage.clone(), locked: locked.clone() });
            text.push_str(&format!("{line}\n"));
        }
        text
    }

    /// Reads the text of a lock file.
    ///
    /// # Errors
    /// [`LockError::Line`].
    pub fn parse(text: &str) -> Result<Self, LockError> {
        let bad = |line: usize, message: String| LockError::Line { line: line + 1, message };
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let (_, head) = lines.next().ok_or_else(|| bad(0, "it is empty".to_owned()))?;
        let head: Head = serde_json::from_str(head).map_err(|_| bad(0, "this is not a lock file".to_owned()))?;
        if head.dcsft_lock != FORMAT {
            return Err(bad(0, format!("it has format {}, and this version reads format {FORMAT}", head.dcsft_lock)));
        }
        let mut stages = BTreeMap::new();
        for (number, line) in lines {
            let Line { stage, locked } = serde_json::from_str(line).map_err(|error| bad(number, error.to_string()))?;
            if stages.insert(stage.clone(), locked).is_some() {
                return Err(bad(number, format!("`{stage}` is there twice")));
            }
        }
        Ok(Self { spec: head.spec, stages })
    }

    /// Compares with what is known before anything runs: stages that come or went, keys, and results in the cache.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn check_plan(&self, study: &Study, plan: &Plan, store: &Store) -> Result<Option<Divergence>, StoreError> {
        self.check(study, |id| match &plan.node(id).state {
            NodeState::Cached { record, .. } => self.check_record(study, id, record, store),
            NodeState::ToRun { key, preimage, .. } => self.check_key(study, id, key, Some(preimage), store),
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
        let mut titles = std::collections::BTreeSet::new();
        for node in &study.nodes {
            let stage = node.title();
            if !self.stages.contains_key(&stage) {
                return Ok(Some(Divergence { stage, what: Difference::NotLocked }));
            }
            if let Some(what) = difference(node.id)? {
                return Ok(Some(Divergence { stage, what }));
            }
            titles.insert(stage);
        }
        let gone = self.stages.keys().find(|stage| !titles.contains(*stage));
        Ok(gone.map(|stage| Divergence { stage: stage.clone(), what: Difference::Gone }))
    }

    fn check_key(
        &self,
        study: &Study,
        id: NodeId,
        found: &Digest,
        preimage: Option<&crate::key::KeyPreimage>,
        store: &Store,
    ) -> Result<Option<Difference>, StoreError> {
        let node = &study.nodes[id.0];
        let Some(locked) = self.stages.get(&node.title()).map(|stage| stage.key).filter(|key| key != found) else {
            return Ok(None);
        };
        let old = store.lookup(&locked)?.and_then(|record| why::preimage_of(&record));
        let changes = match (&old, preimage) {
            (Some(old), Some(new)) => why::changes(study, node, old, new),
            _ => Vec::new(),
        };
        Ok(Some(Difference::Key { locked, found: *found, changes }))
    }

    fn check_record(
        &self,
        study: &Study,
        id: NodeId,
        record: &Record,
        store: &Store,
    ) -> Result<Option<Difference>, StoreError> {
        if let Some(difference) = self.check_key(study, id, &record.key, why::preimage_of(record).as_ref(), store)? {
            return Ok(Some(difference));
        }
        let Some(locked) = self.stages.get(&study.nodes[id.0].title()) else { return Ok(None) };
        let found = LockedStage::of(record);
        let output = first_difference(&locked.outputs, &found.outputs)
            .map(|(output, locked, found)| Difference::Output { output, locked, found });
        Ok(output.or_else(|| {
            first_difference(&locked.metrics, &found.metrics)
                .map(|(metric, locked, found)| Difference::Metric { metric, locked, found })
        }))
    }
}

impl LockedStage {
    fn of(record: &Record) -> Self {
        let outputs = record.outputs.iter().map(|(name, output)| (name.clone(), output.digest)).collect();
        let mut metrics = BTreeMap::new();
        flatten("", &record.summary, &mut metrics);
        Self { key: record.key, outputs, metrics }
    }
}

/// The scalars of a summary by dotted path. Lists are left out, but for `results`.
fn flatten(path: &str, value: &Value, metrics: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, metrics);
            }
        }
        Value::Array(items) if path == "results" => {
            for item in items {
                let text = |name| item.get(name).and_then(Value::as_str).unwrap_or("?");
                let name = format!("{}/{}", text("set"), text("metric"));
                metrics.insert(name, item.get("value").cloned().unwrap_or(Value::Null));
            }
        }
        Value::Array(_) | Value::Null => {}
        scalar => drop(metrics.insert(path.to_owned(), scalar.clone())),
    }
}

fn first_difference<V: Clone + PartialEq>(
    a: &BTreeMap<String, V>,
    b: &BTreeMap<String, V>,
) -> Option<(String, Option<V>, Option<V>)> {
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let name = names.into_iter().find(|name| a.get(*name) != b.get(*name))?;
    Some((name.clone(), a.get(name).cloned(), b.get(name).cloned()))
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = &self.stage;
        match &self.what {
            Difference::NotLocked => write!(f, "{stage} is not in the lock file"),
            Difference::Gone => write!(f, "{stage} is in the lock file and no longer in the spec"),
            Difference::Key { locked, found, changes } => {
                write!(f, "{stage} has key {} instead of {}", found.short(), locked.short())?;
                changes.iter().try_for_each(|change| write!(f, "\n  {change}"))
            }
            Difference::Output { output, locked, found } => {
                let short = |digest: &Option<Digest>| digest.map_or_else(|| "none".to_owned(), |digest| digest.short());
                write!(f, "{stage} did the same work and its output `{output}` is {} instead of {}", short(found), short(locked))
            }
            Difference::Metric { metric, locked, found } => {
                let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "none".to_owned(), Value::to_string);
                write!(f, "{stage} did the same work and {metric} is {} instead of {}", shown(found), shown(locked))
            }
        }
    }
}
