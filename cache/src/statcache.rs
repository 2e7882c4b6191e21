//! Digests of users' files and folders, with a memory of what was hashed before.
//!
//! Each file or folder that is asked for has its own memory, `stat-cache/<digest of its path>`: a header line, then a
//! line per file. So a look at a small file never reads the memory of a large folder. Files of a list share one memory
//! for each folder that they are in, since a list may name many thousands.
//!
//! The last line has the digest of the others: a memory that was changed by chance is forgotten.
//!
//! A remembered digest holds if size, both times, inode and device are the same. That would miss a write that happens
//! within the clock's resolution after the file was hashed. So, as git does, a file that changed less than two seconds
//! before it was hashed is not remembered.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::checks::Moment;
use crate::layout::Layout;
use crate::stat::FileStat;
use crate::tree::{self, FileEntry, Found, Links};
use crate::{Digest, StoreError, durable, lock, read, sealed};

/// The format of the memory's files. A file of another format is forgotten.
const FORMAT: u32 = 2;

/// What [`Store::digest_path`](crate::Store::digest_path) looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PathStats {
    /// Number of files.
    pub files: u64,
    /// The sum of their sizes in bytes.
    pub bytes: u64,
    /// Number of files that had to be read.
    pub hashed_files: u64,
    /// The sum of their sizes in bytes.
    pub hashed_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    path: PathBuf,
}

/// One remembered file: digest, size, time of the last write, time of the last change, inode, device, relative path.
#[derive(Serialize, Deserialize)]
struct Line(Digest, u64, i64, i64, u64, u64, String);

type Memory = HashMap<String, (FileStat, Digest)>;

/// A file with its digest, and whether it had to be read.
struct Hashed {
    entry: FileEntry,
    stat: FileStat,
    read: bool,
}

impl Hashed {
    /// Whether its digest may be remembered by those who began to hash at that moment.
    fn has_rested(&self, began: Option<Moment>) -> bool {
        !self.read || began.is_some_and(|began| began.is_after_rest_of(&self.stat))
    }
}

