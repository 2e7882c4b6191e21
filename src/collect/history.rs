//! What the run behind a report did, from the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dcsft_cache::{Digest, Record};
use dcsft_engine::journal::{self, RunEvent, RunFolder, RunHeader, RunState};
use dcsft_engine::study::StudyId;

/// `cuda` of `cuda:1`: what it computes does not depend on which of them it is.
pub(crate) fn class(device: &str) -> &str {
    device.split(':').next().unwrap_or(device)
}

/// The latest run of exactly this study that computed something; where none did, the latest.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// What was asked for, by which program and where.
    pub(crate) header: Option<RunHeader>,
    /// Titles of the stages that it executed, with their keys.
    executed: BTreeMap<String, Digest>,
    /// Stages that it found in the cache.
    pub(crate) cached: usize,
    /// Titles of the stages that failed.
    pub(crate) failed: BTreeSet<String>,
    /// Wall time in seconds, where it came to its end.
    pub(crate) seconds: Option<f64>,
    /// Most threads that a stage was given.
    pub(crate) threads: Option<usize>,
}

impl History {
    /// Reads it from the journals below `runs`. Runs with other overrides, of another spec of the same name, or of
    /// before an edit are other studies' runs; what another class of device computed is not what is shown.
    pub(crate) fn read(runs: &Path, study: &StudyId, device: &str) -> Self {
        let mut latest = None;
        let ours = |run: &RunFolder| {
            run.header.study.as_ref() == Some(study) && class(&run.header.device) == class(device)
        };
        for run in journal::runs(runs).filter(ours) {
            // Of a run that has ended the last line says it.
            let idle = matches!(
                run.state(),
                RunState::Ended {
                    executed: 0,
                    failed: 0,
                    ..
                }
            );
            if !idle {
                let history = Self::of(&run);
                if history.worked() {
                    return history;
                }
            }
            latest.get_or_insert(run);
        }
        latest.as_ref().map(Self::of).unwrap_or_default()
    }

    fn worked(&self) -> bool {
        !(self.executed.is_empty() && self.failed.is_empty())
    }

    /// Stages that it executed.
    pub(crate) fn executed(&self) -> usize {
        self.executed.len()
    }

    /// Whether it is the run that computed this record as the stage `title`.
    pub(crate) fn made(&self, title: &str, record: &Record) -> bool {
        self.executed.get(title) == Some(&record.key)
    }

    fn of(run: &RunFolder) -> Self {
        let mut history = Self {
            header: Some(run.header.clone()),
            ..Self::default()
        };
        for entry in run.events() {
            match entry.event {
                RunEvent::StageFinished { stage, result } => {
                    history.executed.insert(stage, result.key);
                }
                RunEvent::StageFailed { stage, .. } => {
                    history.failed.insert(stage);
                }
                RunEvent::StageCached { .. } => history.cached += 1,
                RunEvent::StageStarted { threads, .. } => {
                    history.threads = history.threads.max(Some(threads))
                }
                RunEvent::Finished { seconds, .. } => history.seconds = Some(seconds),
                _ => {}
            }
        }
        history
    }
}
