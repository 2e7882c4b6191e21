//! What a stage leaves out of its samples: counted once, in one form, in the summary of every stage that does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The field of a summary that holds a [`LeftOut`].
pub const LEFT_OUT: &str = "left_out";
/// The field of a summary that holds sentences about what is not as one may expect it.
pub const WARNINGS: &str = "warnings";

/// The field of a summary that says why the stage was skipped.
pub const SKIPPED: &str = "skipped";

/// How many samples a stage left out, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// How many.
    pub count: u64,
    /// Of how many.
    pub of: u64,
    /// What they are: `record`, `sample`.
    pub unit: String,
    /// How many by reason. The reasons are short constants of the stage kind.
    pub reasons: BTreeMap<String, u64>,
    /// The file that lists them, below the stage's outputs: `data/dropped.jsonl`. Its lines are {index or id, reason,
    /// detail}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
}

impl LeftOut {
    /// What was left out of `of` things called `unit`, by reason.
    pub fn new(unit: &str, of: u64, reasons: BTreeMap<String, u64>, list: Option<String>) -> Self {
        let count = reasons.values().sum();
        Self {
            count,
            of,
            unit: unit.to_owned(),
            reasons,
            list,
        }
    }

    /// What the stage with this summary left out; none where the stage leaves nothing out ever.
    pub fn of(summary: &Value) -> Option<Self> {
        Self::deserialize(summary.get(LEFT_OUT)?).ok()
    }

    /// `7 of 10 records left out: missing_image 7 (data/dropped.jsonl)`; none where nothing was.
    pub fn sentence(&self) -> Option<String> {
        if self.count == 0 {
            return None;
        }
        let reasons: Vec<String> = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        let list = self.list.as_ref();
        let list = list.map_or_else(String::new, |list| format!(" ({list})"));
        Some(format!(
            "{} of {} {}s left out: {}{list}",
            self.count,
            self.of,
            self.unit,
            reasons.join(", ")
        ))
    }
}

/// Why the stage with this summary was skipped; none where it was not.
pub fn skipped(summary: &Value) -> Option<&str> {
    summary.get(SKIPPED).and_then(Value::as_str)
}

/// What is to be said of a finished stage whenever its result is shown: why it was skipped, what it left out, and its
/// warnings.
pub fn notices(summary: &Value) -> Vec<String> {
    let skipped = skipped(summary).map(|because| format!("skipped: {because}"));
    let left_out = LeftOut::of(summary).and_then(|left_out| left_out.sentence());
    let warnings = summary.get(WARNINGS).and_then(Value::as_array);
    let warnings = warnings.into_iter().flatten().filter_map(Value::as_str);
    skipped
        .into_iter()
        .chain(left_out)
        .chain(warnings.map(str::to_owned))
        .collect()
}
