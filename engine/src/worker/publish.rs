//! Outputs go into the cache from where they were made.
//!
//! On a cluster a node that has just written an output has its bytes at hand, and the run on the login node does not. What
//! is not stored here, for whatever reason, the run stores; it checks what was.

use std::collections::BTreeMap;
use std::path::Path;

use dcsft_cache::{Store, StoreError};

use super::done::{self, Done};
use super::turn::Turn;

/// Moves the outputs of a stage that is [`Done`], which lie in the folder `outputs`, into the store at `cache`, and notes
/// each.
///
/// # Errors
/// The first output that cannot be stored; those before it are.
pub(super) fn all(
    cache: &Path,
    (workspace, outputs): (&Path, &Path),
    done: &Done,
    turn: &Turn,
) -> Result<(), StoreError> {
    let mut stored = BTreeMap::new();
    let store = Store::open(cache)?;
    for name in done.outputs.keys() {
        // Whoever has the workspace now makes its own.
        if !turn.is_held() {
            break;
        }
        let artifact = store.publish(&outputs.join(name))?;
        stored.insert(name.clone(), artifact.digest);
        done::note_stored(workspace, &stored);
    }
    Ok(())
}
