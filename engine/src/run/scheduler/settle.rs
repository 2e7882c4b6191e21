//! What follows once something is known: keys, results, failures.

use std::sync::Arc;

use dcsft_cache::Record;

use super::Scheduler;
use super::state::State;
use super::work::Work;
use crate::journal::{Failure, RunEvent, StageResult};
use crate::key::KeyError;
use crate::plan;
use crate::run::RunError;
use crate::study::NodeId;

impl Scheduler<'_> {
    /// Computes the key of a stage all of whose inputs exist.
    pub(super) fn resolve(&mut self, id: NodeId) -> Result<(), RunError> {
        let State::Waiting { missing: 0, forced } = self.slots[id.0].state else {
            return Ok(());
        };
        let node = self.node(id);
        let files = &self.plan.node(id).files;
        let preimage = self
            .keys
            .preimage(node, files, |reference| self.digest_of(reference))?;
        let Some(preimage) = preimage else {
            return Ok(());
        };
        let work = Work {
            key: preimage.digest().map_err(KeyError::canonical(node))?,
            preimage: Arc::new(preimage),
            forced,
            followers: Vec::new(),
        };
        if let Some(work) = self.lead(id, work) {
            if forced {
                self.make_ready(id, work);
            } else {
                self.to_ask.push((id, work.key));
                self.slots[id.0].state = State::Asked(work);
            }
        }
        Ok(())
    }

    /// Makes a stage the one that its key is in flight for; none if another one is, which it then follows.
    pub(super) fn lead(&mut self, id: NodeId, work: Work) -> Option<Work> {
        let leader = *self.in_flight.entry(work.key).or_insert(id);
        if leader == id {
            return Some(work);
        }
        if let Some(leading) = self.slots[leader.0].state.work_mut() {
            leading.followers.push(id);
        }
        let forced = work.forced;
        self.slots[id.0].state = State::Follows { leader, forced };
        None
    }

    /// Puts a stage in line.
    pub(super) fn make_ready(&mut self, id: NodeId, work: Work) {
        self.slots[id.0].state = State::Ready { work, wait: None };
        self.enqueue(id);
    }

    /// What the cache has for a key.
    pub(super) fn answered(
        &mut self,
        id: NodeId,
        found: Option<Arc<Record>>,
    ) -> Result<(), RunError> {
        let state = &mut self.slots[id.0].state;
        if !matches!(state, State::Asked(_)) {
            return Ok(());
        }
        let Some(mut work) = std::mem::take(state).into_work() else {
            return Ok(());
        };
        let Some(record) = found.filter(|record| plan::fits(record, self.node(id))) else {
            self.make_ready(id, work);
            return Ok(());
        };
        self.in_flight.remove(&work.key);
        self.complete(id, Arc::clone(&record), false)?;
        // One that was asked to run does so all the same.
        let mut forced = Vec::new();
        for other in std::mem::take(&mut work.followers) {
            match self.slots[other.0].state {
                State::Follows { forced: true, .. } => forced.push(other),
                State::Follows { .. } => self.complete(other, Arc::clone(&record), false)?,
                _ => {}
            }
        }
        work.forced = true;
        for other in forced {
            if let Some(work) = self.lead(other, work.clone()) {
                self.make_ready(other, work);
            }
        }
        Ok(())
    }

    /// A stage has its result; so have those that share its key.
    pub(super) fn finish_key(
        &mut self,
        id: NodeId,
        record: Arc<Record>,
        executed: bool,
    ) -> Result<(), RunError> {
        let followers = self.land(id);
        self.complete(id, Arc::clone(&record), executed)?;
        for other in followers {
            self.complete(other, Arc::clone(&record), false)?;
        }
        Ok(())
    }

    /// Takes a stage's key out of flight. Returns the stages that follow it.
    pub(super) fn land(&mut self, id: NodeId) -> Vec<NodeId> {
        let Some(work) = std::mem::take(&mut self.slots[id.0].state).into_work() else {
            return Vec::new();
        };
        self.in_flight.remove(&work.key);
        let mut followers = work.followers;
        // One that was skipped meanwhile, below a stage that failed, stays so.
        followers.retain(|other| {
            matches!(self.slots[other.0].state, State::Follows { leader, .. } if leader == id)
        });
        followers
    }

    pub(super) fn complete(
        &mut self,
        id: NodeId,
        record: Arc<Record>,
        executed: bool,
    ) -> Result<(), RunError> {
        let (stage, result) = (self.title(id), StageResult::of(&record));
        self.slots[id.0].state = State::Done { record, executed };
        for &child in self.plan.dag.children(id) {
            if let State::Waiting { missing, .. } = &mut self.slots[child.0].state {
                *missing -= 1;
                if *missing == 0 {
                    self.unresolved.push(child);
                }
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
        let followers = self.land(id);
        self.slots[id.0].state = State::Failed;
        self.emit(RunEvent::StageFailed {
            stage: because.clone(),
            failure: failure.clone(),
        })?;
        self.failed.push((id, failure));
        let mut below = self.plan.dag.children(id).to_vec();
        below.extend(followers);
        while let Some(id) = below.pop() {
            let state = &mut self.slots[id.0].state;
            if matches!(state, State::Waiting { .. } | State::Follows { .. }) {
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
