//! What a run tells whoever watches it: typed events, rendered as bars, plain lines or JSON lines.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dcsft_cache::{Digest, Record};
use serde::{Deserialize, Serialize};

use crate::record::Execution;
use crate::stage::{Progress, Shard};

/// What came out of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageResult {
    /// Its key.
    pub key: Digest,
    /// Seconds that it took when it ran.
    pub seconds: f64,
    /// Content digests of its outputs.
    pub outputs: BTreeMap<String, Digest>,
}

impl StageResult {
    /// The result that a record holds.
    pub fn of(record: &Record) -> Self {
        let outputs = record
            .outputs
            .iter()
            .map(|(name, output)| (name.clone(), output.digest))
            .collect();
        Self {
            key: record.key,
            seconds: Execution::of(record).seconds,
            outputs,
        }
    }
}

/// What made a stage fail, as a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// A reason of its own.
    #[default]
    Failed,
    /// Its worker could not do the job at all.
    BadJob,
    /// It ran longer than its timeout.
    TimedOut,
    /// Somebody asked its worker to stop.
    Stopped,
    /// Its worker was killed by a signal.
    Killed,
    /// Its worker was killed when the system's memory ran out.
    OutOfMemory,
    /// Its worker ended without a result.
    NoResult,
    /// Its worker could not be started or heard.
    Unstartable,
    /// Its job was lost again and again, through no fault of its own.
    Lost,
    /// Files of the user's changed while it ran.
    FilesChanged,
    /// An input was damaged each time it was made.
    Damaged,
    /// A fault of dcsft beside the stage.
    Internal,
}

/// Why a stage failed, with what is needed to find out more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What made it fail, as a word.
    #[serde(default)]
    pub reason: Reason,
    /// In words for the user.
    pub message: String,
    /// Tries made.
    pub attempts: u32,
    /// Where the stage stands in the spec: `file:line:column`.
    pub place: String,
    /// The stage's log.
    pub log: PathBuf,
    /// The log's last lines.
    pub tail: Vec<String>,
}

