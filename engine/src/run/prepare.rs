//! What comes before a stage starts: its lock, a look whether it is still needed, its inputs.

use std::collections::BTreeMap;
use std::sync::Arc;

use dcsft_cache::{Digest, KeyLock, Record, StoreError};

use super::error::RunError;
use super::outcome::{Assignment, Outcome, Shared};
use super::prepared::Prepared;
use crate::key;
use crate::plan;
use crate::stage::{Input, Relative};

/// Locks the key and opens the inputs; an outcome where the stage cannot or need not start.
pub(super) fn prepare(
    assignment: &Assignment<'_>,
    shared: &Shared<'_>,
) -> Result<Prepared, Outcome> {
    let lock = lock(assignment, shared)?;
    if let Some(record) = finished(assignment, shared).map_err(broken)? {
        return Err(Outcome::Found(record));
    }
    let inputs = open_inputs(assignment, shared)?;
    let (family, relatives) = family(assignment, shared);
    Ok(Prepared {
        lock,
        inputs,
        family,
        relatives,
    })
}

fn broken(error: StoreError) -> Outcome {
    Outcome::Broken(RunError::Store(error))
}

fn lock(assignment: &Assignment<'_>, shared: &Shared<'_>) -> Result<KeyLock, Outcome> {
    let key = &assignment.key;
    match shared.store.try_lock(key).map_err(broken)? {
        Some(lock) => {
            lock.say_for(&shared.name);
            Ok(lock)
        }
        None => Err(Outcome::Busy {
            holder: shared.store.lock_holder(key),
        }),
    }
}

/// The result of another process that has computed the key meanwhile, here or elsewhere.
fn finished(
    assignment: &Assignment<'_>,
    shared: &Shared<'_>,
) -> Result<Option<Arc<Record>>, StoreError> {
    if assignment.forced {
        return Ok(None);
    }
    let lookups = shared.store.lookups();
    lookups.bring(&[assignment.key]);
    let record = lookups.lookup(&assignment.key)?;
    Ok(record
        .filter(|record| plan::fits(record, assignment.node))
        .map(Arc::new))
}

/// Checks the inputs' bytes.
fn open_inputs(
    assignment: &Assignment<'_>,
    shared: &Shared<'_>,
) -> Result<BTreeMap<String, Vec<Input>>, Outcome> {
    let mut inputs: BTreeMap<String, Vec<Input>> = BTreeMap::new();
    let mut damaged = Vec::new();
    for (name, references) in &assignment.inputs {
        let opened = inputs.entry((*name).to_owned()).or_default();
        for (reference, digest) in references {
            match shared.opened.open(digest) {
                Ok(dir) => opened.push(Input {
                    label: shared.study.label(reference),
                    digest: *digest,
                    dir,
                }),
                Err(error @ (StoreError::Damaged { .. } | StoreError::MissingArtifact { .. })) => {
                    damaged.push((reference.node, error.to_string()));
                }
                Err(error) => return Err(broken(error)),
            }
        }
    }
    if damaged.is_empty() {
        Ok(inputs)
    } else {
        Err(Outcome::Damaged {
            damaged,
            seen: assignment.reopenings,
        })
    }
}

/// The family of the result, and those of its members that may help. A stage that was asked to run again computes
/// everything itself.
fn family(assignment: &Assignment<'_>, shared: &Shared<'_>) -> (Option<Digest>, Vec<Relative>) {
    let family = assignment.kind.family(&assignment.node.params);
    let digest = family.and_then(|family| key::family(&assignment.preimage, &family).ok());
    let relatives = match &digest {
        Some(digest) if !assignment.forced => shared.families.relatives(
            digest,
            &assignment.preimage.inputs,
            &assignment.node.title(),
            &shared.opened,
        ),
        _ => Vec::new(),
    };
    (digest, relatives)
}
