//! Seals: what a finished folder holds, written down by its maker, so that somebody else can publish it later and know
//! that it is still what it was.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Context;
use crate::tree::{self, Links};
use crate::{Artifact, Digest, StoreError, durable};

/// One file of a sealed folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedFile {
    /// Its path below the folder, parts joined by `/`.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// The BLAKE3 of its bytes. None for a read-only file with several names: that is a file of the store, which has
    /// its digest.
    pub digest: Option<Digest>,
}

/// Flushes the files of the folder `dir` to the disk and says what they are, sorted by path.
///
/// # Errors
/// Those of [`crate::Store::publish`] for what cannot be stored: [`StoreError::Unsupported`],
/// [`StoreError::BadName`], [`StoreError::Changed`]; errors of the file system.
pub fn seal(dir: &Path) -> Result<Vec<SealedFile>, StoreError> {
    let found = tree::walk(dir, Links::Refuse)?;
    let sealed = tree::map_files(
        &found,
        |file| file.stat.bytes,
        |file| {
            let meta = fs::symlink_metadata(&file.full).context("read", &file.full)?;
            let stored = file.stat.links > 1 && meta.permissions().readonly();
            let digest = if stored {
                None
            } else {
                Some(tree::hash_file(&file.full)?.0)
            };
            Ok(SealedFile {
                path: file.path.clone(),
                bytes: file.stat.bytes,
                digest,
            })
        },
    )?;
    let files: Vec<PathBuf> = found.into_iter().map(|file| file.full).collect();
    durable::sync_all(&files)?;
    Ok(sealed)
}

/// Whether an artifact has just the files that were sealed.
pub fn is_sealed(artifact: &Artifact, sealed: &[SealedFile]) -> bool {
    let same = |(file, sealed): (&crate::FileEntry, &SealedFile)| {
        file.path == sealed.path
            && file.bytes == sealed.bytes
            && sealed.digest.is_none_or(|digest| digest == file.digest)
    };
    artifact.files.len() == sealed.len() && artifact.files.iter().zip(sealed).all(same)
}

/// Writes `bytes` to `path` so that a reader sees the old content or the new one, never a part, even after a power
/// cut.
///
/// # Errors
/// [`StoreError::NoSpace`] and the like.
pub fn write_durable(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    durable::write_atomic(durable::parent(path), path, bytes)
}
