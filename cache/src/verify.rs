//! Reading everything again: is each byte in the store what it was when it was stored?

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rayon::prelude::*;
use serde::Serialize;

use crate::quarantine::{self, Flaw, State};
use crate::stat::FileStat;
use crate::store::{Loaded, list_digests};
use crate::{Digest, Store, StoreError, artifact, lock, tree};

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
    /// What was damaged. It now is in the quarantine; the next run computes it again.
    pub damaged: Vec<Damage>,
}

/// One damaged thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// What kind of thing it is.
    pub kind: Kind,
    /// The digest it is stored under; the key, for a record.
    pub digest: Digest,
    /// What is wrong with it.
    pub reason: String,
    /// Where it lies now.
    pub quarantined: PathBuf,
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
}

/// Checks every blob, artifact and record of the store, and moves the damaged ones to the quarantine.
///
/// A record is damaged if an artifact of it is; so the next look-up of its key says that it must be computed again.
/// Other processes may use the store meanwhile.
///
/// # Errors
/// Errors of the file system. What is wrong with the store's content is no error but part of the report.
pub fn verify(store: &Store, progress: impl FnMut(&Progress)) -> Result<Report, StoreError> {
    let _shared = lock::share(&store.layout)?;
    let blobs = list_digests(&store.layout.blobs(), "")?;
    let artifacts = list_digests(&store.layout.artifacts(), "")?;
    let records = list_digests(&store.layout.records(), ".json")?;
    let total = (blobs.len() + artifacts.len() + records.len()) as u64;
    let state = Progress {
        total,
        ..Progress::default()
    };
    let mut check = Check {
        store,
        progress,
        state,
        damaged: Vec::new(),
    };
    let good_blobs = check.blobs(&blobs)?;
    let good_artifacts = check.artifacts(&artifacts, &good_blobs)?;
    check.records(&records, &good_artifacts)?;
    Ok(Report {
        checked: check.state.done,
        bytes: check.state.bytes,
        damaged: check.damaged,
    })
}

struct Check<'a, P> {
    store: &'a Store,
    progress: P,
    state: Progress,
    damaged: Vec<Damage>,
}

impl<P: FnMut(&Progress)> Check<'_, P> {
    /// Hashes the blobs; returns the good ones.
    fn blobs(&mut self, digests: &[Digest]) -> Result<BTreeMap<Digest, FileStat>, StoreError> {
        let mut good = BTreeMap::new();
        let layout = &self.store.layout;
        for batch in digests.chunks(BATCH) {
            let hashed = batch.par_iter().map(|digest| {
                let path = layout.blob(digest);
                // A look-up may have moved it to the quarantine meanwhile.
                if path.exists() {
                    tree::hash_file(&path).map(Some)
                } else {
                    Ok(None)
                }
            });
            let hashed = hashed.collect::<Result<Vec<_>, _>>()?;
            for (digest, (found, stat)) in batch
                .iter()
                .zip(hashed)
                .filter_map(|(digest, hashed)| Some((digest, hashed?)))
            {
                self.state.bytes += stat.bytes;
                if found == *digest {
                    good.insert(*digest, stat);
                    continue;
                }
                let reason = "its bytes are not those that were stored";
                let quarantined =
                    quarantine::move_aside(layout, "blob", &layout.blob(digest), reason)?;
                self.damaged.push(Damage {
                    kind: Kind::Blob,
                    digest: *digest,
                    reason: reason.into(),
                    quarantined,
                });
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
        for digest in digests {
            let state = artifact::check(&self.store.layout, digest, |file, stat| {
                !blobs
                    .get(&file.digest)
                    .is_some_and(|blob| blob.same_file(stat))
            })?;
            match state {
                State::Good(_) => drop(good.insert(*digest)),
                State::Missing => {}
                State::Damaged(flaw) => {
                    let quarantined = quarantine::move_artifact(&self.store.layout, digest, &flaw)?;
                    self.damaged.push(Damage {
                        kind: Kind::Artifact,
                        digest: *digest,
                        reason: flaw.reason,
                        quarantined,
                    });
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
                let quarantined =
                    quarantine::move_aside(&self.store.layout, "record", &path, &flaw.reason)?;
                self.damaged.push(Damage {
                    kind: Kind::Record,
                    digest: *key,
                    reason: flaw.reason,
                    quarantined,
                });
            }
            self.advance(1);
        }
        Ok(())
    }

    fn advance(&mut self, done: usize) {
        self.state.done += done as u64;
        (self.progress)(&self.state);
    }
}
