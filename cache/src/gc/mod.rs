//! Garbage collection: what goes, in which order, and what never goes.
//!
//! A record goes if the [`Policy`] says so. Then goes what no record refers to: first artifacts, then blobs; and what
//! kills left behind. It never happens that
//! - the record of a key in [`Policy::keep`], or of a key that is locked, goes;
//! - a record goes that was written or used after the policy was [made](Mark);
//! - an artifact goes while a record refers to it, or a blob while an artifact does;
//! - anything that nothing refers to goes while it is younger than [`Policy::grace`]: somebody whom no lock shows may be
//!   about to refer to it;
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

use crate::checks::{self, Moment};
use crate::error::Context;
use crate::listing::list_digests;
use crate::quarantine::{self, State};
use crate::store::Loaded;
use crate::{Digest, Record, Store, StoreError, durable, lock, statcache, tree};
use refs::Refs;

/// The workspace of a key without a record is kept this long after its last change, for the key to be resumed.
pub const WORKSPACE_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a cluster's jobs need is kept this long after it was written or used: they may wait in a queue.
const JOBS_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Things in the quarantine are kept this long.
pub const QUARANTINE_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A fitting [`Policy::grace`] where hosts share a store: longer than any of them is between publishing and committing.
pub const GRACE: Duration = Duration::from_secs(3600);

/// The moment at which somebody began to find out what to keep.
#[derive(Debug, Clone, Copy)]
pub struct Mark(Moment);

impl Mark {
    /// Now, by the clock of the store's file system.
    pub fn new(store: &Store) -> Self {
        Self(Moment::now(&store.layout))
    }
}

/// Which records go. The default removes none, only what no record refers to.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The records of these keys stay, whatever else is said.
    pub keep: BTreeSet<Digest>,
    /// Records that were written or used since then stay too: whoever found out what to keep did not know of them.
    pub since: Option<Mark>,
    /// All others go.
    pub drop_others: bool,
    /// Those go that were not used for this long. Use is noted to the hour.
    pub older_than: Option<Duration>,
    /// Records go until the blobs of the rest have at most this size in bytes: those first that are the fastest to
    /// compute again per byte, among equals those that were not used for longest.
    pub max_bytes: Option<u64>,
    /// Seconds that it takes to compute a record's result from nothing, as far as its `execution` tells.
    pub cost: fn(&Record) -> f64,
    /// What no record refers to, and never did as far as is known, goes once it is older than this.
    pub grace: Duration,
    /// Only say what would go.
    pub dry_run: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            keep: BTreeSet::new(),
            since: None,
            drop_others: false,
            older_than: None,
            max_bytes: None,
            cost: |_| 0.0,
            grace: Duration::ZERO,
            dry_run: false,
        }
    }
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
    /// Who uses the store, so that nothing but a dry run can be made now.
    pub in_use: Vec<String>,
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
/// [`StoreError::InUse`] if the store is held; a dry run says so in its report instead.
pub fn collect(store: &Store, policy: &Policy) -> Result<Report, StoreError> {
    let layout = &store.layout;
    let mut in_use_by = Vec::new();
    let _guard = match lock::exclude(layout) {
        Err(StoreError::InUse { holders, .. }) if policy.dry_run => {
            in_use_by = holders;
            lock::share(layout)?
        }
        Err(StoreError::Permission { .. }) if policy.dry_run => lock::share(layout)?,
        other => other?,
    };
    let in_use = keys_in_use(store)?;
    let mut candidates = survey(store, policy, &in_use)?;
    let mut refs = Refs::new(store, candidates.iter().map(|candidate| &candidate.outputs))?;
    let goes = choose(&mut candidates, policy, &mut refs);
    let mut sweep = Sweep {
        store,
        policy,
        report: Report::default(),
    };
    // Removing an artifact changes the times of its blobs, so what goes is settled before anything does.
    let artifacts = sweep.artifacts_to_go(&refs)?;
    let blobs = sweep.blobs_to_go(&refs)?;
    let gone: BTreeSet<Digest> = goes.iter().map(|candidate| candidate.removed.key).collect();
    sweep.records(goes)?;
    sweep.artifacts(artifacts)?;
    sweep.blobs(blobs)?;
    sweep.leftovers(&in_use, &gone)?;
    sweep.report.kept_records = candidates.len() as u64;
    sweep.report.kept_bytes = refs.bytes();
    sweep.report.in_use = in_use_by;
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
    let mut candidates = Vec::new();
    for key in list_digests(&store.layout.records(), ".json")? {
        let Loaded { record, used } = match store.load_record(&key)? {
            State::Good(loaded) => loaded,
            State::Missing => continue,
            State::Damaged(flaw) => {
                if !policy.dry_run {
                    store.void(&key, &flaw.reason);
                }
                continue;
            }
        };
        let used = used.unwrap_or(SystemTime::UNIX_EPOCH);
        let unknown = policy.since.is_some_and(|since| since.0.is_before(used));
        candidates.push(Candidate {
            outputs: record
                .outputs
                .values()
                .map(|output| output.digest)
                .collect(),
            used,
            protected: policy.keep.contains(&key) || in_use.contains(&key) || unknown,
            removed: Removed {
                key,
                bytes: record.outputs.values().map(|output| output.bytes).sum(),
                seconds: (policy.cost)(&record),
                label: record.label,
            },
        });
    }
    Ok(candidates)
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
    policy: &'a Policy,
    report: Report,
}

