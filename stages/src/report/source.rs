//! Where a figure of the report comes from.

use std::collections::BTreeMap;

use dcsft_engine::stage::Label;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A label without the output's name: what stands in the files as `source`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The stage's name in the spec.
    pub stage: String,
    /// The arm.
    pub arm: String,
    /// The axes of its cell.
    pub axes: BTreeMap<String, Value>,
}

impl From<&Label> for Source {
    fn from(label: &Label) -> Self {
        Self {
            stage: label.stage.clone(),
            arm: label.arm.clone(),
            axes: label.axes.clone(),
        }
    }
}
