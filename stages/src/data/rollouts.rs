//! Sampled answers: `rollouts.json` and `rollouts.jsonl`.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{DataError, read_json, read_lines, write_json};
use super::files::{create, write_line};
use super::sample::Split;

const INFO: &str = "rollouts.json";
const RECORDS: &str = "rollouts.jsonl";

/// One sampled answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// The answer without special tokens.
    pub text: String,
    /// Its token ids, with the end token where it was reached.
    pub tokens: Vec<u32>,
    /// Log-probability of each token at the sampling temperature.
    pub logprobs: Vec<f32>,
    /// The reward; 1 is right.
    pub reward: f32,
    /// The answer ended by itself.
    pub finished: bool,
}

impl Generation {
    /// Whether the answer counts as right: its reward is the full one.
    pub fn is_right(&self) -> bool {
        self.reward >= 1.0
    }
}

/// All sampled answers to one sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutRecord {
    /// The sample's content ID.
    pub id: String,
    /// The answers, by generation index.
    pub generations: Vec<Generation>,
}

impl RolloutRecord {
    /// How many of the answers are right.
    pub fn right(&self) -> usize {
        self.generations
            .iter()
            .filter(|generation| generation.is_right())
            .count()
    }
}

/// `rollouts.json`: what a rollouts artifact holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutInfo {
    /// Version of the folder's layout: [`RolloutInfo::FORMAT`].
    pub format: u32,
    /// The set that was asked.
    pub set: String,
    /// Its split.
    pub split: Split,
    /// Answers per sample.
    pub n: usize,
    /// Samples.
    pub count: usize,
}

impl RolloutInfo {
    /// The layout that this version writes and reads.
    pub const FORMAT: u32 = 1;
}

/// A rollouts artifact in memory.
#[derive(Clone, Debug)]
pub struct Rollouts {
    /// What it holds.
    pub info: RolloutInfo,
    /// One record per sample, in the set's order.
    pub records: Vec<RolloutRecord>,
}

impl Rollouts {
    /// Opens the artifact in `dir`.
    ///
    /// # Errors
    /// If a file is missing or malformed, a sample occurs twice, or one has another number of answers.
    pub fn open(dir: &Path) -> Result<Self, DataError> {
        let info: RolloutInfo = read_json(&dir.join(INFO))?;
        if info.format != RolloutInfo::FORMAT {
            let message = format!(
                "format {} is not known here; this version reads {}",
                info.format,
                RolloutInfo::FORMAT
            );
            return Err(DataError::format(&dir.join(INFO), message));
        }
        let path = dir.join(RECORDS);
        let records: Vec<RolloutRecord> = read_lines(&path)?;
        if records.len() != info.count {
            let message = format!("{} lines, but {INFO} says {}", records.len(), info.count);
            return Err(DataError::format(&path, message));
        }
        let mut seen = std::collections::HashSet::with_capacity(records.len());
        for (index, record) in records.iter().enumerate() {
            let line = index + 1;
            if !seen.insert(record.id.as_str()) {
                return Err(DataError::format(
                    &path,
                    format!("line {line}: ID {} a second time", record.id),
                ));
            }
            if record.generations.len() != info.n {
                let message = format!(
                    "line {line}: {} answers instead of {}",
                    record.generations.len(),
                    info.n
                );
                return Err(DataError::format(&path, message));
            }
        }
        Ok(Self { info, records })
    }
}

/// Writes a rollouts artifact, record after record.
pub struct RolloutWriter {
    dir: PathBuf,
    info: RolloutInfo,
    out: BufWriter<File>,
}

impl RolloutWriter {
    /// Starts an artifact of `n` answers per sample of `set` in the existing folder `dir`.
    ///
    /// # Errors
    /// If its files cannot be created.
    pub fn create(dir: &Path, set: &str, split: Split, n: usize) -> Result<Self, DataError> {
        let info = RolloutInfo {
            format: RolloutInfo::FORMAT,
            set: set.to_owned(),
            split,
            n,
            count: 0,
        };
        Ok(Self {
            dir: dir.to_owned(),
            info,
            out: create(&dir.join(RECORDS))?,
        })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn push(&mut self, record: &RolloutRecord) -> Result<(), DataError> {
        write_line(&mut self.out, record, &self.dir.join(RECORDS))?;
        self.info.count += 1;
        Ok(())
    }

    /// Writes `rollouts.json` and closes the files.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn finish(mut self) -> Result<RolloutInfo, DataError> {
        self.out
            .flush()
            .map_err(DataError::io(&self.dir.join(RECORDS)))?;
        write_json(&self.dir.join(INFO), &self.info)?;
        Ok(self.info)
    }
}
