//! Lock files: what a study came to, as stable text, to compare a later run with.
//!
//! The first line says what it is; then comes one JSON object per stage, sorted by title, so that `diff` shows
//! which stages differ. A lock holds keys, output digests and metrics: no time, no path, no host.

mod check;
mod tolerance;

use std::collections::BTreeMap;
use std::sync::Arc;

use dcsft_cache::{Digest, Record, canonical};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use check::{Difference, Divergence};
pub use tolerance::{Apart, Tolerance};

use crate::key::KeyPreimage;
use crate::stage::scalars;
use crate::study::{Node, Reference, Study};
use crate::why;

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
    /// What it is asked to do, whatever its inputs came to and the arithmetic: with a [`Tolerance`] it stands for the key.
    /// None in lock files that were written without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<Digest>,
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
    #[error("line {line} of the lock file: {message}")]
    Line {
        /// 1-based.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Some stages have no result, so there is nothing to lock.
    #[error("these stages have no result yet: {}; run the spec first", some(.0))]
    Incomplete(Vec<String>),
}

/// A list for a message: a study may have thousands of stages.
fn some(titles: &[String]) -> String {
    const LISTED: usize = 12;
    let list = titles[..titles.len().min(LISTED)].join(", ");
    match titles.len().saturating_sub(LISTED) {
        0 => list,
        more => format!("{list} and {more} more"),
    }
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
                Some(record) => {
                    drop(stages.insert(node.title(), LockedStage::of(study, node, record)))
                }
                None => missing.push(node.title()),
            }
        }
        if missing.is_empty() {
            Ok(Self {
                spec: study.name.clone(),
                stages,
            })
        } else {
            Err(LockError::Incomplete(missing))
        }
    }

    /// The text of the lock file.
    pub fn to_text(&self) -> String {
        let head = serde_json::json!(Head {
            dcsft_lock: FORMAT,
            spec: self.spec.clone()
        });
        let mut text = format!("{head}\n");
        for (stage, locked) in &self.stages {
            let line = serde_json::json!(Line {
                stage: stage.clone(),
                locked: locked.clone()
            });
            text.push_str(&format!("{line}\n"));
        }
        text
    }

    /// Reads the text of a lock file.
    ///
    /// # Errors
    /// [`LockError::Line`].
    pub fn parse(text: &str) -> Result<Self, LockError> {
        let bad = |line: usize, message: String| LockError::Line {
            line: line + 1,
            message,
        };
        let mut lines = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty());
        let (_, head) = lines
            .next()
            .ok_or_else(|| bad(0, "it is empty".to_owned()))?;
        let head: Head =
            serde_json::from_str(head).map_err(|_| bad(0, "this is not a lock file".to_owned()))?;
        if head.dcsft_lock != FORMAT {
            return Err(bad(
                0,
                format!(
                    "it has format {}, and this version reads format {FORMAT}",
                    head.dcsft_lock
                ),
            ));
        }
        let mut stages = BTreeMap::new();
        for (number, line) in lines {
            let Line { stage, locked } =
                serde_json::from_str(line).map_err(|error| bad(number, error.to_string()))?;
            if stages.insert(stage.clone(), locked).is_some() {
                return Err(bad(number, format!("`{stage}` is there twice")));
            }
        }
        Ok(Self {
            spec: head.spec,
            stages,
        })
    }
}

impl LockedStage {
    fn of(study: &Study, node: &Node, record: &Record) -> Self {
        let outputs = record
            .outputs
            .iter()
            .map(|(name, output)| (name.clone(), output.digest))
            .collect();
        Self {
            key: record.key,
            work: why::preimage_of(record).and_then(|preimage| work(study, node, &preimage)),
            outputs,
            metrics: scalars(&record.summary),
        }
    }
}

const WORK_DOMAIN: &str = "dcsft 1 locked work";

/// What a stage with this preimage is asked to do: all that makes its key but the arithmetic, with the names of its inputs
/// in the place of their content.
fn work(study: &Study, node: &Node, preimage: &KeyPreimage) -> Option<Digest> {
    let own = preimage.own_part().ok()?;
    let labels = preimage.inputs.values().flatten();
    let labels: Vec<_> = labels.map(|input| &input.label).collect();
    let named = |(name, references): &(String, Vec<Reference>)| {
        let titles = references.iter().map(|reference| {
            let title = study.nodes[reference.node.0].title();
            (title, reference.output.clone())
        });
        (name.clone(), titles.collect::<Vec<_>>())
    };
    let inputs: BTreeMap<_, _> = node.inputs.iter().map(named).collect();
    canonical::digest(WORK_DOMAIN, &(own, labels, inputs)).ok()
}
