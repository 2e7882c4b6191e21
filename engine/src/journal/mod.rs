//! The journal of a run: what was asked for, what happened, what came out.
//!
//! `runs/<run id>/` in the cache holds
//!
//! | file | what |
//! |---|---|
//! | `run.json` | [`RunHeader`], and the text of the spec |
//! | `events.jsonl` | one [`Entry`] per line; progress is left out, and so are lines of the stages' logs |
//! | `logs/` | one log per stage |
//! | `live.json` | [`Live`]: how far the running stages are, written anew every few seconds |
//! | `lock` | locked for as long as the run lives |
//!
//! It is for people and for `why`: no key and no result depends on it, and a run that was killed leaves a journal that
//! can still be read. Runs are found by reading headers; events are read one by one, and only those of the runs that
//! are asked about. [`retention`] removes old runs.

mod event;
mod live;
mod read;
pub mod retention;
mod write;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::provenance::{Machine, Program};
use crate::study::StudyId;

pub use event::{Failure, Reason, RunEvent, StageResult};
pub use live::{Live, StageLive};
pub use read::{RunFolder, RunState, history, of_variant, runs};
pub use write::Journal;

/// Version of the files in a run's folder. Journals of a newer one are left out, which is said. 2: time stamps, the
/// study's identity, program and machine.
pub const FORMAT: u32 = 2;

const HEADER: &str = "run.json";
const EVENTS: &str = "events.jsonl";
const LIVE: &str = "live.json";
const LOGS: &str = "logs";
const LOCK: &str = "lock";

/// `run.json`, but for the spec's text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunHeader {
    /// [`FORMAT`].
    pub format: u32,
    /// The run's id: time in UTC and a few digits that tell runs of the same second apart.
    pub run: String,
    /// `name:` of the spec.
    pub spec: String,
    /// Which study; none in journals of format 1.
    #[serde(default)]
    pub study: Option<StudyId>,
    /// Where the spec lies, from the cache.
    #[serde(default)]
    pub place: Option<String>,
    /// `--set` overrides, as given.
    pub overrides: Vec<String>,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// Seconds since 1970.
    pub started_unix: u64,
    /// The program.
    #[serde(default)]
    pub program: Option<Program>,
    /// The machine of the run itself.
    #[serde(default)]
    pub machine: Option<Machine>,
    /// The run's process.
    #[serde(default)]
    pub process: Option<u32>,
}

/// Something that happened, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Seconds since 1970; none in journals of format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<f64>,
    /// What.
    #[serde(flatten)]
    pub event: RunEvent,
}

/// A journal that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A file or folder.
    #[error("the run's journal {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Written by a newer program.
    #[error(
        "the run's journal {path} has format {found}, and this program reads up to {FORMAT}: a newer dcsft wrote it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

impl JournalError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// Now, in seconds since 1970.
fn unix_now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |age| age.as_secs_f64())
}

/// Writes a small file so that a reader sees the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    dcsft_cache::file::write(&part, bytes)?;
    std::fs::rename(&part, path)
}
