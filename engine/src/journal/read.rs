//! Reading journals back: headers to find runs by, events one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use dcsft_cache::{Digest, Store, file};
use serde::Deserialize;

use super::{
    EVENTS, Entry, FORMAT, HEADER, JournalError, LOCK, Live, RunEvent, RunHeader, unix_now,
};
use crate::provenance::Machine;
use crate::stage::Shard;
use crate::study::{Source, Study, StudyId};

/// A header holds the texts of specs; what is larger is none.
const MAX_HEADER: u64 = 1 << 28;
/// A longer line is no event.
const MAX_LINE: u64 = 1 << 20;
/// How far from its end a journal is read for how the run ended.
const TAIL: u64 = 1 << 16;
/// A run on another host, whose locks may not reach here, lives if it has written something in as many seconds.
const SIGN_OF_LIFE: f64 = 60.0;

/// The folder of a run, of which the header was read.
#[derive(Clone, Debug)]
pub struct RunFolder {
    /// The folder.
    pub dir: PathBuf,
    /// What was asked for.
    pub header: RunHeader,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RunState {
    /// It has come to its end.
    Ended {
        /// Executions that succeeded.
        executed: usize,
        /// Stages whose result needed no execution there.
        cached: usize,
        /// Stages that failed.
        failed: usize,
        /// Wall time.
        seconds: f64,
        /// The user interrupted it.
        interrupted: bool,
    },
    /// It runs now.
    Running,
    /// It ended without a word: killed, or the machine went down.
    Killed,
    /// Nobody can tell: its file system has no locks, or a version wrote it that took none.
    Unknown,
}

impl RunState {
    /// Whether every stage has had its result.
    pub fn is_good_end(&self) -> bool {
        matches!(
            self,
            Self::Ended {
                failed: 0,
                interrupted: false,
                ..
            }
        )
    }
}

impl RunFolder {
    /// Reads the header of a run's folder.
    ///
    /// # Errors
    /// If the folder holds no readable `run.json`, or one of a newer format.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        Ok(Self {
            dir: dir.to_owned(),
            header: read_header(&dir.join(HEADER))?,
        })
    }

    /// The spec file and those it extends, then each override.
    ///
    /// # Errors
    /// If `run.json` cannot be read.
    pub fn sources(&self) -> Result<Vec<Source>, JournalError> {
        #[derive(Deserialize)]
        struct Sources {
            sources: Vec<Source>,
        }
        let path = self.dir.join(HEADER);
        read_json(&path)
            .map(|Sources { sources }| sources)
            .map_err(JournalError::at(&path))
    }

    /// What happened, in order, read line by line. A line cut short by a kill is left out; a run without any wrote
    /// none before it was killed.
    pub fn events(&self) -> impl Iterator<Item = Entry> + use<> {
        let file = file::open(&self.dir.join(EVENTS)).ok();
        file.into_iter()
            .flat_map(|file| entries(BufReader::new(file)))
    }

    /// The last word on each stage, by title.
    pub fn stages(&self) -> BTreeMap<String, Entry> {
        let mut stages = BTreeMap::new();
        for entry in self.events().filter(|entry| entry.event.is_state()) {
            if let Some(stage) = entry.event.stage() {
                stages.insert(stage.to_owned(), entry);
            }
        }
        stages
    }

    /// How many shards of a stage are done, and of how many, for the stages that were cut.
    pub fn shards(&self) -> BTreeMap<String, (u32, u32)> {
        let mut shards = BTreeMap::new();
        for event in self.events().map(|entry| entry.event) {
            match event {
                // Whoever begins again has others.
                RunEvent::StageStarted { stage, .. } => drop(shards.remove(&stage)),
                RunEvent::ShardStarted { stage, shard, .. } => {
                    shards.entry(stage).or_insert((0, shard.of));
                }
                RunEvent::ShardFinished {
                    stage,
                    shard: Shard { of, .. },
                    ..
                } => shards.entry(stage).or_insert((0, of)).0 += 1,
                _ => {}
            }
        }
        shards
    }

    /// Seconds that stages took in this run or, where they were cached, when they ran.
    pub fn seconds(&self) -> BTreeMap<String, f64> {
        let events = self.events().map(|entry| entry.event);
        events
            .filter_map(|event| Some((event.stage()?.to_owned(), event.result()?.seconds)))
            .collect()
    }

    /// The keys that the run found or worked on.
    pub fn keys(&self) -> BTreeSet<Digest> {
        let key = |event: RunEvent| match event {
            RunEvent::StageStarted { key, .. } | RunEvent::StageWaits { key, .. } => Some(key),
            event => event.result().map(|result| result.key),
        };
        self.events().filter_map(|entry| key(entry.event)).collect()
    }

    /// How far the running stages are; none if the run has not said so yet.
    pub fn live(&self) -> Option<Live> {
        Live::read(&self.dir)
    }

    /// Whether the run has ended, runs, or was killed.
    pub fn state(&self) -> RunState {
        if let Some(ended) = self.ending() {
            return ended;
        }
        let locked = self.is_locked();
        if locked == Some(true) {
            return RunState::Running;
        }
        // It may have ended meanwhile.
        if let Some(ended) = self.ending() {
            return ended;
        }
        let host = |machine: &Machine| machine.host.clone();
        let elsewhere = self.header.machine.as_ref().and_then(host) != host(Machine::this());
        let heard = |live: Live| unix_now() - live.at < SIGN_OF_LIFE;
        match locked {
            _ if elsewhere && self.live().is_some_and(heard) => RunState::Running,
            Some(_) if self.header.study.is_some() => RunState::Killed,
            _ => RunState::Unknown,
        }
    }

    /// How the run ended, from the last of its events.
    fn ending(&self) -> Option<RunState> {
        let mut file = file::open(&self.dir.join(EVENTS)).ok()?;
        let length = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))
            .ok()?;
        let mut said = false;
        let mut last = None;
        for entry in entries(BufReader::new(file)) {
            said |= entry.event == RunEvent::Interrupted;
            last = Some(entry.event);
        }
        let Some(RunEvent::Finished {
            executed,
            cached,
            failed,
            seconds,
        }) = last
        else {
            return None;
        };
        Some(RunState::Ended {
            executed,
            cached,
            failed,
            seconds,
            interrupted: said,
        })
    }

    /// Whether somebody holds the run's lock; none where there are no locks.
    pub(super) fn is_locked(&self) -> Option<bool> {
        let file = file::open(&self.dir.join(LOCK)).ok()?;
        // Shared, so that two who look do not take each other for the run.
        match file.try_lock_shared() {
            Ok(()) => Some(false),
            Err(TryLockError::WouldBlock) => Some(true),
            Err(TryLockError::Error(_)) => None,
        }
    }
}

