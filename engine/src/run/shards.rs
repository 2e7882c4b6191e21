//! Where the shards of a stage have their workspaces: below the stage's own, so that they go when it goes.
//!
//! A shard's workspace is named by its cut, so that a run which cuts otherwise finds what the last one has computed: an
//! attempt is given the state folders of all others at the same result, whatever they were.

use std::fs;
use std::path::{Path, PathBuf};

use dcsft_cache::Digest;

use crate::stage::{Cost, Shard};
use crate::worker::done::Done;
use crate::worker::spent;

/// The folder below a stage's workspace.
const FOLDER: &str = "shards";

/// The workspace of a shard of the stage that has this one.
pub(super) fn workspace(stage: &Path, shard: Shard) -> PathBuf {
    let name = format!("{}-of-{}", shard.index, shard.of);
    stage.join(FOLDER).join(name)
}

/// The workspaces of the shards of a stage, in whatever cuts there were; none where it was never cut.
pub fn shard_workspaces(stage: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(stage.join(FOLDER));
    let entries = entries.into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.sort_unstable();
    found
}

/// The state folder of a workspace.
pub(super) fn state(workspace: &Path) -> PathBuf {
    workspace.join("state")
}

/// The workspace of the stage that has `own`, its own or that of a shard.
fn of_stage(own: &Path, shard: Option<Shard>) -> &Path {
    let up = shard.map_or(0, |_| 2);
    own.ancestors().nth(up).unwrap_or(own)
}

/// The state folders of all attempts at the result of a stage but for the one that works in `own`, on `shard` or on all.
pub(super) fn parts(own: &Path, shard: Option<Shard>) -> Vec<PathBuf> {
    let stage = of_stage(own, shard);
    let all = std::iter::once(stage.to_owned()).chain(shard_workspaces(stage));
    let others = all.filter(|workspace| workspace != own);
    let states = others.map(|workspace| state(&workspace));
    states.filter(|state| state.is_dir()).collect()
}

/// What the shards of a stage took, all together.
pub(super) fn spent(stage: &Path) -> Cost {
    let workspaces = shard_workspaces(stage);
    let costs = workspaces.iter().map(|workspace| spent::so_far(workspace));
    costs.fold(Cost::default(), |sum, cost| sum + cost)
}

/// The most memory that a shard of a stage had, in bytes.
pub(super) fn peak_rss_bytes(stage: &Path, key: &Digest) -> Option<u64> {
    let workspaces = shard_workspaces(stage);
    let done = workspaces
        .iter()
        .filter_map(|workspace| Done::read(workspace, key));
    done.filter_map(|done| done.peak_rss_bytes).max()
}
