//! The scheduler: which stage next. One thread decides and touches no input; each running stage has a thread that
//! locks its key, checks what it reads and waits for its worker.

mod ask;
mod message;
mod parts;
mod queue;
mod settle;
mod shards;
mod start;
mod state;
mod words;
mod work;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::Scope;
use std::time::{Duration, Instant};

use dcsft_cache::{Digest, Store};

use crate::journal::{self, Failure, Journal, RunEvent};
use crate::key::{KeyPreimage, Keys};
use crate::plan::{self, NodeState, Plan};
use crate::run::admission::Admission;
use crate::run::executor::Executor;
use crate::run::opened::Opened;
use crate::run::outcome::{Outcome, Shared};
use crate::run::relatives::Families;

use crate::run::{Reporter, RunError, RunOptions, RunOutcome};
use crate::stage::Registry;
use crate::study::{Node, NodeId, Study};

use message::Message;
use queue::Queue;
use state::{Slot, State};
use work::Work;

/// How often the interrupt flag and the locks of other processes are looked at.
const TICK: Duration = Duration::from_millis(50);

/// What running stages have said and nobody has heard yet; then they wait.
const WORDS: usize = 1024;

/// What a run is made of.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) study: &'a Study,
    pub(super) registry: &'a Registry,
    pub(super) plan: &'a Plan,
    pub(super) store: &'a Store,
    pub(super) options: &'a RunOptions,
    pub(super) executor: &'a dyn Executor,
}

/// The state of one run.
pub(super) struct Scheduler<'a> {
    study: &'a Study,
    registry: &'a Registry,
    keys: Keys<'a>,
    plan: &'a Plan,
    store: &'a Store,
    options: &'a RunOptions,
    executor: &'a dyn Executor,
    reporter: &'a mut dyn Reporter,
    journal: Journal,
    slots: Vec<Slot>,
    /// Seconds from a stage's start to the end of the study, as far as earlier runs tell.
    urgency: Vec<f64>,
    queue: Queue,
    /// The stages that keys are in flight for; others with the same keys follow them.
    in_flight: HashMap<Digest, NodeId>,
    /// Stages whose inputs are all there now.
    unresolved: Vec<NodeId>,
    /// Keys that the cache has not been asked for.
    to_ask: Vec<(NodeId, Digest)>,
    /// A thread asks the cache.
    asking: bool,
    admission: Box<dyn Admission>,
    running: usize,
    failed: Vec<(NodeId, Failure)>,
    /// How often results were found damaged, in all.
    reopenings: u32,
    interrupted: bool,
    started: Instant,
}

impl<'a> Scheduler<'a> {
    pub(super) fn new(given: Given<'a>, journal: Journal, reporter: &'a mut dyn Reporter) -> Self {
        let Given {
            study,
            registry,
            plan,
            store,
            options,
            executor,
        } = given;
        let started = Instant::now();
        let urgency = if plan.is_complete() {
            Vec::new()
        } else {
            urgency(study, plan, store)
        };
        let slots = study
            .nodes
            .iter()
            .map(|node| {
                let missing = plan.dag.parents(node.id).len();
                let forced = plan::is_forced(node, &plan.options);
                Slot {
                    state: State::Waiting { missing, forced },
                    ..Slot::default()
                }
            })
            .collect();
        Self {
            study,
            registry,
            keys: Keys::new(study, registry, plan.options.arithmetic(registry)),
            plan,
            store,
            options,
            executor,
            reporter,
            journal,
            slots,
            urgency,
            queue: Queue::default(),
            in_flight: HashMap::new(),
            unresolved: Vec::new(),
            to_ask: Vec::new(),
            asking: false,
            admission: executor.admission(options, &plan.options.device),
            running: 0,
            failed: Vec::new(),
            reopenings: 0,
            interrupted: false,
            started,
        }
    }

