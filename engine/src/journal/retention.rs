//! Which journals stay.
//!
//! A journal goes once it is not among the newest [`KEEP_RUNS`] or is older than [`KEEP_AGE`]. Whatever their age and
//! number there stay, for each spec with its overrides and device: the newest run, the newest that executed something,
//! which the report tells of, and the newest that came to a good end, which knows the keys of all stages. A run that
//! lives stays too. Of more than [`KEEP_STUDIES`] specs, overrides and devices those that ran last count.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use dcsft_cache::file;
use serde::Serialize;

use super::read::{RunFolder, RunState, folders, runs};
use crate::provenance::Machine;

/// How many journals stay.
pub const KEEP_RUNS: usize = 100;
/// How long.
pub const KEEP_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Of how many specs and overrides the latest runs stay beyond that.
pub const KEEP_STUDIES: usize = 1000;

/// Its time of change says when journals were last looked through.
const MARK: &str = ".pruned";
/// A run looks through the journals this often.
const EVERY: Duration = Duration::from_secs(24 * 3600);
/// Or, where there are as many, this often.
const TOO_MANY: usize = 2 * KEEP_RUNS;
const AT_MOST: Duration = Duration::from_secs(600);
/// What a folder is called while it is being removed.
const REMOVED: &str = ".removed-";

/// What went, or would go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Journals that went.
    pub runs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Removes the journals below `runs` that do not stay, or only counts them.
///
/// # Errors
/// If one cannot be removed.
pub fn prune(runs_dir: &Path, dry_run: bool) -> io::Result<Pruned> {
    let mut pruned = Pruned::default();
    let mut kept: BTreeMap<String, Kept> = BTreeMap::new();
    for (index, run) in runs(runs_dir).enumerate() {
        let of_study = kept.entry(study_of(&run)).or_default();
        let latest = of_study.takes(&run);
        let studies = kept.len();
        let recent = index < KEEP_RUNS && age(&run) <= KEEP_AGE;
        if recent || (latest && studies <= KEEP_STUDIES) || lives(&run) {
            continue;
        }
        pruned.runs += 1;
        pruned.bytes += size(&run.dir);
        if !dry_run {
            remove(&run.dir)?;
        }
    }
    if !dry_run {
        leftovers(runs_dir)?;
        let _ = file::write(&runs_dir.join(MARK), "");
    }
    Ok(pruned)
}

/// As [`prune`], if that is long ago or there are many. A run does not fail because an old journal stays.
pub(super) fn prune_if_due(runs_dir: &Path) {
    let changed = fs::metadata(runs_dir.join(MARK)).and_then(|meta| meta.modified());
    let age = changed
        .ok()
        .and_then(|at| SystemTime::now().duration_since(at).ok());
    let many = |age| age > AT_MOST && folders(runs_dir).len() > TOO_MANY;
    if age.is_none_or(|age| age > EVERY || many(age))
        && let Err(error) = prune(runs_dir, false)
    {
        tracing::warn!("old journals in {}: {error}", runs_dir.display());
    }
}

/// Which of a study's runs, latest first, have been met.
#[derive(Default)]
struct Kept {
    newest: bool,
    worked: bool,
    complete: bool,
}

impl Kept {
    /// Whether `run` is the latest of its sort.
    fn takes(&mut self, run: &RunFolder) -> bool {
        let newest = !std::mem::replace(&mut self.newest, true);
        if self.worked && self.complete {
            return newest;
        }
        let state = run.state();
        let executed = matches!(state, RunState::Ended { executed: 1.., .. });
        let worked = executed && !std::mem::replace(&mut self.worked, true);
        let complete = state.is_good_end() && !std::mem::replace(&mut self.complete, true);
        newest || worked || complete
    }
}

/// The spec, its overrides and the device; of older journals the spec's name is known.
fn study_of(run: &RunFolder) -> String {
    let header = &run.header;
    match &header.study {
        Some(study) => format!("{} {}", study.tag(), header.device),
        None => format!("{} {:?} {}", header.spec, header.overrides, header.device),
    }
}

/// Whether it may still be running: here as its lock says, elsewhere as far as one can tell.
fn lives(run: &RunFolder) -> bool {
    match run.state() {
        RunState::Running => true,
        RunState::Ended { .. } | RunState::Killed => false,
        RunState::Unknown => {
            let here = run.header.machine.as_ref() == Some(Machine::this());
            !here && age(run) <= KEEP_AGE
        }
    }
}

fn age(run: &RunFolder) -> Duration {
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(run.header.started_unix);
    SystemTime::now()
        .duration_since(started)
        .unwrap_or_default()
}

fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            Some(if meta.is_dir() {
                size(&entry.path())
            } else {
                meta.len()
            })
        })
        .sum()
}

/// One rename first, so that nobody reads half of it.
fn remove(dir: &Path) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(REMOVED);
    name.push(dir.file_name().unwrap_or_default());
    let gone = dir.with_file_name(name);
    let removed = fs::rename(dir, &gone).and_then(|()| fs::remove_dir_all(&gone));
    match removed {
        // Another process does the same.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What a kill left behind.
fn leftovers(runs_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(runs_dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(REMOVED) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}
