//! Which files of artifacts were read and found right, so that large ones are not read again while they are unchanged.
//!
//! `checked/ab/<artifact>` has a header line, then a line for each large file, and is sealed. It speaks of an artifact's
//! files by their paths; which digests these have is in the artifact's own digest. As with users' files, a file that
//! changed a moment before it was read is not remembered.
//!
//! The header says since when the artifact is known to be sound. If it is found damaged later, what was computed from
//! it before that moment is right, and what was computed after it may not be.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::artifact::{SMALL_FILE, Sound};
use crate::layout::Layout;
use crate::stat::FileStat;
use crate::{Digest, StoreError, durable, read, sealed};

/// The format of the files below `checked/`. A file of another format is forgotten.
const FORMAT: u32 = 1;

/// A file must have rested this long, in nanoseconds, before it was read, or that is not remembered: within the
/// resolution of a file system's clock a second write leaves the times as they are.
pub(crate) const RACY: i64 = 2_000_000_000;

/// That an artifact was found sound is written down at most this often.
const RESOLUTION: Duration = Duration::from_secs(3600);

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    artifact: Digest,
    /// Seconds since 1970: all bytes were read at that moment or later.
    sound_since: u64,
}

/// One file: path, size, time of the last write, time of the last change, inode, device.
#[derive(Serialize, Deserialize)]
struct Line(String, u64, i64, i64, u64, u64);

/// What is remembered of one artifact.
#[derive(Default)]
pub(crate) struct Remembered {
    sound_since: Option<u64>,
    files: BTreeMap<String, FileStat>,
}

impl Remembered {
    /// Whether a file was read and found right, and did not change since.
    pub(crate) fn holds(&self, path: &str, stat: &FileStat) -> bool {
        self.files
            .get(path)
            .is_some_and(|then| then.unchanged(stat))
    }
}

/// What is remembered of an artifact; nothing if that cannot be used.
pub(crate) fn load(layout: &Layout, artifact: &Digest) -> Remembered {
    let bytes = read::whole(&layout.check(artifact)).map(|(bytes, _)| bytes);
    bytes
        .ok()
        .and_then(|bytes| parse(&bytes, artifact))
        .unwrap_or_default()
}

fn parse(bytes: &[u8], artifact: &Digest) -> Option<Remembered> {
    let mut lines = sealed::unseal(bytes)?
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let header: Header = serde_json::from_slice(lines.next()?).ok()?;
    if header.format != FORMAT || header.artifact != *artifact {
        return None;
    }
    let file = |line: &[u8]| {
        let Line(path, bytes, modified, changed, inode, device) =
            serde_json::from_slice(line).ok()?;
        let stat = FileStat {
            bytes,
            modified,
            changed,
            inode,
            device,
            links: 1,
        };
        Some((path, stat))
    };
    Some(Remembered {
        sound_since: Some(header.sound_since),
        files: lines.map(file).collect::<Option<_>>()?,
    })
}

/// Remembers that an artifact was found sound by a check that began at `began`. A failure costs time later, nothing
/// else.
pub(crate) fn save(layout: &Layout, sound: &Sound, before: &Remembered, began: Moment) {
    let now = began.seconds();
    let large = |file: &&crate::artifact::Checked| file.entry.bytes > SMALL_FILE;
    let kept = |file: &&crate::artifact::Checked| {
        if file.read {
            began.is_after_rest_of(&file.stat)
        } else {
            true
        }
    };
    let files: BTreeMap<&str, &FileStat> = sound
        .files
        .iter()
        .filter(large)
        .filter(kept)
        .map(|file| (file.entry.path.as_str(), &file.stat))
        .collect();
    // Bytes that were not read now were read then.
    let all_read = sound.files.iter().all(|file| file.read);
    let sound_since = match before.sound_since {
        _ if all_read => now,
        Some(then) => then,
        None => return,
    };
    let same_files = files.len() == before.files.len()
        && files.iter().all(|(path, stat)| before.holds(path, stat));
    let recent = before
        .sound_since
        .is_some_and(|then| sound_since.saturating_sub(then) < RESOLUTION.as_secs());
    if same_files && recent {
        return;
    }
    let saved = (|| {
        let encode = |cause| StoreError::Encode {
            what: "what was checked",
            cause,
        };
        let header = Header {
            format: FORMAT,
            artifact: sound.artifact.digest,
            sound_since,
        };
        let mut text = serde_json::to_vec(&header).map_err(encode)?;
        text.push(b'\n');
        for (path, stat) in files {
            let line = Line(
                path.to_owned(),
                stat.bytes,
                stat.modified,
                stat.changed,
                stat.inode,
                stat.device,
            );
            serde_json::to_writer(&mut text, &line).map_err(encode)?;
            text.push(b'\n');
        }
        let path = layout.check(&sound.artifact.digest);
        durable::create_dirs(durable::parent(&path))?;
        durable::replace(&layout.tmp(), &path, &sealed::seal(text))
    })();
    if let Err(error) = saved {
        tracing::debug!(%error, "what was checked will have to be read again");
    }
}

