//! The partition rule of the paper's public code (`infer/sample.py`), byte for byte.
//!
//! It reads the answers of several evaluation runs over the same list, counts by position how often each
//! sample was right, and writes the SFT list of one class.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One result of an evaluation run of the public code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublishedResult {
    /// The image's path.
    pub image: String,
    /// The question, without placeholder.
    pub question: String,
    /// The right answer: a text, or a box as text or as numbers.
    pub ground_truth: Value,
    /// 1 where the answer was right.
    pub correct: i64,
}

/// An evaluation run's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublishedRun {
    /// Results in the order of the list.
    pub results: Vec<PublishedResult>,
}

/// Positions by class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// Right in every run.
    pub easy: Vec<usize>,
    /// Right in some.
    pub medium: Vec<usize>,
    /// Right in none.
    pub hard: Vec<usize>,
}

/// Why published runs cannot be joined or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishedError {
    /// There are no runs.
    #[error("no runs to count")]
    NoRuns,
    /// Runs over different lists.
    #[error(
        "run {run} has {found} results, the first run has {expected}; runs must cover the same list"
    )]
    Lengths {
        /// Number of the run, from 1.
        run: usize,
        /// Its results.
        found: usize,
        /// Results of the first run.
        expected: usize,
    },
    /// A box that cannot be read.
    #[error("result {index}: {text} is not a box of numbers")]
    NotABox {
        /// The position.
        index: usize,
        /// The right answer there.
        text: String,
    },
}

/// How right answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// As they are.
    Text,
    /// Boxes, each number cut off after the point.
    WholeBoxes,
}

/// Classes by how many of the runs were right.
///
/// # Errors
/// If there are no runs or their lengths differ.
pub fn partition(runs: &[PublishedRun]) -> Result<Partition, PublishedError> {
    let first = runs.first().ok_or(PublishedError::NoRuns)?;
    let expected = first.results.len();
    if let Some(run) = runs.iter().position(|run| run.results.len() != expected) {
        return Err(PublishedError::Lengths {
            run: run + 1,
            found: runs[run].results.len(),
            expected,
        });
    }
    let mut classes = Partition::default();
    for index in 0..expected {
        let right: i64 = runs.iter().map(|run| run.results[index].correct).sum();
        let class = if right == runs.len() as i64 {
            &mut classes.easy
        } else if right == 0 {
            &mut classes.hard
        } else {
            &mut classes.medium
        };
        class.push(index);
    }
    Ok(classes)
}

/// The SFT list of the results at `indices`, as Python's `json.dump(..., indent=2)` writes it.
///
/// # Errors
/// If a right answer should be a box and is none.
///
/// # Panics
/// If an index is out of range.
pub fn sft_list(
    run: &PublishedRun,
    indices: &[usize],
    answers: Answers,
) -> Result<String, PublishedError> {
    #[derive(Serialize)]
    struct Message<'a> {
        role: &'a str,
        content: String,
    }
    #[derive(Serialize)]
    struct Record<'a> {
        messages: [Message<'a>; 2],
        images: [&'a str; 1],
    }
    let mut records = Vec::with_capacity(indices.len());
    for &index in indices {
        let result = &run.results[index];
        let answer = match answers {
            Answers::Text => plain(&result.ground_truth),
            Answers::WholeBoxes => {
                whole_box(&result.ground_truth).ok_or_else(|| PublishedError::NotABox {
                    index,
                    text: result.ground_truth.to_string(),
                })?
            }
        };
        records.push(Record {
            messages: [
                Message {
                    role: "user",
                    content: format!("<image>{}", result.question),
                },
                Message {
                    role: "assistant",
                    content: answer,
                },
            ],
            images: [&result.image],
        });
    }
    let text = serde_json::to_string_pretty(&records).unwrap_or_default();
    Ok(ascii(&text))
}

fn plain(answer: &Value) -> String {
    answer
        .as_str()
        .map_or_else(|| answer.to_string(), str::to_owned)
}

fn whole_box(answer: &Value) -> Option<String> {
    let parsed: Vec<f64> = match answer {
        Value::String(text) => serde_json::from_str(text).ok()?,
        list => serde_json::from_value(list.clone()).ok()?,
    };
    // Python's int() cuts towards zero; `as` does too.
    let whole: Vec<String> = parsed
        .iter()
        .map(|side| (*side as i64).to_string())
        .collect();
    Some(format!("[{}]", whole.join(", ")))
}

/// Python's `ensure_ascii`: outside printable ASCII, UTF-16 units as `\uXXXX`. Line breaks are layout here,
/// since those in strings are escaped already.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if (' '..='~').contains(&c) || c == '\n' {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}
