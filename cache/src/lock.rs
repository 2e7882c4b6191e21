//! Locks of the operating system: whoever dies lets go, so nobody ever has to unlock anything by hand.
//!
//! Two kinds, both plain `flock`-style locks on files below `locks/`:
//! - one per key, exclusive: who computes the key. It also keeps the key from being collected.
//! - one for the store: shared by whoever uses it, exclusive for garbage collection.
//!
//! A lock's file may be removed by whoever holds the lock. So after taking a lock one looks whether the file is still
//! the one with that name, and begins again if it is not.
//!
//! All that callers see is a guard. A lease with a heartbeat, for file systems whose locks do not reach across hosts,
//! can take the place of the file inside it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::Context;
use crate::layout::Layout;
use crate::stat::FileStat;
use crate::{Digest, StoreError, file, read};

/// A lock that is held.
///
/// It is given up explicitly: a child that was just forked has a copy of the file until it becomes another program,
/// and the mere closing of our copy would leave the lock with it for that long.
#[derive(Debug)]
pub(crate) struct Held(File);

impl Drop for Held {
    fn drop(&mut self) {
        // Where this fails, closing the file does it.
        let _ = self.0.unlock();
    }
}

/// The exclusive right to compute one key; given up when dropped, and when the process ends in whatever way.
#[derive(Debug)]
#[must_use = "the lock is given up when this is dropped"]
pub struct KeyLock {
    key: Digest,
    held: Held,
}

impl KeyLock {
    /// The key that is locked.
    pub fn key(&self) -> &Digest {
        &self.key
    }

    /// Says in the lock's file for what it is held, as in "dcsft run sweep": what [`crate::Store::lock_holder`] tells
    /// whoever waits. Only words: where they cannot be written, the lock holds all the same.
    pub fn say_for(&self, who: &str) {
        let _ = write_name(&self.held.0, &format!("{} ({who})", process_name()));
    }
}

/// Keeps garbage collection away from the store for as long as it lives.
#[derive(Debug)]
#[must_use = "the store is let go when this is dropped"]
pub struct StoreGuard {
    _shared: Held,
    /// None in a store that cannot be written to.
    _named: Option<Named>,
}

/// A file that says who holds the store.
#[derive(Debug)]
struct Named {
    _held: Held,
    path: PathBuf,
}

impl Drop for Named {
    fn drop(&mut self) {
        // A file that stays behind is recognised by its free lock and removed by the next collection.
        let _ = fs::remove_file(&self.path);
    }
}

#[derive(Clone, Copy)]
enum Mode {
    Shared,
    Exclusive,
}

/// Takes the lock of `key`, calling `on_wait` once before it waits for another holder.
pub(crate) fn lock_key(
    layout: &Layout,
    key: &Digest,
    on_wait: impl FnOnce(),
) -> Result<KeyLock, StoreError> {
    if let Some(lock) = try_lock_key(layout, key)? {
        return Ok(lock);
    }
    on_wait();
    let path = layout.key_lock(key);
    loop {
        let file = open(&path)?;
        wait(&file, &path, Mode::Exclusive)?;
        if is_current(&file, &path)? {
            return claim(Held(file), &path, key);
        }
    }
}

/// Takes the lock of `key` if nobody holds it.
pub(crate) fn try_lock_key(layout: &Layout, key: &Digest) -> Result<Option<KeyLock>, StoreError> {
    let path = layout.key_lock(key);
    match try_exclusive(&path)? {
        Some(held) => claim(held, &path, key).map(Some),
        None => Ok(None),
    }
}

