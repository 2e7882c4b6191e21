//! How far the running stages are, for whoever looks on from another terminal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dcsft_cache::file;
use serde::{Deserialize, Serialize};

use super::{JournalError, LIVE, RunEvent, replace, unix_now};
use crate::stage::Progress;

/// How often it is written: seldom enough to cost nothing, often enough to watch a run by.
const EVERY: Duration = Duration::from_secs(5);

/// `live.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// When it was written, in seconds since 1970. A run that lives writes it every few seconds, whether or not
    /// anything is new.
    pub at: f64,
    /// The last that each running stage said.
    pub stages: BTreeMap<String, StageLive>,
}

/// The last that a running stage said of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageLive {
    /// When, in seconds since 1970.
    pub at: f64,
    /// How far it was.
    #[serde(flatten)]
    pub progress: Progress,
}

impl Live {
    /// What a run's folder holds; none if the run has not lived long enough to write it.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&file::bytes(&dir.join(LIVE)).ok()?).ok()
    }
}

/// Keeps `live.json` up to date.
#[derive(Debug)]
pub(super) struct LiveFile {
    path: PathBuf,
    live: Live,
    written: Instant,
    /// Something is known that no reader has seen at all.
    first: bool,
}

impl LiveFile {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            path: dir.join(LIVE),
            live: Live::default(),
            written: Instant::now(),
            first: false,
        }
    }

    pub(super) fn note(&mut self, event: &RunEvent) {
        match event {
            RunEvent::Progress { stage, progress } => {
                let (at, progress) = (unix_now(), progress.clone());
                let known = self
                    .live
                    .stages
                    .insert(stage.clone(), StageLive { at, progress });
                self.first |= known.is_none();
            }
            event if event.is_state() => {
                if let Some(stage) = event.stage() {
                    self.live.stages.remove(stage);
                }
            }
            _ => {}
        }
    }

    pub(super) fn write_if_due(&mut self) -> Result<(), JournalError> {
        if !self.first && self.written.elapsed() < EVERY {
            return Ok(());
        }
        self.written = Instant::now();
        self.first = false;
        self.live.at = unix_now();
        let written = serde_json::to_vec(&self.live)
            .map_err(std::io::Error::from)
            .and_then(|bytes| replace(&self.path, &bytes));
        written.map_err(JournalError::at(&self.path))
    }
}
