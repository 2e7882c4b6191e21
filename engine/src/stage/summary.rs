//! What a stage says of itself once it is done: metrics, numbers of its own, what it left out of its samples, warnings.
//!
//! A record keeps it as one JSON object: the kind's own facts side by side with `results`, `left_out`, `warnings` and
//! `skipped`. Records outlive programs, so whatever an older one wrote there is read as far as it can be, and told where
//! it cannot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

const RESULTS: &str = "results";
const LEFT_OUT: &str = "left_out";
const WARNINGS: &str = "warnings";
const SKIPPED: &str = "skipped";

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

/// What a finished stage says of itself. Deterministic: the same whenever and wherever it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Numbers, words and flags of the kind's own, by name.
    #[serde(flatten)]
    pub facts: Map<String, Value>,
    /// The metrics of an evaluation; none for a stage that is none, or was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub results: Option<Vec<SummaryResult>>,
    /// What it left out of its samples; none for kinds that leave nothing out ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
    /// Sentences about what is not as one may expect it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Why it was skipped, where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

impl Summary {
    /// Reads what a record keeps, with a sentence for each of its results that cannot be read.
    pub fn read(record: &Value) -> (Self, Vec<String>) {
        let mut summary = Self::default();
        let mut unreadable = Vec::new();
        for (name, value) in record.as_object().into_iter().flatten() {
            match name.as_str() {
                RESULTS => match value.as_array() {
                    Some(items) => summary.results = Some(results(items, &mut unreadable)),
                    None => unreadable.push("its `results` are no list".to_owned()),
                },
                LEFT_OUT => summary.left_out = LeftOut::deserialize(value).ok(),
                WARNINGS => {
                    let texts = value.as_array().into_iter().flatten();
                    let texts = texts.filter_map(Value::as_str).map(str::to_owned);
                    summary.warnings = texts.collect();
                }
                SKIPPED => summary.skipped = value.as_str().map(str::to_owned),
                _ => drop(summary.facts.insert(name.clone(), value.clone())),
            }
        }
        (summary, unreadable)
    }

    /// What a record keeps: an object, or null where there is nothing to say.
    pub fn to_value(&self) -> Value {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) if !fields.is_empty() => Value::Object(fields),
            _ => Value::Null,
        }
    }

    /// What is to be said of a finished stage whenever its result is shown: why it was skipped, what it left out, and its
    /// warnings.
    pub fn notices(&self) -> Vec<String> {
        let skipped = self.skipped.as_ref();
        let skipped = skipped.map(|because| format!("skipped: {because}"));
        let left_out = self.left_out.as_ref().and_then(LeftOut::sentence);
        let warnings = self.warnings.iter().cloned();
        skipped
            .into_iter()
            .chain(left_out)
            .chain(warnings)
            .collect()
    }
}

fn results(items: &[Value], unreadable: &mut Vec<String>) -> Vec<SummaryResult> {
    let mut results = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        match SummaryResult::deserialize(item) {
            Ok(result) => results.push(result),
            Err(error) => unreadable.push(format!("result {} of its record: {error}", index + 1)),
        }
    }
    results
}

/// The numbers, words and flags that a record keeps, by dotted path; results as `set/metric`. Other lists are left out.
pub fn scalars(record: &Value) -> BTreeMap<String, Value> {
    let mut scalars = BTreeMap::new();
    flatten("", record, &mut scalars);
    scalars
}

fn flatten(path: &str, value: &Value, scalars: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                flatten(&path, value, scalars);
            }
        }
        Value::Array(items) if path == RESULTS => {
            for item in items {
                let text = |name| item.get(name).and_then(Value::as_str).unwrap_or("?");
                let name = format!("{}/{}", text("set"), text("metric"));
                scalars.insert(name, item.get("value").cloned().unwrap_or(Value::Null));
            }
        }
        Value::Array(_) | Value::Null => {}
        scalar => drop(scalars.insert(path.to_owned(), scalar.clone())),
    }
}

/// A metric, as an evaluation kind reports it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SummaryResult {
    /// The arm that it counts to; without one, that of the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
    /// The training step of what was measured; without one, that of the checkpoint, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// The set.
    pub set: String,
    /// `id` or `ood`.
    pub split: String,
    /// What was measured.
    pub metric: String,
    /// The value.
    pub value: f64,
    /// The number of samples.
    #[serde(default)]
    pub n: Option<u64>,
    /// A 95% interval.
    #[serde(default)]
    pub ci: Option<[f64; 2]>,
}
