//! Reading everything again: is each byte in the store what it was when it was stored?

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use crate::checks::{self, Moment, Remembered};
use crate::listing::{Listing, list};
use crate::quarantine::{self, Flaw, State};
use crate::stat::FileStat;
use crate::store::Loaded;
use crate::taint::{self, Suspect};
use crate::{Digest, Store, StoreError, Voided, artifact, lock, read, statcache, tree};

/// Blobs are hashed this many at a time, and progress is told after each batch.
const BATCH: usize = 64;

/// How far [`verify`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Things checked: blobs, artifacts and records.
    pub done: u64,
    /// Things to check in all.
    pub total: u64,
    /// Bytes read so far.
    pub bytes: u64,
}

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Things checked: blobs, artifacts and records.
    pub checked: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What was damaged. It now is in the quarantine where it could be moved; the next run computes it again.
    pub damaged: Vec<Damage>,
    /// Results that are whole themselves and may have been computed from damaged bytes. Their records are in the
    /// quarantine too, and the next run computes them again.
    pub voided: Vec<Voided>,
}

/// One damaged thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// What kind of thing it is.
    pub kind: Kind,
    /// The digest it is stored under; the key, for a record. None for what is stored under no digest.
    pub digest: Option<Digest>,
    /// Where it lay.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
    /// Where it lies now; none if it could not be moved.
    pub quarantined: Option<PathBuf>,
}

/// The kinds of things in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The bytes of one file.
    Blob,
    /// A folder of files.
    Artifact,
    /// The result of a key.
    Record,
    /// Remembered digests of a user's files.
    StatCache,
    /// A folder of the store that cannot be listed. What is in it was not checked.
    Folder,
}

impl Kind {
    /// The kind's name, as in a quarantined thing's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Artifact => "artifact",
            Self::Record => "record",
            Self::StatCache => "stat cache",
            Self::Folder => "folder",
        }
    }
}

/// Checks every blob, artifact and record of the store, and what is remembered of users' files; moves what is damaged
/// or cannot be read to the quarantine.
///
/// A record is damaged if an artifact of it is; so the next look-up of its key says that it must be computed again. The
/// records of what may have been computed from damaged bytes are void as well. Other processes may use the store
/// meanwhile.
///
/// # Errors
/// A store that cannot be locked. What is wrong with its content is no error but part of the report.
pub fn verify(store: &Store, progress: impl FnMut(&Progress)) -> Result<Report, StoreError> {
    let _shared = lock::share(&store.layout)?;
    let began = Moment::now(&store.layout);
    let mut check = Check {
        store,
        began,
        progress,
        state: Progress::default(),
        report: Report::default(),
        suspects: Vec::new(),
    };
    let layout = &store.layout;
    let blobs = check.list(&layout.blobs(), "");
    let artifacts = check.list(&layout.artifacts(), "");
    let records = check.list(&layout.records(), ".json");
    check.state.total = (blobs.len() + artifacts.len() + records.len()) as u64;
    let good_blobs = check.blobs(&blobs)?;
    let good_artifacts = check.artifacts(&artifacts, &good_blobs)?;
    check.report.voided = taint::void_readers(store, &check.suspects)?;
    check.records(&records, &good_artifacts)?;
    check.stat_caches();
    let stays = |damage: &Damage| fs::symlink_metadata(&damage.path).is_ok();
    if !check.report.damaged.iter().any(stays) {
        checks::note_verified(layout, began);
    }
    Ok(Report {
        checked: check.state.done,
        bytes: check.state.bytes,
        ..check.report
    })
}

struct Check<'a, P> {
    store: &'a Store,
    began: Moment,
    progress: P,
    state: Progress,
    report: Report,
    suspects: Vec<Suspect>,
}