    pub(super) fn run(mut self) -> Result<RunOutcome, RunError> {
        let options = self.options;
        let shared = Shared {
            study: self.study,
            store: self.store,
            executor: self.executor,
            families: Families::new(self.store),
            opened: Opened::new(self.store),
            stop: AtomicBool::new(false),
            pause: &options.pause,
            program: &options.program,
            backoff: options.backoff,
            paranoid: self.plan.options.paranoid,
            name: format!("dcsft run {}, run {}", self.study.name, self.journal.run),
        };
        let ended = self.begin().and_then(|()| {
            let (sender, receiver) = mpsc::sync_channel(WORDS);
            std::thread::scope(|scope| {
                let ended = self.work(scope, &shared, &sender, &receiver);
                // An error of the cache ends the running workers too.
                shared.stop.store(true, Ordering::Relaxed);
                self.drain(&receiver);
                ended
            })
        });
        self.finish(ended)
    }

    fn begin(&mut self) -> Result<(), RunError> {
        self.admission.check(self.study, self.registry, self.plan)?;
        let planned = self.plan.nodes.iter();
        let cached = planned.filter(|node| node.state.record().is_some()).count();
        self.emit(RunEvent::Started {
            run: self.journal.run.clone(),
            spec: self.study.name.clone(),
            stages: self.slots.len(),
            cached,
            jobs: self.admission.jobs(),
        })?;
        self.take_over_plan()
    }

    fn take_over_plan(&mut self) -> Result<(), RunError> {
        let plan = self.plan;
        for (index, planned) in plan.nodes.iter().enumerate() {
            let id = NodeId(index);
            match &planned.state {
                NodeState::Cached { record, .. } => {
                    self.complete(id, Arc::clone(record), false)?;
                }
                NodeState::ToRun { key, preimage, .. } => {
                    let work = Work {
                        key: *key,
                        preimage: Arc::new(KeyPreimage::clone(preimage)),
                        forced: plan::is_forced(self.node(id), &plan.options),
                        followers: Vec::new(),
                    };
                    if let Some(work) = self.lead(id, work) {
                        self.make_ready(id, work);
                    }
                }
                NodeState::Waits { .. } => {}
            }
        }
        // Whatever the plan could resolve, it has.
        self.unresolved.clear();
        Ok(())
    }

    fn work<'scope, 'env>(
        &mut self,
        scope: &'scope Scope<'scope, 'env>,
        shared: &'env Shared<'a>,
        sender: &SyncSender<Message>,
        receiver: &Receiver<Message>,
    ) -> Result<(), RunError>
    where
        'a: 'env,
    {
        loop {
            if !self.interrupted && self.options.interrupted.load(Ordering::Relaxed) {
                self.interrupted = true;
                shared.stop.store(true, Ordering::Relaxed);
                self.emit(RunEvent::Interrupted)?;
            }
            while let Some(id) = self.unresolved.pop() {
                self.resolve(id)?;
            }
            if !self.stopping() {
                self.ask(scope, shared, sender)?;
                // What is asked for may be more urgent than all that is ready; an answer takes no time to speak of.
                if !self.asking {
                    self.start_ready(scope, shared, sender)?;
                }
                if !self.unresolved.is_empty() {
                    continue;
                }
            }
            let idle = self.running == 0 && !self.asking;
            if idle && (self.stopping() || (self.queue.is_empty() && self.to_ask.is_empty())) {
                return Ok(());
            }
            self.journal.flush()?;
            if let Ok(message) = receiver.recv_timeout(TICK) {
                self.handle(message, shared)?;
                while let Ok(message) = receiver.try_recv() {
                    self.handle(message, shared)?;
                }
            }
        }
    }

    /// Hears the stages that still run when the run cannot go on, to their ends: none may wait to be heard. What ends
    /// well counts; the error that ends the run is known already.
    fn drain(&mut self, receiver: &Receiver<Message>) {
        while self.running > 0 || self.asking {
            let Ok(message) = receiver.recv() else { return };
            self.asking &= !matches!(message, Message::Answered(_));
            if let Message::Ended(unit, outcome, share) = message {
                self.running -= 1;
                self.admission.give_back(share);
                let id = unit.id;
                match outcome {
                    _ if !self.counts(unit) => {}
                    Outcome::ShardDone { seconds } => drop(self.finish_shard(unit, seconds)),
                    Outcome::Done(record) => drop(self.finish_key(id, record, true)),
                    Outcome::Found(record) => drop(self.finish_key(id, record, false)),
                    Outcome::Failed(failure) => drop(self.fail(id, failure)),
                    _ => drop(self.interrupt(id)),
                }
            }
        }
    }

