//! What a stage reads: artifacts, each with where it comes from, and results like its own.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use dcsft_cache::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cost::Cost;
use crate::text::plain;

/// Where an artifact came from, in the words of the spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// The stage's name in the spec.
    pub stage: String,
    /// The output's name.
    pub output: String,
    /// The axes of the stage's node with their values.
    pub axes: BTreeMap<String, Value>,
    /// The arm that results count it to, such as `sft/easy+medium`.
    pub arm: String,
    /// Of an evaluation: what was evaluated, and on what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluated: Option<Evaluated>,
}

/// One artifact that a stage reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Where it came from. Only a kind that is [`Stage::LABELLED`] may let this reach its outputs.
    pub label: Label,
    /// Its content digest.
    pub digest: Digest,
    /// The folder with its files; read-only.
    pub dir: PathBuf,
}

/// What an evaluation evaluated, and on what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The model.
    pub model: Option<Origin>,
    /// The set.
    pub data: Option<Origin>,
    /// The training step of the checkpoint; none for a final model.
    pub step: Option<u64>,
}

/// An output of a stage, in the words of the spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The stage's name.
    pub stage: String,
    /// The axes of its cell.
    pub axes: BTreeMap<String, Value>,
    /// The output's name.
    pub output: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stage)?;
        let axes: Vec<String> = self
            .axes
            .iter()
            .map(|(axis, value)| format!("{axis}={}", plain(value)))
            .collect();
        if !axes.is_empty() {
            write!(f, "[{}]", axes.join(","))?;
        }
        write!(f, ".{}", self.output)
    }
}

/// A finished result of a stage's family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relative {
    /// Its label.
    pub label: String,
    /// What it takes to compute from nothing.
    pub cost: Cost,
    /// The folders with the files of its outputs, by name; read-only.
    pub outputs: BTreeMap<String, PathBuf>,
}

/// The axis that says which checkpoint is evaluated.
pub const STEP: &str = "step";

/// The step that an axis value such as `100` or `step-100` means.
pub fn step_value(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| step_in(value.as_str()?))
}

/// The step that a name such as `step-100` means.
pub fn step_in(name: &str) -> Option<u64> {
    name.strip_prefix("step-").unwrap_or(name).parse().ok()
}
