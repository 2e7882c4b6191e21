//! The scheduler: which stage next. One thread decides; each running stage has a thread that waits for its worker.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::Scope;
use std::time::{Duration, Instant};

use dcsft_cache::{Digest, KeyLock, Record, Store, StoreError};

use super::event::{Failure, Reporter, RunEvent, StageResult};
use super::execute::{self, Assignment, Outcome, Word};
use super::executor::Executor;
use super::resources::Resources;
use super::{RunError, RunOptions, RunOutcome};
use crate::journal::{self, Journal};
use crate::key::{self, KeyError, KeyPreimage};
use crate::kind::{Input, Registry};
use crate::plan::{self, NodeState, Plan};
use crate::protocol::Event;
use crate::study::{Node, NodeId, Study};

/// How often locks of other processes and the interrupt flag are looked at.
const TICK: Duration = Duration::from_millis(50);

/// How often a stage is run again because its artifact was found damaged.
const MAX_REOPENED: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Some input does not exist yet.
    Waiting,
    /// Its key is known and it has to run.
    Ready,
    /// Another stage that is ready or runs has the same key.
    Follows,
    Running,
    Done,
    Failed,
    Skipped,
    Interrupted,
}

struct Slot {
    state: State,
    key: Option<Digest>,
    preimage: Option<Box<KeyPreimage>>,
    record: Option<Arc<Record>>,
    forced: bool,
    executed: bool,
    reopened: u32,
    said_waiting: bool,
}

enum Message {
    Word(NodeId, Word),
    Ended(NodeId, Outcome, String),
}

/// The state of one run.
pub(super) struct Scheduler<'a> {
    study: &'a Study,
    registry: &'a Registry,
    plan: &'a Plan,
    store: &'a Store,
    options: &'a RunOptions,
    reporter: &'a mut dyn Reporter,
    journal: Journal,
    slots: Vec<Slot>,
    /// Seconds from a stage's start to the end of the study, as far as earlier runs tell.
    urgency: Vec<f64>,
    ready: Vec<NodeId>,
    /// The stages that share a key in flight; the first one runs.
    in_flight: HashMap<Digest, Vec<NodeId>>,
    /// Stages whose inputs may all be there now.
    unresolved: Vec<NodeId>,
    /// Inputs that were checked.
    opened: HashMap<Digest, PathBuf>,
    resources: Resources,
    running: usize,
    failed: Vec<(NodeId, Failure)>,
    interrupted: bool,
    started: Instant,
}

impl<'a> Scheduler<'a> {
    pub(super) fn new(
        study: &'a Study,
        registry: &'a Registry,
        plan: &'a Plan,
        store: &'a Store,
        options: &'a RunOptions,
        reporter: &'a mut dyn Reporter,
    ) -> Result<Self, RunError> {
        let started = Instant::now();
        let urgency = if plan.is_complete() { Vec::new() } else { urgency(study, plan, store) };
        let journal = Journal::create(&store.runs_dir(), study, &plan.options.device)?;
        let slots = study.nodes.iter().map(|node| Slot::new(plan::is_forced(node, &plan.options))).collect();
        Ok(Self {
            study,
            registry,
            plan,
            store,
            options,
            reporter,
            journal,
            slots,
            urgency,
            ready: Vec::new(),
            in_flight: HashMap::new(),
            unresolved: Vec::new(),
            opened: HashMap::new(),
            resources: Resources::new(options, &plan.options.device),
            running: 0,
            failed: Vec::new(),
            interrupted: false,
            started,
        })
    }