/// Something that happened in a run. `stage` is always a node's title, `sft[subset=easy]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunEvent {
    /// The run begins.
    Started {
        /// The run's id.
        run: String,
        /// `name:` of the spec.
        spec: String,
        /// Stages of the study.
        stages: usize,
        /// How many of them are in the cache already.
        cached: usize,
        /// Stages that may run at once.
        jobs: usize,
    },
    /// A stage's result needed no execution here: it was in the cache, another stage shares it, another process has
    /// just computed it, or an earlier run had finished it and could not store it.
    StageCached {
        /// The stage.
        stage: String,
        /// Its result.
        #[serde(flatten)]
        result: StageResult,
    },
    /// An attempt begins.
    StageStarted {
        /// The stage.
        stage: String,
        /// Its key.
        key: Digest,
        /// `cpu` or `cuda:N`.
        device: String,
        /// Threads it was given.
        threads: usize,
        /// The stage's log.
        log: PathBuf,
    },
    /// An attempt at a shard of a stage begins. The stage has started before.
    ShardStarted {
        /// The stage.
        stage: String,
        /// Which shard.
        shard: Shard,
        /// `cpu` or `cuda:N`.
        device: String,
        /// Threads it was given.
        threads: usize,
        /// The shard's log.
        log: PathBuf,
    },
    /// An attempt at a shard failed and there will be another.
    ShardRetries {
        /// The stage.
        stage: String,
        /// Which shard.
        shard: Shard,
        /// Tries made.
        attempts: u32,
        /// Why it failed.
        message: String,
        /// Seconds until the next try.
        delay: f64,
    },
    /// A shard of a stage is computed. Once all are, the stage itself takes what they have.
    ShardFinished {
        /// The stage.
        stage: String,
        /// Which shard.
        shard: Shard,
        /// Seconds that it took; 0 where an earlier run had computed it.
        seconds: f64,
    },
    /// How far a stage is, all its shards together.
    Progress {
        /// The stage.
        stage: String,
        /// How far.
        #[serde(flatten)]
        progress: Progress,
    },
    /// A line of a stage's log.
    Log {
        /// The stage.
        stage: String,
        /// The line.
        message: String,
    },
    /// Something that is not as one may expect it: the stage leaves samples out, say, or its workspace stays behind.
    Warning {
        /// The stage.
        stage: String,
        /// The sentence.
        message: String,
    },
    /// Another process computes the same key, or still has its workspace; this run waits for it. Said at once and,
    /// seldom, again.
    StageWaits {
        /// The stage.
        stage: String,
        /// The key.
        key: Digest,
        /// For whom, as far as is known: `process 4711 on node3 (dcsft run sweep)`.
        #[serde(default)]
        holder: Option<String>,
        /// Seconds it has waited so far.
        #[serde(default)]
        seconds: f64,
    },
    /// An attempt failed and there will be another.
    StageRetries {
        /// The stage.
        stage: String,
        /// Tries made.
        attempts: u32,
        /// Why it failed.
        message: String,
        /// Seconds until the next try.
        delay: f64,
    },
    /// A damaged artifact was found; the stage that made it runs again.
    StageReopened {
        /// The stage that runs again.
        stage: String,
        /// What was found.
        message: String,
    },
    /// A stage ran and its outputs are in the cache.
    StageFinished {
        /// The stage.
        stage: String,
        /// Its result.
        #[serde(flatten)]
        result: StageResult,
    },
    /// A stage failed for good.
    StageFailed {
        /// The stage.
        stage: String,
        /// Why.
        #[serde(flatten)]
        failure: Failure,
    },
    /// A stage was not run, because of another.
    StageSkipped {
        /// The stage.
        stage: String,
        /// The stage that failed.
        because: String,
    },
    /// A stage was stopped because the run was interrupted; the next run resumes it.
    StageInterrupted {
        /// The stage.
        stage: String,
    },
    /// The run is being interrupted.
    Interrupted,
    /// The run cannot go on: the cache or the journal failed. No fault of any stage.
    Error {
        /// Why, for the user.
        message: String,
    },
    /// The run ends, in whatever way. Always the last event.
    Finished {
        /// Executions that succeeded.
        executed: usize,
        /// Stages whose result needed no execution here.
        cached: usize,
        /// Stages that failed.
        failed: usize,
        /// Wall time.
        seconds: f64,
    },
}

impl RunEvent {
    /// The stage it is about.
    pub fn stage(&self) -> Option<&str> {
        match self {
            Self::StageCached { stage, .. }
            | Self::StageStarted { stage, .. }
            | Self::ShardStarted { stage, .. }
            | Self::ShardRetries { stage, .. }
            | Self::ShardFinished { stage, .. }
            | Self::Progress { stage, .. }
            | Self::Log { stage, .. }
            | Self::Warning { stage, .. }
            | Self::StageWaits { stage, .. }
            | Self::StageRetries { stage, .. }
            | Self::StageReopened { stage, .. }
            | Self::StageFinished { stage, .. }
            | Self::StageFailed { stage, .. }
            | Self::StageSkipped { stage, .. }
            | Self::StageInterrupted { stage } => Some(stage),
            Self::Started { .. }
            | Self::Interrupted
            | Self::Error { .. }
            | Self::Finished { .. } => None,
        }
    }

    /// The stage's result, if this says that there is one.
    pub fn result(&self) -> Option<&StageResult> {
        match self {
            Self::StageCached { result, .. } | Self::StageFinished { result, .. } => Some(result),
            _ => None,
        }
    }

    /// Whether this is about a stage's state and not about what it, or one of its shards, says on the way.
    pub fn is_state(&self) -> bool {
        let said = matches!(
            self,
            Self::Progress { .. }
                | Self::Log { .. }
                | Self::Warning { .. }
                | Self::ShardStarted { .. }
                | Self::ShardRetries { .. }
                | Self::ShardFinished { .. }
        );
        self.stage().is_some() && !said
    }
}