    /// Whether no further stage may start.
    fn stopping(&self) -> bool {
        self.interrupted || (!self.options.keep_going && !self.failed.is_empty())
    }

    fn handle(&mut self, message: Message, shared: &Shared<'_>) -> Result<(), RunError> {
        match message {
            Message::Word(unit, word) => self.pass_on(unit, word),
            Message::Answered(answers) => {
                self.asking = false;
                for (id, found) in answers? {
                    self.answered(id, found)?;
                }
                Ok(())
            }
            Message::Ended(unit, outcome, share) => {
                self.running -= 1;
                self.admission.give_back(share);
                let id = unit.id;
                match outcome {
                    Outcome::Broken(error) => {
                        let _ = self.interrupt(id);
                        Err(error)
                    }
                    _ if !self.counts(unit) => Ok(()),
                    Outcome::Cut { prepared, of } => {
                        self.cut(id, prepared, of);
                        Ok(())
                    }
                    Outcome::ShardDone { seconds } => self.finish_shard(unit, seconds),
                    Outcome::Done(record) => self.finish_key(id, record, true),
                    Outcome::Found(record) => self.finish_key(id, record, false),
                    Outcome::Busy { holder } => self.wait_for_other(id, holder),
                    Outcome::Damaged { damaged, seen } => {
                        self.make_again(id, damaged, seen, shared)
                    }
                    Outcome::Failed(failure) => self.fail(id, failure),
                    Outcome::Interrupted => self.interrupt(id),
                }
            }
        }
    }

    fn interrupt(&mut self, id: NodeId) -> Result<(), RunError> {
        self.slots[id.0].state = State::Interrupted;
        self.emit(RunEvent::StageInterrupted {
            stage: self.title(id),
        })
    }

    /// Ends the run: its last event, and what became of it.
    fn finish(mut self, ended: Result<(), RunError>) -> Result<RunOutcome, RunError> {
        let ended = ended.and_then(|()| self.interrupt_shards());
        let count = |test: &dyn Fn(&State) -> bool| {
            let states = self.slots.iter().map(|slot| &slot.state);
            states.filter(|state| test(state)).count()
        };
        let executed = count(&|state| matches!(state, State::Done { executed: true, .. }));
        let cached = count(&|state| {
            matches!(
                state,
                State::Done {
                    executed: false,
                    ..
                }
            )
        });
        let skipped = count(&|state| {
            !matches!(
                state,
                State::Done { .. } | State::Failed | State::Interrupted
            )
        });
        let seconds = self.started.elapsed().as_secs_f64();
        let finished = RunEvent::Finished {
            executed,
            cached,
            failed: self.failed.len(),
            seconds,
        };
        let ended = match ended {
            Ok(()) => self.emit(finished).and_then(|()| Ok(self.journal.flush()?)),
            Err(error) => {
                let message = error.to_string();
                // The journal may be what failed.
                let _ = self.emit(RunEvent::Error { message });
                let _ = self.emit(finished);
                let _ = self.journal.flush();
                Err(error)
            }
        };
        ended?;
        Ok(RunOutcome {
            run: self.journal.run,
            executed,
            cached,
            failed: self.failed,
            skipped,
            seconds,
            interrupted: self.interrupted,
            records: self
                .slots
                .into_iter()
                .map(|slot| match slot.state {
                    State::Done { record, .. } => Some(record),
                    _ => None,
                })
                .collect(),
        })
    }

    fn digest_of(&self, reference: &crate::study::Reference) -> Option<Digest> {
        self.slots[reference.node.0]
            .state
            .record()?
            .outputs
            .get(&reference.output)
            .map(|output| output.digest)
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
