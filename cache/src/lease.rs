//! Leases: exclusive rights that reach as far as the folder does.
//!
//! The operating system's locks hold on one host, and on network file systems often nowhere else. A lease is a file that
//! exists while something is held. Making it is the one step that only one process can win, on every file system. Its
//! owner beats: it raises a number in the file every few seconds. Whoever finds a lease looks at its owner:
//!
//! * a process of the same system either lives, and is waited for, or is gone, and its lease is taken over at once;
//! * one of another system is waited for while its number moves. Clocks of two hosts are never compared: the lease is
//!   stale once the number has stood still for [`STALE`] beats by the clock of whoever waits.
//!
//! A process that was frozen meanwhile wakes up without its lease. It asks [`Lease::is_held`] before whatever must not
//! happen twice, and writes into a folder of its own until then.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::file;
use crate::owner::{Fate, Owner};

/// How the names of leases end.
pub(crate) const EXTENSION: &str = "lease";

/// How often an owner beats.
pub const BEAT: Duration = Duration::from_secs(5);

/// After so many beats of standing still a lease is stale.
pub const STALE: u32 = 4;

/// A lease of another host that has not beaten for so long, by the file system's own clock, is not waited for by those
/// who look once: garbage collection.
const DEAD: Duration = Duration::from_secs(15 * 60);

/// The number in the file has always so many digits: it is written over in place.
const DIGITS: usize = 20;

/// What a lease's file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Written {
    #[serde(flatten)]
    owner: Owner,
    /// [`BEAT`] of the owner.
    beat_ms: u64,
}

/// An exclusive right, held until dropped. It is also over when the process has ended.
#[derive(Debug)]
#[must_use = "the lease is given up when this is dropped"]
pub struct Lease {
    path: PathBuf,
    owner: Owner,
}

