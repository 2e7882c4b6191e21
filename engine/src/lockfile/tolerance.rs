//! Comparing across arithmetics: where another device computed, keys and bytes differ, and so do numbers a little.

use std::collections::BTreeSet;
use std::sync::Arc;

use dcsft_cache::Record;
use serde::Serialize;
use serde_json::Value;

use super::{Lock, LockedStage};
use crate::stage::Summary;
use crate::study::Study;

/// How far a number of an evaluation may be from the locked one: so much, or so much of it where it is more than 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
pub struct Tolerance(f64);

impl Tolerance {
    /// A tolerance; none for what is no number from 0.
    pub fn new(most: f64) -> Option<Self> {
        (most.is_finite() && most >= 0.0).then_some(Self(most))
    }

    /// How far, at most.
    pub fn most(self) -> f64 {
        self.0
    }

    /// Whether two values are as near as that; what is no number has to be the same.
    pub(super) fn holds(self, locked: Option<&Value>, found: Option<&Value>) -> bool {
        let number = |value: Option<&Value>| value.and_then(Value::as_f64);
        match (number(locked), number(found)) {
            (Some(locked), Some(found)) => (found - locked).abs() <= self.0 * locked.abs().max(1.0),
            _ => locked == found,
        }
    }
}

/// A number, word or flag that is not the locked one, of a stage that another arithmetic computed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Apart {
    /// The stage's title.
    pub stage: String,
    /// Its name: `val/accuracy`, `loss`.
    pub metric: String,
    /// In the lock file.
    pub locked: Option<Value>,
    /// Now.
    pub found: Option<Value>,
    /// Whether it is a result of an evaluation, which has to be within the tolerance. Other numbers are only told.
    pub judged: bool,
}

impl Lock {
    /// What is apart in the stages that have other keys than the locked ones, in topological order.
    pub fn apart(&self, study: &Study, records: &[Option<Arc<Record>>]) -> Vec<Apart> {
        let mut apart = Vec::new();
        for (node, record) in study.nodes.iter().zip(records) {
            let stage = node.title();
            let (Some(locked), Some(record)) = (self.stages.get(&stage), record) else {
                continue;
            };
            if locked.key != record.key {
                let found = LockedStage::of(study, node, record);
                apart.extend(differences(&stage, locked, &found, &results(record)));
            }
        }
        apart
    }
}

/// The names of a record's results, as a lock file has them.
pub(super) fn results(record: &Record) -> BTreeSet<String> {
    let (summary, _) = Summary::read(&record.summary);
    let results = summary.results.into_iter().flatten();
    results
        .map(|result| format!("{}/{}", result.set, result.metric))
        .collect()
}

/// What differs between two summaries of a stage whose results have these names.
pub(super) fn differences(
    stage: &str,
    locked: &LockedStage,
    found: &LockedStage,
    results: &BTreeSet<String>,
) -> Vec<Apart> {
    let names: BTreeSet<&String> = locked.metrics.keys().chain(found.metrics.keys()).collect();
    let names = names
        .into_iter()
        .filter(|name| locked.metrics.get(*name) != found.metrics.get(*name));
    names
        .map(|name| Apart {
            stage: stage.to_owned(),
            metric: name.clone(),
            locked: locked.metrics.get(name).cloned(),
            found: found.metrics.get(name).cloned(),
            judged: results.contains(name),
        })
        .collect()
}
