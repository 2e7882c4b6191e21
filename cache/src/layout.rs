//! Where everything lies. No other module builds a path inside the store.

use std::path::{Path, PathBuf};

use crate::Digest;

/// The layout that this version writes; its folder below the root is `v1`.
pub(crate) const VERSION: u32 = 1;

/// The paths of one store.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The folder that the user named; it holds one folder per layout version.
    pub(crate) root: PathBuf,
    base: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            base: root.join(format!("v{VERSION}")),
        }
    }

    /// The folders that exist in every store.
    pub(crate) fn folders(&self) -> [PathBuf; 9] {
        [
            self.blobs(),
            self.artifacts(),
            self.records(),
            self.works(),
            self.tmp(),
            self.locks(),
            self.holders(),
            self.quarantine(),
            self.runs(),
        ]
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.base.join("blobs")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        sharded(self.blobs(), digest)
    }

    pub(crate) fn artifacts(&self) -> PathBuf {
        self.base.join("artifacts")
    }

    pub(crate) fn artifact(&self, digest: &Digest) -> PathBuf {
        sharded(self.artifacts(), digest)
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.base.join("records")
    }

    pub(crate) fn record(&self, key: &Digest) -> PathBuf {
        let mut path = sharded(self.records(), key);
        path.as_mut_os_string().push(".json");
        path
    }

    pub(crate) fn works(&self) -> PathBuf {
        self.base.join("work")
    }

    pub(crate) fn work(&self, key: &Digest) -> PathBuf {
        self.works().join(key.to_string())
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.base.join("tmp")
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.base.join("locks")
    }

    pub(crate) fn key_lock(&self, key: &Digest) -> PathBuf {
        self.locks().join(format!("{key}.lock"))
    }

    pub(crate) fn key_lease(&self, key: &Digest) -> PathBuf {
        self.locks().join(format!("{key}.lease"))
    }

    /// Held shared by whoever uses the store, exclusively by garbage collection.
    pub(crate) fn store_lock(&self) -> PathBuf {
        self.locks().join("store.lock")
    }

    /// One file per process that holds the store, so that garbage collection can say whom it waits for.
    pub(crate) fn holders(&self) -> PathBuf {
        self.locks().join("holders")
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.base.join("quarantine")
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.base.join("runs")
    }

    pub(crate) fn jobs(&self) -> PathBuf {
        self.base.join("jobs")
    }

    pub(crate) fn families(&self) -> PathBuf {
        self.base.join("families")
    }

    /// Holds an empty file per member, called by its key.
    pub(crate) fn family(&self, family: &Digest) -> PathBuf {
        sharded(self.families(), family)
    }

    /// What was found sound, by artifact.
    pub(crate) fn checks(&self) -> PathBuf {
        self.base.join("checked")
    }

    pub(crate) fn check(&self, artifact: &Digest) -> PathBuf {
        sharded(self.checks(), artifact)
    }

    /// When the whole store was last found sound.
    pub(crate) fn verified(&self) -> PathBuf {
        self.checks().join("verified")
    }

    pub(crate) fn stat_caches(&self) -> PathBuf {
        self.base.join("stat-cache")
    }
}

/// `folder/ab/<digest>`: 256 sub-folders keep each of them small.
fn sharded(mut folder: PathBuf, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    folder.reserve(hex.len() + "/ab//manifest.json".len());
    folder.push(&hex[..2]);
    folder.push(&*hex);
    folder
}
