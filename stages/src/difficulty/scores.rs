//! The difficulty artifact: `scores.jsonl` and `summary.json`.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;

use dcsft_engine::stage::StageError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::DataError;

const SCORES: &str = "scores.jsonl";
const SUMMARY: &str = "summary.json";

/// How difficult one sample is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreRecord {
    /// The sample's content ID.
    pub id: String,
    /// Right answers; none where bins are by an outside score alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub c: Option<u64>,
    /// Answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// The score, where bins are by rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Its bin; none where no bin covers it.
    pub bin: Option<String>,
}

/// A difficulty artifact in memory.
#[derive(Clone, Debug)]
pub struct Scores {
    /// One record per scored sample, in the set's order.
    pub records: Vec<ScoreRecord>,
    /// Counts by bin, histogram, warnings; see `docs/stages/difficulty.md`.
    pub summary: Value,
}

impl Scores {
    /// Opens the artifact in `dir`.
    ///
    /// # Errors
    /// If a file is missing or malformed.
    pub fn open(dir: &Path) -> Result<Self, DataError> {
        let records = crate::data::read_lines(&dir.join(SCORES))?;
        Ok(Self {
            records,
            summary: crate::data::read_json(&dir.join(SUMMARY))?,
        })
    }

    /// Bin by content ID. Samples without a bin are left out.
    pub fn bins(&self) -> HashMap<&str, &str> {
        self.records
            .iter()
            .filter_map(|record| Some((record.id.as_str(), record.bin.as_deref()?)))
            .collect()
    }

    /// Names of the bins, in the order of the spec.
    pub fn bin_names(&self) -> Vec<String> {
        let bins = self.summary["bins"].as_array();
        let names = bins
            .into_iter()
            .flatten()
            .filter_map(|bin| bin["name"].as_str());
        names.map(str::to_owned).collect()
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), StageError> {
        let path = dir.join(SCORES);
        let mut lines = Vec::new();
        for record in &self.records {
            serde_json::to_writer(&mut lines, record).map_err(StageError::failed)?;
            writeln!(lines).map_err(StageError::io(&path))?;
        }
        std::fs::write(&path, lines).map_err(StageError::io(&path))?;
        Ok(crate::data::write_json(&dir.join(SUMMARY), &self.summary)?)
    }
}
