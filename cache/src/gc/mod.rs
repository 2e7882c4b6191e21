//! Garbage collection: what goes, in which order, and what never goes.
//!
//! A record goes if the [`Policy`] says so. Then goes what no record refers to: first artifacts, then blobs; and what
//! kills left behind. It never happens that
//! - the record of a key in [`Policy::keep`], or of a key that is locked, goes;
//! - an artifact goes while a record refers to it, or a blob while an artifact does;
//! - anything goes while a run holds the store: collection needs the store for itself, or says whom it waits for.
//!
//! A kill on the way leaves artifacts or blobs without a record, which the next collection finds.

mod refs;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use walkdir::WalkDir;

use crate::error::Context;
use crate::store::list_digests;
use crate::{Digest, Record, Store, StoreError, durable, lock, statcache, tree};
use refs::Refs;

/// The workspace of a key without a record is kept this long after its last change, for the key to be resumed.
pub const WORKSPACE_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Things in the quarantine are kept this long.
pub const QUARANTINE_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Which records go. The default removes none, only what no record refers to.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The records of these keys stay, whatever else is said.
    pub keep: BTreeSet<Digest>,
    /// All others go.
    pub drop_others: bool,
    /// Those go that were not used for this long. Use is noted to the hour.
    pub older_than: Option<Duration>,
    /// Records go until the blobs of the rest have at most this size in bytes: those first that are the fastest to
    /// compute again per byte, among equals those that were not used for longest.
    pub max_bytes: Option<u64>,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What went, or would go.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    /// Number of records that went.
    pub removed_records: u64,
    /// Number of artifacts that went.
    pub removed_artifacts: u64,
    /// Number of blobs that went.
    pub removed_blobs: u64,
    /// Freed bytes, those of workspaces, quarantine and leftovers among them.
    pub freed_bytes: u64,
    /// Number of records that stay.
    pub kept_records: u64,
    /// Size of their blobs.
    pub kept_bytes: u64,
    /// The records that went.
    pub removed: Vec<Removed>,
}

/// A record that went, or would go.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Removed {
    /// Its key.
    pub key: Digest,
    /// Its name for people.
    pub label: String,
    /// The size of its outputs in bytes. Other records may share them.
    pub bytes: u64,
    /// How long it takes to compute again, in seconds.
    pub seconds: f64,
}

/// A record as far as collection needs to know it.
struct Candidate {
    removed: Removed,
    outputs: BTreeSet<Digest>,
    used: SystemTime,
    protected: bool,
}

impl Candidate {
    fn seconds_per_byte(&self) -> f64 {
        self.removed.seconds / self.removed.bytes.max(1) as f64
    }
}

/// Removes what the policy says and what nothing refers to.
///
/// # Errors
/// [`StoreError::InUse`] if the store is held, except for a dry run.
pub fn collect(store: &Store, policy: &Policy) -> Result<Report, StoreError> {
    let layout = &store.layout;
    let _guard = if policy.dry_run {
        lock::share(layout)?
    } else {
        lock::exclude(layout)?
    };
    let in_use = keys_in_use(store)?;
    let mut candidates = survey(store, policy, &in_use)?;
    let mut refs = Refs::new(store, candidates.iter().map(|candidate| &candidate.outputs))?;
    let goes = choose(&mut candidates, policy, &mut refs);
    let mut sweep = Sweep {
        store,
        dry_run: policy.dry_run,
        report: Report::default(),
    };
    sweep.records(goes)?;
    sweep.artifacts(&refs)?;
    sweep.blobs(&refs)?;
    sweep.leftovers(&in_use)?;
    sweep.report.kept_records = candidates.len() as u64;
    sweep.report.kept_bytes = refs.bytes();
    Ok(sweep.report)
}

/// The keys whose locks are held.
fn keys_in_use(store: &Store) -> Result<BTreeSet<Digest>, StoreError> {
    let folder = store.layout.locks();
    let mut keys = BTreeSet::new();
    for entry in fs::read_dir(&folder).context("read", &folder)? {
        let name = entry.context("read", &folder)?.file_name();
        let key = name
            .to_str()
            .and_then(|name| name.strip_suffix(".lock")?.parse::<Digest>().ok());
        if let Some(key) = key
            && lock::key_in_use(&store.layout, &key)?
        {
            keys.insert(key);
        }
    }
    Ok(keys)
}

fn survey(
    store: &Store,
    policy: &Policy,
    in_use: &BTreeSet<Digest>,
) -> Result<Vec<Candidate>, StoreError> {
    let candidate = |record: Result<Record, StoreError>| {
        let record = record?;
        let path = store.layout.record(&record.key);
        let used = fs::metadata(&path)
            .and_then(|meta| meta.modified())
            .context("read", &path)?;
        Ok(Candidate {
            outputs: record
                .outputs
                .values()
                .map(|output| output.digest)
                .collect(),
            used,
            protected: policy.keep.contains(&record.key) || in_use.contains(&record.key),
            removed: Removed {
                key: record.key,
                bytes: record.outputs.values().map(|output| output.bytes).sum(),
                seconds: record.cost_seconds(),
                label: record.label,
            },
        })
    };
    store.records()?.map(candidate).collect()
}

