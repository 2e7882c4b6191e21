//! What a worker process and the scheduler say to each other: one frozen job in, JSON lines out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dcsft_cache::Digest;
use serde::{Deserialize, Serialize};

use super::input::{Input, Relative};
use super::shard::Shard;
use super::text::Params;
use super::usage::Usage;
use crate::provenance::Program;

/// Everything a worker needs to run one stage. It never sees the spec, so it cannot plan anew.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The key whose result this is to be.
    pub key: Digest,
    /// Which attempt of its run this is; the first is 1.
    pub attempt: u32,
    /// The program that runs, for the record.
    pub program: Program,
    /// The stage kind's name.
    pub kind: String,
    /// The kind's version at planning time; another binary's worker refuses a job of another version.
    pub version: u32,
    /// Params with defaults filled in, paths absolute.
    pub params: Params,
    /// Artifacts by input name.
    pub inputs: BTreeMap<String, Vec<Input>>,
    /// Folder for the outputs.
    pub outputs: PathBuf,
    /// Scratch folder that survives a kill.
    pub state: PathBuf,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// The accelerators that are its own, `device` the first; none where a batch system hands them out.
    #[serde(default)]
    pub accelerators: Vec<String>,
    /// Threads it may use.
    pub threads: usize,
    /// Finished results of the stage's family.
    #[serde(default)]
    pub relatives: Vec<Relative>,
    /// The cache that the worker itself moves its outputs into, where that is nearer to it than to the run.
    #[serde(default)]
    pub publish: Option<PathBuf>,
    /// The part of its samples that it is to compute; none for all.
    #[serde(default)]
    pub shard: Option<Shard>,
    /// State folders of other attempts at the same result.
    #[serde(default)]
    pub parts: Vec<PathBuf>,
}

/// How far a stage is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Units done, those of an earlier, interrupted try included.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// What a unit is: `step`, `sample`, `image`.
    pub unit: String,
    /// Samples a second, lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Further numbers to show: loss, reward.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, f64>,
}

/// One line from a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// How far it is.
    Progress(Progress),
    /// A line for the log.
    Log {
        /// The line.
        message: String,
    },
    /// Something that is not as one may expect it; shown in every run.
    Warning {
        /// The sentence.
        message: String,
    },
    /// What it took, said once before the end whatever that is.
    Used(Usage),
    /// It waits until another process has left its workspace. The next event says that it goes on.
    Waits {
        /// Which process that is, and what it does.
        holder: String,
        /// Seconds it has waited so far.
        seconds: f64,
    },
    /// It is done: the outputs are written, and so is [`crate::worker::done::Done`].
    Done,
    /// It failed.
    Failed {
        /// Why, for the user.
        message: String,
    },
    /// It stopped because the run was interrupted.
    Interrupted,
}
