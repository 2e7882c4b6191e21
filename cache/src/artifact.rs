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
use crate::{Digest, StoreError, read};

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

/// Whether something lies where the artifact with this digest would.
pub(crate) fn is_there(layout: &Layout, digest: &Digest) -> bool {
    fs::symlink_metadata(layout.artifact(digest)).is_ok()
}

/// An artifact whose files are what they should be.
pub(crate) struct Sound {
    pub(crate) artifact: Artifact,
    pub(crate) files: Vec<Checked>,
}

impl Sound {
    /// Whether there is a file that is worth remembering that it was read.
    pub(crate) fn has_large_files(&self) -> bool {
        self.files.iter().any(|file| file.entry.bytes > SMALL_FILE)
    }
}

/// A file of a [`Sound`] artifact.
pub(crate) struct Checked {
    pub(crate) entry: FileEntry,
    /// Its facts before it was read.
    pub(crate) stat: FileStat,
    /// Whether its bytes were read.
    pub(crate) read: bool,
}

/// Reads an artifact's manifest and checks that it describes the artifact with this digest.
pub(crate) fn read(layout: &Layout, digest: &Digest) -> Result<State<Artifact>, StoreError> {
    let folder = layout.artifact(digest);
    let path = manifest_path(&folder);
    let mut manifest = read::whole(&path);
    if matches!(&manifest, Err(error) if error.kind() == io::ErrorKind::NotFound)
        && fs::symlink_metadata(&folder).is_ok()
    {
        // Somebody may have put the artifact there after the first look; it comes with its manifest.
        manifest = read::whole(&path);
    }
    let bytes = match manifest {
        Ok((bytes, _)) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(match fs::symlink_metadata(&folder) {
                Ok(_) => flawed("its manifest is missing"),
                Err(_) => State::Missing,
            });
        }
        Err(error) if read::is_damage(&error) => {
            return Ok(flawed(&format!("its manifest cannot be read: {error}")));
        }
        Err(error) => return Err(StoreError::io("read", &path, error)),
    };
    Ok(match parse(&bytes, digest)? {
        Some(artifact) => State::Good(artifact),
        None => flawed("its manifest does not match its digest"),
    })
}

/// Reads the bytes of a manifest; none if they do not describe the artifact with this digest.
pub(crate) fn parse(bytes: &[u8], digest: &Digest) -> Result<Option<Artifact>, StoreError> {
    let Ok(artifact) = serde_json::from_slice::<Artifact>(bytes) else {
        return Ok(None);
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
    // The digest covers the paths and the files' digests, and a size is compared with the file's own.
    let whole = sane
        && sorted
        && sum == Some(artifact.bytes)
        && artifact.digest == *digest
        && tree::digest(&artifact.files)? == *digest;
    Ok(whole.then_some(artifact))
}

fn flawed<T>(reason: &str) -> State<T> {
    State::Damaged(Flaw::new(reason))
}

/// Reads an artifact and checks that its folder holds just its files, with their sizes, and with their bytes for all
/// those for which `hash` says so. A file that cannot be read is a damaged one.
pub(crate) fn check(
    layout: &Layout,
    digest: &Digest,
    hash: impl Fn(&FileEntry, &FileStat) -> bool + Sync,
) -> Result<State<Sound>, StoreError> {
    let artifact = match read(layout, digest)? {
        State::Good(artifact) => artifact,
        State::Missing => return Ok(State::Missing),
        State::Damaged(mut flaw) => {
            flaw.spreads = !are_files_whole(layout, digest)?;
            return Ok(State::Damaged(flaw));
        }
    };
    let found = match tree::walk(&files_path(&layout.artifact(digest)), Links::Refuse) {
        Ok(found) => found,
        Err(StoreError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) if read::is_damage_of(&error) => {
            return Ok(flawed(&error.to_string()));
        }
        Err(error) => return Err(error),
    };
    if let Some(reason) = difference(&artifact.files, &found) {
        return Ok(flawed(&reason));
    }
    let pairs: Vec<(&FileEntry, &Found)> = artifact.files.iter().zip(&found).collect();
    let checked = tree::map_files(
        &pairs,
        |(file, _)| file.bytes,
        |(file, found)| {
            let same = |stat, read| Checked {
                entry: (*file).clone(),
                stat,
                read,
            };
            if !hash(file, &found.stat) {
                return Ok(Some(same(found.stat, false)));
            }
            match tree::hash_file(&found.full) {
                Ok((digest, stat)) => Ok((digest == file.digest).then(|| same(stat, true))),
                Err(error) if read::is_damage_of(&error) => Ok(None),
                Err(error) => Err(error),
            }
        },
    )?;
    let wrong: Vec<&FileEntry> = pairs
        .iter()
        .zip(&checked)
        .filter(|(_, checked)| checked.is_none())
        .map(|((file, _), _)| *file)
        .collect();
    let Some(first) = wrong.first() else {
        let files = checked.into_iter().flatten().collect();
        return Ok(State::Good(Sound { artifact, files }));
    };
    let reason = format!(
        "the bytes of `{}` are not those that were stored",
        first.path
    );
    Ok(State::Damaged(Flaw {
        reason,
        blobs: wrong.iter().map(|file| file.digest).collect(),
        spreads: true,
    }))
}

/// Whether the files of an artifact, whatever its manifest says, are those that its digest speaks of.
fn are_files_whole(layout: &Layout, digest: &Digest) -> Result<bool, StoreError> {
    let Ok(found) = tree::walk(&files_path(&layout.artifact(digest)), Links::Refuse) else {
        return Ok(false);
    };
    let hashed = tree::map_files(
        &found,
        |file| file.stat.bytes,
        |file| {
            Ok(tree::hash_file(&file.full)
                .ok()
                .map(|(digest, stat)| FileEntry {
                    path: file.path.clone(),
                    bytes: stat.bytes,
                    digest,
                }))
        },
    )?;
    let files: Option<Vec<FileEntry>> = hashed.into_iter().collect();
    Ok(match files {
        Some(files) => tree::digest(&files)? == *digest,
        None => false,
    })
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
