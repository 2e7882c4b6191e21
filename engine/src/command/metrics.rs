//! What an output with metrics holds: `metrics.jsonl`, an object a line, or `metrics.json`, a list of them.
//!
//! | field | what it is |
//! |---|---|
//! | `metric` | what was measured: `accuracy`, `loss` |
//! | `value` | a number |
//! | `set` | the set it was measured on; `-` if not given |
//! | `split` | `id` (the default) or `ood` |
//! | `n` | the number of samples |
//! | `ci` | a 95% interval: `[low, high]` |
//! | `arm` | the arm it counts to; the stage's if not given |
//! | `step` | the training step |

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::stage::SummaryResult;

const LINES: &str = "metrics.jsonl";
const LIST: &str = "metrics.json";

/// Why metrics cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// Neither file is there.
    #[error("it holds neither `{LINES}` (an object a line) nor `{LIST}` (a list of objects)")]
    Missing,
    /// Both files are there.
    #[error("it holds `{LINES}` and `{LIST}`: one of them is enough")]
    Both,
    /// There is nothing in it.
    #[error("`{file}` holds no metrics")]
    Empty {
        /// The file.
        file: &'static str,
    },
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A row is not as it should be.
    #[error("`{file}`, {place}: {message}")]
    Row {
        /// The file.
        file: &'static str,
        /// Which row.
        place: String,
        /// What is wrong.
        message: String,
    },
}

/// One metric, as a program writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    metric: String,
    value: f64,
    #[serde(default)]
    set: Option<String>,
    #[serde(default)]
    split: Option<String>,
    #[serde(default)]
    n: Option<u64>,
    #[serde(default)]
    ci: Option<[f64; 2]>,
    #[serde(default)]
    arm: Option<String>,
    #[serde(default)]
    step: Option<u64>,
}

/// Reads the metrics in the folder `dir`.
///
/// # Errors
/// If there are none, or one is not as it should be.
pub fn read(dir: &Path) -> Result<Vec<SummaryResult>, MetricsError> {
    let (lines, list) = (dir.join(LINES), dir.join(LIST));
    let (file, rows) = match (lines.exists(), list.exists()) {
        (false, false) => return Err(MetricsError::Missing),
        (true, true) => return Err(MetricsError::Both),
        (true, false) => (LINES, read_lines(&lines)?),
        (false, true) => (LIST, read_list(&list)?),
    };
    if rows.is_empty() {
        return Err(MetricsError::Empty { file });
    }
    let check = |(place, row): (String, Result<Row, String>)| {
        row.and_then(result).map_err(|message| MetricsError::Row {
            file,
            place,
            message,
        })
    };
    rows.into_iter().map(check).collect()
}

/// Refuses two values of one thing.
///
/// # Errors
/// Which one.
pub(super) fn refuse_repeats(results: &[SummaryResult]) -> Result<(), String> {
    let mut seen = HashSet::new();
    for result in results {
        let key = (
            &result.arm,
            result.step,
            &result.set,
            &result.split,
            &result.metric,
        );
        if !seen.insert(key) {
            let step = result
                .step
                .map_or_else(String::new, |step| format!(" at step {step}"));
            return Err(format!(
                "the metric `{}` of the set `{}`{step} is there twice: a table has one place for it",
                result.metric, result.set
            ));
        }
    }
    Ok(())
}

type Rows = Vec<(String, Result<Row, String>)>;

fn text_of(path: &Path) -> Result<String, MetricsError> {
    std::fs::read_to_string(path).map_err(|source| MetricsError::Io {
        path: path.to_owned(),
        source,
    })
}

fn read_lines(path: &Path) -> Result<Rows, MetricsError> {
    let text = text_of(path)?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    let row = |(index, line): (usize, &str)| {
        let row = serde_json::from_str(line).map_err(|error| words(&error, line));
        (format!("line {}", index + 1), row)
    };
    Ok(lines.map(row).collect())
}

fn read_list(path: &Path) -> Result<Rows, MetricsError> {
    let text = text_of(path)?;
    let value: Value = serde_json::from_str(&text).map_err(|error| MetricsError::Row {
        file: LIST,
        place: format!("line {}", error.line()),
        message: words(&error, &text),
    })?;
    let Value::Array(items) = value else {
        return Err(MetricsError::Row {
            file: LIST,
            place: "as a whole".to_owned(),
            message: "it is no list of objects".to_owned(),
        });
    };
    let row = |(index, item)| {
        let row = serde_json::from_value(item).map_err(|error| error.to_string());
        (format!("item {}", index + 1), row)
    };
    Ok(items.into_iter().enumerate().map(row).collect())
}

/// What the parser says; Python's `NaN` and `Infinity` are no JSON, and the parser does not say so.
fn words(error: &serde_json::Error, text: &str) -> String {
    let python = ["NaN", "Infinity"]
        .into_iter()
        .find(|word| text.contains(word));
    match python {
        Some(word) if error.is_syntax() => {
            format!("`{word}` is no number: leave the row out, or say why it is one")
        }
        _ => error.to_string(),
    }
}

fn result(row: Row) -> Result<SummaryResult, String> {
    let split = row.split.unwrap_or_else(|| "id".to_owned());
    if !["id", "ood"].contains(&split.as_str()) {
        return Err(format!("`split` is `id` or `ood`, not `{split}`"));
    }
    if row.metric.is_empty() {
        return Err("`metric` is empty".to_owned());
    }
    if let Some([low, high]) = row.ci
        && low > high
    {
        return Err(format!("`ci` is `[low, high]`, and {low} is above {high}"));
    }
    Ok(SummaryResult {
        arm: row.arm,
        step: row.step,
        set: row.set.unwrap_or_else(|| "-".to_owned()),
        split,
        metric: row.metric,
        value: row.value,
        n: row.n,
        ci: row.ci,
    })
}
