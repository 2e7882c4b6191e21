//! The scheduler: which stage next. One thread decides; each running stage has a thread that waits for its worker.

mod settle;
mod start;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::Scope;
use std::time::{Duration, Instant};

use dcsft_cache::{Digest, Record, Store};

use crate::journal::{self, Journal};
use crate::key::KeyPreimage;
use crate::kind::Registry;
use crate::plan::{self, NodeState, Plan};
use crate::protocol::Event;
use crate::run::event::{Failure, Reporter, RunEvent};
use crate::run::execute::{Outcome, Word};
use crate::run::executor::Executor;
use crate::run::resources::Resources;
use crate::run::{RunError, RunOptions, RunOutcome};
use crate::study::{Node, NodeId, Study};

/// How often locks of other processes and the interrupt flag are looked at.
const TICK: Duration = Duration::from_millis(50);

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
        let urgency = if plan.is_complete() {
            Vec::new()
        } else {
            urgency(study, plan, store)
        };
        let journal = Journal::create(store, study, &plan.options.device, &options.program)?;
        let slots = study
            .nodes
            .iter()
            .map(|node| Slot::new(plan::is_forced(node, &plan.options)))
            .collect();
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
        let cached = self
            .plan
            .nodes
            .iter()
            .filter(|node| node.state.record().is_some())
            .count();
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

    fn handle(&mut self, message: Message) -> Result<(), RunError> {
        match message {
            Message::Word(id, Word::Said(Event::Progress(progress))) => {
                self.emit(RunEvent::Progress {
                    stage: self.title(id),
                    progress,
                })
            }
            Message::Word(id, Word::Said(Event::Log { message })) => self.emit(RunEvent::Log {
                stage: self.title(id),
                message,
            }),
            Message::Word(id, Word::Said(Event::Warning { message })) => {
                self.emit(RunEvent::Warning {
                    stage: self.title(id),
                    message,
                })
            }
            Message::Word(_, Word::Said(_)) => Ok(()),
            Message::Word(
                id,
                Word::Retries {
                    attempts,
                    message,
                    delay,
                },
            ) => {
                let (stage, delay) = (self.title(id), delay.as_secs_f64());
                self.emit(RunEvent::StageRetries {
                    stage,
                    attempts,
                    message,
                    delay,
                })
            }
            Message::Ended(id, outcome, device) => {
                self.running -= 1;
                self.resources.give_back(device);
                match outcome {
                    Outcome::Done(record) => self.finish_key(id, record, true),
                    Outcome::Failed(failure) => self.fail(id, failure),
                    Outcome::Interrupted => {
                        self.slots[id.0].state = State::Interrupted;
                        self.emit(RunEvent::StageInterrupted {
                            stage: self.title(id),
                        })
                    }
                }
            }
        }
    }

    fn finish(mut self) -> Result<RunOutcome, RunError> {
        let count =
            |test: &dyn Fn(&Slot) -> bool| self.slots.iter().filter(|slot| test(slot)).count();
        let executed = count(&|slot| slot.state == State::Done && slot.executed);
        let cached = count(&|slot| slot.state == State::Done && !slot.executed);
        let skipped =
            count(&|slot| !matches!(slot.state, State::Done | State::Failed | State::Interrupted));
        let seconds = self.started.elapsed().as_secs_f64();
        self.emit(RunEvent::Finished {
            executed,
            cached,
            failed: self.failed.len(),
            seconds,
        })?;
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

    fn digest_of(&self, reference: &crate::study::Reference) -> Option<Digest> {
        self.slots[reference.node.0]
            .record
            .as_ref()?
            .outputs
            .get(&reference.output)
            .map(|output| output.digest)
    }

    fn is_numeric(&self, id: NodeId) -> bool {
        self.registry
            .get(&self.node(id).kind)
            .is_some_and(|kind| kind.numeric())
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
/// spec with these overrides, else with any; a stage that never ran counts as an average one.
fn urgency(study: &Study, plan: &Plan, store: &Store) -> Vec<f64> {
    let earlier = journal::history(study, store).next();
    let seconds = earlier
        .as_ref()
        .map(journal::RunFolder::seconds)
        .unwrap_or_default();
    let known = seconds.values().filter(|seconds| **seconds > 0.0);
    let (count, sum) = known.fold((0_u32, 0.0), |(count, sum), seconds| {
        (count + 1, sum + seconds)
    });
    let average = if count == 0 {
        1.0
    } else {
        sum / f64::from(count)
    };
    plan.dag.critical_paths(|id| {
        seconds
            .get(study.nodes[id.0].title().as_str())
            .copied()
            .unwrap_or(average)
    })
}
