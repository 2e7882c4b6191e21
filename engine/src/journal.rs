//! The journal of a run: what was asked for, what happened, what came out.
//!
//! `runs/<run id>/` in the cache holds `run.json` (the spec's text and overrides), `events.jsonl` (one
//! [`RunEvent`](crate::run::RunEvent) per line, progress left out) and `logs/`. It is for people and for `why`:
//! no key and no result depends on it, and a run that was killed leaves a journal that can still be read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::run::RunEvent;
use crate::study::Study;

/// Version of the files in a run's folder.
pub const FORMAT: u32 = 1;

/// Bytes of events that are written at once: a run that finds thousands of stages in the cache has as many events.
const BUFFER: usize = 1 << 16;

/// `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunHeader {
    /// [`FORMAT`].
    pub format: u32,
    /// The run's id: time in UTC and a few digits that tell runs of the same second apart.
    pub run: String,
    /// `name:` of the spec.
    pub spec: String,
    /// The spec file and those it extends, in order of reading: (path, text).
    pub sources: Vec<(PathBuf, String)>,
    /// `--set` overrides, as given.
    pub overrides: Vec<String>,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// Seconds since 1970.
    pub started_unix: u64,
}

/// A journal that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("the run's journal {path}: {source}")]
pub struct JournalError {
    /// The file or folder.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

impl JournalError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self {
            path: path.to_owned(),
            source,
        }
    }
}

/// A journal being written.
#[derive(Debug)]
pub struct Journal {
    /// The run's id.
    pub run: String,
    /// The run's folder.
    pub dir: PathBuf,
    events: BufWriter<File>,
}

impl Journal {
    /// Starts the journal of a run of `study` below `runs`.
    ///
    /// # Errors
    /// If its folder or files cannot be written.
    pub fn create(runs: &Path, study: &Study, device: &str) -> Result<Self, JournalError> {
        fs::create_dir_all(runs).map_err(JournalError::at(runs))?;
        let started = jiff::Timestamp::now();
        let (run, dir) = new_folder(runs, started)?;
        let header = RunHeader {
            format: FORMAT,
            run: run.clone(),
            spec: study.name.clone(),
            sources: study.sources.clone(),
            overrides: study.overrides.clone(),
            device: device.to_owned(),
            started_unix: u64::try_from(started.as_second()).unwrap_or(0),
        };
        let path = dir.join("run.json");
        let text = serde_json::to_vec_pretty(&header).map_err(|error| JournalError {
            path: path.clone(),
            source: error.into(),
        })?;
        fs::write(&path, text).map_err(JournalError::at(&path))?;
        let path = dir.join("events.jsonl");
        let file = File::create(&path).map_err(JournalError::at(&path))?;
        let events = BufWriter::with_capacity(BUFFER, file);
        Ok(Self { run, dir, events })
    }

    /// Appends an event; progress is not kept.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, event: &RunEvent) -> Result<(), JournalError> {
        if matches!(event, RunEvent::Progress { .. }) {
            return Ok(());
        }
        let written = serde_json::to_writer(&mut self.events, event)
            .map_err(io::Error::from)
            .and_then(|()| self.events.write_all(b"\n"));
        written.map_err(JournalError::at(&self.dir))
    }

    /// Makes what was appended visible to readers. Called whenever the run waits.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn flush(&mut self) -> Result<(), JournalError> {
        self.events.flush().map_err(JournalError::at(&self.dir))
    }

    /// The log file of a stage.
    ///
    /// # Errors
    /// If the folder of the logs cannot be created.
    pub fn log_path(&self, title: &str) -> Result<PathBuf, JournalError> {
        let logs = self.dir.join("logs");
        fs::create_dir_all(&logs).map_err(JournalError::at(&logs))?;
        Ok(logs.join(file_name(title)))
    }
}

/// A journal read back.
#[derive(Clone, Debug)]
pub struct RunReading {
    /// The run's folder.
    pub dir: PathBuf,
    /// What was asked for.
    pub header: RunHeader,
    /// What happened, progress left out.
    pub events: Vec<RunEvent>,
}

impl RunReading {
    /// Reads a run's folder. A line cut short by a kill is left out.
    ///
    /// # Errors
    /// If the folder holds no readable `run.json`.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        Ok(Self {
            dir: dir.to_owned(),
            header: read_header(dir)?,
            events: read_events(dir),
        })
    }

    /// The last word on each stage, by title.
    pub fn stages(&self) -> BTreeMap<&str, &RunEvent> {
        let states = self.events.iter().filter(|event| event.is_state());
        states
            .filter_map(|event| Some((event.stage()?, event)))
            .collect()
    }

    /// Seconds that stages took in this run or, where they were cached, when they ran.
    pub fn seconds(&self) -> BTreeMap<&str, f64> {
        let stages = self.stages().into_iter();
        stages
            .filter_map(|(title, event)| Some((title, event.result()?.seconds)))
            .collect()
    }
}

/// Runs below `runs`, latest first; `spec` keeps those of one spec name.
pub fn runs<'a>(runs: &Path, spec: Option<&'a str>) -> impl Iterator<Item = RunReading> + use<'a> {
    let mut folders: Vec<PathBuf> = fs::read_dir(runs)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    folders.sort_unstable_by(|a, b| b.cmp(a));
    folders.into_iter().filter_map(move |dir| {
        let header = read_header(&dir).ok()?;
        let wanted = spec.is_none_or(|spec| header.spec == spec);
        wanted.then(|| RunReading {
            header,
            events: read_events(&dir),
            dir,
        })
    })
}

/// The latest run of a spec name.
pub fn latest(runs_dir: &Path, spec: &str) -> Option<RunReading> {
    runs(runs_dir, Some(spec)).next()
}

fn read_header(dir: &Path) -> Result<RunHeader, JournalError> {
    let path = dir.join("run.json");
    let text = fs::read(&path).map_err(JournalError::at(&path))?;
    serde_json::from_slice(&text).map_err(|error| JournalError {
        path,
        source: error.into(),
    })
}

/// The events that can be read. A run without any wrote none before it was killed.
fn read_events(dir: &Path) -> Vec<RunEvent> {
    let text = fs::read(dir.join("events.jsonl")).unwrap_or_default();
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

fn new_folder(runs: &Path, started: jiff::Timestamp) -> Result<(String, PathBuf), JournalError> {
    let stamp = started.strftime("%Y%m%d-%H%M%S");
    let mut suffix = std::process::id() ^ started.subsec_nanosecond().unsigned_abs();
    loop {
        let run = format!("{stamp}-{:04x}", suffix & 0xffff);
        let dir = runs.join(&run);
        match fs::create_dir(&dir) {
            Ok(()) => return Ok((run, dir)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                suffix = suffix.wrapping_add(1)
            }
            Err(source) => return Err(JournalError { path: dir, source }),
        }
    }
}

/// A stage's title as a file name: short enough for every file system, without separators.
fn file_name(title: &str) -> String {
    let safe: String = title
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || "-_.+=,[]".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    if safe == title && safe.len() <= 120 {
        return format!("{safe}.log");
    }
    let short: String = safe.chars().take(60).collect();
    format!(
        "{short}-{}.log",
        dcsft_cache::Digest::of_bytes(title.as_bytes()).short()
    )
}
