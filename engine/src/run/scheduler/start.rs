//! Starting a stage, and what follows where it cannot start: another process has its key, or an input is damaged and
//! is made again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::Scope;

use dcsft_cache::Digest;

use super::Scheduler;
use super::message::{Message, Unit};
use super::state::{State, Wait};
use crate::journal::{Failure, Reason, RunEvent};
use crate::run::RunError;
use crate::run::admission::{Ask, Share};
use crate::run::execute::execute;
use crate::run::outcome::{Assignment, Shared, Step, Word};
use crate::study::{NodeId, Reference};

/// How often a stage is run again because its artifact was found damaged.
const MAX_REOPENED: u32 = 2;

/// The inputs of a stage with the digests of what is there.
type Inputs<'a> = BTreeMap<&'a str, Vec<(&'a Reference, Digest)>>;

impl<'a> Scheduler<'a> {
    /// Puts a ready stage in line.
    pub(super) fn enqueue(&mut self, id: NodeId) {
        let urgency = self.urgency.get(id.0).copied().unwrap_or_default();
        let accelerated = self.admission.needs_accelerator(self.ask_of(id));
        self.queue.push(id, urgency, accelerated);
    }

    pub(super) fn ask_of(&self, id: NodeId) -> Ask<'a> {
        let node = self.node(id);
        let kind = self.keys.kind(node);
        Ask {
            node,
            numeric: kind.is_ok_and(|kind| kind.decl().numeric),
        }
    }

    /// Starts what can start, most urgent first.
    pub(super) fn start_ready<'scope, 'env>(
        &mut self,
        scope: &'scope Scope<'scope, 'env>,
        shared: &'env Shared<'a>,
        sender: &SyncSender<Message>,
    ) -> Result<(), RunError>
    where
        'a: 'env,
    {
        while let Some(id) = self.queue.pop_due() {
            self.enqueue(id);
        }
        while self.running < self.admission.jobs() {
            let Some(id) = self.queue.pop(self.admission.has_accelerator()) else {
                break;
            };
            // It may have been taken back while it was in line.
            let has_turn = match &self.slots[id.0].state {
                State::Ready { .. } => true,
                State::InShards(shards) => shards.has_turn(),
                _ => false,
            };
            if !has_turn {
                continue;
            }
            let Some(inputs) = self.inputs(id) else {
                // A stage that made one of them runs again, for another reader that found it damaged.
                self.wait_again(id);
                continue;
            };
            let Some(share) = self.admission.admit(self.ask_of(id)) else {
                self.enqueue(id);
                break;
            };
            self.start(id, inputs, share, scope, shared, sender)?;
        }
        Ok(())
    }

    fn start<'scope, 'env>(
        &mut self,
        id: NodeId,
        inputs: Inputs<'a>,
        share: Share,
        scope: &'scope Scope<'scope, 'env>,
        shared: &'env Shared<'a>,
        sender: &SyncSender<Message>,
    ) -> Result<(), RunError>
    where
        'a: 'env,
    {
        let node = self.node(id);
        let active = self.running + self.queue.len() + 1;
        let step = match self.next_of_shards(id) {
            Some(step) => step,
            None => {
                let State::Ready { work, wait } = std::mem::take(&mut self.slots[id.0].state)
                else {
                    return Ok(());
                };
                self.slots[id.0].state = State::Running { work, wait };
                match self.shards_of(id, active) {
                    1 => Step::Whole,
                    of => Step::Cut(of),
                }
            }
        };
        let unit = Unit {
            id,
            shard: step.shard(),
        };
        let Some(work) = self.slots[id.0].state.work() else {
            return Ok(());
        };
        let assignment = Assignment {
            node,
            kind: self.keys.kind(node)?,
            key: work.key,
            preimage: Arc::clone(&work.preimage),
            inputs,
            reopenings: self.reopenings,
            forced: work.forced,
            files: &self.plan.node(id).files,
            device: share.device.clone(),
            accelerators: share.accelerators.clone(),
            threads: self.admission.threads_for(node, active),
            log: self.log_path(unit),
            step,
        };
        let sender = sender.clone();
        let thread = std::thread::Builder::new().spawn_scoped(scope, move || {
            let mut tell = |word: Word| {
                let _ = sender.send(Message::Word(unit, word));
            };
            let outcome = execute(&assignment, shared, &mut tell);
            let _ = sender.send(Message::Ended(unit, outcome, share));
        });
        if let Err(source) = thread {
            let title = node.title();
            return Err(RunError::Thread { title, source });
        }
        self.running += 1;
        Ok(())
    }

    /// The log of a stage, or of a shard of it.
    fn log_path(&self, unit: Unit) -> PathBuf {
        let title = self.title(unit.id);
        self.journal.log_path(&match unit.shard {
            Some(shard) => format!("{title}-{}-of-{}", shard.index, shard.of),
            None => title,
        })
    }

    /// The stage's inputs; none while one of them has no result.
    fn inputs(&self, id: NodeId) -> Option<Inputs<'a>> {
        let mut inputs = Inputs::new();
        for (name, references) in &self.node(id).inputs {
            let found = references
                .iter()
                .map(|reference| Some((reference, self.digest_of(reference)?)));
            inputs.insert(name, found.collect::<Option<_>>()?);
        }
        Some(inputs)
    }

    /// Another process has the key: looks again later, and says so at once and then seldom.
    pub(super) fn wait_for_other(
        &mut self,
        id: NodeId,
        holder: Option<String>,
    ) -> Result<(), RunError> {
        let (work, wait) = match std::mem::take(&mut self.slots[id.0].state) {
            State::Running { work, wait } => (work, wait),
            State::InShards(shards) => (shards.work, None),
            _ => return Ok(()),
        };
        let (key, mut wait) = (work.key, wait.unwrap_or_else(Wait::new));
        self.queue.push_later(id, wait.next());
        let said = wait.is_to_be_said();
        let wait = Some(wait);
        self.slots[id.0].state = State::Ready { work, wait };
        match said {
            Some(seconds) => self.emit(RunEvent::StageWaits {
                stage: self.title(id),
                key,
                holder,
                seconds,
            }),
            None => Ok(()),
        }
    }

    /// Takes a stage back whose inputs are damaged, and runs the stages again that made them.
    pub(super) fn make_again(
        &mut self,
        id: NodeId,
        damaged: Vec<(NodeId, String)>,
        seen: u32,
        shared: &Shared<'_>,
    ) -> Result<(), RunError> {
        self.wait_again(id);
        for (parent, message) in damaged {
            // What was made again since then is not what was found damaged.
            if self.slots[parent.0].damage.at <= seen {
                self.reopen(parent, message, shared)?;
            }
        }
        Ok(())
    }

    /// Takes a stage that was ready, and those that follow it, back to waiting for their inputs.
    fn wait_again(&mut self, id: NodeId) {
        let forced = self.slots[id.0]
            .state
            .work()
            .is_some_and(|work| work.forced);
        let followers = self.land(id);
        self.wait_for_inputs(id, forced);
        for other in followers {
            if let State::Follows { forced, .. } = self.slots[other.0].state {
                self.wait_for_inputs(other, forced);
            }
        }
    }

    /// Makes a stage wait for those of its inputs that have no result.
    fn wait_for_inputs(&mut self, id: NodeId, forced: bool) {
        let parents = self.plan.dag.parents(id).iter();
        let missing = parents.filter(|parent| self.slots[parent.0].state.record().is_none());
        let missing = missing.count();
        self.slots[id.0].state = State::Waiting { missing, forced };
        if missing == 0 {
            self.unresolved.push(id);
        }
    }

    /// Runs a stage again whose artifact is damaged.
    fn reopen(&mut self, id: NodeId, message: String, shared: &Shared<'_>) -> Result<(), RunError> {
        let State::Done { record, .. } = &self.slots[id.0].state else {
            return Ok(());
        };
        for output in record.outputs.values() {
            shared.opened.forget(&output.digest);
        }
        for child in self.plan.dag.children(id) {
            if let State::Waiting { missing, .. } = &mut self.slots[child.0].state {
                *missing += 1;
            }
        }
        self.reopenings += 1;
        let damage = &mut self.slots[id.0].damage;
        damage.times += 1;
        damage.at = self.reopenings;
        if damage.times > MAX_REOPENED {
            let failure = Failure {
                reason: Reason::Damaged,
                message,
                attempts: 0,
                place: self.study.place_text(&self.node(id).place),
                log: PathBuf::new(),
                tail: Vec::new(),
            };
            return self.fail(id, failure);
        }
        self.wait_for_inputs(id, false);
        self.emit(RunEvent::StageReopened {
            stage: self.title(id),
            message,
        })
    }
}
