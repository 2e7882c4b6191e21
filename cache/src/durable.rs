//! Writes that survive a power cut: data first, then the name, then the folder that holds the name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;

use crate::StoreError;
use crate::error::Context;

/// From this many files on, one sync of the whole file system is cheaper than one per file.
const MANY: usize = 64;

/// So many files are flushed at the same time.
const THREADS: usize = 8;

/// Flushes files (and folders) to the disk. All of them lie on one file system.
pub(crate) fn sync_all(paths: &[PathBuf]) -> Result<(), StoreError> {
    #[cfg(target_os = "linux")]
    if let [first, ..] = paths
        && paths.len() >= MANY
    {
        let file = File::open(first).context("open", first)?;
        return rustix::fs::syncfs(&file)
            .map_err(io::Error::from)
            .context("flush", first);
    }
    // Flushes that run at the same time share the journal's commits.
    thread::scope(|scope| {
        let flush = |paths: &'_ [PathBuf]| paths.iter().try_for_each(|path| sync(path));
        let chunks = paths.chunks(paths.len().div_ceil(THREADS).max(1));
        let threads: Vec<_> = chunks
            .map(|chunk| {
                let thread = thread::Builder::new().spawn_scoped(scope, move || flush(chunk));
                // Where no further thread may start, this one does it.
                thread.map_err(|_| flush(chunk))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| match thread {
            Ok(thread) => thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(flushed) => flushed,
        })
    })
}

/// Flushes the bytes of a file, or a folder's list of names. A no-op for folders where these cannot be opened.
pub(crate) fn sync(path: &Path) -> Result<(), StoreError> {
    if cfg!(unix) || path.is_file() {
        File::open(path)
            .and_then(|file| file.sync_all())
            .context("flush", path)?;
    }
    Ok(())
}

/// Writes `bytes` to `path` so that a reader sees the old content or the new one, never a part, even after a power cut.
///
/// `tmp` is a folder on the same file system.
pub(crate) fn write_atomic(tmp: &Path, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = temporary_file(tmp)?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .context("write", file.path())?;
    file.persist(path)
        .map_err(|error| StoreError::io("write", path, error.error))?;
    sync(parent(path))
}

/// As [`write_atomic`], for what may be lost in a power cut: nothing is flushed.
pub(crate) fn replace(tmp: &Path, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = temporary_file(tmp)?;
    file.write_all(bytes).context("write", file.path())?;
    file.persist(path)
        .map(drop)
        .map_err(|error| StoreError::io("write", path, error.error))
}

/// Copies a file to a name that is free; what stands there already is never written to. The copy has the mode and is
/// flushed.
pub(crate) fn copy_new(from: &Path, to: &Path) -> Result<(), StoreError> {
    let (mut source, meta) = crate::read::open(from).context("read", from)?;
    let mut copy = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(to)
        .context("create", to)?;
    io::copy(&mut source, &mut copy).context("write", to)?;
    copy.sync_all().context("write", to)?;
    fs::set_permissions(to, meta.permissions()).context("write", to)
}

/// A temporary file that others may read as the umask allows, for what will be renamed into place.
fn temporary_file(tmp: &Path) -> Result<tempfile::NamedTempFile, StoreError> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(tmp).context("write in", tmp)
}

/// Creates a folder and whatever is missing above it.
pub(crate) fn create_dirs(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).context("create", path)
}

/// As [`create_dirs`], and flushes the folders that got a new entry.
pub(crate) fn create_dirs_durably(path: &Path) -> Result<(), StoreError> {
    let mut missing = Vec::new();
    let mut at = path;
    while !at.as_os_str().is_empty() && !at.is_dir() {
        missing.push(at);
        match at.parent() {
            Some(above) => at = above,
            None => break,
        }
    }
    create_dirs(path)?;
    missing.iter().rev().try_for_each(|made| sync(parent(made)))
}

/// Creates the sub-folder `path` of a folder that exists, unless it is there already.
///
/// Returns the folder that has to be flushed, if any.
pub(crate) fn create_shard(path: &Path) -> Result<Option<PathBuf>, StoreError> {
    match fs::create_dir(path) {
        Ok(()) => Ok(Some(parent(path).to_owned())),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(StoreError::io("create", path, error)),
    }
}

/// Removes a file or a folder with all it holds. Whatever is already gone is fine.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// The folder that holds `path`; the paths of the store always have one.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Whether this user can create files in a folder.
#[cfg(unix)]
pub(crate) fn is_writable(folder: &Path) -> bool {
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Whether this user can create files in a folder.
#[cfg(not(unix))]
pub(crate) fn is_writable(folder: &Path) -> bool {
    tempfile::tempfile_in(folder).is_ok()
}
