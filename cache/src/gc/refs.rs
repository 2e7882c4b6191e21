//! Who refers to what: records to artifacts, artifacts to blobs.

use std::collections::{BTreeMap, BTreeSet};

use crate::quarantine::State;
use crate::{Digest, Store, StoreError, artifact};

/// Counts of references, and the size of all blobs that are referred to.
#[derive(Default)]
pub(super) struct Refs {
    artifacts: BTreeMap<Digest, Counted<BTreeMap<Digest, u64>>>,
    blobs: BTreeMap<Digest, Counted<u64>>,
    bytes: u64,
    /// What had references, all of which were taken back.
    dropped_artifacts: BTreeSet<Digest>,
    dropped_blobs: BTreeSet<Digest>,
}

struct Counted<T> {
    count: u64,
    what: T,
}

impl Refs {
    /// Counts the references of records with these outputs.
    pub(super) fn new<'a>(
        store: &Store,
        records: impl Iterator<Item = &'a BTreeSet<Digest>>,
    ) -> Result<Self, StoreError> {
        let mut refs = Self::default();
        for digest in records.flatten() {
            if let Some(artifact) = refs.artifacts.get_mut(digest) {
                artifact.count += 1;
                continue;
            }
            // A damaged artifact keeps its folder until somebody looks at it; which blobs it has is not known.
            let files = match artifact::read(&store.layout, digest)? {
                State::Good(artifact) => artifact.files,
                State::Missing | State::Damaged(_) => Vec::new(),
            };
            let blobs: BTreeMap<_, _> = files
                .into_iter()
                .map(|file| (file.digest, file.bytes))
                .collect();
            for (blob, bytes) in &blobs {
                refs.add_blob(*blob, *bytes);
            }
            refs.artifacts.insert(
                *digest,
                Counted {
                    count: 1,
                    what: blobs,
                },
            );
        }
        Ok(refs)
    }

    /// The size in bytes of all blobs that are referred to, each counted once.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn has_artifact(&self, digest: &Digest) -> bool {
        self.artifacts.contains_key(digest)
    }

    pub(super) fn has_blob(&self, digest: &Digest) -> bool {
        self.blobs.contains_key(digest)
    }

    /// Whether it had references, and they were taken back.
    pub(super) fn had_artifact(&self, digest: &Digest) -> bool {
        self.dropped_artifacts.contains(digest)
    }

    /// As [`Refs::had_artifact`], for a blob.
    pub(super) fn had_blob(&self, digest: &Digest) -> bool {
        self.dropped_blobs.contains(digest)
    }

    /// Takes back the references of one record with these outputs.
    pub(super) fn drop_record(&mut self, outputs: &BTreeSet<Digest>) {
        for digest in outputs {
            let Some(artifact) = self.artifacts.get_mut(digest) else {
                continue;
            };
            artifact.count -= 1;
            if artifact.count == 0
                && let Some(artifact) = self.artifacts.remove(digest)
            {
                self.dropped_artifacts.insert(*digest);
                artifact.what.keys().for_each(|blob| self.drop_blob(blob));
            }
        }
    }

    fn add_blob(&mut self, digest: Digest, bytes: u64) {
        let blob = self.blobs.entry(digest).or_insert(Counted {
            count: 0,
            what: bytes,
        });
        if blob.count == 0 {
            self.bytes += bytes;
        }
        blob.count += 1;
    }

    fn drop_blob(&mut self, digest: &Digest) {
        let Some(blob) = self.blobs.get_mut(digest) else {
            return;
        };
        blob.count -= 1;
        if blob.count == 0 {
            self.bytes -= blob.what;
            self.blobs.remove(digest);
            self.dropped_blobs.insert(*digest);
        }
    }
}
