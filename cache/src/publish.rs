//! Publishing: a finished folder becomes an artifact, in an order in which every kill leaves the store whole.
//!
//! 1. Hash the files where they are and flush them to the disk. Nothing has changed yet.
//! 2. Write the manifest and the empty folders of the artifact below `tmp/`. A full disk shows here.
//! 3. Take the folder: one rename to `tmp/`. From here on its maker sees that it is gone, never a part of it.
//! 4. Move each file to its blob, and link the blob into the new artifact.
//! 5. Flush the folders, then rename the artifact into place. Only now can anyone see it.
//!
//! An error between 3 and 5 gives the folder back. A kill there costs the outputs but not the maker's own state, which
//! lies in its workspace.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::artifact;
use crate::error::Context;
use crate::layout::Layout;
use crate::quarantine;
use crate::stat::FileStat;
use crate::tree::{self, FileEntry, Found, Links};
use crate::{Artifact, Digest, Store, StoreError, durable, lock, read};

impl Store {
    /// Makes the content of the folder `dir` an artifact. The store takes the folder: afterwards it is gone.
    ///
    /// Sub-folders are kept, empty ones are not. Modes and times are no part of an artifact. A file that is a hard
    /// link to a file of the store is taken over without reading it. Nothing may write to the folder meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] for links, sockets and the like, [`StoreError::BadName`],
    /// [`StoreError::Changed`], [`StoreError::NoSpace`]. On an error nothing of the artifact is visible.
    pub fn publish(&self, dir: &Path) -> Result<Artifact, StoreError> {
        publish(self, dir)
    }
}

/// Moves the folder `dir` into the store.
fn publish(store: &Store, dir: &Path) -> Result<Artifact, StoreError> {
    let layout = &store.layout;
    let _shared = lock::share(layout)?;
    let found = list(dir)?;
    let artifact = Artifact::of(hash(store, &found)?)?;
    if !is_stored(store, &artifact)? {
        let full: Vec<PathBuf> = found.iter().map(|file| file.full.clone()).collect();
        durable::sync_all(&full)?;
        move_in(store, dir, &found, &artifact)?;
    }
    durable::remove(dir)?;
    Ok(artifact)
}

