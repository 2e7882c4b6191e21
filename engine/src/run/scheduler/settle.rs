//! What follows once something is known: keys, results, failures.

use std::sync::Arc;

use dcsft_cache::{Digest, Record};

use super::{Scheduler, State};
use crate::key::{self, KeyError, KeyPreimage};
use crate::run::RunError;
use crate::run::event::{Failure, RunEvent, StageResult};
use crate::study::NodeId;

impl Scheduler<'_> {
    /// Computes a stage's key if all its inputs exist, and looks it up.
    pub(super) fn resolve(&mut self, id: NodeId) -> Result<(), RunError> {
        if self.slots[id.0].state != State::Waiting {
            return Ok(());
        }
        let node = self.node(id);
        let Some(kind) = self.registry.get(&node.kind) else {
            return Err(KeyError::UnknownKind {
                title: node.title(),
                kind: node.kind.clone(),
            }
            .into());
        };
        let (device, files) = (&self.plan.options.device, &self.plan.node(id).files);
        let preimage = key::preimage(self.study, node, kind, device, files, |reference| {
            self.digest_of(reference)
        });
        let Some(preimage) = preimage else {
            return Ok(());
        };
        let key = preimage.digest().map_err(|source| KeyError::Canonical {
            title: node.title(),
            source,
        })?;
        self.slots[id.0].key = Some(key);
        match self.lookup(id, &key)? {
            Some(record) => self.complete(id, record, false),
            None => {
                self.offer(id, key, Box::new(preimage));
                Ok(())
            }
        }
    }

    /// Puts a stage with a known key in line, behind one with the same key if there is one.
    pub(super) fn offer(&mut self, id: NodeId, key: Digest, preimage: Box<KeyPreimage>) {
        let sharing = self.in_flight.entry(key).or_default();
        sharing.push(id);
        let leads = sharing.len() == 1;
        let slot = &mut self.slots[id.0];
        slot.key = Some(key);
        slot.preimage = Some(preimage);
        slot.state = if leads { State::Ready } else { State::Follows };
        if leads {
            self.ready.push(id);
        }
    }

    /// A stage has its result; so have those that share its key.
    pub(super) fn finish_key(
        &mut self,
        id: NodeId,
        record: Arc<Record>,
        executed: bool,
    ) -> Result<(), RunError> {
        let sharing = self.in_flight.remove(&record.key).unwrap_or_default();
        self.complete(id, Arc::clone(&record), executed)?;
        for other in sharing.into_iter().filter(|other| *other != id) {
            self.complete(other, Arc::clone(&record), false)?;
        }
        Ok(())
    }

    pub(super) fn complete(
        &mut self,
        id: NodeId,
        record: Arc<Record>,
        executed: bool,
    ) -> Result<(), RunError> {
        let (stage, result) = (self.title(id), StageResult::of(&record));
        let slot = &mut self.slots[id.0];
        slot.state = State::Done;
        slot.executed = executed;
        slot.forced = false;
        slot.preimage = None;
        slot.record = Some(record);
        self.unresolved.extend(self.plan.dag.children(id));
        self.emit(if executed {
            RunEvent::StageFinished { stage, result }
        } else {
            RunEvent::StageCached { stage, result }
        })
    }

    pub(super) fn fail(&mut self, id: NodeId, failure: Failure) -> Result<(), RunError> {
        let because = self.title(id);
        self.slots[id.0].state = State::Failed;
        self.emit(RunEvent::StageFailed {
            stage: because.clone(),
            failure: failure.clone(),
        })?;
        self.failed.push((id, failure));
        let key = self.slots[id.0].key;
        let sharing = key
            .and_then(|key| self.in_flight.remove(&key))
            .unwrap_or_default();
        let mut below: Vec<NodeId> = self.plan.dag.children(id);
        below.extend(sharing.into_iter().filter(|other| *other != id));
        while let Some(id) = below.pop() {
            if matches!(self.slots[id.0].state, State::Waiting | State::Follows) {
                self.slots[id.0].state = State::Skipped;
                self.emit(RunEvent::StageSkipped {
                    stage: self.title(id),
                    because: because.clone(),
                })?;
                below.extend(self.plan.dag.children(id));
            }
        }
        Ok(())
    }
}