impl Sweep<'_> {
    fn artifacts_to_go(&self, refs: &Refs) -> Result<Vec<Digest>, StoreError> {
        let layout = &self.store.layout;
        let mut goes = list_digests(&layout.artifacts(), "")?;
        goes.retain(|digest| {
            let lost = || refs.had_artifact(digest) || self.is_old(&layout.artifact(digest));
            !refs.has_artifact(digest) && lost()
        });
        Ok(goes)
    }

    fn blobs_to_go(&self, refs: &Refs) -> Result<Vec<Digest>, StoreError> {
        let layout = &self.store.layout;
        let mut goes = list_digests(&layout.blobs(), "")?;
        goes.retain(|digest| {
            let lost = || refs.had_blob(digest) || self.is_old(&layout.blob(digest));
            !refs.has_blob(digest) && lost()
        });
        Ok(goes)
    }

    /// Whether something came to where it is longer than the time of grace ago.
    fn is_old(&self, path: &Path) -> bool {
        let changed = tree::stat(path).ok().flatten().map(|stat| stat.changed);
        let limit = i64::try_from(self.policy.grace.as_nanos()).unwrap_or(i64::MAX);
        limit == 0
            || changed.is_some_and(|changed| checks::nanos(SystemTime::now()) - changed > limit)
    }

    fn records(&mut self, goes: Vec<Candidate>) -> Result<(), StoreError> {
        for candidate in goes {
            self.remove(&self.store.layout.record(&candidate.removed.key))?;
            self.report.removed_records += 1;
            self.report.removed.push(candidate.removed);
        }
        Ok(())
    }

    fn artifacts(&mut self, goes: Vec<Digest>) -> Result<(), StoreError> {
        let layout = &self.store.layout;
        for digest in goes {
            self.report.removed_artifacts += 1;
            if !self.policy.dry_run {
                // One rename, so that nobody sees a part of it.
                let gone = layout.tmp().join(format!("removed-{digest}"));
                let path = layout.artifact(&digest);
                durable::remove(&gone)?;
                fs::rename(&path, &gone).context("remove", &path)?;
                durable::remove(&gone)?;
            }
            self.remove(&layout.check(&digest))?;
        }
        Ok(())
    }

    fn blobs(&mut self, goes: Vec<Digest>) -> Result<(), StoreError> {
        for digest in goes {
            let path = self.store.layout.blob(&digest);
            self.report.removed_blobs += 1;
            self.report.freed_bytes += tree::stat(&path)?.map_or(0, |stat| stat.bytes);
            self.remove(&path)?;
        }
        Ok(())
    }

    /// What kills left behind, workspaces that nobody will resume, old quarantine, digests of files that are gone.
    fn leftovers(
        &mut self,
        in_use: &BTreeSet<Digest>,
        gone: &BTreeSet<Digest>,
    ) -> Result<(), StoreError> {
        let layout = &self.store.layout;
        // Whoever publishes shares the store, so while it is ours everything there that rested is garbage.
        self.remove_entries(&layout.tmp(), |sweep, path| sweep.is_old(path))?;
        self.remove_entries(&layout.quarantine(), |_, path| {
            match quarantine::age(path) {
                Some(age) => age > QUARANTINE_AGE,
                None => idle_for(path, QUARANTINE_AGE),
            }
        })?;
        self.remove_entries(&layout.works(), |_, path| {
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(key) = name.and_then(|name| name.parse::<Digest>().ok()) else {
                return false;
            };
            let is_done = layout.record(&key).exists() && !gone.contains(&key);
            !in_use.contains(&key) && (is_done || idle_for(path, WORKSPACE_AGE))
        })?;
        if layout.jobs().exists() {
            self.remove_entries(&layout.jobs(), |_, path| idle_for(path, JOBS_AGE))?;
        }
        if !self.policy.dry_run {
            self.store.forget_members()?;
        }
        self.report.freed_bytes += statcache::forget_gone(layout, self.policy.dry_run)?;
        Ok(())
    }

    fn remove_entries(
        &mut self,
        folder: &Path,
        goes: impl Fn(&Self, &Path) -> bool,
    ) -> Result<(), StoreError> {
        for entry in fs::read_dir(folder).context("read", folder)? {
            let path = entry.context("read", folder)?.path();
            if goes(self, &path) {
                self.report.freed_bytes += tree::disk_bytes(&path);
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        if self.policy.dry_run {
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