fn list(dir: &Path) -> Result<Vec<Found>, StoreError> {
    match fs::symlink_metadata(dir) {
        Ok(meta) if meta.is_dir() => tree::walk(dir, Links::Refuse),
        Ok(_) => Err(StoreError::Unsupported {
            path: dir.to_owned(),
            kind: "not a folder",
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::NotFound {
            path: dir.to_owned(),
        }),
        Err(error) => Err(StoreError::io("read", dir, error)),
    }
}

/// Hashes the files, except for those that are blobs under another name: of an artifact that this process has opened,
/// as a stage's inputs are.
fn hash(store: &Store, found: &[Found]) -> Result<Vec<FileEntry>, StoreError> {
    let known = |file: &Found| (file.stat.links > 1).then(|| store.seen.digest_of(&file.stat))?;
    let digest_of = |file: &Found| match known(file) {
        Some(digest) if is_blob(&store.layout, &digest, &file.stat)? => Ok(digest),
        _ => tree::hash_file(&file.full).map(|(digest, _)| digest),
    };
    tree::map_files(
        found,
        |file| file.stat.bytes,
        |file| {
            Ok(FileEntry {
                path: file.path.clone(),
                bytes: file.stat.bytes,
                digest: digest_of(file)?,
            })
        },
    )
}

fn is_blob(layout: &Layout, digest: &Digest, stat: &FileStat) -> Result<bool, StoreError> {
    Ok(tree::stat(&layout.blob(digest))?.is_some_and(|blob| blob.same_file(stat)))
}

/// Whether the store has this artifact already, with all its bytes. A damaged one makes way.
fn is_stored(store: &Store, artifact: &Artifact) -> Result<bool, StoreError> {
    if !artifact::is_there(&store.layout, &artifact.digest) {
        return Ok(false);
    }
    match store.open_verified(&artifact.digest) {
        Ok(_) => Ok(true),
        Err(StoreError::Damaged { .. } | StoreError::MissingArtifact { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn move_in(
    store: &Store,
    dir: &Path,
    found: &[Found],
    artifact: &Artifact,
) -> Result<(), StoreError> {
    let layout = &store.layout;
    let tmp = layout.tmp();
    let scratch = tempfile::Builder::new()
        .prefix("publish-")
        .tempdir_in(&tmp)
        .context("write in", &tmp)?;
    let new = scratch.path().join("artifact");
    let unsynced = prepare(&new, artifact)?;
    let taken = scratch.path().join("taken");
    take(dir, &taken, found)?;
    let shown = show(store, scratch.path(), &taken, found, artifact, unsynced);
    if shown.is_err() {
        // The caller can try again; where not even this succeeds, the first error says what is wrong.
        let _ = give_back(layout, dir, &taken, artifact);
    }
    // What is left of the scratch folder is removed when it goes out of scope, else by the next collection.
    shown
}

/// Moves the files of a folder that was taken to their blobs, and shows the artifact.
fn show(
    store: &Store,
    scratch: &Path,
    taken: &Path,
    found: &[Found],
    artifact: &Artifact,
    mut unsynced: BTreeSet<PathBuf>,
) -> Result<(), StoreError> {
    let layout = &store.layout;
    let new = scratch.join("artifact");
    for (index, (file, found)) in artifact.files.iter().zip(found).enumerate() {
        let source = taken.join(&file.path);
        refuse_changed(&source, found)?;
        let spare = scratch.join(format!("copy-{index}"));
        unsynced.extend(add_blob(store, file, &source, &spare)?);
        let blob = layout.blob(&file.digest);
        unsynced.extend(link(&blob, &artifact::files_path(&new).join(&file.path))?);
        unsynced.insert(durable::parent(&blob).to_owned());
    }
    unsynced.extend(durable::create_shard(durable::parent(
        &layout.artifact(&artifact.digest),
    ))?);
    durable::sync_all(&unsynced.into_iter().collect::<Vec<_>>())?;
    place(layout, &new, &artifact.digest)
}

/// Puts a folder that was taken back where it was. Files that are blobs already become further names of these.
fn give_back(
    layout: &Layout,
    dir: &Path,
    taken: &Path,
    artifact: &Artifact,
) -> Result<(), StoreError> {
    for file in &artifact.files {
        let path = taken.join(&file.path);
        if tree::stat(&path)?.is_none() {
            link(&layout.blob(&file.digest), &path)?;
        }
    }
    if dir.exists() {
        // It was copied, and is still there.
        return Ok(());
    }
    fs::rename(taken, dir).context("move", taken)
}

/// Writes the manifest and the folders of the new artifact; returns what has to be flushed.
fn prepare(new: &Path, artifact: &Artifact) -> Result<BTreeSet<PathBuf>, StoreError> {
    let files = artifact::files_path(new);
    durable::create_dirs(&files)?;
    let mut folders = BTreeSet::from([new.to_owned(), files.clone()]);
    for file in &artifact.files {
        let mut folder = durable::parent(&files.join(&file.path)).to_owned();
        durable::create_dirs(&folder)?;
        while folder != files && folders.insert(folder.clone()) {
            folder.pop();
        }
    }
    let manifest = artifact::manifest_path(new);
    fs::write(&manifest, artifact.manifest()?).context("write", &manifest)?;
    read_only(&manifest)?;
    folders.insert(manifest);
    Ok(folders)
}

/// Moves the folder away from its maker; copies it where it lies on another file system.
fn take(dir: &Path, taken: &Path, found: &[Found]) -> Result<(), StoreError> {
    match fs::rename(dir, taken) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
        other => return other.context("move", dir),
    }
    for file in found {
        let target = taken.join(&file.path);
        durable::create_dirs(durable::parent(&target))?;
        durable::copy_new(&file.full, &target)?;
        let source = fs::metadata(&file.full)
            .and_then(|meta| meta.modified())
            .context("read", &file.full)?;
        let copy = fs::OpenOptions::new()
            .append(true)
            .open(&target)
            .context("open", &target)?;
        copy.set_modified(source)
            .and_then(|()| copy.sync_all())
            .context("write", &target)?;
    }
    Ok(())
}

/// Fails if a file is not what it was when it was hashed.
fn refuse_changed(source: &Path, found: &Found) -> Result<(), StoreError> {
    let now = tree::stat(source)?.map(|stat| (stat.bytes, stat.modified));
    if now == Some((found.stat.bytes, found.stat.modified)) {
        return Ok(());
    }
    Err(StoreError::Changed {
        path: found.full.clone(),
    })
}

/// Makes `source` the blob of `file`, unless there is a good one. `spare` is a free name on the same file system.
///
/// Returns a folder that has to be flushed, if any.
fn add_blob(
    store: &Store,
    file: &FileEntry,
    source: &Path,
    spare: &Path,
) -> Result<Option<PathBuf>, StoreError> {
    let layout = &store.layout;
    let blob = layout.blob(&file.digest);
    let own = tree::stat(source)?;
    if let Some(stat) = tree::stat(&blob)? {
        if own.is_some_and(|own| own.same_file(&stat)) || is_sound(store, &blob, &stat, file)? {
            return Ok(None);
        }
        quarantine::move_aside(
            layout,
            "blob",
            &blob,
            "its bytes are not those that were stored",
        );
    }
    let unsynced = durable::create_shard(durable::parent(&blob))?;
    let shared = own.is_some_and(|own| own.links > 1);
    if shared {
        // Whoever owns the other name could write to the blob through it.
        durable::copy_new(source, spare)?;
    }
    let source = if shared { spare } else { source };
    read_only(source)?;
    fs::rename(source, &blob).context("write", &blob)?;
    Ok(unsynced)
}

/// Whether a blob has the bytes of its name. One that cannot be read has not.
fn is_sound(
    store: &Store,
    blob: &Path,
    stat: &FileStat,
    file: &FileEntry,
) -> Result<bool, StoreError> {
    if stat.bytes != file.bytes || store.seen.has_read(stat, &file.digest) {
        return Ok(stat.bytes == file.bytes);
    }
    match tree::hash_file(blob) {
        Ok((digest, _)) => Ok(digest == file.digest),
        Err(error) if read::is_damage_of(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives a blob a second name, or a copy where the file system has no links (or no more for this file).
///
/// Returns the copy, which has to be flushed.
fn link(blob: &Path, path: &Path) -> Result<Option<PathBuf>, StoreError> {
    let Err(error) = fs::hard_link(blob, path) else {
        return Ok(None);
    };
    if error.kind() == io::ErrorKind::AlreadyExists {
        // A network file system may have made the link, lost its answer, and tried again.
        let names = (tree::stat(blob)?, tree::stat(path)?);
        return match names {
            (Some(blob), Some(link)) if blob.same_file(&link) => Ok(None),
            _ => Err(StoreError::io("link to", path, error)),
        };
    }
    durable::copy_new(blob, path)?;
    Ok(Some(path.to_owned()))
}

fn place(layout: &Layout, new: &Path, digest: &Digest) -> Result<(), StoreError> {
    let target = layout.artifact(digest);
    let shard = durable::parent(&target);
    match fs::rename(new, &target) {
        // Somebody else stored the same artifact meanwhile.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(StoreError::io("write", &target, error)),
        Ok(()) => durable::sync(shard),
    }
}

fn read_only(path: &Path) -> Result<(), StoreError> {
    let mut permissions = fs::metadata(path).context("read", path)?.permissions();
    permissions.set_readonly(true);
    fs::set_permissions(path, permissions).context("write", path)
}
