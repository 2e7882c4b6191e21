//! What can go wrong in the store. What to do about it, in the words of a command line, is for the program to say.

use std::io;
use std::path::{Path, PathBuf};

use crate::{CanonicalError, Digest};

/// A failure of the store. Each message stands alone: it names the path and the reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system is full, or the user's quota is.
    #[error("no space left to {action} {}", .path.display())]
    NoSpace {
        /// What was being done, as in "write".
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
    },
    /// The operating system does not let this user do it.
    #[error("no permission to {action} {}", .path.display())]
    Permission {
        /// What was being done, as in "write".
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
    },
    /// Any other failure of the file system.
    #[error("cannot {action} {}: {cause}", .path.display())]
    Io {
        /// What was being done, as in "read".
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// The cache was written by a newer version of the program.
    #[error("the cache {} has layout {found}, and this version reads layouts up to {supported}", .root.display())]
    NewerLayout {
        /// The cache's root folder.
        root: PathBuf,
        /// The layout that was found.
        found: u32,
        /// The newest layout that this version knows.
        supported: u32,
    },
    /// A record was written by a newer version of the program.
    #[error("{} has format {found}, and this version reads formats up to {supported}", .path.display())]
    NewerFormat {
        /// The record's file.
        path: PathBuf,
        /// The format that was found.
        found: u32,
        /// The newest format that this version knows.
        supported: u32,
    },
    /// The folder's path is not Unicode text, and journals could not name what is in it.
    #[error("the cache's path {} is not valid UTF-8", .root.display())]
    RootNotUnicode {
        /// The cache's root folder.
        root: PathBuf,
    },
    /// A file or folder that was named does not exist.
    #[error("{} does not exist", .path.display())]
    NotFound {
        /// The path as it was given.
        path: PathBuf,
    },
    /// Something that is neither a regular file nor a folder where only these have a content.
    #[error("{} is {kind}: only regular files and folders can be stored", .path.display())]
    Unsupported {
        /// The path of the thing.
        path: PathBuf,
        /// What it is, as in "a symbolic link".
        kind: &'static str,
    },
    /// A file name that has no portable form.
    #[error("{} cannot be stored: {reason}; rename it", .path.display())]
    BadName {
        /// The path with that name.
        path: PathBuf,
        /// What is wrong with the name.
        reason: &'static str,
    },
    /// A file was written to while its digest was computed.
    #[error("{} changed while it was read: stop whatever writes to it and run again", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// An artifact's bytes are not what its digest says. It was moved to the quarantine, so the next run recomputes it.
    #[error("artifact {} is damaged ({reason}); {}", .digest.short(), whereabouts(.quarantined.as_deref()))]
    Damaged {
        /// The artifact.
        digest: Digest,
        /// What is wrong with it.
        reason: String,
        /// Where it lies now; none if it could not be moved.
        quarantined: Option<PathBuf>,
    },
    /// An artifact that a record or a caller names is not in the store.
    #[error("artifact {} is not in the cache {}: run the stage that makes it again", .digest.short(), .root.display())]
    MissingArtifact {
        /// The artifact.
        digest: Digest,
        /// The cache's root folder.
        root: PathBuf,
    },
    /// Something that needs the cache for itself found it in use.
    #[error("the cache {} is in use by {}: wait until it ends and try again", .root.display(), .holders.join(", "))]
    InUse {
        /// The cache's root folder.
        root: PathBuf,
        /// Who uses it, as in "process 4711 (dcsft run sweep.yaml)".
        holders: Vec<String>,
    },
    /// The file system has no file locks.
    #[error("{} lies on a file system without file locks ({cause})", .path.display())]
    LocksUnsupported {
        /// The lock's file.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// A value has no canonical bytes.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// A record or manifest could not be written as JSON.
    #[error("cannot write {what} as JSON: {cause}")]
    Encode {
        /// What was being written.
        what: &'static str,
        /// What the encoder said.
        cause: serde_json::Error,
    },
}

fn whereabouts(quarantined: Option<&Path>) -> String {
    match quarantined {
        Some(path) => format!(
            "it was moved to {}, and the next run computes it again",
            path.display()
        ),
        None => "it is gone, or could not be moved to the quarantine".to_owned(),
    }
}

impl StoreError {
    /// Names the action and the path that an I/O error belongs to, and tells apart the errors that have a cure.
    pub(crate) fn io(action: &'static str, path: &Path, cause: io::Error) -> Self {
        let path = path.to_owned();
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { action, path }
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Permission { action, path }
            }
            _ => Self::Io {
                action,
                path,
                cause,
            },
        }
    }
}

/// Attaches action and path to the error of a file system call.
pub(crate) trait Context<T> {
    /// Turns an `io::Error` into a [`StoreError`] that says `cannot ACTION PATH`.
    fn context(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|cause| StoreError::io(action, path, cause))
    }
}
