//! Writing the journal of a run.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use dcsft_cache::Store;
use serde::Serialize;
use tempfile::TempDir;

use super::live::LiveFile;
use super::{
    EVENTS, FORMAT, HEADER, JournalError, LOCK, LOGS, RunEvent, RunHeader, retention, unix_now,
};
use crate::provenance::{Machine, Program};
use crate::study::{self, Source, Study, StudyId};

/// Bytes of events that are written at once: a run that finds thousands of stages in the cache has as many events.
const BUFFER: usize = 1 << 16;

/// `run.json` as it is written: the header, and the spec file and those it extends, in order of reading.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    header: &'a RunHeader,
    sources: &'a [Source],
}

#[derive(Serialize)]
struct Line<'a> {
    at: f64,
    #[serde(flatten)]
    event: &'a RunEvent,
}

/// A journal being written.
#[derive(Debug)]
pub struct Journal {
    /// The run's id.
    pub run: String,
    /// The run's folder.
    pub dir: PathBuf,
    events: BufWriter<File>,
    live: LiveFile,
    /// Says that the run lives, by the operating system's lock, which ends with the process.
    _lock: Option<File>,
    /// The folder of a journal that nobody will read; last, so that it goes when nothing is written any more.
    _scratch: Option<TempDir>,
}

impl Journal {
    /// Starts the journal of a run of `study`. Removes journals that nobody needs any more ([`retention`]).
    ///
    /// A cache that cannot be written to serves what it has; then the journal is gone when the run ends.
    ///
    /// # Errors
    /// If its folder or files cannot be written.
    pub fn create(
        store: &Store,
        study: &Study,
        device: &str,
        program: &Program,
    ) -> Result<Self, JournalError> {
        let scratch = scratch(store)?;
        let runs = match &scratch {
            Some(scratch) => scratch.path().to_owned(),
            None => store.runs_dir(),
        };
        fs::create_dir_all(&runs).map_err(JournalError::at(&runs))?;
        retention::prune_if_due(&runs);
        let started = jiff::Timestamp::now();
        let (run, dir) = new_folder(&runs, started)?;
        let lock = lock(&dir.join(LOCK))?;
        let header = RunHeader {
            format: FORMAT,
            run: run.clone(),
            spec: study.name.clone(),
            study: Some(StudyId::of(study, store.root())),
            place: Some(study::id::place(study, store.root())),
            overrides: study.overrides.clone(),
            device: device.to_owned(),
            started_unix: u64::try_from(started.as_second()).unwrap_or(0),
            program: Some(program.clone()),
            machine: Some(Machine::this().clone()),
            process: Some(std::process::id()),
        };
        let written = Written {
            header: &header,
            sources: &study.sources,
        };
        let path = dir.join(HEADER);
        let text = serde_json::to_vec_pretty(&written).map_err(io::Error::from);
        text.and_then(|text| fs::write(&path, text))
            .map_err(JournalError::at(&path))?;
        let logs = dir.join(LOGS);
        fs::create_dir(&logs).map_err(JournalError::at(&logs))?;
        let path = dir.join(EVENTS);
        let file = File::create(&path).map_err(JournalError::at(&path))?;
        Ok(Self {
            run,
            events: BufWriter::with_capacity(BUFFER, file),
            live: LiveFile::new(&dir),
            dir,
            _lock: lock,
            _scratch: scratch,
        })
    }

    /// Appends an event with the time of now. Progress goes to `live.json`; lines of a stage's log stand in that log.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, event: &RunEvent) -> Result<(), JournalError> {
        self.live.note(event);
        if matches!(event, RunEvent::Progress { .. } | RunEvent::Log { .. }) {
            return Ok(());
        }
        let line = Line {
            at: unix_now(),
            event,
        };
        let written = serde_json::to_writer(&mut self.events, &line)
            .map_err(io::Error::from)
            .and_then(|()| self.events.write_all(b"\n"));
        written.map_err(JournalError::at(&self.dir))
    }

    /// Makes what was appended visible to readers. Called whenever the run waits.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn flush(&mut self) -> Result<(), JournalError> {
        self.events.flush().map_err(JournalError::at(&self.dir))?;
        self.live.write_if_due()
    }

    /// The log file of a stage.
    pub fn log_path(&self, title: &str) -> PathBuf {
        self.dir.join(LOGS).join(file_name(title))
    }
}

/// A folder for the journal where the cache cannot be written.
fn scratch(store: &Store) -> Result<Option<TempDir>, JournalError> {
    if store.is_writable() {
        return Ok(None);
    }
    tracing::warn!(cache = %store.root().display(), "the cache cannot be written: this run leaves no journal");
    let scratch = tempfile::tempdir().map_err(JournalError::at(&std::env::temp_dir()))?;
    Ok(Some(scratch))
}

/// The run's lock; none on file systems without locks, where nobody can tell running from killed for certain.
fn lock(path: &Path) -> Result<Option<File>, JournalError> {
    let file = File::create(path).map_err(JournalError::at(path))?;
    // A reader that looks at this very moment holds it for as long as it looks.
    Ok(file.lock().is_ok().then_some(file))
}

fn new_folder(runs: &Path, started: jiff::Timestamp) -> Result<(String, PathBuf), JournalError> {
    let stamp = started.strftime("%Y%m%d-%H%M%S");
    // The fraction of the second, so that ids are in the order of time.
    let nanos = u64::from(started.subsec_nanosecond().unsigned_abs());
    let mut suffix = (nanos << 16) / 1_000_000_000;
    loop {
        let run = format!("{stamp}-{:04x}", suffix & 0xffff);
        let dir = runs.join(&run);
        match fs::create_dir(&dir) {
            Ok(()) => return Ok((run, dir)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                suffix = suffix.wrapping_add(1)
            }
            Err(source) => return Err(JournalError::Io { path: dir, source }),
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
