//! Which job computes a key: a note in the workspace, for the run that submitted it and for the next one.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dcsft_cache::file;
use serde::{Deserialize, Serialize};

/// A submitted job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The job's name, given once: its identity.
    pub name: String,
    /// The cluster's number for the array, 0 until it is known. After a crash of its controller another job may have
    /// it.
    pub job: u64,
    /// Which task of the array, from 1.
    pub index: u32,
}

impl Ticket {
    /// The note in a workspace; none if there is none, or nothing that can be read.
    pub fn read(workspace: &Path) -> Option<Self> {
        let text = file::bytes(&note(workspace)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes the note.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn write(&self, workspace: &Path) -> io::Result<()> {
        // Whole or not at all: the next run goes by it.
        let (path, fresh) = (note(workspace), workspace.join("slurm.json.new"));
        file::write(&fresh, serde_json::to_vec(self)?)?;
        fs::rename(fresh, path)
    }

    pub(super) fn remove(workspace: &Path) -> io::Result<()> {
        match fs::remove_file(note(workspace)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The job file that is this job's alone: one that was given up finds none when it starts after all.
    pub(super) fn job_file(&self, workspace: &Path) -> PathBuf {
        workspace.join(format!("job-{}.json", self.label()))
    }

    pub(super) fn events(&self, workspace: &Path) -> PathBuf {
        workspace.join(format!("events-{}.jsonl", self.label()))
    }

    pub(super) fn exit(&self, workspace: &Path) -> PathBuf {
        workspace.join(format!("exit-{}", self.label()))
    }

    pub(super) fn log(&self, workspace: &Path) -> PathBuf {
        workspace.join(format!("log-{}", self.label()))
    }

    fn label(&self) -> String {
        format!("{}-{}", self.name, self.index)
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.job {
            0 => write!(f, "job {}, {}", self.name, self.index),
            job => write!(f, "job {job}_{}", self.index),
        }
    }
}

fn note(workspace: &Path) -> PathBuf {
    workspace.join("slurm.json")
}