/// Since when an artifact is known to be sound, in seconds since 1970; 0 where nothing is known.
pub(crate) fn sound_since(layout: &Layout, artifact: &Digest) -> u64 {
    let own = load(layout, artifact).sound_since.unwrap_or(0);
    own.max(last_verified(layout))
}

/// Forgets what was checked of an artifact.
pub(crate) fn forget(layout: &Layout, artifact: &Digest) {
    // What stays is of no use for other files: they have other inodes and times.
    let _ = std::fs::remove_file(layout.check(artifact));
}

/// Writes down that all that the store holds was sound at `began`.
pub(crate) fn note_verified(layout: &Layout, began: Moment) {
    let path = layout.verified();
    let text = format!("{}\n", began.seconds()).into_bytes();
    let noted = durable::create_dirs(durable::parent(&path))
        .and_then(|()| durable::replace(&layout.tmp(), &path, &sealed::seal(text)));
    if let Err(error) = noted {
        tracing::debug!(%error, "that the store is sound is not written down");
    }
}

fn last_verified(layout: &Layout) -> u64 {
    let read = || {
        let (bytes, _) = read::whole(&layout.verified()).ok()?;
        let text = std::str::from_utf8(sealed::unseal(&bytes)?).ok()?;
        text.trim().parse().ok()
    };
    read().unwrap_or(0)
}

/// When something began, by the clock of this machine and by that of the file system, whichever is earlier: the two
/// differ where files lie on another machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    nanos: i64,
}

impl Moment {
    /// Now. `tmp` is a folder of the store; where nothing can be written to it, this machine's clock alone counts.
    pub(crate) fn now(layout: &Layout) -> Self {
        let here = nanos(SystemTime::now());
        let there = tempfile::tempfile_in(layout.tmp())
            .and_then(|file| file.metadata()?.modified())
            .map_or(i64::MAX, nanos);
        Self {
            nanos: here.min(there),
        }
    }

    pub(crate) fn seconds(self) -> u64 {
        u64::try_from(self.nanos / 1_000_000_000).unwrap_or(0)
    }

    /// Whether something that happened at `time` happened then or later.
    pub(crate) fn is_before(self, time: SystemTime) -> bool {
        self.nanos <= nanos(time)
    }

    /// Whether a file with these facts had rested long enough.
    pub(crate) fn is_after_rest_of(self, stat: &FileStat) -> bool {
        self.nanos.saturating_sub(stat.changed) >= RACY
    }
}

/// Nanoseconds since 1970.
pub(crate) fn nanos(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// What this process itself has seen of the store's files.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<HashMap<(u64, u64), SeenFile>>);

#[derive(Debug, Clone, Copy)]
struct SeenFile {
    stat: FileStat,
    digest: Digest,
    read: bool,
}

impl Seen {
    /// Remembers the files of an artifact that a check which began at `began` found sound.
    pub(crate) fn note(&self, sound: &Sound, began: Option<Moment>) {
        let mut seen = self.lock();
        for file in sound.files.iter().filter(|file| file.stat.inode != 0) {
            let read = file.read && began.is_some_and(|began| began.is_after_rest_of(&file.stat));
            let known = seen
                .entry((file.stat.device, file.stat.inode))
                .or_insert(SeenFile {
                    stat: file.stat,
                    digest: file.entry.digest,
                    read,
                });
            if read || !known.stat.unchanged(&file.stat) {
                *known = SeenFile {
                    stat: file.stat,
                    digest: file.entry.digest,
                    read,
                };
            }
        }
    }

    /// Whether this process has read a file, found this digest, and the file did not change since.
    pub(crate) fn has_read(&self, stat: &FileStat, digest: &Digest) -> bool {
        let seen = self.lock();
        let found = seen.get(&(stat.device, stat.inode));
        found.is_some_and(|file| file.read && file.digest == *digest && file.stat.unchanged(stat))
    }

    /// The digest of a file of an artifact that this process has opened, as long as nobody wrote to it. A file with a
    /// new name has changed too, so that time does not count.
    pub(crate) fn digest_of(&self, stat: &FileStat) -> Option<Digest> {
        let seen = self.lock();
        let file = seen.get(&(stat.device, stat.inode))?;
        let same = (file.stat.bytes, file.stat.modified) == (stat.bytes, stat.modified);
        same.then_some(file.digest)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, u64), SeenFile>> {
        // Whoever panicked while holding it has left it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
