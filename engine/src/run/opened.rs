//! The inputs of a run's stages, each checked once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use dcsft_cache::{Digest, Store, StoreError};

/// Artifacts that were opened and checked in this run.
pub(super) struct Opened<'a> {
    store: &'a Store,
    known: Mutex<HashMap<Digest, PathBuf>>,
}

impl<'a> Opened<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self {
            store,
            known: Mutex::default(),
        }
    }

    /// The folder with an artifact's files, which is checked the first time.
    pub(super) fn open(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dir) = known().get(digest) {
            return Ok(dir.clone());
        }
        let dir = self.store.open_input(digest)?;
        known().insert(*digest, dir.clone());
        Ok(dir)
    }

    /// What is made again has to be checked again.
    pub(super) fn forget(&self, digest: &Digest) {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(digest);
    }
}