    pub(super) fn run(mut self, executor: &'a dyn Executor) -> Result<RunOutcome, RunError> {
        let cached = self.plan.nodes.iter().filter(|node| node.state.record().is_some()).count();
        self.emit(RunEvent::Started {
            run: self.journal.run.clone(),
            spec: self.study.name.clone(),
            stages: self.slots.len(),
            cached,
            jobs: self.resources.jobs,
        })?;
        self.take_over_plan()?;
        let stop = AtomicBool::new(false);
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            let ended = self.work(scope, executor, &stop, &sender, &receiver);
            // An error of the cache ends the running workers too.
            stop.store(true, Ordering::Relaxed);
            ended
        })?;
        self.finish()
    }

    fn take_over_plan(&mut self) -> Result<(), RunError> {
        for (index, planned) in self.plan.nodes.iter().enumerate() {
            let id = NodeId(index);
            match &planned.state {
                NodeState::Cached { key, record } => {
                    self.slots[index].key = Some(*key);
                    self.complete(id, Arc::clone(record), false)?;
                }
                NodeState::ToRun { key, preimage, .. } => self.offer(id, *key, preimage.clone()),
                NodeState::Waits { .. } => {}
            }
        }
        // Whatever the plan could resolve, it has.
        self.unresolved.clear();
        Ok(())
    }

    fn work<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        executor: &'scope dyn Executor,
        stop: &'scope AtomicBool,
        sender: &Sender<Message>,
        receiver: &Receiver<Message>,
    ) -> Result<(), RunError>
    where
        'a: 'scope,
    {
        loop {
            if !self.interrupted && self.options.interrupted.load(Ordering::Relaxed) {
                self.interrupted = true;
                stop.store(true, Ordering::Relaxed);
                self.emit(RunEvent::Interrupted)?;
            }
            while let Some(id) = self.unresolved.pop() {
                self.resolve(id)?;
            }
            if !self.stopping() {
                self.start_ready(scope, executor, stop, sender)?;
                if !self.unresolved.is_empty() {
                    continue;
                }
            }
            if self.running == 0 && (self.stopping() || self.ready.is_empty()) {
                return Ok(());
            }
            self.journal.flush()?;
            if let Ok(message) = receiver.recv_timeout(TICK) {
                self.handle(message)?;
                while let Ok(message) = receiver.try_recv() {
                    self.handle(message)?;
                }
            }
        }
    }

    /// Whether no further stage may start.
    fn stopping(&self) -> bool {
        self.interrupted || (!self.options.keep_going && !self.failed.is_empty())
    }

    /// Starts what can start, most urgent first.
    fn start_ready<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        executor: &'scope dyn Executor,
        stop: &'scope AtomicBool,
        sender: &Sender<Message>,
    ) -> Result<(), RunError>
    where
        'a: 'scope,
    {
        self.ready.sort_by(|a, b| self.urgency[b.0].total_cmp(&self.urgency[a.0]).then(a.cmp(b)));
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
        let Some(key) = self.slots[id.0].key else { return Ok(None) };
        let lock = self.store.try_lock(&key)?;
        if lock.is_none() && !std::mem::replace(&mut self.slots[id.0].said_waiting, true) {
            self.emit(RunEvent::StageWaits { stage: self.title(id), key })?;
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
        let Some(inputs) = self.open_inputs(id)? else { return Ok(None) };
        let Some(preimage) = self.slots[id.0].preimage.take() else { return Ok(None) };
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
            files: self.plan.node(id).files.clone(),
            device: device.to_owned(),
            threads,
            log,
            backoff: self.options.backoff,
        }))
    }

    /// The result of another process that has computed the key meanwhile.
    fn lookup(&self, id: NodeId, key: &Digest) -> Result<Option<Arc<Record>>, RunError> {
        if self.slots[id.0].forced {
            return Ok(None);
        }
        let record = self.store.lookup(key)?;
        Ok(record.filter(|record| plan::fits(record, self.node(id))).map(Arc::new))
    }

    /// Checks the inputs' bytes. If one is damaged, the stage that made it runs again, and this one waits: none.
    fn open_inputs(&mut self, id: NodeId) -> Result<Option<BTreeMap<String, Vec<Input>>>, RunError> {
        let mut inputs: BTreeMap<String, Vec<Input>> = BTreeMap::new();
        let mut damaged = Vec::new();
        for (name, references) in &self.node(id).inputs {
            let opened = inputs.entry(name.clone()).or_default();
            for reference in references {
                let Some(digest) = self.digest_of(reference) else { continue };
                match self.open(digest) {
                    Ok(dir) => opened.push(Input { label: key::label(self.study, reference), digest, dir }),
                    Err(error @ (StoreError::Damaged { .. } | StoreError::MissingArtifact { .. })) => {
                        damaged.push((reference.node, error.to_string()));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if damaged.is_empty() {
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
        let followers = self.slots[id.0].key.and_then(|key| self.in_flight.remove(&key)).unwrap_or_default();
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
            let failure = Failure { message, ..self.failure_without_log(id) };
            return self.fail(id, failure);
        }
        slot.state = State::Waiting;
        slot.record = None;
        slot.executed = false;
        self.unresolved.push(id);
        self.emit(RunEvent::StageReopened { stage: self.title(id), message })
    }

    fn handle(&mut self, message: Message) -> Result<(), RunError> {
        match message {
            Message::Word(id, Word::Said(Event::Progress(progress))) => {
                self.emit(RunEvent::Progress { stage: self.title(id), progress })
            }
            Message::Word(id, Word::Said(Event::Log { message })) => {
                self.emit(RunEvent::Log { stage: self.title(id), message })
            }
            Message::Word(_, Word::Said(_)) => Ok(()),
            Message::Word(id, Word::Retries { attempts, message, delay }) => {
                let (stage, delay) = (self.title(id), delay.as_secs_f64());
                self.emit(RunEvent::StageRetries { stage, attempts, message, delay })
            }
            Message::Ended(id, outcome, device) => {
                self.running -= 1;
                self.resources.give_back(device);
                match outcome {
                    Outcome::Done(record) => self.finish_key(id, record, true),
                    Outcome::Failed(failure) => self.fail(id, failure),
                    Outcome::Interrupted => {
                        self.slots[id.0].state = State::Interrupted;
                        self.emit(RunEvent::StageInterrupted { stage: self.title(id) })
                    }
                }
            }
        }
    }

    /// Computes a stage's key if all its inputs exist, and looks it up.
    fn resolve(&mut self, id: NodeId) -> Result<(), RunError> {
        if self.slots[id.0].state != State::Waiting {
            return Ok(());
        }
        let node = self.node(id);
        let Some(kind) = self.registry.get(&node.kind) else {
            return Err(KeyError::UnknownKind { title: node.title(), kind: node.kind.clone() }.into());
        };
        let (device, files) = (&self.plan.options.device, &self.plan.node(id).files);
        let preimage = key::preimage(self.study, node, kind, device, files, |reference| self.digest_of(reference));
        let Some(preimage) = preimage else { return Ok(()) };
        let key = preimage.digest().map_err(|source| KeyError::Canonical { title: node.title(), source })?;
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
    fn offer(&mut self, id: NodeId, key: Digest, preimage: Box<KeyPreimage>) {
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
    fn finish_key(&mut self, id: NodeId, record: Arc<Record>, executed: bool) -> Result<(), RunError> {
        let sharing = self.in_flight.remove(&record.key).unwrap_or_default();
        self.complete(id, Arc::clone(&record), executed)?;
        for other in sharing.into_iter().filter(|other| *other != id) {
            self.complete(other, Arc::clone(&record), false)?;
        }
        Ok(())
    }

    fn complete(&mut self, id: NodeId, record: Arc<Record>, executed: bool) -> Result<(), RunError> {
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

    fn fail(&mut self, id: NodeId, failure: Failure) -> Result<(), RunError> {
        let because = self.title(id);
        self.slots[id.0].state = State::Failed;
        self.emit(RunEvent::StageFailed { stage: because.clone(), failure: failure.clone() })?;
        self.failed.push((id, failure));
        let key = self.slots[id.0].key;
        let sharing = key.and_then(|key| self.in_flight.remove(&key)).unwrap_or_default();
        let mut below: Vec<NodeId> = self.plan.dag.children(id);
        below.extend(sharing.into_iter().filter(|other| *other != id));
        while let Some(id) = below.pop() {
            if matches!(self.slots[id.0].state, State::Waiting | State::Follows) {
                self.slots[id.0].state = State::Skipped;
                self.emit(RunEvent::StageSkipped { stage: self.title(id), because: because.clone() })?;
                below.extend(self.plan.dag.children(id));
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<RunOutcome, RunError> {
        let count = |test: &dyn Fn(&Slot) -> bool| self.slots.iter().filter(|slot| test(slot)).count();
        let executed = count(&|slot| slot.state == State::Done && slot.executed);
        let cached = count(&|slot| slot.state == State::Done && !slot.executed);
        let skipped = count(&|slot| !matches!(slot.state, State::Done | State::Failed | State::Interrupted));
        let seconds = self.started.elapsed().as_secs_f64();
        self.emit(RunEvent::Finished { executed, cached, failed: self.failed.len(), seconds })?;
        self.journal.flush()?;
        Ok(RunOutcome {
            run: self.journal.run,
            executed,
            cached,
            failed: self.failed,
            skipped,
            seconds,
            interrupted: self.interrupted,
            records: self.slots.into_iter().map(|slot| slot.record).collect(),
        })
    }

    fn failure_without_log(&self, id: NodeId) -> Failure {
        let place = self.study.place_text(&self.node(id).place);
        Failure { message: String::new(), attempts: 0, place, log: PathBuf::new(), tail: Vec::new() }
    }

    fn digest_of(&self, reference: &crate::study::Reference) -> Option<Digest> {
        self.slots[reference.node.0].record.as_ref()?.outputs.get(&reference.output).map(|output| output.digest)
    }

    fn is_numeric(&self, id: NodeId) -> bool {
        self.registry.get(&self.node(id).kind).is_some_and(|kind| kind.numeric())
    }

    fn node(&self, id: NodeId) -> &'a Node {
        &self.study.nodes[id.0]
    }

    fn title(&self, id: NodeId) -> String {
        self.node(id).title()
    }

    fn emit(&mut self, event: RunEvent) -> Result<(), RunError> {
        self.reporter.event(&event);
        Ok(self.journal.append(&event)?)
    }
}

impl Slot {
    fn new(forced: bool) -> Self {
        Self {
            state: State::Waiting,
            key: None,
            preimage: None,
            record: None,
            forced,
            executed: false,
            reopened: 0,
            said_waiting: false,
        }
    }
}

/// The critical path below each stage, by the seconds that stages of the same title took in the latest run of this
/// spec; a stage that never ran counts as an average one.
fn urgency(study: &Study, plan: &Plan, store: &Store) -> Vec<f64> {
    let earlier = journal::latest(&store.runs_dir(), &study.name);
    let seconds = earlier.as_ref().map(journal::RunReading::seconds).unwrap_or_default();
    let known = seconds.values().filter(|seconds| **seconds > 0.0);
    let (count, sum) = known.fold((0_u32, 0.0), |(count, sum), seconds| (count + 1, sum + seconds));
    let average = if count == 0 { 1.0 } else { sum / f64::from(count) };
    plan.dag.critical_paths(|id| seconds.get(study.nodes[id.0].title().as_str()).copied().unwrap_or(average))
}