impl Lease {
    /// Takes the lease whose file is `path`, for `what` (as in `dcsft run sweep`). Else says who has it. One that waits
    /// asks again and again, and not seldom: that is how it sees whether the owner beats.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn take(path: &Path, what: &str) -> io::Result<Result<Self, String>> {
        let owner = Owner::this(what);
        // Twice: once more after what was stale is gone.
        for _ in 0..2 {
            if let Some(file) = create(path, &owner)? {
                forget(path);
                beat_for(&owner.id, file);
                let path = path.to_owned();
                return Ok(Ok(Self { path, owner }));
            }
            let Some(found) = Found::read(path) else {
                continue;
            };
            if !found.is_over(path) {
                return Ok(Err(found.words()));
            }
            found.clear(path)?;
        }
        Ok(Err("another process".to_owned()))
    }

    /// Takes a lease of its own in `folder`: it keeps nobody out and says that somebody is there.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub(crate) fn fresh(folder: &Path, what: &str) -> io::Result<Self> {
        let owner = Owner::this(what);
        let path = folder.join(format!("{}.{EXTENSION}", owner.id));
        let file = create(&path, &owner)?.ok_or(io::ErrorKind::AlreadyExists)?;
        beat_for(&owner.id, file);
        Ok(Self { path, owner })
    }

    /// Whether the lease is still this one's: nobody took it for stale.
    pub fn is_held(&self) -> bool {
        Found::read(&self.path).is_some_and(|found| found.id() == Some(&self.owner.id))
    }

    /// Given once to each lease and never again: names what belongs to this holding alone.
    pub fn id(&self) -> &str {
        &self.owner.id
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        stop_beating(&self.owner.id);
        if self.is_held() {
            // A file that stays behind is recognised by its owner, who is gone.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Who has the lease whose file is `path`, for those who look once: none if nobody does, as far as can be told. Removes
/// the file of an owner that is gone.
pub(crate) fn holder(path: &Path) -> io::Result<Option<String>> {
    let Some(found) = Found::read(path) else {
        return Ok(None);
    };
    let over = match found.fate() {
        Fate::Lives => false,
        Fate::Gone => true,
        Fate::Unknown => age(path).is_some_and(|age| age >= DEAD),
    };
    if over {
        found.clear(path)?;
        return Ok(None);
    }
    Ok(Some(found.words()))
}

/// A lease's file as it was read.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    /// None for a file that is not what a lease's is: damaged, or just being written.
    written: Option<Written>,
    /// The number, or whatever else the file holds.
    beat: Vec<u8>,
}

impl Found {
    fn read(path: &Path) -> Option<Self> {
        let bytes = match file::bytes(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(_) => Vec::new(),
        };
        let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
        let written = lines
            .next()
            .and_then(|line| serde_json::from_slice(line).ok());
        Some(Self {
            written,
            beat: lines.next().unwrap_or_default().to_vec(),
        })
    }

    fn id(&self) -> Option<&String> {
        self.written.as_ref().map(|written| &written.owner.id)
    }

    fn fate(&self) -> Fate {
        let owner = self.written.as_ref().map(|written| &written.owner);
        owner.map_or(Fate::Unknown, Owner::fate)
    }

    fn words(&self) -> String {
        let owner = self.written.as_ref().map(|written| &written.owner);
        owner.map_or_else(|| "another process".to_owned(), Owner::words)
    }

    /// Whether its owner is gone, or has stood still for long enough while this process looked.
    fn is_over(&self, path: &Path) -> bool {
        match self.fate() {
            Fate::Lives => false,
            Fate::Gone => true,
            Fate::Unknown => {
                let beat = self.written.as_ref().map(|written| written.beat_ms);
                let beat = beat.map_or(BEAT, Duration::from_millis);
                stood_still(path, self) >= beat * STALE
            }
        }
    }

    /// Removes the file if it is still the one that was read. Of several that do, one moves it: what it finds it has
    /// moved in the place of that, it puts back.
    fn clear(&self, path: &Path) -> io::Result<()> {
        let aside = path.with_extension(format!("{}.stale", Owner::this("").id));
        match fs::rename(path, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        if Self::read(&aside).is_some_and(|moved| moved.id() != self.id()) {
            // Where yet another one has begun meanwhile, the owner of this one will find that it has lost it.
            let _ = fs::hard_link(&aside, path);
        }
        fs::remove_file(&aside)
    }
}

/// Makes a lease's file, whole from the first moment on. None if there is one.
fn create(path: &Path, owner: &Owner) -> io::Result<Option<File>> {
    let written = Written {
        owner: owner.clone(),
        beat_ms: u64::try_from(BEAT.as_millis()).unwrap_or(u64::MAX),
    };
    let text = format!("{}\n{:0DIGITS$}\n", serde_json::to_string(&written)?, 0);
    let fresh = path.with_extension(format!("{}.new", owner.id));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&fresh)?;
    let linked = file
        .write_all(text.as_bytes())
        .and_then(|()| fs::hard_link(&fresh, path));
    let _ = fs::remove_file(&fresh);
    match linked {
        Ok(()) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        // A file system without hard links.
        Err(_) => {
            let new = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path);
            match new {
                Ok(mut file) => {
                    file.write_all(text.as_bytes())?;
                    Ok(Some(file))
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
                Err(error) => Err(error),
            }
        }
    }
}

/// How long a file has not changed, by the clock that its file system goes by.
fn age(path: &Path) -> Option<Duration> {
    let changed = fs::metadata(path).and_then(|meta| meta.modified()).ok()?;
    let folder = path.parent()?;
    let now = tempfile::tempfile_in(folder)
        .and_then(|file| file.metadata())
        .and_then(|meta| meta.modified());
    now.unwrap_or_else(|_| SystemTime::now())
        .duration_since(changed)
        .ok()
}

/// What this process has seen of leases that it waits for: the file, and since when it is so.
static SEEN: LazyLock<Mutex<HashMap<PathBuf, (Found, Instant)>>> = LazyLock::new(Mutex::default);

/// For how long the file of a lease has been as it is now, while this process looked.
fn stood_still(path: &Path, found: &Found) -> Duration {
    let mut seen = locked(&SEEN);
    let now = Instant::now();
    let entry = seen
        .entry(path.to_owned())
        .or_insert_with(|| (found.clone(), now));
    if entry.0 != *found {
        *entry = (found.clone(), now);
    }
    now.duration_since(entry.1)
}

fn forget(path: &Path) {
    locked(&SEEN).remove(path);
}

/// A lease's file, and how often it has beaten.
type Beating = (Arc<File>, u64);

/// The leases of this process, by id.
static BEATING: LazyLock<Mutex<HashMap<String, Beating>>> = LazyLock::new(Mutex::default);

/// Beats for a lease until [`stop_beating`]. The file is written through what was opened: should the lease be taken
/// over, that is no longer what its name stands for.
fn beat_for(id: &str, file: File) {
    static THREAD: LazyLock<bool> = LazyLock::new(|| {
        let thread = std::thread::Builder::new().name("leases".to_owned());
        thread.spawn(beat_for_ever).is_ok()
    });
    if !*THREAD {
        tracing::warn!(
            "no thread can be started: other hosts will take this one's leases for stale"
        );
    }
    locked(&BEATING).insert(id.to_owned(), (Arc::new(file), 0));
}

fn stop_beating(id: &str) {
    locked(&BEATING).remove(id);
}

fn beat_for_ever() {
    loop {
        std::thread::sleep(BEAT);
        let due: Vec<Beating> = locked(&BEATING)
            .values_mut()
            .map(|(file, beats)| {
                *beats += 1;
                (Arc::clone(file), *beats)
            })
            .collect();
        for (file, beats) in due {
            // One that cannot be written now may be at the next beat.
            if let Err(error) = beat(&file, beats) {
                tracing::debug!("a lease could not beat: {error}");
            }
        }
    }
}

fn beat(mut file: &File, beats: u64) -> io::Result<()> {
    let number = format!("{beats:0DIGITS$}\n");
    let at = i64::try_from(number.len()).unwrap_or(0);
    file.seek(SeekFrom::End(-at))?;
    file.write_all(number.as_bytes())?;
    // Other hosts see what was flushed.
    file.sync_data()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
