//! Locks of the operating system: whoever dies lets go, so nobody ever has to unlock anything by hand.
//!
//! Two kinds, both plain `flock`-style locks on files below `locks/`:
//! - one per key, exclusive: who computes the key. It also keeps the key from being collected.
//! - one for the store: shared by whoever uses it, exclusive for garbage collection.
//!
//! A lock's file may be removed by whoever holds the lock. So after taking a lock one looks whether the file is still
//! the one with that name, and begins again if it is not.
//!
//! A lock reaches as far as the file system carries it, which may be this host alone. So each comes with a
//! [lease](crate::lease), which reaches as far as the folder does: first the lock, which is quick and ends with its
//! process, then the lease.

use std::fs::{self, File, TryLockError};
use std::io::{self, Seek, Write};
use std::path::Path;
use std::time::Duration;

use crate::error::Context;
use crate::layout::Layout;
use crate::lease::{self, Lease};
use crate::stat::FileStat;
use crate::{Digest, StoreError, file, owner, read};

/// How often whoever waits for a lease looks at it.
const LOOK: Duration = Duration::from_millis(100);

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
    /// Given up before the lock: whoever gets that finds no lease.
    lease: Lease,
    held: Held,
}

impl KeyLock {
    /// The key that is locked.
    pub fn key(&self) -> &Digest {
        &self.key
    }

    /// Whether the key is still this process's. It is not if another host has seen no sign of life for too long, since
    /// this one was frozen or cut off: what is computed then must not be stored.
    pub fn is_held(&self) -> bool {
        self.lease.is_held()
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
    /// Says who holds it; none in a store that cannot be written to.
    _named: Option<Lease>,
    _shared: Held,
}

#[derive(Clone, Copy)]
enum Mode {
    Shared,
    Exclusive,
}

/// Whether the operating system's locks keep anybody out in this store's folder. That they do here says nothing of
/// other hosts.
pub(crate) fn have_effect(layout: &Layout) -> bool {
    let folder = layout.tmp();
    let Ok(probe) = tempfile::NamedTempFile::new_in(&folder) else {
        return true;
    };
    let other = File::open(probe.path());
    match (probe.as_file().try_lock(), other) {
        (Ok(()), Ok(other)) => other.try_lock().is_err(),
        (Err(_), _) => false,
        (_, Err(_)) => true,
    }
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
        if is_current(&file, &path)?
            && let Some(lock) = claim(Held(file), layout, key)?
        {
            return Ok(lock);
        }
        std::thread::sleep(LOOK);
    }
}

/// Takes the lock of `key` if nobody holds it.
pub(crate) fn try_lock_key(layout: &Layout, key: &Digest) -> Result<Option<KeyLock>, StoreError> {
    match try_exclusive(&layout.key_lock(key))? {
        Some(held) => claim(held, layout, key),
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
    let Some(held) = try_exclusive(&path)? else {
        return Ok(true);
    };
    let lease = layout.key_lease(key);
    if lease::holder(&lease).context("read", &lease)?.is_some() {
        return Ok(true);
    }
    fs::remove_file(&path).context("remove", &path)?;
    drop(held);
    Ok(false)
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
        _named: named,
        _shared: Held(file),
    })
}

fn name(layout: &Layout, who: &str) -> Result<Lease, StoreError> {
    let folder = layout.holders();
    Lease::fresh(&folder, who).context("write in", &folder)
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
    let held = try_exclusive(&layout.store_lock())?;
    let mut holders = holders(layout)?;
    match held {
        // Where the lock does not reach, the holders' leases do.
        Some(held) if holders.is_empty() => {
            let _ = write_name(
                &held.0,
                &format!("{} (which collects garbage)", process_name()),
            );
            Ok(held)
        }
        _ => {
            if holders.is_empty() {
                holders.push("another process".to_owned());
            }
            Err(StoreError::InUse {
                root: layout.root.clone(),
                holders,
            })
        }
    }
}

/// The names of those who hold the store; removes what dead processes left behind.
fn holders(layout: &Layout) -> Result<Vec<String>, StoreError> {
    let folder = layout.holders();
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).context("read", &folder)? {
        let path = entry.context("read", &folder)?.path();
        if path.extension().is_some_and(|end| end == lease::EXTENSION) {
            names.extend(lease::holder(&path).context("read", &path)?);
        }
    }
    names.sort();
    // A process may hold the store more than once.
    names.dedup();
    Ok(names)
}

/// Takes the key's lease, which goes with its lock, and writes into the lock's file who holds it. None if somebody has
/// the lease, whom the lock does not keep out.
fn claim(held: Held, layout: &Layout, key: &Digest) -> Result<Option<KeyLock>, StoreError> {
    let (path, lease) = (layout.key_lock(key), layout.key_lease(key));
    match Lease::take(&lease, "").context("write", &lease)? {
        Err(_) => Ok(None),
        Ok(lease) => {
            write_name(&held.0, &format!("process {}", std::process::id()))
                .context("write", &path)?;
            Ok(Some(KeyLock {
                key: *key,
                lease,
                held,
            }))
        }
    }
}

/// This process, for those who wait for it: on a shared folder they may sit at another machine.
fn process_name() -> String {
    match owner::host().as_str() {
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
