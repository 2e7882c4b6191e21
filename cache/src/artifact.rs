//! Artifacts: the named outputs of stages, each an immutable folder that anyone can browse.
//!
//! `artifacts/ab/<digest>/` holds `manifest.json` and `files/`; the files are hard links to blobs, so equal files of
//! different artifacts share their bytes on the disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::quarantine::{Flaw, State};
use crate::stat::FileStat;
use crate::tree::{self, FileEntry, Found, Links};
use crate::{Digest, StoreError};

/// Files up to this size, in bytes, are hashed whenever an artifact is opened as an input.
pub const SMALL_FILE: u64 = 64 * 1024;

/// A folder in the store, named by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// The digest of the sorted (path, file digest) pairs; the same as that of a user's folder with these files.
    pub digest: Digest,
    /// The sum of the files' sizes in bytes.
    pub bytes: u64,
    /// The files, sorted by path.
    pub files: Vec<FileEntry>,
}

impl Artifact {
    /// The artifact that `files`, sorted by path, are.
    pub(crate) fn of(files: Vec<FileEntry>) -> Result<Self, StoreError> {
        let digest = tree::digest(&files)?;
        let bytes = files.iter().map(|file| file.bytes).sum();
        Ok(Self {
            digest,
            bytes,
            files,
        })
    }

    /// The bytes of its manifest.
    pub(crate) fn manifest(&self) -> Result<Vec<u8>, StoreError> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|cause| StoreError::Encode {
            what: "a manifest",
            cause,
        })?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// The manifest of the artifact in `folder`.
pub(crate) fn manifest_path(folder: &Path) -> PathBuf {
    folder.join("manifest.json")
}

/// The folder with the files of the artifact in `folder`.
pub(crate) fn files_path(folder: &Path) -> PathBuf {
    folder.join("files")
}

/// Reads an artifact's manifest and checks that it describes the artifact with this digest.
pub(crate) fn read(layout: &Layout, digest: &Digest) -> Result<State<Artifact>, StoreError> {
    let folder = layout.artifact(digest);
    let path = manifest_path(&folder);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(if folder.exists() {
                flawed("its manifest is missing")
            } else {
                State::Missing
            });
        }
        Err(error) => return Err(StoreError::io("read", &path, error)),
    };
    let Ok(artifact) = serde_json::from_slice::<Artifact>(&bytes) else {
        return Ok(flawed("its manifest cannot be read"));
    };
    let sane = artifact
        .files
        .iter()
        .all(|file| tree::fault_of_path(&file.path).is_none());
    let sorted = artifact.files.is_sorted_by(|a, b| a.path < b.path);
    let sum = artifact
        .files
        .iter()
        .try_fold(0u64, |sum, file| sum.checked_add(file.bytes));
    // The digest covers the whole list of files, so the manifest needs no digest of its own.
    if !sane || !sorted || sum != Some(artifact.bytes) || tree::digest(&artifact.files)? != *digest
    {
        return Ok(flawed("its manifest does not match its digest"));
    }
    Ok(State::Good(artifact))
}

fn flawed(reason: &str) -> State<Artifact> {
    State::Damaged(Flaw::new(reason))
}

/// Reads an artifact and checks that its folder holds just its files, with their sizes, and with their bytes for all
/// those for which `hash` says so.
pub(crate) fn check(
    layout: &Layout,
    digest: &Digest,
    hash: impl Fn(&FileEntry, &FileStat) -> bool,
) -> Result<State<Artifact>, StoreError> {
    let artifact = match read(layout, digest)? {
        State::Good(artifact) => artifact,
        other => return Ok(other),
    };
    let found = match tree::walk(&files_path(&layout.artifact(digest)), Links::Refuse) {
        Ok(found) => found,
        Err(StoreError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error @ (StoreError::Unsupported { .. } | StoreError::BadName { .. })) => {
            return Ok(State::Damaged(Flaw::new(error.to_string())));
        }
        Err(error) => return Err(error),
    };
    if let Some(reason) = difference(&artifact.files, &found) {
        return Ok(State::Damaged(Flaw::new(reason)));
    }
    let doubtful: Vec<_> = artifact
        .files
        .iter()
        .zip(&found)
        .filter(|(file, found)| hash(file, &found.stat))
        .collect();
    let hashed = tree::map_files(
        &doubtful,
        |(file, _)| file.bytes,
        |(file, found)| Ok((tree::hash_file(&found.full)?.0 != file.digest).then_some(*file)),
    )?;
    let wrong: Vec<&FileEntry> = hashed.into_iter().flatten().collect();
    let Some(first) = wrong.first() else {
        return Ok(State::Good(artifact));
    };
    let reason = format!(
        "the bytes of `{}` are not those that were stored",
        first.path
    );
    Ok(State::Damaged(Flaw {
        reason,
        blobs: wrong.iter().map(|file| file.digest).collect(),
    }))
}

/// In what the files of a folder differ from those that it should have; both sorted by path.
fn difference(wanted: &[FileEntry], found: &[Found]) -> Option<String> {
    let first_odd = wanted.iter().zip(found).position(|(w, f)| w.path != f.path);
    let at = first_odd.unwrap_or(wanted.len().min(found.len()));
    match (wanted.get(at), found.get(at)) {
        (Some(w), Some(f)) if f.path < w.path => {
            Some(format!("`{}` is not one of its files", f.path))
        }
        (Some(w), _) => Some(format!("its file `{}` is missing", w.path)),
        (None, Some(f)) => Some(format!("`{}` is not one of its files", f.path)),
        (None, None) => {
            let (w, f) = wanted
                .iter()
                .zip(found)
                .find(|(w, f)| w.bytes != f.stat.bytes)?;
            Some(format!(
                "its file `{}` has {} bytes instead of {}",
                w.path, f.stat.bytes, w.bytes
            ))
        }
    }
}