/// Takes out of `candidates` what goes, and takes its references back.
fn choose(candidates: &mut Vec<Candidate>, policy: &Policy, refs: &mut Refs) -> Vec<Candidate> {
    let now = SystemTime::now();
    let old = |used: SystemTime| {
        policy
            .older_than
            .is_some_and(|limit| now.duration_since(used).is_ok_and(|age| age > limit))
    };
    let mut goes: Vec<_> = candidates
        .extract_if(.., |c| !c.protected && (policy.drop_others || old(c.used)))
        .collect();
    goes.iter()
        .for_each(|candidate| refs.drop_record(&candidate.outputs));
    if let Some(limit) = policy.max_bytes {
        goes.extend(evict(candidates, limit, refs));
    }
    goes
}

/// Takes out records until the rest has at most `limit` bytes, or only protected ones are left.
fn evict(candidates: &mut Vec<Candidate>, limit: u64, refs: &mut Refs) -> Vec<Candidate> {
    // Removing a record whose outputs a protected one has too would free nothing.
    let pinned: BTreeSet<Digest> = candidates
        .iter()
        .filter(|c| c.protected)
        .flat_map(|c| c.outputs.iter().copied())
        .collect();
    candidates.sort_by(|a, b| {
        let by_cost = a.seconds_per_byte().total_cmp(&b.seconds_per_byte());
        by_cost
            .then(a.used.cmp(&b.used))
            .then(a.removed.key.cmp(&b.removed.key))
    });
    let frees = |c: &Candidate| !c.protected && !c.outputs.is_subset(&pinned);
    candidates
        .extract_if(.., |candidate| {
            let goes = refs.bytes() > limit && frees(candidate);
            if goes {
                refs.drop_record(&candidate.outputs);
            }
            goes
        })
        .collect()
}

struct Sweep<'a> {
    store: &'a Store,
    dry_run: bool,
    report: Report,
}

impl Sweep<'_> {
    fn records(&mut self, goes: Vec<Candidate>) -> Result<(), StoreError> {
        for candidate in goes {
            self.remove(&self.store.layout.record(&candidate.removed.key))?;
            self.report.removed_records += 1;
            self.report.removed.push(candidate.removed);
        }
        Ok(())
    }

    fn artifacts(&mut self, refs: &Refs) -> Result<(), StoreError> {
        let layout = &self.store.layout;
        for digest in list_digests(&layout.artifacts(), "")? {
            if refs.has_artifact(&digest) {
                continue;
            }
            self.report.removed_artifacts += 1;
            if !self.dry_run {
                // One rename, so that nobody sees a part of it.
                let gone = layout.tmp().join(format!("removed-{digest}"));
                let path = layout.artifact(&digest);
                durable::remove(&gone)?;
                fs::rename(&path, &gone).context("remove", &path)?;
                durable::remove(&gone)?;
            }
        }
        Ok(())
    }

    fn blobs(&mut self, refs: &Refs) -> Result<(), StoreError> {
        let layout = &self.store.layout;
        for digest in list_digests(&layout.blobs(), "")? {
            if !refs.has_blob(&digest) {
                let path = layout.blob(&digest);
                self.report.removed_blobs += 1;
                self.report.freed_bytes += tree::stat(&path)?.map_or(0, |stat| stat.bytes);
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// What kills left behind, workspaces that nobody will resume, old quarantine, digests of files that are gone.
    fn leftovers(&mut self, in_use: &BTreeSet<Digest>) -> Result<(), StoreError> {
        let layout = &self.store.layout;
        // Whoever writes to `tmp/` shares the store, so while it is ours everything there is garbage.
        self.remove_entries(&layout.tmp(), |_| true)?;
        self.remove_entries(&layout.quarantine(), |path| idle_for(path, QUARANTINE_AGE))?;
        self.remove_entries(&layout.works(), |path| {
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(key) = name.and_then(|name| name.parse::<Digest>().ok()) else {
                return false;
            };
            !in_use.contains(&key)
                && (layout.record(&key).exists() || idle_for(path, WORKSPACE_AGE))
        })?;
        if !self.dry_run {
            self.store.forget_members()?;
        }
        self.report.freed_bytes += statcache::forget_gone(layout, self.dry_run)?;
        Ok(())
    }

    fn remove_entries(
        &mut self,
        folder: &Path,
        goes: impl Fn(&Path) -> bool,
    ) -> Result<(), StoreError> {
        for entry in fs::read_dir(folder).context("read", folder)? {
            let path = entry.context("read", folder)?.path();
            if goes(&path) {
                self.report.freed_bytes += tree::disk_bytes(&path);
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        if self.dry_run {
            Ok(())
        } else {
            durable::remove(path)
        }
    }
}

/// Whether nothing at or below `path` changed for longer than `limit`.
fn idle_for(path: &Path, limit: Duration) -> bool {
    let changes = WalkDir::new(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.metadata().ok()?.modified().ok());
    let latest = changes.max().unwrap_or(SystemTime::UNIX_EPOCH);
    SystemTime::now()
        .duration_since(latest)
        .is_ok_and(|age| age > limit)
}