/// See [`Store::digest_path`](crate::Store::digest_path).
pub(crate) fn digest_path(
    layout: &Layout,
    path: &Path,
    paranoid: bool,
) -> Result<(Digest, PathStats), StoreError> {
    let root = match fs::canonicalize(path) {
        Ok(root) => root,
        Err(error) if is_absent(&error) => {
            return Err(StoreError::NotFound {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(StoreError::io("read", path, error)),
    };
    let is_folder = root.is_dir();
    let found = if is_folder {
        tree::walk(&root, Links::Follow)?
    } else {
        single(&root)?
    };
    let memory_file = memory_file(layout, &root);
    let memory = if paranoid {
        Memory::new()
    } else {
        load(&memory_file, &root)
    };
    let began = moment(layout, &found, &memory);
    let hashed = tree::map_files(&found, |file| file.stat.bytes, |file| hash(file, &memory))?;
    if hashed.iter().any(|file| file.read) || hashed.len() != memory.len() {
        let rested = hashed.iter().filter(|file| file.has_rested(began));
        let lines = rested.map(|file| (file.entry.path.as_str(), &file.stat, file.entry.digest));
        save(layout, &memory_file, &root, lines);
    }
    let stats = count(&hashed);
    let files: Vec<FileEntry> = hashed.into_iter().map(|file| file.entry).collect();
    let digest = match &files[..] {
        [file] if !is_folder => file.digest,
        _ => tree::digest(&files)?,
    };
    Ok((digest, stats))
}

/// See [`Store::digest_files`](crate::Store::digest_files).
pub(crate) fn digest_files(
    layout: &Layout,
    paths: &[PathBuf],
    paranoid: bool,
) -> Result<Vec<Option<Digest>>, StoreError> {
    let mut digests = vec![None; paths.len()];
    let mut by_folder: BTreeMap<&Path, Vec<(usize, String)>> = BTreeMap::new();
    for (index, path) in paths.iter().enumerate() {
        // What has no name that a memory could hold, as `/` and names that are not Unicode, goes alone.
        match (
            path.parent(),
            path.file_name().and_then(|name| name.to_str()),
        ) {
            (Some(folder), Some(name)) => by_folder
                .entry(folder)
                .or_default()
                .push((index, name.to_owned())),
            _ => digests[index] = digest_or_absent(layout, path, paranoid)?,
        }
    }
    for (folder, files) in by_folder {
        let known = in_folder(layout, folder, &files, paths, paranoid)?;
        for ((index, _), digest) in files.into_iter().zip(known) {
            digests[index] = digest;
        }
    }
    Ok(digests)
}

/// The digests of files of one folder, with their names in it; `None` for those that do not exist.
fn in_folder(
    layout: &Layout,
    folder: &Path,
    files: &[(usize, String)],
    paths: &[PathBuf],
    paranoid: bool,
) -> Result<Vec<Option<Digest>>, StoreError> {
    let here = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let root = match fs::canonicalize(here) {
        Ok(root) => root,
        Err(error) if is_absent(&error) => {
            return Ok(vec![None; files.len()]);
        }
        Err(error) => return Err(StoreError::io("read", here, error)),
    };
    // No path ends in `/*`, so this is not the memory of the folder itself.
    let memory_file = memory_file(layout, &root.join("*"));
    let mut memory = if paranoid {
        Memory::new()
    } else {
        load(&memory_file, &root)
    };
    // Found out before the first file is read, if one is.
    let began = OnceLock::new();
    let found = tree::map_files(
        files,
        |_| 0,
        |(index, name)| match fs::metadata(&paths[*index]) {
            Ok(meta) if meta.is_dir() => {
                let digest = digest_path(layout, &paths[*index], paranoid)?.0;
                Ok((Some(digest), None))
            }
            Ok(meta) if meta.is_file() => {
                let found = Found {
                    path: name.clone(),
                    full: paths[*index].clone(),
                    stat: FileStat::of(&meta),
                };
                if !is_remembered(&memory, &found) {
                    began.get_or_init(|| Moment::now(layout));
                }
                let hashed = hash(&found, &memory)?;
                Ok((Some(hashed.entry.digest), Some(hashed)))
            }
            Err(error) if is_absent(&error) => Ok((None, None)),
            // Whatever is wrong with it is said there.
            _ => Ok((digest_or_absent(layout, &paths[*index], paranoid)?, None)),
        },
    )?;
    let fresh: Vec<&Hashed> = found
        .iter()
        .filter_map(|(_, hashed)| hashed.as_ref().filter(|hashed| hashed.read))
        .collect();
    if !fresh.is_empty() {
        for hashed in fresh {
            if hashed.has_rested(began.get().copied()) {
                let remembered = (hashed.stat, hashed.entry.digest);
                memory.insert(hashed.entry.path.clone(), remembered);
            } else {
                memory.remove(&hashed.entry.path);
            }
        }
        let lines = memory
            .iter()
            .map(|(name, (stat, digest))| (name.as_str(), stat, *digest));
        save(layout, &memory_file, &root, lines);
    }
    Ok(found.into_iter().map(|(digest, _)| digest).collect())
}

/// Whether there can be no file of that name: also where a part of the path is a file, the name is one that the
/// system cannot have, or links lead to each other in a circle. Lists of files name such by mistake, and one bad name
/// must not keep the others from being read.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    let absent = [NotFound, NotADirectory, InvalidFilename, InvalidInput];
    absent.contains(&error.kind()) || is_circle(error)
}

#[cfg(unix)]
fn is_circle(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::LOOP)
}

#[cfg(not(unix))]
fn is_circle(_: &io::Error) -> bool {
    false
}

fn digest_or_absent(
    layout: &Layout,
    path: &Path,
    paranoid: bool,
) -> Result<Option<Digest>, StoreError> {
    match digest_path(layout, path, paranoid) {
        Ok((digest, _)) => Ok(Some(digest)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn single(path: &Path) -> Result<Vec<Found>, StoreError> {
    let meta = fs::metadata(path).map_err(|error| StoreError::io("read", path, error))?;
    if !meta.is_file() {
        return Err(StoreError::Unsupported {
            path: path.to_owned(),
            kind: "neither a file nor a folder",
        });
    }
    Ok(vec![Found {
        path: String::new(),
        full: path.to_owned(),
        stat: FileStat::of(&meta),
    }])
}

fn hash(file: &Found, memory: &Memory) -> Result<Hashed, StoreError> {
    let entry = |digest, stat: FileStat| FileEntry {
        path: file.path.clone(),
        bytes: stat.bytes,
        digest,
    };
    match memory.get(&file.path) {
        Some((stat, digest)) if stat.unchanged(&file.stat) => Ok(Hashed {
            entry: entry(*digest, file.stat),
            stat: file.stat,
            read: false,
        }),
        _ => {
            let (digest, stat) = tree::hash_file(&file.full)?;
            Ok(Hashed {
                entry: entry(digest, stat),
                stat,
                read: true,
            })
        }
    }
}

fn is_remembered(memory: &Memory, file: &Found) -> bool {
    memory
        .get(&file.path)
        .is_some_and(|(stat, _)| stat.unchanged(&file.stat))
}

/// The moment before files are read; none where none has to be, for asking the file system costs a call.
fn moment(layout: &Layout, found: &[Found], memory: &Memory) -> Option<Moment> {
    let all = found.iter().all(|file| is_remembered(memory, file));
    (!all).then(|| Moment::now(layout))
}

fn count(hashed: &[Hashed]) -> PathStats {
    let mut stats = PathStats {
        files: hashed.len() as u64,
        ..PathStats::default()
    };
    for file in hashed {
        stats.bytes += file.entry.bytes;
        if file.read {
            stats.hashed_files += 1;
            stats.hashed_bytes += file.entry.bytes;
        }
    }
    stats
}

fn memory_file(layout: &Layout, root: &Path) -> PathBuf {
    layout
        .stat_caches()
        .join(Digest::of_bytes(root.as_os_str().as_encoded_bytes()).to_string())
}

/// What was remembered of `root`; nothing if there is no file or if it cannot be used.
fn load(path: &Path, root: &Path) -> Memory {
    read::whole(path)
        .ok()
        .and_then(|(bytes, _)| parse(&bytes, root))
        .unwrap_or_default()
}

fn parse(bytes: &[u8], root: &Path) -> Option<Memory> {
    let mut lines = sealed::unseal(bytes)?
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let header: Header = serde_json::from_slice(lines.next()?).ok()?;
    if header.format != FORMAT || header.path != root {
        return None;
    }
    let entry = |line: &[u8]| {
        let Line(digest, bytes, modified, changed, inode, device, path) =
            serde_json::from_slice(line).ok()?;
        Some((
            path,
            (
                FileStat {
                    bytes,
                    modified,
                    changed,
                    inode,
                    device,
                    links: 1,
                },
                digest,
            ),
        ))
    };
    lines.map(entry).collect()
}

/// Remembers what was hashed. A failure costs time later, nothing else, so it is only logged.
fn save<'a>(
    layout: &Layout,
    path: &Path,
    root: &Path,
    lines: impl Iterator<Item = (&'a str, &'a FileStat, Digest)>,
) {
    let saved = (|| {
        let encode = |cause| StoreError::Encode {
            what: "the stat cache",
            cause,
        };
        let mut text = serde_json::to_vec(&Header {
            format: FORMAT,
            path: root.to_owned(),
        })
        .map_err(encode)?;
        text.push(b'\n');
        for (path, stat, digest) in lines {
            let FileStat {
                bytes,
                modified,
                changed,
                inode,
                device,
                ..
            } = *stat;
            let line = Line(
                digest,
                bytes,
                modified,
                changed,
                inode,
                device,
                path.to_owned(),
            );
            serde_json::to_writer(&mut text, &line).map_err(encode)?;
            text.push(b'\n');
        }
        let _shared = lock::share(layout)?;
        durable::create_dirs(&layout.stat_caches())?;
        durable::write_atomic(&layout.tmp(), path, &sealed::seal(text))
    })();
    match saved {
        Ok(()) => {}
        // Nobody who works with a cache that is not theirs can do anything about it.
        Err(StoreError::Permission { .. }) => {}
        Err(error) => {
            tracing::warn!(%error, "the digests of {} will have to be computed again", root.display());
        }
    }
}

/// The memories that are not what was written, each with what is wrong. They are forgotten anyway; that there are any
/// says something about the disk.
pub(crate) fn broken(layout: &Layout) -> Vec<(PathBuf, String)> {
    let Ok(entries) = fs::read_dir(layout.stat_caches()) else {
        return Vec::new();
    };
    let flaw = |path: &Path| match read::whole(path) {
        Ok((bytes, _)) if sealed::unseal(&bytes).is_some() || is_older(&bytes) => None,
        Ok(_) => Some("its bytes are not those that were written".to_owned()),
        Err(error) if read::is_damage(&error) => Some(format!("it cannot be read: {error}")),
        Err(_) => None,
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter_map(|path| Some((path.clone(), flaw(&path)?)))
        .collect()
}

/// Whether a memory was written by a version that gave it no digest.
fn is_older(bytes: &[u8]) -> bool {
    header(bytes).is_some_and(|header| header.format < FORMAT)
}

fn header(bytes: &[u8]) -> Option<Header> {
    let first = bytes.split(|byte| *byte == b'\n').next()?;
    serde_json::from_slice(first).ok()
}

/// Removes the memories of paths that are gone, and those that no version can use. Returns the freed bytes.
pub(crate) fn forget_gone(layout: &Layout, dry_run: bool) -> Result<u64, StoreError> {
    let Ok(entries) = fs::read_dir(layout.stat_caches()) else {
        return Ok(0);
    };
    let mut freed = 0;
    for path in entries.flatten().map(|entry| entry.path()) {
        let bytes = read::whole(&path).map_or(Vec::new(), |(bytes, _)| bytes);
        if header(&bytes).is_some_and(|header| header.format > FORMAT || header.path.exists()) {
            continue;
        }
        freed += bytes.len() as u64;
        if !dry_run {
            durable::remove(&path)?;
        }
    }
    Ok(freed)
}
