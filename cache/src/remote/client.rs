//! A remote, as the rest of the cache uses it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::{RemoteError, Trouble};
use super::objects::{Mode, Objects};
use crate::Digest;

/// So many files come or go at once.
const AT_ONCE: usize = 8;
/// What was not there is not asked for again so soon.
const FRESH: Duration = Duration::from_secs(30);
/// So many troubles are told one by one.
const MOST_TOLD: usize = 10;

/// A remote that was opened. Opening it asks nothing of it.
#[derive(Debug)]
pub struct Remote {
    pub(super) objects: Objects,
    /// It did not answer, and is asked no more.
    silent: AtomicBool,
    /// It took nothing, and gets no more.
    closed: AtomicBool,
    troubles: Mutex<Vec<String>>,
    /// Everything that was a trouble so far.
    known: Mutex<HashSet<String>>,
    untold: AtomicUsize,
    /// Names of objects that are there and wrong.
    wrong: Mutex<HashSet<String>>,
    /// When keys were found not to be there, or not whole.
    absent: Mutex<HashMap<Digest, Instant>>,
    pub(super) counts: Counts,
}

/// Counters behind [`Traffic`].
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) pulled: AtomicU64,
    pub(super) pushed: AtomicU64,
    pub(super) bytes_down: AtomicU64,
    pub(super) bytes_up: AtomicU64,
}

/// What went to and fro.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Traffic {
    /// Results that came from there.
    pub pulled: u64,
    /// Results that went there.
    pub pushed: u64,
    /// Bytes of files that came from there.
    pub bytes_down: u64,
    /// Bytes of files that went there.
    pub bytes_up: u64,
}

/// In which direction something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the remote to the cache.
    Here,
    /// From the cache to the remote.
    There,
}

impl Remote {
    /// Opens the remote at `url`: a folder, `file:///folder`, `s3://bucket/folder`, `gs://...`, `az://...`. Credentials
    /// and the like come from variables of the environment: `AWS_*`, `GOOGLE_*`, `AZURE_*`.
    ///
    /// # Errors
    /// If it is none of these, or names credentials.
    pub fn open(url: &str) -> Result<Self, RemoteError> {
        Ok(Self {
            objects: Objects::open(url)?,
            silent: AtomicBool::default(),
            closed: AtomicBool::default(),
            troubles: Mutex::default(),
            known: Mutex::default(),
            untold: AtomicUsize::default(),
            wrong: Mutex::default(),
            absent: Mutex::default(),
            counts: Counts::default(),
        })
    }

    /// Where it is, without what must not be shown.
    pub fn name(&self) -> &str {
        &self.objects.name
    }

    /// Ends what goes to and fro as soon as can be; nothing goes from then on. For a run that is interrupted.
    pub fn stop(&self) {
        self.silent.store(true, Ordering::Relaxed);
        self.closed.store(true, Ordering::Relaxed);
        self.objects.stop();
    }

    /// What has to be said about it since the last call, each thing once.
    pub fn take_troubles(&self) -> Vec<String> {
        let mut told = std::mem::take(&mut *lock(&self.troubles));
        let untold = self.untold.swap(0, Ordering::Relaxed);
        if untold > 0 {
            told.push(format!("{}: {untold} more of the kind", self.name()));
        }
        told
    }

    /// What went to and fro so far.
    pub fn traffic(&self) -> Traffic {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Traffic {
            pulled: read(&self.counts.pulled),
            pushed: read(&self.counts.pushed),
            bytes_down: read(&self.counts.bytes_down),
            bytes_up: read(&self.counts.bytes_up),
        }
    }

    /// Whether it is still used in this direction.
    pub(super) fn is_open(&self, way: Way) -> bool {
        !self.gate(way).load(Ordering::Relaxed)
    }

    fn gate(&self, way: Way) -> &AtomicBool {
        match way {
            Way::Here => &self.silent,
            Way::There => &self.closed,
        }
    }

    /// Notes why something did not come or go. A remote that fails is not used any more in that direction.
    pub(super) fn note(&self, way: Way, trouble: &Trouble) {
        let name = self.name();
        let text = match (trouble, way) {
            (Trouble::Absent | Trouble::Stopped, _) => return,
            (Trouble::Wrong(text), _) => format!("{name}: {text}; it counts as not there"),
            (Trouble::Own(text), _) => format!("{name}: not brought there: {text}"),
            (Trouble::Failed(text), _) => {
                if self.gate(way).swap(true, Ordering::Relaxed) {
                    return;
                }
                match way {
                    Way::Here => {
                        // What does not answer takes nothing either.
                        self.closed.store(true, Ordering::Relaxed);
                        format!("{name} is not used any more by this command: {text}")
                    }
                    Way::There => {
                        format!("nothing more is brought to {name} by this command: {text}")
                    }
                }
            }
        };
        if !lock(&self.known).insert(text.clone()) {
            return;
        }
        let mut troubles = lock(&self.troubles);
        if troubles.len() < MOST_TOLD || matches!(trouble, Trouble::Failed(_)) {
            troubles.push(text);
        } else {
            self.untold.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that an object there is not what its name says.
    pub(super) fn note_wrong(&self, name: String) {
        lock(&self.wrong).insert(name);
    }

    /// How an object of this name is to be put there.
    pub(super) fn mode(&self, name: &str) -> Mode {
        if lock(&self.wrong).contains(name) {
            Mode::Replace
        } else {
            Mode::New
        }
    }

    /// Notes that an object is there, and right.
    pub(super) fn note_right(&self, name: &str) {
        lock(&self.wrong).remove(name);
    }

    pub(super) fn note_absent(&self, key: Digest) {
        lock(&self.absent).insert(key, Instant::now());
    }

    /// Whether a key was not there, or not whole, a moment ago.
    pub(super) fn was_absent(&self, key: &Digest) -> bool {
        let absent = lock(&self.absent);
        absent.get(key).is_some_and(|when| when.elapsed() < FRESH)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked while holding it has left it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does something for each item, several at a time, as long as the remote is in use.
pub(super) fn each<T: Sync>(remote: &Remote, way: Way, items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        while remote.is_open(way) {
            let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            work(item);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..AT_ONCE.min(items.len()) {
            // Where no further thread may start, fewer do it.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}

pub(super) fn blob_name(digest: &Digest) -> String {
    name("blobs", digest)
}

pub(super) fn manifest_name(digest: &Digest) -> String {
    name("artifacts", digest)
}

pub(super) fn record_name(key: &Digest) -> String {
    name("records", key)
}

fn name(folder: &str, digest: &Digest) -> String {
    let digest = digest.to_string();
    format!("v1/{folder}/{}/{digest}", &digest[..2])
}
