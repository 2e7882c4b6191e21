//! Starting a stage: device, lock, inputs. What is found damaged is computed again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::thread::Scope;

use dcsft_cache::{Digest, KeyLock, OutputRef, Record, StoreError};

use super::{Message, Scheduler, State};
use crate::cost::Cost;
use crate::key;
use crate::key::KeyPreimage;
use crate::kind::{Input, Relative};
use crate::plan;
use crate::run::event::{Failure, RunEvent};
use crate::run::execute::{self, Assignment};
use crate::run::{Executor, RunError};
use crate::study::NodeId;

/// How often a stage is run again because its artifact was found damaged.
const MAX_REOPENED: u32 = 2;
/// Reading many results costs more than the newest of them do not have already.
const MAX_RELATIVES: usize = 8;

impl<'a> Scheduler<'a> {
    /// Starts what can start, most urgent first.
    pub(super) fn start_ready<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        executor: &'scope dyn Executor,
        stop: &'scope AtomicBool,
        sender: &Sender<Message>,
    ) -> Result<(), RunError>
    where
        'a: 'scope,
    {
        self.ready.sort_by(|a, b| {
            self.urgency[b.0]
                .total_cmp(&self.urgency[a.0])
                .then(a.cmp(b))
        });
        let mut index = 0;
        while index < self.ready.len() && self.running < self.resources.jobs {
            let id = self.ready[index];
            let Some(device) = self.resources.take_device(self.is_numeric(id)) else {
                index += 1;
                continue;
            };
            let Some(lock) = self.lock(id)? else {
                self.resources.give_back(device);
                index += 1;
                continue;
            };
            let active = self.running + self.ready.len();
            self.ready.remove(index);
            match self.assign(id, lock, &device, active)? {
                None => self.resources.give_back(device),
                Some(assignment) => {
                    self.running += 1;
                    self.slots[id.0].state = State::Running;
                    let (store, sender) = (self.store, sender.clone());
                    scope.spawn(move || {
                        let outcome = execute::execute(assignment, store, executor, stop, |word| {
                            let _ = sender.send(Message::Word(id, word));
                        });
                        let _ = sender.send(Message::Ended(id, outcome, device));
                    });
                }
            }
        }
        Ok(())
    }

    /// The lock of a ready stage's key, or none while another process holds it.
    fn lock(&mut self, id: NodeId) -> Result<Option<KeyLock>, RunError> {
        let Some(key) = self.slots[id.0].key else {
            return Ok(None);
        };
        let lock = self.store.try_lock(&key)?;
        if lock.is_none() && !std::mem::replace(&mut self.slots[id.0].said_waiting, true) {
            self.emit(RunEvent::StageWaits {
                stage: self.title(id),
                key,
            })?;
        }
        Ok(lock)
    }

    /// All that a locked stage needs to run; none if it turns out that it need not or cannot.
    fn assign(
        &mut self,
        id: NodeId,
        lock: KeyLock,
        device: &str,
        active: usize,
    ) -> Result<Option<Assignment<'a>>, RunError> {
        let node = self.node(id);
        if let Some(record) = self.lookup(id, lock.key())? {
            self.finish_key(id, record, false)?;
            return Ok(None);
        }
        let Some(inputs) = self.open_inputs(id)? else {
            return Ok(None);
        };
        let Some(preimage) = self.slots[id.0].preimage.take() else {
            return Ok(None);
        };
        let (family, relatives) = self.family(id, &preimage);
        let threads = self.resources.threads_for(node, active);
        let log = self.journal.log_path(&self.title(id))?;
        self.emit(RunEvent::StageStarted {
            stage: self.title(id),
            key: *lock.key(),
            device: device.to_owned(),
            threads,
            log: log.clone(),
        })?;
        Ok(Some(Assignment {
            study: self.study,
            node,
            lock,
            preimage,
            inputs,
            family,
            relatives,
            files: self.plan.node(id).files.clone(),
            device: device.to_owned(),
            threads,
            log,
            backoff: self.options.backoff,
            program: &self.options.program,
        }))
    }

    /// The family of a stage's result, and the newest of those of its results whose files are as they were written. A
    /// stage that was asked to run again computes everything itself.
    fn family(&self, id: NodeId, preimage: &KeyPreimage) -> (Option<Digest>, Vec<Relative>) {
        let node = self.node(id);
        let family = self
            .registry
            .get(&node.kind)
            .and_then(|kind| kind.family(&node.params));
        let Some(digest) = family.and_then(|family| key::family(preimage, &family).ok()) else {
            return (None, Vec::new());
        };
        if self.slots[id.0].forced {
            return (Some(digest), Vec::new());
        }
        let records = self.store.family(&digest).unwrap_or_default();
        let open = |record: Record| {
            let open = |(name, output): (&String, &OutputRef)| {
                let dir = self.store.open_input(&output.digest).ok()?;
                Some((name.clone(), dir))
            };
            let outputs: Option<BTreeMap<_, _>> = record.outputs.iter().map(open).collect();
            Some(Relative {
                cost: Cost::of(&record),
                outputs: outputs?,
                label: record.label,
            })
        };
        (
            Some(digest),
            records
                .into_iter()
                .filter_map(open)
                .take(MAX_RELATIVES)
                .collect(),
        )
    }

    /// The result of another process that has computed the key meanwhile.
    pub(super) fn lookup(&self, id: NodeId, key: &Digest) -> Result<Option<Arc<Record>>, RunError> {
        if self.slots[id.0].forced {
            return Ok(None);
        }
        let record = self.store.lookup(key)?;
        Ok(record
            .filter(|record| plan::fits(record, self.node(id)))
            .map(Arc::new))
    }

    /// Checks the inputs' bytes. If one is damaged, the stage that made it runs again, and this one waits: none. So
    /// does one whose input is being made again already.
    fn open_inputs(
        &mut self,
        id: NodeId,
    ) -> Result<Option<BTreeMap<String, Vec<Input>>>, RunError> {
        let mut inputs: BTreeMap<String, Vec<Input>> = BTreeMap::new();
        let mut damaged = Vec::new();
        let mut missing = false;
        for (name, references) in &self.node(id).inputs {
            let opened = inputs.entry(name.clone()).or_default();
            for reference in references {
                // The stage that made it runs again, for another reader that found it damaged.
                let Some(digest) = self.digest_of(reference) else {
                    missing = true;
                    continue;
                };
                match self.open(digest) {
                    Ok(dir) => opened.push(Input {
                        label: key::label(self.study, reference),
                        digest,
                        dir,
                    }),
                    Err(
                        error @ (StoreError::Damaged { .. } | StoreError::MissingArtifact { .. }),
                    ) => {
                        damaged.push((reference.node, error.to_string()));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if damaged.is_empty() && !missing {
            return Ok(Some(inputs));
        }
        self.wait_again(id);
        for (parent, message) in damaged {
            self.reopen(parent, message)?;
        }
        Ok(None)
    }

    fn open(&mut self, digest: Digest) -> Result<PathBuf, StoreError> {
        if let Some(dir) = self.opened.get(&digest) {
            return Ok(dir.clone());
        }
        let dir = self.store.open_input(&digest)?;
        self.opened.insert(digest, dir.clone());
        Ok(dir)
    }

    /// Takes a stage that was ready, and those that follow it, back to waiting for their inputs.
    fn wait_again(&mut self, id: NodeId) {
        let followers = self.slots[id.0]
            .key
            .and_then(|key| self.in_flight.remove(&key))
            .unwrap_or_default();
        for id in followers {
            self.slots[id.0].state = State::Waiting;
            self.unresolved.push(id);
        }
    }

    /// Runs a stage again whose artifact is damaged.
    fn reopen(&mut self, id: NodeId, message: String) -> Result<(), RunError> {
        let slot = &mut self.slots[id.0];
        if slot.state != State::Done {
            return Ok(());
        }
        slot.reopened += 1;
        if slot.reopened > MAX_REOPENED {
            let failure = Failure {
                message,
                ..self.failure_without_log(id)
            };
            return self.fail(id, failure);
        }
        slot.state = State::Waiting;
        slot.record = None;
        slot.executed = false;
        self.unresolved.push(id);
        self.emit(RunEvent::StageReopened {
            stage: self.title(id),
            message,
        })
    }

    fn failure_without_log(&self, id: NodeId) -> Failure {
        let place = self.study.place_text(&self.node(id).place);
        Failure {
            message: String::new(),
            attempts: 0,
            place,
            log: PathBuf::new(),
            tail: Vec::new(),
        }
    }
}
