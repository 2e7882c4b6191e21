//! Outputs go into the cache from where they were made.
//!
//! On a cluster a node that has just written an output has its bytes at hand, and the run on the login node does not. What
//! is not stored here, for whatever reason, the run stores; it checks what was.

use std::collections::BTreeMap;
use std::path::Path;

use dcsft_cache::Store;

use super::done::{self, Done};
use super::emit;
use super::turn::Turn;
use crate::stage::Event;

/// Moves the outputs of a stage that is [`Done`] into the store at `cache`, and notes each.
pub(super) fn all(cache: &Path, workspace: &Path, done: &Done, turn: &Turn) {
    let folder = workspace.join("outputs").join(&done.folder);
    let mut stored = BTreeMap::new();
    let published = Store::open(cache).and_then(|store| {
        for name in done.outputs.keys() {
            // Whoever has the workspace now makes its own.
            if !turn.is_held() {
                break;
            }
            let artifact = store.publish(&folder.join(name))?;
            stored.insert(name.clone(), artifact.digest);
            done::note_stored(workspace, &stored);
        }
        Ok(())
    });
    if let Err(error) = published {
        emit(&Event::Log {
            message: format!("the run is left to store the outputs: {error}"),
        });
    }
}
