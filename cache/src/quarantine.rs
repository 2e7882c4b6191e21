//! Damaged things are moved aside, not deleted: somebody may want to know what happened to the disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::durable;
use crate::layout::Layout;
use crate::{Digest, StoreError, read, tree};

/// The end of the names of the notes that say why.
const NOTE: &str = ".reason";

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
    /// Whether whoever read the thing may have read wrong bytes.
    pub(crate) spreads: bool,
}

impl Flaw {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            blobs: Vec::new(),
            spreads: true,
        }
    }

    /// The flaw of a thing that cannot be read.
    pub(crate) fn unreadable(error: &io::Error) -> Self {
        Self::new(format!("it cannot be read: {error}"))
    }
}

/// Moves `path`, which is damaged, to the quarantine, says so, and returns where it lies now.
///
/// None if it is gone already, or cannot be moved: that is logged, and no reason for its finder to stop.
pub(crate) fn move_aside(
    layout: &Layout,
    kind: &str,
    path: &Path,
    reason: &str,
) -> Option<PathBuf> {
    let target = put(layout, kind, path, reason)?;
    tracing::warn!(kind, path = %path.display(), reason, quarantined = %target.display(), "damaged: moved to the quarantine");
    Some(target)
}

/// Moves `path` to the quarantine with a note that says why.
pub(crate) fn put(layout: &Layout, kind: &str, path: &Path, reason: &str) -> Option<PathBuf> {
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let target = layout.quarantine().join(format!("{kind}-{name}-{nanos}"));
    match fs::rename(path, &target) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(kind, path = %path.display(), reason, %error, "cannot be moved to the quarantine");
            return None;
        }
    }
    let note = layout
        .quarantine()
        .join(format!("{kind}-{name}-{nanos}{NOTE}"));
    let text = format!("{}: {reason}\n", path.display());
    let noted = durable::write_atomic(&layout.tmp(), &note, text.as_bytes())
        .and_then(|()| durable::sync(durable::parent(path)));
    if let Err(error) = noted {
        tracing::warn!(%error, "the quarantine has no note of it");
    }
    Some(target)
}

/// Moves an artifact and those of its blobs that are known to be wrong to the quarantine.
pub(crate) fn move_artifact(layout: &Layout, digest: &Digest, flaw: &Flaw) -> Option<PathBuf> {
    for blob in &flaw.blobs {
        let path = layout.blob(blob);
        // The artifact's file may be a damaged copy of a good blob.
        if path.exists() && !is_good(&path, blob) {
            move_aside(layout, "blob", &path, &flaw.reason);
        }
    }
    move_aside(layout, "artifact", &layout.artifact(digest), &flaw.reason)
}

/// Whether a blob has the bytes of its name; one that could not be looked at now is left where it is.
fn is_good(path: &Path, digest: &Digest) -> bool {
    match tree::hash_file(path) {
        Ok((found, _)) => found == *digest,
        Err(StoreError::Io { cause, .. }) => !read::is_damage(&cause),
        Err(error) => !read::is_damage_of(&error),
    }
}

/// How long ago a thing, or the note on it, was put into the quarantine: its name says so. Moving it changes none of
/// its own times.
pub(crate) fn age(path: &Path) -> Option<Duration> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(NOTE).unwrap_or(name);
    let nanos = name.rsplit_once('-')?.1.parse::<u64>().ok()?;
    let moved = UNIX_EPOCH + Duration::from_nanos(nanos);
    Some(SystemTime::now().duration_since(moved).unwrap_or_default())
}