impl<P: FnMut(&Progress)> Check<'_, P> {
    /// The digests that name the entries of a sharded folder, as far as it can be listed.
    fn list(&mut self, folder: &Path, suffix: &str) -> Vec<Digest> {
        let Listing { digests, unlisted } = list(folder, suffix);
        for (path, error) in unlisted {
            self.report.damaged.push(Damage {
                kind: Kind::Folder,
                digest: None,
                path,
                reason: format!("it cannot be listed: {error}"),
                quarantined: None,
            });
        }
        digests
    }

    /// Hashes the blobs; returns the good ones.
    fn blobs(&mut self, digests: &[Digest]) -> Result<BTreeMap<Digest, FileStat>, StoreError> {
        let mut good = BTreeMap::new();
        let layout = &self.store.layout;
        for batch in digests.chunks(BATCH) {
            let hashed: Vec<_> = batch
                .par_iter()
                .map(|digest| tree::hash_file(&layout.blob(digest)))
                .collect();
            for (digest, hashed) in batch.iter().zip(hashed) {
                let reason = match hashed {
                    Ok((found, stat)) => {
                        self.state.bytes += stat.bytes;
                        if found == *digest {
                            good.insert(*digest, stat);
                            continue;
                        }
                        "its bytes are not those that were stored".to_owned()
                    }
                    // A look-up may have moved it to the quarantine meanwhile.
                    Err(_) if fs::symlink_metadata(layout.blob(digest)).is_err() => continue,
                    Err(error) if read::is_damage_of(&error) => unreadable(&error),
                    Err(error) => return Err(error),
                };
                let path = layout.blob(digest);
                self.aside(Kind::Blob, *digest, path, reason);
            }
            self.advance(batch.len());
        }
        Ok(good)
    }

    /// Checks the artifacts. Files that are links to good blobs are not read again.
    fn artifacts(
        &mut self,
        digests: &[Digest],
        blobs: &BTreeMap<Digest, FileStat>,
    ) -> Result<BTreeSet<Digest>, StoreError> {
        let mut good = BTreeSet::new();
        let layout = &self.store.layout;
        for digest in digests {
            let is_good_blob = |file: &crate::FileEntry, stat: &FileStat| {
                blobs
                    .get(&file.digest)
                    .is_some_and(|blob| blob.same_file(stat))
            };
            let state = artifact::check(layout, digest, |file, stat| !is_good_blob(file, stat))?;
            match state {
                State::Good(mut sound) => {
                    // The others were read as blobs, a moment ago.
                    sound.files.iter_mut().for_each(|file| file.read = true);
                    if sound.has_large_files() {
                        checks::save(layout, &sound, &Remembered::default(), self.began);
                    }
                    good.insert(*digest);
                }
                State::Missing => {}
                State::Damaged(flaw) => {
                    if flaw.spreads {
                        self.suspects.push(Suspect {
                            artifact: *digest,
                            sound_since: checks::sound_since(layout, digest),
                        });
                    }
                    let path = layout.artifact(digest);
                    let quarantined = quarantine::move_artifact(layout, digest, &flaw);
                    checks::forget(layout, digest);
                    self.found(Kind::Artifact, *digest, path, flaw.reason, quarantined);
                }
            }
            self.advance(1);
        }
        Ok(good)
    }

    fn records(&mut self, keys: &[Digest], artifacts: &BTreeSet<Digest>) -> Result<(), StoreError> {
        for key in keys {
            let flaw = match self.store.load_record(key)? {
                State::Missing => None,
                State::Damaged(flaw) => Some(flaw),
                State::Good(Loaded { record, .. }) => {
                    // An artifact may have been published after the list was made.
                    let here = |digest| {
                        artifacts.contains(digest) || self.store.artifact_files(digest).exists()
                    };
                    let lost = record
                        .outputs
                        .iter()
                        .find(|(_, output)| !here(&output.digest));
                    lost.map(|(name, output)| {
                        Flaw::new(format!(
                            "its output `{name}`, artifact {}, is damaged or missing",
                            output.digest
                        ))
                    })
                }
            };
            if let Some(flaw) = flaw {
                let path = self.store.layout.record(key);
                self.aside(Kind::Record, *key, path, flaw.reason);
            }
            self.advance(1);
        }
        Ok(())
    }

    fn stat_caches(&mut self) {
        for (path, reason) in statcache::broken(&self.store.layout) {
            let quarantined =
                quarantine::move_aside(&self.store.layout, "stat-cache", &path, &reason);
            self.report.damaged.push(Damage {
                kind: Kind::StatCache,
                digest: None,
                path,
                reason,
                quarantined,
            });
        }
    }

    fn aside(&mut self, kind: Kind, digest: Digest, path: PathBuf, reason: String) {
        let quarantined = quarantine::move_aside(&self.store.layout, kind.name(), &path, &reason);
        self.found(kind, digest, path, reason, quarantined);
    }

    fn found(
        &mut self,
        kind: Kind,
        digest: Digest,
        path: PathBuf,
        reason: String,
        quarantined: Option<PathBuf>,
    ) {
        self.report.damaged.push(Damage {
            kind,
            digest: Some(digest),
            path,
            reason,
            quarantined,
        });
    }

    fn advance(&mut self, done: usize) {
        self.state.done += done as u64;
        (self.progress)(&self.state);
    }
}

fn unreadable(error: &StoreError) -> String {
    match error {
        StoreError::Io { cause, .. } => Flaw::unreadable(cause).reason,
        other => other.to_string(),
    }
}