/// Runs below `runs`, latest first, by their headers alone. Those of a newer format are left out, with a warning; so
/// are folders without a header, of runs that were killed before they wrote it.
pub fn runs(runs: &Path) -> impl Iterator<Item = RunFolder> + use<> {
    let mut warned = false;
    folders(runs)
        .into_iter()
        .filter_map(move |dir| match RunFolder::open(&dir) {
            Ok(run) => Some(run),
            Err(error @ JournalError::Newer { .. }) => {
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!("{error}; such runs are left out");
                }
                None
            }
            Err(JournalError::Io { .. }) => None,
        })
}

/// Runs of a study's spec with its overrides, latest first, whatever was edited in it between.
pub fn of_variant(study: &Study, store: &Store) -> impl Iterator<Item = RunFolder> + use<> {
    let id = StudyId::of(study, store.root());
    let same = move |run: &RunFolder| {
        run.header
            .study
            .is_some_and(|other| other.is_variant_of(&id))
    };
    runs(&store.runs_dir()).filter(same)
}

/// Earlier runs of a study's spec: those with its overrides, latest first, then those with others. Journals of format 1
/// know no more than the spec's name, and come with the latter.
pub fn history(study: &Study, store: &Store) -> impl Iterator<Item = RunFolder> + use<> {
    let mut runs = runs(&store.runs_dir()).peekable();
    // A study's identity is a digest of all its stages: not asked for where there is nothing to compare it with.
    let id = runs.peek().map(|_| StudyId::of(study, store.root()));
    let related = |run: &RunFolder| match &run.header.study {
        Some(other) => id.is_some_and(|id| other.spec == id.spec),
        None => run.header.spec == study.name,
    };
    let (same, others): (Vec<_>, Vec<_>) = runs.filter(related).partition(|run| {
        let other = run.header.study;
        other
            .zip(id)
            .is_some_and(|(other, id)| other.is_variant_of(&id))
    });
    same.into_iter().chain(others)
}

/// The folders of runs, latest first.
pub(super) fn folders(runs: &Path) -> Vec<PathBuf> {
    let is_run = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| !name.to_string_lossy().starts_with('.'))
    };
    let mut folders: Vec<PathBuf> = fs::read_dir(runs)
        .map(|entries| {
            let paths = entries.flatten().map(|entry| entry.path());
            paths.filter(is_run).collect()
        })
        .unwrap_or_default();
    folders.sort_unstable_by(|a, b| b.cmp(a));
    folders
}

fn read_header(path: &Path) -> Result<RunHeader, JournalError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    match read_json::<RunHeader>(path) {
        Ok(header) if header.format <= FORMAT => Ok(header),
        Ok(header) => Err(JournalError::Newer {
            path: path.to_owned(),
            found: header.format,
        }),
        // A newer one may have another shape.
        Err(error) => match read_json(path) {
            Ok(Format { format }) if format > FORMAT => Err(JournalError::Newer {
                path: path.to_owned(),
                found: format,
            }),
            _ => Err(JournalError::at(path)(error)),
        },
    }
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> io::Result<T> {
    let file = file::open(path)?.take(MAX_HEADER);
    Ok(serde_json::from_reader(BufReader::new(file))?)
}

/// The events in lines, one at a time. What is no event is left out, whatever its length.
fn entries(mut reader: impl BufRead) -> impl Iterator<Item = Entry> {
    let mut line = Vec::new();
    std::iter::from_fn(move || {
        loop {
            line.clear();
            let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
            match read {
                Ok(0) | Err(_) => return None,
                Ok(_) if line.last() == Some(&b'\n') => {}
                // Cut short, or too long: what follows up to the line's end belongs to it.
                Ok(_) => skip_line(&mut reader).ok()?,
            }
            if let Ok(entry) = serde_json::from_slice(&line) {
                return Some(entry);
            }
        }
    })
}

fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let (used, done) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(used);
        if done {
            return Ok(());
        }
    }
}
