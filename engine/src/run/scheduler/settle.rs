//! What follows once something is known: keys, results, failures.

use std::sync::Arc;

use dcsft_cache::Record;

use super::slot::{State, Work};
use super::{Scheduler, plan};
use crate::key::{self, KeyError};
use crate::kind::Kind;
use crate::run::RunError;
use crate::run::event::{Failure, RunEvent, StageResult};
use crate::study::NodeId;

impl<'a> Scheduler<'a> {
    /// Computes the key of a stage all of whose inputs exist, and looks it up.
    pub(super) fn resolve(&mut self, id: NodeId) -> Result<(), RunError> {
        let slot = &self.slots[id.0];
        if slot.missing > 0 || !matches!(slot.state, State::Waiting) {
            return Ok(());
        }
        let forced = slot.forced;
        let node = self.node(id);
        let (device, files) = (&self.plan.options.device, &self.plan.node(id).files);
        let preimage = key::preimage(
            self.study,
            node,
            self.kind(id)?,
            device,
            files,
            |reference| self.digest_of(reference),
        );
        let Some(preimage) = preimage else {
            return Ok(());
        };
        let key = preimage.digest().map_err(|source| KeyError::Canonical {
            title: node.title(),
            source,
        })?;
        let found = if forced {
            None
        } else {
            self.store.lookup(&key)?
        };
        match found.filter(|record| plan::fits(record, node)) {
            Some(record) => self.complete(id, Arc::new(record), false),
            None => {
                let preimage = Arc::new(preimage);
                self.offer(id, Work { key, preimage });
                Ok(())
            }
        }
    }

    pub(super) fn kind(&self, id: NodeId) -> Result<&'a dyn Kind, KeyError> {
        let node = self.node(id);
        self.registry
            .get(&node.kind)
            .ok_or_else(|| KeyError::UnknownKind {
                title: node.title(),
                kind: node.kind.clone(),
            })
    }

    /// Puts a stage with a known key in line, behind one with the same key if there is one.
    pub(super) fn offer(&mut self, id: NodeId, work: Work) {
        let sharing = self.in_flight.entry(work.key).or_default();
        sharing.push(id);
        if sharing.len() > 1 {
            self.slots[id.0].state = State::Follows(work);
            return;
        }
        self.slots[id.0].state = State::Ready(work);
        self.enqueue(id);
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
        slot.state = State::Done { record, executed };
        slot.forced = false;
        slot.waits = None;
        for child in self.plan.dag.children(id) {
            let child_slot = &mut self.slots[child.0];
            child_slot.missing -= 1;
            if child_slot.missing == 0 && matches!(child_slot.state, State::Waiting) {
                self.unresolved.push(child);
            }
        }
        self.emit(if executed {
            RunEvent::StageFinished { stage, result }
        } else {
            RunEvent::StageCached { stage, result }
        })
    }

    pub(super) fn fail(&mut self, id: NodeId, failure: Failure) -> Result<(), RunError> {
        let because = self.title(id);
        let work = self.slots[id.0].state.work();
        let sharing = work
            .map(|work| work.key)
            .and_then(|key| self.in_flight.remove(&key))
            .unwrap_or_default();
        self.slots[id.0].state = State::Failed;
        self.emit(RunEvent::StageFailed {
            stage: because.clone(),
            failure: failure.clone(),
        })?;
        self.failed.push((id, failure));
        let mut below: Vec<NodeId> = self.plan.dag.children(id);
        below.extend(sharing.into_iter().filter(|other| *other != id));
        while let Some(id) = below.pop() {
            let state = &mut self.slots[id.0].state;
            if matches!(state, State::Waiting | State::Follows(_)) {
                *state = State::Skipped;
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
