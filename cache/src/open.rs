//! Opening artifacts: their bytes are checked before anybody computes with them, and what is damaged is told to all
//! who may have computed with it before.

use std::path::PathBuf;

use crate::artifact::{self, SMALL_FILE};
use crate::checks::{self, Moment};
use crate::quarantine::{self, Flaw, State};
use crate::taint::{self, Suspect};
use crate::{Digest, Record, Store, StoreError};

/// Which files are read when an artifact is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bytes {
    /// Small ones, and large ones that were not read since they changed.
    Doubtful,
    /// All that this process has not read itself.
    All,
}

impl Store {
    /// The folder with the files of an artifact, after a check: all files are there, no other is, and their bytes are
    /// those that were stored. A file larger than [`SMALL_FILE`] is read once and then only if its size, times or inode
    /// have changed.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], in which case the artifact is in the quarantine, its record is void, and so are the
    /// records of what may have been computed from damaged bytes; [`StoreError::MissingArtifact`].
    pub fn open_input(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        self.open_checked(digest, Bytes::Doubtful)
    }

    /// As [`Store::open_input`], and reads files of any size, whatever is remembered of earlier checks.
    ///
    /// # Errors
    /// Those of [`Store::open_input`].
    pub fn open_verified(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        self.open_checked(digest, Bytes::All)
    }

    fn open_checked(&self, digest: &Digest, bytes: Bytes) -> Result<PathBuf, StoreError> {
        let began = Moment::now(&self.layout);
        let remembered = checks::load(&self.layout, digest);
        let state = artifact::check(&self.layout, digest, |file, stat| match bytes {
            _ if file.bytes > SMALL_FILE && self.seen.has_read(stat, &file.digest) => false,
            Bytes::Doubtful => file.bytes <= SMALL_FILE || !remembered.holds(&file.path, stat),
            Bytes::All => true,
        })?;
        match state {
            State::Good(sound) => {
                self.seen.note(&sound, Some(began));
                checks::save(&self.layout, &sound, &remembered, began);
                Ok(self.artifact_files(digest))
            }
            State::Missing => Err(StoreError::MissingArtifact {
                digest: *digest,
                root: self.layout.root.clone(),
            }),
            State::Damaged(flaw) => {
                let quarantined = self.condemn(digest, &flaw)?;
                Err(StoreError::Damaged {
                    digest: *digest,
                    reason: flaw.reason,
                    quarantined,
                })
            }
        }
    }

    /// As [`Store::lookup`], and checks the artifacts as [`Store::open_verified`] does.
    ///
    /// # Errors
    /// Those of [`Store::lookup`].
    pub fn lookup_verified(&self, key: &Digest) -> Result<Option<Record>, StoreError> {
        let Some(record) = self.lookup(key)? else {
            return Ok(None);
        };
        let mut flaw = None;
        for output in record.outputs.values() {
            match self.open_verified(&output.digest) {
                Ok(_) => {}
                Err(error @ (StoreError::Damaged { .. } | StoreError::MissingArtifact { .. })) => {
                    flaw.get_or_insert(error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        match flaw {
            None => Ok(Some(record)),
            Some(reason) => {
                self.void(key, &reason);
                Ok(None)
            }
        }
    }

    /// Moves a damaged artifact to the quarantine, and with it the records of what may have been computed from it.
    /// Returns where it lies now.
    pub(crate) fn condemn(
        &self,
        digest: &Digest,
        flaw: &Flaw,
    ) -> Result<Option<PathBuf>, StoreError> {
        let suspect = Suspect {
            artifact: *digest,
            sound_since: checks::sound_since(&self.layout, digest),
        };
        let quarantined = quarantine::move_artifact(&self.layout, digest, flaw);
        checks::forget(&self.layout, digest);
        if flaw.spreads {
            taint::void_readers(self, &[suspect])?;
        }
        Ok(quarantined)
    }

    /// The keys whose records this process has voided since the last call because they may have been computed from
    /// damaged bytes. Whoever has taken over such a record meanwhile computes it again.
    pub fn take_voided(&self) -> Vec<Digest> {
        std::mem::take(&mut *self.voided())
    }
}
