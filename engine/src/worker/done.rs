//! `done.json`: what a worker says of a stage that it has finished, beside the outputs.
//!
//! It is written last and durably, with the digests of all output files. From then on the result exists: if it cannot
//! be stored now, because the cache cannot be written or the run has died, the next run stores it from here and
//! computes nothing. The file carries its own digest; one that is damaged counts for nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dcsft_cache::{Digest, SealedFile, StoreError, file, seal, write_durable};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::provenance::Program;
use crate::stage::Usage;

/// Version of the file.
pub const FORMAT: u32 = 2;

/// A finished stage that may not be in the cache yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// [`FORMAT`].
    pub format: u32,
    /// The key whose result this is.
    pub key: Digest,
    /// The folder below the job's `outputs` that they were written to: each turn in a workspace has its own.
    pub folder: String,
    /// The outputs that were written, by name, each with its files.
    pub outputs: BTreeMap<String, Vec<SealedFile>>,
    /// The stage's deterministic summary.
    pub summary: Value,
    /// What the worker took.
    pub usage: Usage,
    /// The program that ran.
    pub program: Program,
    /// The worker's peak memory, where the system tells it.
    pub peak_rss_bytes: Option<u64>,
    /// Seconds of work that relatives have spared it.
    pub saved_seconds: f64,
    /// When the worker began to work, in nanoseconds since 1970.
    pub started_unix_nanos: u64,
    /// Seconds since then.
    pub seconds: f64,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Threads it was given.
    pub threads: usize,
    /// Which attempt of its run this was.
    pub attempt: u32,
}

/// The file: the digest first, so that the rest can be checked.
#[derive(Serialize, Deserialize)]
struct Checked<'a> {
    blake3: Digest,
    #[serde(borrow)]
    done: &'a RawValue,
}

impl Done {
    /// Writes it beside the outputs, so that it is there after a power cut too.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, workspace: &Path) -> Result<(), StoreError> {
        let encode = |cause| StoreError::Encode {
            what: "the end of a stage",
            cause,
        };
        let done = serde_json::value::to_raw_value(self).map_err(encode)?;
        let checked = Checked {
            blake3: Digest::of_bytes(done.get().as_bytes()),
            done: &done,
        };
        write_durable(
            &path(workspace),
            &serde_json::to_vec(&checked).map_err(encode)?,
        )
    }

    /// What a worker has left for this key; none if there is nothing, or nothing whole.
    pub fn read(workspace: &Path, key: &Digest) -> Option<Self> {
        let text = file::bytes(&path(workspace)).ok()?;
        let checked: Checked<'_> = serde_json::from_slice(&text).ok()?;
        if Digest::of_bytes(checked.done.get().as_bytes()) != checked.blake3 {
            return None;
        }
        let done: Self = serde_json::from_str(checked.done.get()).ok()?;
        (done.format == FORMAT && done.key == *key).then_some(done)
    }

    /// Makes it void, before anything that it describes changes.
    ///
    /// # Errors
    /// If it is there and cannot be removed.
    pub fn remove(workspace: &Path) -> io::Result<()> {
        for path in [path(workspace), stored_path(workspace)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Every output below `outputs`, flushed to the disk and described.
///
/// # Errors
/// For what cannot be stored, and if the disk cannot be read or written.
pub fn seal_outputs(outputs: &Path) -> Result<BTreeMap<String, Vec<SealedFile>>, StoreError> {
    let mut sealed = BTreeMap::new();
    for entry in fs::read_dir(outputs).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if entry.path().is_dir() {
            sealed.insert(name, seal(&entry.path())?);
        }
    }
    Ok(sealed)
}

/// Notes which outputs are stored already: their folders are gone. Without the note they count as lost.
pub(crate) fn note_stored(workspace: &Path, stored: &BTreeMap<String, Digest>) {
    if let Ok(text) = serde_json::to_vec(stored) {
        let _ = file::write(&stored_path(workspace), text);
    }
}

/// The outputs that were stored before the rest could not be.
pub(crate) fn stored(workspace: &Path) -> BTreeMap<String, Digest> {
    file::bytes(&stored_path(workspace))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

fn path(workspace: &Path) -> PathBuf {
    workspace.join("done.json")
}

fn stored_path(workspace: &Path) -> PathBuf {
    workspace.join("stored.json")
}
