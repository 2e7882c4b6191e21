//! The frozen job of an attempt, and where in a workspace things lie.

use std::io;
use std::path::{Path, PathBuf};

use dcsft_cache::file;

use super::outcome::{Assignment, Shared};
use super::prepared::Prepared;
use super::shards;
use crate::plan::job::params_with_paths;
use crate::stage::{Job, Shard};

/// Writes what the worker is told who computes `shard`, or all, in `workspace`.
///
/// # Errors
/// Those of the file system.
pub(super) fn write(
    assignment: &Assignment<'_>,
    shared: &Shared<'_>,
    prepared: &Prepared,
    attempt: u32,
    shard: Option<Shard>,
    workspace: &Path,
) -> io::Result<()> {
    let node = assignment.node;
    let job = Job {
        key: assignment.key,
        attempt,
        program: shared.program.clone(),
        kind: node.kind.clone(),
        version: assignment.preimage.version,
        params: params_with_paths(node, &shared.study.root),
        inputs: prepared.inputs.clone(),
        outputs: outputs_path(workspace),
        state: shards::state(workspace),
        device: assignment.device.clone(),
        accelerators: assignment.accelerators.clone(),
        threads: assignment.threads,
        relatives: prepared.relatives.clone(),
        // A shard has no outputs.
        publish: (shared.executor.is_elsewhere() && shard.is_none())
            .then(|| shared.store.root().to_owned()),
        shard,
        parts: shards::parts(workspace, shard),
    };
    file::write(&path(workspace), serde_json::to_vec(&job)?)
}

/// The job's file.
pub(super) fn path(workspace: &Path) -> PathBuf {
    workspace.join("job.json")
}

/// The folder of the outputs; each turn in the workspace has one of its own there.
pub(super) fn outputs_path(workspace: &Path) -> PathBuf {
    workspace.join("outputs")
}
