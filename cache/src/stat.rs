//! What the file system says about a file: enough to tell that it did not change, and that two names are one file.

use std::fs::Metadata;

/// The facts that stand for a file's content as long as they stay the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStat {
    pub(crate) bytes: u64,
    /// Time of the last write, in nanoseconds since 1970.
    pub(crate) modified: i64,
    /// Time of the last change of content or inode, in nanoseconds since 1970. Users cannot set it.
    pub(crate) changed: i64,
    pub(crate) inode: u64,
    pub(crate) device: u64,
    pub(crate) links: u64,
}

impl FileStat {
    #[cfg(unix)]
    pub(crate) fn of(meta: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        let nanos =
            |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            bytes: meta.len(),
            modified: nanos(meta.mtime(), meta.mtime_nsec()),
            changed: nanos(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
            device: meta.dev(),
            links: meta.nlink(),
        }
    }

    #[cfg(not(unix))]
    pub(crate) fn of(meta: &Metadata) -> Self {
        let since_1970 = meta
            .modified()
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let modified = since_1970
            .and_then(|d| i64::try_from(d.as_nanos()).ok())
            .unwrap_or(i64::MAX);
        Self {
            bytes: meta.len(),
            modified,
            changed: modified,
            inode: 0,
            device: 0,
            links: 1,
        }
    }

    /// Whether the content is the same as far as these facts tell. The number of links says nothing about it.
    pub(crate) fn unchanged(&self, now: &Self) -> bool {
        let facts = |stat: &Self| {
            (
                stat.bytes,
                stat.modified,
                stat.changed,
                stat.inode,
                stat.device,
            )
        };
        facts(self) == facts(now)
    }

    /// Whether both describe one and the same file under two names.
    pub(crate) fn same_file(&self, other: &Self) -> bool {
        self.inode != 0 && (self.inode, self.device) == (other.inode, other.device)
    }
}
