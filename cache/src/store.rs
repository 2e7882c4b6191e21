//! The store: what callers see of the cache.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::artifact;
use crate::checks::Seen;
use crate::error::Context;
use crate::layout::{self, Layout};
use crate::listing::list_digests;
use crate::quarantine::{self, Flaw, State};
use crate::record::Unreadable;
use crate::{
    Artifact, Digest, KeyLock, PathStats, Record, Remote, StoreError, StoreGuard, durable, lock,
    mount, read, statcache, tree,
};

/// A record's time of last use is written down at most this often.
const USE_RESOLUTION: Duration = Duration::from_secs(3600);

/// A content-addressed store in a folder. Cheap to clone; clones and other processes may use it at the same time.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) layout: Arc<Layout>,
    /// Files that this process has checked.
    pub(crate) seen: Arc<Seen>,
    voided: Arc<Mutex<Vec<Digest>>>,
    /// Asked for what is not here.
    remote: Option<Arc<Remote>>,
}

/// What the store holds, in numbers. Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Usage {
    /// Number of records.
    pub records: u64,
    /// Number of artifacts.
    pub artifacts: u64,
    /// Number of blobs.
    pub blobs: u64,
    /// Size of the blobs; artifacts are links to them.
    pub blob_bytes: u64,
    /// Size of the workspaces of unfinished keys.
    pub work_bytes: u64,
    /// Size of the quarantine.
    pub quarantine_bytes: u64,
    /// Size of what is being written, or was left behind by a kill.
    pub tmp_bytes: u64,
}

/// A record, and when it was last used.
pub(crate) struct Loaded {
    pub(crate) record: Record,
    pub(crate) used: Option<SystemTime>,
}

