//! A finished stage's outputs and its record go into the store.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dcsft_cache::{Digest, Json, OutputRef, Record, SealedFile, StoreError, is_sealed};

use super::error::RunError;
use super::job::outputs_path;
use super::outcome::{Assignment, Shared, Word};
use super::prepared::Prepared;
use super::shards;
use super::trouble::Trouble;
use crate::journal::Reason;
use crate::record::Execution;
use crate::stage::Cost;
use crate::worker;
use crate::worker::done::{self, Done};

/// A finished stage, about to be stored.
pub(super) struct Commit<'a> {
    pub(super) assignment: &'a Assignment<'a>,
    pub(super) shared: &'a Shared<'a>,
    pub(super) prepared: &'a Prepared,
}

impl Commit<'_> {
    /// Puts a finished stage's outputs and its record into the store. `spent` is what it took, without its shards.
    pub(super) fn store(
        &self,
        workspace: &Path,
        done: Done,
        spent: Cost,
        tell: &mut dyn FnMut(Word),
    ) -> Result<Arc<Record>, Trouble> {
        let store = self.shared.store;
        self.check_lock()?;
        let outputs = self.publish(workspace, &done)?;
        self.check_lock()?;
        let spent = spent + shards::spent(workspace);
        let peak = shards::peak_rss_bytes(workspace, &self.assignment.key);
        let record = Arc::new(Record {
            format: Record::FORMAT,
            key: self.assignment.key,
            label: self.assignment.node.title(),
            explain: Json::of(&*self.assignment.preimage),
            outputs,
            summary: done.summary,
            execution: Json::of(&Execution {
                seconds: spent.seconds,
                cpu_seconds: spent.cpu_seconds,
                saved_seconds: done.saved_seconds,
                saved_cpu_seconds: done.usage.saved_cpu_seconds,
                threads: Some(done.threads),
                device: Some(done.device),
                attempts: Some(done.attempt),
                peak_rss_bytes: done.peak_rss_bytes.max(peak),
                started_unix: Some(done.started_unix_nanos / 1_000_000_000),
                other_cores: done.usage.other_cores,
                shared: done.usage.shared(done.threads),
                machine: Some(done.usage.machine),
                program: Some(done.program),
            }),
            created_unix: unix_seconds(),
        });
        store
            .commit(&record)
            .map_err(|source| self.unstored(source))?;
        if let Some(family) = &self.prepared.family {
            self.shared.families.join(family, &record);
        }
        if let Err(error) = store.clear_workspace(&self.assignment.key) {
            tell(Word::Warns(format!(
                "its result is stored; what it worked with stays behind: {error}"
            )));
        }
        Ok(record)
    }

    fn publish(
        &self,
        workspace: &Path,
        done: &Done,
    ) -> Result<BTreeMap<String, OutputRef>, Trouble> {
        let mut published = BTreeMap::new();
        let mut stored = done::stored(workspace);
        for output in self.assignment.node.outputs.iter() {
            let Some(sealed) = done.outputs.get(&output.name) else {
                let message = format!(
                    "the stage ended without writing its output `{}`",
                    output.name
                );
                return Err(Trouble::Stage {
                    reason: Reason::NoResult,
                    message,
                    again: true,
                });
            };
            let found = match stored.get(&output.name) {
                Some(digest) => self.stored_artifact(digest, sealed)?,
                None => None,
            };
            let published_now = match found {
                Some(found) => found,
                None => {
                    let folder = outputs_path(workspace).join(&done.folder);
                    self.publish_one(&folder, &output.name, sealed)?
                }
            };
            stored.insert(output.name.clone(), published_now.digest);
            done::note_stored(workspace, &stored);
            published.insert(output.name.clone(), published_now);
        }
        Ok(published)
    }

    /// An output that was stored before the rest could not be.
    fn stored_artifact(
        &self,
        digest: &Digest,
        sealed: &[SealedFile],
    ) -> Result<Option<OutputRef>, Trouble> {
        let artifact = self.shared.store.artifact(digest)?;
        let artifact = artifact.filter(|artifact| is_sealed(artifact, sealed));
        Ok(artifact.as_ref().map(OutputRef::from))
    }

    fn publish_one(
        &self,
        folder: &Path,
        name: &str,
        sealed: &[SealedFile],
    ) -> Result<OutputRef, Trouble> {
        let changed = || Trouble::Stage {
            reason: Reason::NoResult,
            message: format!("its output `{name}` is not what the stage wrote"),
            again: true,
        };
        let artifact = match self.shared.store.publish(&folder.join(name)) {
            Ok(artifact) => artifact,
            Err(StoreError::NotFound { .. }) => return Err(changed()),
            Err(error) if worker::is_of_the_output(&error) => {
                return Err(Trouble::for_good(Reason::Failed, error.to_string()));
            }
            Err(error) => return Err(self.unstored(error)),
        };
        if is_sealed(&artifact, sealed) {
            Ok(OutputRef::from(&artifact))
        } else {
            Err(changed())
        }
    }

    fn unstored(&self, source: StoreError) -> Trouble {
        Trouble::Broken(RunError::Unstored {
            title: self.assignment.node.title(),
            source,
        })
    }

    /// To be asked before anything is stored.
    fn check_lock(&self) -> Result<(), Trouble> {
        if self.prepared.lock.is_held() {
            Ok(())
        } else {
            Err(Trouble::Lost)
        }
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| age.as_secs())
}
