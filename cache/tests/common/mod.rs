//! What the tests of the store share.
#![allow(dead_code)] // Each test binary uses its own part.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dcsft_cache::{Artifact, Digest, Json, OutputRef, Record, Store};
use serde_json::json;
use tempfile::TempDir;

/// This host's name.
pub(crate) fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    name.trim().to_owned()
}

/// A store in a folder of its own, and a place beside it on the same file system.
pub(crate) struct Bench {
    pub(crate) store: Store,
    folder: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        Self { store, folder }
    }

    /// A path outside the store.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path below the store's layout folder.
    pub(crate) fn inside(&self, name: &str) -> PathBuf {
        self.store.root().join("v1").join(name)
    }

    /// A folder outside the store with these files.
    pub(crate) fn folder(&self, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir_all(&folder).unwrap();
        for (path, bytes) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        folder
    }

    pub(crate) fn publish(&self, files: &[(&str, &[u8])]) -> Artifact {
        self.store.publish(&self.folder("out", files)).unwrap()
    }

    /// Publishes an output with these files and commits it as the result of `key`.
    pub(crate) fn compute(&self, key: &Digest, files: &[(&str, &[u8])], seconds: f64) -> Artifact {
        let artifact = self.publish(files);
        self.store
            .commit(&record(key, &[("out", &artifact)], seconds))
            .unwrap();
        artifact
    }

    pub(crate) fn blob(&self, bytes: &[u8]) -> PathBuf {
        let digest = Digest::of_bytes(bytes).to_string();
        self.inside("blobs").join(&digest[..2]).join(digest)
    }

    pub(crate) fn record_file(&self, key: &Digest) -> PathBuf {
        let key = key.to_string();
        self.inside("records")
            .join(&key[..2])
            .join(format!("{key}.json"))
    }

    pub(crate) fn artifact_folder(&self, digest: &Digest) -> PathBuf {
        self.store
            .artifact_files(digest)
            .parent()
            .unwrap()
            .to_owned()
    }

    /// The names in the quarantine, without the notes.
    pub(crate) fn quarantined(&self) -> Vec<String> {
        names(&self.inside("quarantine"))
            .into_iter()
            .filter(|name| !name.ends_with(".reason"))
            .collect()
    }
}

pub(crate) fn key(name: &str) -> Digest {
    Digest::of_bytes(name.as_bytes())
}

pub(crate) fn record(key: &Digest, outputs: &[(&str, &Artifact)], seconds: f64) -> Record {
    Record {
        format: Record::FORMAT,
        key: *key,
        label: "test".into(),
        explain: Json::of(&json!({"kind": "test", "with": {"lr": 1e-4, "steps": 300}})),
        outputs: outputs
            .iter()
            .map(|(name, artifact)| (name.to_string(), OutputRef::from(*artifact)))
            .collect::<BTreeMap<_, _>>(),
        summary: json!({"loss": 0.25}),
        execution: Json::of(&json!({"seconds": seconds})),
        created_unix: 1_700_000_000,
    }
}

/// The seconds that [`record`] wrote.
pub(crate) fn seconds(record: &Record) -> f64 {
    let facts: serde_json::Value = record.execution.parse().unwrap();
    facts["seconds"].as_f64().unwrap()
}

/// The sorted names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Overwrites one byte of a read-only file in place, as a failing disk would.
pub(crate) fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    overwrite(path, &bytes);
}

/// Replaces the bytes of a read-only file in place: all its hard links see it.
pub(crate) fn overwrite(path: &Path, bytes: &[u8]) {
    let mut permissions = fs::metadata(path).unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false)]
    permissions.set_readonly(false);
    fs::set_permissions(path, permissions).unwrap();
    fs::write(path, bytes).unwrap();
}

/// This test binary again, to run the ignored test `name` as another process on the same store.
pub(crate) fn child(name: &str, root: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            name,
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("DCSFT_TEST_STORE", root);
    command
}

/// The store that [`child`] was given; `None` if the test was started by hand.
pub(crate) fn parents_store() -> Option<Store> {
    std::env::var_os("DCSFT_TEST_STORE").map(|root| Store::open(Path::new(&root)).unwrap())
}
