//! From the cache to the remote, at once or in the background.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use super::client::{Remote, Way, blob_name, each, manifest_name, record_name};
use super::error::Trouble;
use super::objects::Mode;
use crate::{Artifact, Digest, FileEntry, Record, Store, StoreError};

/// How closely is looked whether a result is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Where its record is, all is.
    Record,
    /// Every object is asked for, with its size; what is missing is brought again.
    Objects,
}

impl Store {
    /// Brings the results of these keys to the remote, those that it has not. Returns how many of the keys are there
    /// afterwards. What did not work is said by [`Remote::take_troubles`].
    pub fn push(&self, remote: &Remote, keys: &[Digest], depth: Depth) -> usize {
        if !remote.is_open(Way::There) {
            return 0;
        }
        let mut records = Vec::with_capacity(keys.len());
        for key in keys {
            match self.lookup(key) {
                Ok(record) => records.extend(record),
                Err(error) => remote.note(Way::There, &Trouble::Own(error.to_string())),
            }
        }
        let names: Vec<String> = records
            .iter()
            .map(|record| record_name(&record.key))
            .collect();
        let known = remote.objects.sizes(&names);
        let mut work = Vec::with_capacity(records.len());
        for (record, known) in records.into_iter().zip(known) {
            match known {
                Ok(_) => work.push((record, true)),
                Err(Trouble::Absent) => work.push((record, false)),
                Err(trouble) => remote.note(Way::There, &trouble),
            }
        }
        let there = AtomicUsize::new(0);
        each(remote, Way::There, &work, |(record, known)| {
            match self.push_one(remote, record, *known, depth) {
                Ok(brought) => {
                    there.fetch_add(1, Ordering::Relaxed);
                    remote
                        .counts
                        .pushed
                        .fetch_add(u64::from(brought), Ordering::Relaxed);
                }
                Err(trouble) => remote.note(Way::There, &trouble),
            }
        });
        there.into_inner()
    }

    /// Whether something of it was not there, or not right.
    fn push_one(
        &self,
        remote: &Remote,
        record: &Record,
        known: bool,
        depth: Depth,
    ) -> Result<bool, Trouble> {
        let name = record_name(&record.key);
        let mode = remote.mode(&name);
        let is_there = known && mode == Mode::New;
        if is_there && depth == Depth::Record {
            return Ok(false);
        }
        let own = |error: StoreError| Trouble::Own(format!("{}: {error}", record.label));
        let mut brought = !is_there;
        for output in record.outputs.values() {
            // Damage stays where it is.
            let files = self.open_input(&output.digest).map_err(own)?;
            let Some(artifact) = self.artifact(&output.digest).map_err(own)? else {
                return Err(Trouble::Own(format!(
                    "{}: an output has gone",
                    record.label
                )));
            };
            brought |= push_artifact(remote, &artifact, &files, depth)?;
        }
        if !is_there {
            remote
                .objects
                .put(&name, record.to_bytes().map_err(own)?, mode)?;
            remote.note_right(&name);
        }
        Ok(brought)
    }
}

/// Whether something of it was not there, or not right.
fn push_artifact(
    remote: &Remote,
    artifact: &Artifact,
    files: &Path,
    depth: Depth,
) -> Result<bool, Trouble> {
    let name = manifest_name(&artifact.digest);
    let bytes = artifact
        .manifest()
        .map_err(|error| Trouble::Own(error.to_string()))?;
    let known = what_is_there(remote, &name, bytes.len() as u64)?;
    if known.is_none() && depth == Depth::Record {
        return Ok(false);
    }
    let mut brought = known.is_some();
    for file in &artifact.files {
        brought |= push_file(remote, file, &files.join(&file.path))?;
    }
    if let Some(mode) = known {
        remote.objects.put(&name, bytes, mode)?;
        remote.note_right(&name);
    }
    Ok(brought)
}

/// Whether it was not there, or not right.
fn push_file(remote: &Remote, file: &FileEntry, path: &Path) -> Result<bool, Trouble> {
    let name = blob_name(&file.digest);
    let Some(mode) = what_is_there(remote, &name, file.bytes)? else {
        return Ok(false);
    };
    remote.objects.put_file(&name, path, file, mode)?;
    remote.note_right(&name);
    remote
        .counts
        .bytes_up
        .fetch_add(file.bytes, Ordering::Relaxed);
    Ok(true)
}

/// How an object has to be put there; none where it is there, as far as its size tells.
fn what_is_there(remote: &Remote, name: &str, bytes: u64) -> Result<Option<Mode>, Trouble> {
    if remote.mode(name) == Mode::Replace {
        return Ok(Some(Mode::Replace));
    }
    match remote.objects.size(name) {
        Ok(size) if size == bytes => Ok(None),
        Ok(_) => Ok(Some(Mode::Replace)),
        Err(Trouble::Absent) => Ok(Some(Mode::New)),
        Err(trouble) => Err(trouble),
    }
}

/// Brings results to a remote while others are computed.
#[derive(Debug)]
pub struct Pusher {
    keys: Sender<Digest>,
    ended: Receiver<()>,
    waiting: Arc<AtomicUsize>,
}

impl Pusher {
    /// Starts the thread that does it.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(store: Store, remote: Arc<Remote>) -> std::io::Result<Self> {
        let (keys, queue) = mpsc::channel::<Digest>();
        let (end, ended) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        let thread = std::thread::Builder::new().name("remote".to_owned());
        thread.spawn(move || {
            while let Ok(key) = queue.recv() {
                let mut keys = vec![key];
                keys.extend(queue.try_iter());
                let there = store.push(&remote, &keys, Depth::Record);
                left.fetch_sub(there, Ordering::Relaxed);
            }
            drop(end);
        })?;
        Ok(Self {
            keys,
            ended,
            waiting,
        })
    }

    /// Brings the result of `key` there, some time.
    pub fn push(&self, key: Digest) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The thread lives as long as there is something to send it.
        let _ = self.keys.send(key);
    }

    /// Waits until everything is there or cannot be brought there, but no longer than `limit`. Calls `on_wait` once if
    /// it takes longer than a moment, with the number of results that are not there yet. Returns how many are not.
    pub fn finish(self, limit: Duration, on_wait: impl FnOnce(usize)) -> usize {
        const MOMENT: Duration = Duration::from_secs(1);
        drop(self.keys);
        let waiting = || self.waiting.load(Ordering::Relaxed);
        if self.ended.recv_timeout(MOMENT.min(limit)) == Err(RecvTimeoutError::Timeout) {
            on_wait(waiting());
            let _ = self.ended.recv_timeout(limit.saturating_sub(MOMENT));
        }
        waiting()
    }
}