/// Who holds the lock of `key`, as far as its file says: for messages.
pub(crate) fn holder_of_key(layout: &Layout, key: &Digest) -> Option<String> {
    let text = file::text(&layout.key_lock(key)).ok()?;
    let name = text.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Whether somebody holds the lock of `key` now. Removes the lock's file if nobody does.
pub(crate) fn key_in_use(layout: &Layout, key: &Digest) -> Result<bool, StoreError> {
    let path = layout.key_lock(key);
    if !path.exists() {
        return Ok(false);
    }
    match try_exclusive(&path)? {
        Some(held) => {
            fs::remove_file(&path).context("remove", &path)?;
            drop(held);
            Ok(false)
        }
        None => Ok(true),
    }
}

/// Holds the store under a name that others are told when they have to wait. Where it has to wait itself, `on_wait` is
/// told for whom, once.
///
/// Where nothing can be written, the lock alone is held: that keeps whoever can write there from collecting.
pub(crate) fn hold(
    layout: &Layout,
    who: &str,
    on_wait: impl FnOnce(&str),
) -> Result<StoreGuard, StoreError> {
    let path = layout.store_lock();
    let file = open_shared(&path)?;
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::Error(cause)) => return Err(lock_error(&path, cause)),
        Err(TryLockError::WouldBlock) => {
            let name = file::text(&path).unwrap_or_default();
            on_wait(match name.trim() {
                "" => "another process",
                name => name,
            });
            wait(&file, &path, Mode::Shared)?;
        }
    }
    let named = match name(layout, who) {
        Ok(named) => Some(named),
        Err(StoreError::Permission { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(StoreGuard {
        _shared: Held(file),
        _named: named,
    })
}

fn name(layout: &Layout, who: &str) -> Result<Named, StoreError> {
    let folder = layout.holders();
    let named = tempfile::Builder::new()
        .suffix(".lock")
        .tempfile_in(&folder)
        .context("write in", &folder)?;
    let (mut file, path) = named
        .keep()
        .map_err(|error| StoreError::io("write in", &folder, error.error))?;
    wait(&file, &path, Mode::Exclusive)?;
    write!(file, "process {} ({who})", std::process::id()).context("write", &path)?;
    Ok(Named {
        _held: Held(file),
        path,
    })
}

/// Shares the store without a name, for the length of one operation.
pub(crate) fn share(layout: &Layout) -> Result<Held, StoreError> {
    let path = layout.store_lock();
    let file = open_shared(&path)?;
    wait(&file, &path, Mode::Shared)?;
    Ok(Held(file))
}

fn open_shared(path: &Path) -> Result<File, StoreError> {
    match open(path) {
        // What can be read can be shared.
        Err(StoreError::Permission { .. }) => file::open(path).context("open", path),
        other => other,
    }
}

/// Takes the store for oneself, or says who uses it.
pub(crate) fn exclude(layout: &Layout) -> Result<Held, StoreError> {
    match try_exclusive(&layout.store_lock())? {
        Some(held) => {
            let _ = write_name(
                &held.0,
                &format!("{} (which collects garbage)", process_name()),
            );
            Ok(held)
        }
        None => Err(StoreError::InUse {
            root: layout.root.clone(),
            holders: holders(layout)?,
        }),
    }
}

/// The names of those who hold the store; removes what dead processes left behind.
fn holders(layout: &Layout) -> Result<Vec<String>, StoreError> {
    let folder = layout.holders();
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).context("read", &folder)? {
        let path = entry.context("read", &folder)?.path();
        // Locks that a network file system emulates want the file open for writing.
        let writable = OpenOptions::new().read(true).write(true).open(&path);
        let Ok(file) = writable.or_else(|_| file::open(&path)) else {
            continue;
        };
        match file.try_lock() {
            Ok(()) => drop(fs::remove_file(&path)),
            Err(_) => names.extend(file::text(&path)),
        }
    }
    if names.is_empty() {
        names.push("another process".to_owned());
    }
    names.sort();
    // A process may hold the store more than once.
    names.dedup();
    Ok(names)
}

/// Writes into a lock's file who holds it.
fn claim(held: Held, path: &Path, key: &Digest) -> Result<KeyLock, StoreError> {
    write_name(&held.0, &format!("process {}", std::process::id())).context("write", path)?;
    Ok(KeyLock { key: *key, held })
}

/// This process, for those who wait for it: on a shared folder they may sit at another machine.
fn process_name() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => format!("process {}", std::process::id()),
        host => format!("process {} on {host}", std::process::id()),
    }
}

fn write_name(mut file: &File, name: &str) -> io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(name.as_bytes())?;
    file.write_all(b"\n")
}

fn try_exclusive(path: &Path) -> Result<Option<Held>, StoreError> {
    loop {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) if is_current(&file, path)? => return Ok(Some(Held(file))),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(cause)) => return Err(lock_error(path, cause)),
        }
    }
}

fn open(path: &Path) -> Result<File, StoreError> {
    file::open_or_create(path).context("open", path)
}

fn wait(file: &File, path: &Path, mode: Mode) -> Result<(), StoreError> {
    loop {
        let taken = match mode {
            Mode::Shared => file.lock_shared(),
            Mode::Exclusive => file.lock(),
        };
        match taken {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(|cause| lock_error(path, cause)),
        }
    }
}

fn lock_error(path: &Path, cause: io::Error) -> StoreError {
    // ENOLCK has no `ErrorKind`; it is what network file systems without a lock service say.
    const NO_LOCKS: Option<i32> = if cfg!(target_os = "linux") {
        Some(37)
    } else {
        None
    };
    if cause.kind() == io::ErrorKind::Unsupported
        || (NO_LOCKS.is_some() && cause.raw_os_error() == NO_LOCKS)
    {
        return StoreError::LocksUnsupported {
            path: path.to_owned(),
            cause,
        };
    }
    StoreError::io("lock", path, cause)
}

/// Whether `file` is still what `path` names. Where inodes are unknown, files in use cannot be removed either.
fn is_current(file: &File, path: &Path) -> Result<bool, StoreError> {
    if cfg!(not(unix)) {
        return Ok(true);
    }
    // A stale handle belongs to a file that was removed on the server.
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound || read::is_stale(error);
    let held = match file.metadata() {
        Ok(meta) => FileStat::of(&meta),
        Err(error) if gone(&error) => return Ok(false),
        Err(error) => return Err(StoreError::io("read", path, error)),
    };
    match fs::metadata(path) {
        Ok(meta) => Ok(FileStat::of(&meta).same_file(&held)),
        Err(error) if gone(&error) => Ok(false),
        Err(error) => Err(StoreError::io("read", path, error)),
    }
}