impl Store {
    /// Opens the store in the folder `root`, which is created if it does not exist.
    ///
    /// # Errors
    /// [`StoreError::NewerLayout`] if a newer version of the program wrote to it; [`StoreError::RootNotUnicode`].
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).context("find", root)?;
        if root.to_str().is_none() {
            return Err(StoreError::RootNotUnicode { root });
        }
        durable::create_dirs_durably(&root)?;
        refuse_newer(&root)?;
        let layout = Layout::new(&root);
        for folder in layout.folders() {
            durable::create_dirs_durably(&folder)?;
        }
        mark(&root.join("CACHEDIR.TAG"), CACHEDIR_TAG)?;
        mark(&root.join(".gitignore"), "*\n")?;
        Ok(Self {
            layout: Arc::new(layout),
            seen: Arc::default(),
            voided: Arc::default(),
            remote: None,
        })
    }

    /// The same store, which brings results that it has not from a remote: see [`Lookups::bring`].
    #[must_use]
    pub fn with_remote(self, remote: Arc<Remote>) -> Self {
        Self {
            remote: Some(remote),
            ..self
        }
    }

    /// The folder that was opened, as an absolute path.
    pub fn root(&self) -> &Path {
        &self.layout.root
    }

    /// Whether this user can write to the store. One that cannot be written serves what it has.
    pub fn is_writable(&self) -> bool {
        durable::is_writable(&self.layout.tmp())
    }

    /// Whether the operating system's locks have an effect in this folder, for whoever wants to say so: leases do without
    /// them.
    pub fn locks_have_effect(&self) -> bool {
        lock::have_effect(&self.layout)
    }

    /// The kind of file system that the folder is on, where its locks may not reach other hosts: `nfs`, `lustre`.
    pub fn shared_file_system(&self) -> Option<&'static str> {
        mount::shared(&self.layout.root)
    }

    /// A folder for the journals of runs, which the store itself never looks into.
    pub fn runs_dir(&self) -> PathBuf {
        self.layout.runs()
    }

    /// A folder for what a cluster's jobs need beside their workspaces, which the store itself never looks into.
    pub fn jobs_dir(&self) -> PathBuf {
        self.layout.jobs()
    }

    /// The artifact with this digest, `None` if there is none or if it was damaged (it then is in the quarantine).
    ///
    /// Reads the manifest only.
    pub fn artifact(&self, digest: &Digest) -> Result<Option<Artifact>, StoreError> {
        match artifact::read(&self.layout, digest)? {
            State::Good(artifact) => Ok(Some(artifact)),
            State::Missing => Ok(None),
            State::Damaged(_) => {
                // The full check tells whether more than the manifest is damaged.
                match self.open_input(digest) {
                    Ok(_) => self.artifact(digest),
                    Err(StoreError::Damaged { .. } | StoreError::MissingArtifact { .. }) => {
                        Ok(None)
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// The folder with the files of an artifact, whether or not it exists. The files are read-only; treat them so.
    pub fn artifact_files(&self, digest: &Digest) -> PathBuf {
        artifact::files_path(&self.layout.artifact(digest))
    }

    /// The record of `key`, if there is one and all its artifacts are there.
    ///
    /// Looks at the record and at the presence of its artifacts, not at their bytes; that makes it fast enough for
    /// thousands. A record that is damaged, that cannot be read, or that misses an artifact, is moved to the quarantine
    /// and is `None`.
    ///
    /// # Errors
    /// [`StoreError::NewerFormat`]; errors of the file system.
    pub fn lookup(&self, key: &Digest) -> Result<Option<Record>, StoreError> {
        self.lookup_with(key, |artifact| has_manifest(&self.layout, artifact))
    }

    /// Look-ups of many keys in a row.
    pub fn lookups(&self) -> Lookups<'_> {
        Lookups {
            store: self,
            present: Mutex::default(),
        }
    }

    fn lookup_with(
        &self,
        key: &Digest,
        is_there: impl Fn(&Digest) -> bool,
    ) -> Result<Option<Record>, StoreError> {
        let Some(Loaded { record, used }) = self.read_record(key)? else {
            return Ok(None);
        };
        for output in record.outputs.values() {
            if !is_there(&output.digest) {
                self.void(key, &format!("its artifact {} is missing", output.digest));
                return Ok(None);
            }
        }
        note_use(&self.layout.record(key), used);
        Ok(Some(record))
    }

    /// Writes a record; from now on its key is computed. A record that the key had is replaced.
    ///
    /// # Errors
    /// [`StoreError::MissingArtifact`] if an output is not in the store.
    pub fn commit(&self, record: &Record) -> Result<(), StoreError> {
        let _shared = lock::share(&self.layout)?;
        for output in record.outputs.values() {
            if !artifact::manifest_path(&self.layout.artifact(&output.digest)).exists() {
                return Err(StoreError::MissingArtifact {
                    digest: output.digest,
                    root: self.layout.root.clone(),
                });
            }
        }
        let path = self.layout.record(&record.key);
        if fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file()) {
            self.void(&record.key, "it is not a regular file");
        }
        if let Some(folder) = durable::create_shard(durable::parent(&path))? {
            durable::sync(&folder)?;
        }
        durable::write_atomic(&self.layout.tmp(), &path, &record.to_bytes()?)
    }

    /// All records, ordered by key. Damaged ones are moved to the quarantine and left out.
    pub fn records(
        &self,
    ) -> Result<impl Iterator<Item = Result<Record, StoreError>> + use<>, StoreError> {
        let store = self.clone();
        let keys = list_digests(&self.layout.records(), ".json")?;
        Ok(keys.into_iter().filter_map(move |key| {
            store
                .read_record(&key)
                .map(|loaded| loaded.map(|loaded| loaded.record))
                .transpose()
        }))
    }

    /// Takes the lock of `key`. Calls `on_wait` once if it has to wait for another holder.
    pub fn lock(&self, key: &Digest, on_wait: impl FnOnce()) -> Result<KeyLock, StoreError> {
        lock::lock_key(&self.layout, key, on_wait)
    }

    /// Takes the lock of `key`; `None` if somebody else holds it.
    pub fn try_lock(&self, key: &Digest) -> Result<Option<KeyLock>, StoreError> {
        lock::try_lock_key(&self.layout, key)
    }

    /// Who took the lock of `key` last, as in `process 4711`: to say whom one waits for.
    pub fn lock_holder(&self, key: &Digest) -> Option<String> {
        lock::holder_of_key(&self.layout, key)
    }

    /// Keeps garbage collection away for as long as the guard lives. A run holds the store from its first look-up to
    /// its last commit. `who` is what others are told, as in `dcsft run sweep.yaml`.
    pub fn hold(&self, who: &str) -> Result<StoreGuard, StoreError> {
        lock::hold(&self.layout, who, |_| ())
    }

    /// As [`Store::hold`]; `on_wait` is told once for whom it has to wait, as in "process 4711 on node3 (which collects garbage)".
    pub fn hold_or_wait(
        &self,
        who: &str,
        on_wait: impl FnOnce(&str),
    ) -> Result<StoreGuard, StoreError> {
        lock::hold(&self.layout, who, on_wait)
    }

    /// The scratch folder of `key`, created if need be. It survives kills, so that a computation can carry on.
    /// Whoever uses it holds the lock of `key`.
    pub fn workspace(&self, key: &Digest) -> Result<PathBuf, StoreError> {
        let path = self.layout.work(key);
        durable::create_dirs(&path)?;
        Ok(path)
    }

    /// Removes the scratch folder of `key`, if there is one.
    pub fn clear_workspace(&self, key: &Digest) -> Result<(), StoreError> {
        durable::remove(&self.layout.work(key))
    }

    /// The content digest of a user's file or folder. A file's is the BLAKE3 of its bytes; a folder's is that of an
    /// artifact with the same files. Symbolic links are followed.
    ///
    /// A file that was hashed before and whose size, times and inode are the same is not read again, unless it was
    /// written to less than two seconds before it was hashed. `paranoid` reads all.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Unsupported`], [`StoreError::BadName`], [`StoreError::Changed`].
    pub fn digest_path(
        &self,
        path: &Path,
        paranoid: bool,
    ) -> Result<(Digest, PathStats), StoreError> {
        statcache::digest_path(&self.layout, path, paranoid)
    }

    /// The content digests of many files or folders, each as by [`Store::digest_path`]; `None` for one that does not
    /// exist. Files of one folder share a memory, so that thousands of them are looked up in one go.
    ///
    /// # Errors
    /// Those of [`Store::digest_path`] but for [`StoreError::NotFound`].
    pub fn digest_files(
        &self,
        paths: &[PathBuf],
        paranoid: bool,
    ) -> Result<Vec<Option<Digest>>, StoreError> {
        statcache::digest_files(&self.layout, paths, paranoid)
    }

    /// Counts what the store holds. Reads the folders, not the files.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        Ok(Usage {
            records: list_digests(&self.layout.records(), ".json")?.len() as u64,
            artifacts: list_digests(&self.layout.artifacts(), "")?.len() as u64,
            blobs: list_digests(&self.layout.blobs(), "")?.len() as u64,
            blob_bytes: tree::disk_bytes(&self.layout.blobs()),
            work_bytes: tree::disk_bytes(&self.layout.works()),
            quarantine_bytes: tree::disk_bytes(&self.layout.quarantine()),
            tmp_bytes: tree::disk_bytes(&self.layout.tmp()),
        })
    }

    /// Reads a record without looking at its artifacts; a damaged one is moved to the quarantine.
    fn read_record(&self, key: &Digest) -> Result<Option<Loaded>, StoreError> {
        match self.load_record(key)? {
            State::Good(loaded) => Ok(Some(loaded)),
            State::Missing => Ok(None),
            State::Damaged(flaw) => {
                self.void(key, &flaw.reason);
                Ok(None)
            }
        }
    }

    /// Reads a record and leaves it where it is, whatever its state.
    pub(crate) fn load_record(&self, key: &Digest) -> Result<State<Loaded>, StoreError> {
        let path = self.layout.record(key);
        let (bytes, meta) = match read::whole(&path) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::Missing),
            Err(error) if read::is_damage(&error) => {
                return Ok(State::Damaged(Flaw::unreadable(&error)));
            }
            Err(error) => return Err(StoreError::io("read", &path, error)),
        };
        match Record::from_bytes(&bytes, key) {
            Ok(record) => Ok(State::Good(Loaded {
                record,
                used: meta.modified().ok(),
            })),
            Err(Unreadable::Damaged(flaw)) => Ok(State::Damaged(flaw)),
            Err(Unreadable::Newer(found)) => Err(StoreError::NewerFormat {
                path,
                found,
                supported: Record::FORMAT,
            }),
        }
    }

    /// Moves the record of `key` to the quarantine.
    pub(crate) fn void(&self, key: &Digest, reason: &str) {
        quarantine::move_aside(&self.layout, "record", &self.layout.record(key), reason);
    }

    pub(crate) fn voided(&self) -> MutexGuard<'_, Vec<Digest>> {
        // Whoever panicked while holding it has left it whole.
        self.voided.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As [`Store::lookup`], for many keys in a short time: an artifact that several records have is looked for once.
