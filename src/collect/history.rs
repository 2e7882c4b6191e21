//! What the run behind a report did, from the journal.

use std::collections::BTreeSet;
use std::path::Path;

use dcsft_engine::journal::{self, RunReading};
use dcsft_engine::run::RunEvent;

/// The latest run of a spec that computed something; a run that found everything in the cache tells nothing new.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// When it began, in seconds since 1970.
    pub(crate) started_unix: Option<u64>,
    /// `cpu`, `cuda:0`.
    pub(crate) device: Option<String>,
    /// Titles of the stages that it executed.
    pub(crate) executed: BTreeSet<String>,
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
    /// Reads it from the journals below `runs`.
    pub(crate) fn read(runs: &Path, spec: &str) -> Self {
        let worked = |run: &RunReading| {
            let work = |event: &RunEvent| {
                matches!(
                    event,
                    RunEvent::StageFinished { .. } | RunEvent::StageFailed { .. }
                )
            };
            run.events.iter().any(work)
        };
        journal::runs(runs, Some(spec))
            .find(worked)
            .map(|run| Self::of(&run))
            .unwrap_or_default()
    }

    fn of(run: &RunReading) -> Self {
        let mut history = Self {
            started_unix: Some(run.header.started_unix),
            device: Some(run.header.device.clone()),
            ..Self::default()
        };
        for event in &run.events {
            match event {
                RunEvent::StageFinished { stage, .. } => {
                    history.executed.insert(stage.clone());
                }
                RunEvent::StageFailed { stage, .. } => {
                    history.failed.insert(stage.clone());
                }
                RunEvent::StageCached { .. } => history.cached += 1,
                RunEvent::StageStarted { threads, .. } => {
                    history.threads = history.threads.max(Some(*threads))
                }
                RunEvent::Finished { seconds, .. } => history.seconds = Some(*seconds),
                _ => {}
            }
        }
        history
    }
}
