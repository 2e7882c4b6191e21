//! Folders as content: which files they hold, and the one digest of all of them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use crate::canonical::{self, CanonicalError};
use crate::error::Context;
use crate::stat::FileStat;
use crate::{Digest, StoreError, read};

/// The domain of the digests of folders.
const DOMAIN: &str = "dcsft tree v1";

/// One file of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// The path relative to the folder, with `/` between its parts.
    pub path: String,
    /// The size in bytes.
    pub bytes: u64,
    /// The BLAKE3 digest of the file's bytes.
    pub digest: Digest,
}

/// A file that was found in a folder.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// As in [`FileEntry::path`].
    pub(crate) path: String,
    pub(crate) full: PathBuf,
    pub(crate) stat: FileStat,
}

/// What a walk does at a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// Take what it points to: users keep data sets behind links.
    Follow,
    /// Refuse it: a stored artifact must not depend on what lies elsewhere.
    Refuse,
}

/// The digest of a folder: that of its sorted (path, file digest) pairs. Names of empty folders, times and modes are
/// no part of it. `files` must be sorted by path.
pub(crate) fn digest(files: &[FileEntry]) -> Result<Digest, CanonicalError> {
    let pairs: Vec<_> = files.iter().map(|file| (&file.path, file.digest)).collect();
    canonical::digest(DOMAIN, &pairs)
}

/// All files below `folder`, sorted by path.
pub(crate) fn walk(folder: &Path, links: Links) -> Result<Vec<Found>, StoreError> {
    let mut found = Vec::new();
    for entry in WalkDir::new(folder)
        .follow_links(links == Links::Follow)
        .min_depth(1)
    {
        let entry = entry.map_err(|error| walk_error(folder, error))?;
        let kind = entry.file_type();
        if kind.is_dir() {
            continue;
        }
        let full = entry.path().to_owned();
        if !kind.is_file() {
            return Err(StoreError::Unsupported {
                path: full,
                kind: kind_name(kind),
            });
        }
        let path = relative(folder, &full)?;
        let stat = FileStat::of(
            &entry
                .metadata()
                .map_err(|error| walk_error(folder, error))?,
        );
        found.push(Found { path, full, stat });
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The digest of one file's bytes, and its facts.
///
/// # Errors
/// [`StoreError::Changed`] if something wrote to the file meanwhile. What is no regular file is an error, and no pipe
/// is waited for.
pub(crate) fn hash_file(path: &Path) -> Result<(Digest, FileStat), StoreError> {
    let (file, _) = read::open(path).context("read", path)?;
    let stat = |file: &File| {
        file.metadata()
            .map(|meta| FileStat::of(&meta))
            .context("read", path)
    };
    let before = stat(&file)?;
    let (digest, bytes) = Digest::of_reader(&file).context("read", path)?;
    let after = stat(&file)?;
    if (before.bytes, before.modified) != (after.bytes, after.modified) || bytes != after.bytes {
        return Err(StoreError::Changed {
            path: path.to_owned(),
        });
    }
    // The older facts: a write after them must be noticed.
    Ok((digest, before))
}

/// Applies `f`, which reads a file, to all `items`; the results keep their order.
///
/// On all cores if that is worth it: handing a few small files to other threads takes longer than reading them.
pub(crate) fn map_files<T: Sync, R: Send>(
    items: &[T],
    bytes: impl Fn(&T) -> u64,
    f: impl Fn(&T) -> Result<R, StoreError> + Sync + Send,
) -> Result<Vec<R>, StoreError> {
    const MANY: usize = 32;
    const LARGE: u64 = 4 << 20;
    if items.len() >= MANY || items.iter().map(bytes).sum::<u64>() >= LARGE {
        items.par_iter().map(f).collect()
    } else {
        items.iter().map(f).collect()
    }
}

/// Why `path`, which a manifest or another file gives, does not name a file below the folder that it is relative to;
/// `None` if it does. Whoever joins a name that was read to a folder asks here first.
pub fn fault_of_path(path: &str) -> Option<&'static str> {
    let bad_part = |part: &str| part.is_empty() || part == "." || part == "..";
    let leads_elsewhere = |path: &str| {
        let mut parts = Path::new(path).components();
        parts.any(|part| !matches!(part, std::path::Component::Normal(_)))
    };
    if path.starts_with('/') {
        Some("the path is absolute")
    } else if path.split('/').any(bad_part) || leads_elsewhere(path) {
        Some("the path has an empty part, `.` or `..`")
    } else if path.contains(['\\', '\0']) {
        Some("the name contains a backslash or a null character")
    } else {
        None
    }
}

/// As [`fault_of_path`], for the name of a file in the folder itself. Hidden files are no part of a user's folder.
pub fn fault_of_name(name: &str) -> Option<&'static str> {
    match fault_of_path(name) {
        Some(fault) => Some(fault),
        None if name.contains('/') => Some("the file would lie in another folder"),
        None if name.starts_with('.') => Some("the file would be hidden"),
        None if name.chars().any(char::is_control) => Some("the name has control characters"),
        None => None,
    }
}

/// Sizes of everything below `folder` in bytes; 0 if it does not exist. Files that vanish meanwhile are left out.
pub(crate) fn disk_bytes(folder: &Path) -> u64 {
    let entries = WalkDir::new(folder).into_iter().flatten();
    entries
        .filter(|e| e.file_type().is_file())
        .filter_map(|e| e.metadata().ok())
        .map(|m| m.len())
        .sum()
}

/// The facts about `path`, without following a link; `None` if nothing is there.
pub(crate) fn stat(path: &Path) -> Result<Option<FileStat>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(FileStat::of(&meta))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", path, error)),
    }
}

fn relative(folder: &Path, full: &Path) -> Result<String, StoreError> {
    let refused = |reason| StoreError::BadName {
        path: full.to_owned(),
        reason,
    };
    let below = full.strip_prefix(folder).unwrap_or(full);
    let mut parts = Vec::new();
    for part in below {
        parts.push(
            part.to_str()
                .ok_or_else(|| refused("the name is not valid UTF-8"))?,
        );
    }
    let path = parts.join("/");
    match fault_of_path(&path) {
        Some(reason) => Err(refused(reason)),
        None => Ok(path),
    }
}

fn walk_error(folder: &Path, error: walkdir::Error) -> StoreError {
    let path = error.path().unwrap_or(folder).to_owned();
    if error.loop_ancestor().is_some() {
        return StoreError::Unsupported {
            path,
            kind: "a symbolic link to a folder above itself",
        };
    }
    let cause = error
        .into_io_error()
        .unwrap_or_else(|| std::io::Error::other("the walk failed"));
    StoreError::io("read", &path, cause)
}

fn kind_name(kind: fs::FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_socket() {
            return "a socket";
        } else if kind.is_fifo() {
            return "a named pipe";
        } else if kind.is_block_device() || kind.is_char_device() {
            return "a device";
        }
    }
    if kind.is_symlink() {
        "a symbolic link"
    } else {
        "a special file"
    }
}