#[derive(Debug)]
pub struct Lookups<'a> {
    store: &'a Store,
    present: Mutex<HashSet<Digest>>,
}

impl Lookups<'_> {
    /// Brings the results of these keys from the remote, all in one go, as far as they are there and not here. What goes
    /// wrong is the remote's to tell ([`Remote::take_troubles`]). Without a remote it does nothing.
    pub fn bring(&self, keys: &[Digest]) {
        if let Some(remote) = &self.store.remote {
            self.store.pull(remote, keys);
        }
    }

    /// The record of `key`, as by [`Store::lookup`].
    ///
    /// # Errors
    /// Those of [`Store::lookup`].
    pub fn lookup(&self, key: &Digest) -> Result<Option<Record>, StoreError> {
        self.store.lookup_with(key, |artifact| {
            if self.present().contains(artifact) {
                return true;
            }
            let there = has_manifest(&self.store.layout, artifact);
            if there {
                self.present().insert(*artifact);
            }
            there
        })
    }

    fn present(&self) -> MutexGuard<'_, HashSet<Digest>> {
        // Whoever panicked while holding the set has left it whole.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an artifact is there, as far as its manifest's presence tells.
fn has_manifest(layout: &Layout, artifact: &Digest) -> bool {
    let manifest = artifact::manifest_path(&layout.artifact(artifact));
    fs::metadata(manifest).is_ok_and(|meta| meta.is_file() && meta.len() > 0)
}

const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55
# This folder is a cache of dcsft. Backup programs may leave it out.
# For information about cache directory tags see https://bford.info/cachedir/
";

/// Writes down that a record was used, for garbage collection by age.
fn note_use(path: &Path, last: Option<SystemTime>) {
    let now = SystemTime::now();
    if last.is_some_and(|last| {
        now.duration_since(last)
            .is_ok_and(|age| age > USE_RESOLUTION)
    }) {
        // In a store of somebody else's this is not allowed, and not needed.
        let _ = File::open(path).and_then(|file| file.set_modified(now));
    }
}

fn refuse_newer(root: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(root).context("read", root)? {
        let name = entry.context("read", root)?.file_name();
        let version = name
            .to_str()
            .and_then(|name| name.strip_prefix('v')?.parse::<u32>().ok());
        if let Some(found) = version.filter(|version| *version > layout::VERSION) {
            return Err(StoreError::NewerLayout {
                root: root.to_owned(),
                found,
                supported: layout::VERSION,
            });
        }
    }
    Ok(())
}

/// Writes a small file if it does not exist.
fn mark(path: &Path, text: &str) -> Result<(), StoreError> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => file.write_all(text.as_bytes()).context("write", path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::io("write", path, error)),
    }
}
