//! Damaged things are moved aside, not deleted: somebody may want to know what happened to the disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::durable;
use crate::layout::Layout;
use crate::{Digest, StoreError};

/// What [`State`] a thing in the store is in.
pub(crate) enum State<T> {
    /// There is no such thing.
    Missing,
    /// It is there and not what it should be.
    Damaged(Flaw),
    /// It is there and well.
    Good(T),
}

/// What is wrong with a thing, and which blobs are known to be wrong with it.
#[derive(Debug)]
pub(crate) struct Flaw {
    pub(crate) reason: String,
    pub(crate) blobs: Vec<Digest>,
}

impl Flaw {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            blobs: Vec::new(),
        }
    }
}

/// Moves `path` to the quarantine, with a note that says why, and returns where it lies now.
///
/// Somebody else having done so meanwhile is fine.
pub(crate) fn move_aside(
    layout: &Layout,
    kind: &str,
    path: &Path,
    reason: &str,
) -> Result<PathBuf, StoreError> {
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let target = layout.quarantine().join(format!("{kind}-{name}-{nanos}"));
    match fs::rename(path, &target) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(target),
        Err(error) => return Err(StoreError::io("quarantine", path, error)),
    }
    tracing::warn!(kind, path = %path.display(), reason, quarantined = %target.display(), "damaged: moved to the quarantine");
    let note = layout
        .quarantine()
        .join(format!("{kind}-{name}-{nanos}.reason"));
    durable::write_atomic(
        &layout.tmp(),
        &note,
        format!("{}: {reason}\n", path.display()).as_bytes(),
    )?;
    durable::sync(durable::parent(path))?;
    Ok(target)
}

/// Moves an artifact and those of its blobs that are known to be wrong to the quarantine.
pub(crate) fn move_artifact(
    layout: &Layout,
    digest: &Digest,
    flaw: &Flaw,
) -> Result<PathBuf, StoreError> {
    for blob in &flaw.blobs {
        let path = layout.blob(blob);
        // The artifact's file may be a damaged copy of a good blob.
        if path.exists() && crate::tree::hash_file(&path)?.0 != *blob {
            move_aside(layout, "blob", &path, &flaw.reason)?;
        }
    }
    move_aside(layout, "artifact", &layout.artifact(digest), &flaw.reason)
}
