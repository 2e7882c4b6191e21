//! Running a plan: what the scheduler is given and what it gives back.

mod event;
mod execute;
mod executor;
mod lines;
mod local;
mod outcome;
mod pause;
mod prepare;
mod process;
mod relatives;
mod resources;
mod retry;
mod scheduler;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use dcsft_cache::{Record, Store, StoreError};

pub use event::{Failure, JsonReporter, Reason, Reporter, RunEvent, StageResult};
pub use executor::{End, Ended, Executor, Task};
pub use local::{LocalExecutor, WorkerCommand};
pub use pause::Pause;
#[cfg(unix)]
pub use pause::stop_with_terminal;

/// How long a worker may take to save its state and end, once it was asked to: after Ctrl-C, after its timeout.
pub const GRACE: Duration = Duration::from_secs(30);

use crate::journal::{Journal, JournalError};
use crate::key::KeyError;
use crate::kind::Registry;
use crate::plan::Plan;
use crate::provenance::Program;
use crate::study::{NodeId, Study};

/// How to run. Nothing of it changes a byte of any result.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Stages that may run at once; none: as many as there are threads.
    pub jobs: Option<usize>,
    /// Threads for all of them together; none: the machine's cores.
    pub threads: Option<usize>,
    /// After a failure, go on with what does not depend on it.
    pub keep_going: bool,
    /// `cpu`, or accelerators (`cuda:0`, `cuda:1`) of which each serves one numeric stage at a time. Of the same
    /// class as the plan's device; empty means just that.
    pub devices: Vec<String>,
    /// First pause before a retry; doubled each time up to a minute, and shortened at random by up to a half, so that
    /// what failed together is not tried again together.
    pub backoff: Duration,
    /// The program that runs, for records and the journal.
    pub program: Program,
    /// Set when the user interrupts the run.
    pub interrupted: Arc<AtomicBool>,
    /// Makes the run's workers stand still while the run is stopped.
    pub pause: Arc<Pause>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            jobs: None,
            threads: None,
            keep_going: false,
            devices: Vec::new(),
            backoff: Duration::from_secs(1),
            program: Program::default(),
            interrupted: Arc::new(AtomicBool::new(false)),
            pause: Arc::default(),
        }
    }
}

/// What became of a run.
#[derive(Clone, Debug)]
pub struct RunOutcome {
    /// The run's id, the name of its folder in the cache.
    pub run: String,
    /// Executions that succeeded.
    pub executed: usize,
    /// Stages whose result needed no execution here.
    pub cached: usize,
    /// Stages that failed, in the order in which they did.
    pub failed: Vec<(NodeId, Failure)>,
    /// Stages not run because of a failure.
    pub skipped: usize,
    /// Wall time.
    pub seconds: f64,
    /// The user interrupted it.
    pub interrupted: bool,
    /// The result of each node of the study, where there is one.
    pub records: Vec<Option<Arc<Record>>>,
}

impl RunOutcome {
    /// Whether every stage has its result.
    pub fn is_complete(&self) -> bool {
        self.records.iter().all(Option::is_some)
    }
}

/// Why a run could not go on. A stage that fails is not such a reason: see [`RunOutcome::failed`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The cache.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run's journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A key that could be computed only now.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A stage is done, and its result cannot be stored.
    #[error(
        "{title} is done, and its result cannot be stored: {source}; it is kept, and the next run stores it without computing it again"
    )]
    Unstored {
        /// The stage.
        title: String,
        /// Why not.
        source: StoreError,
    },
    /// A stage cannot read or write its workspace in the cache.
    #[error("{title} cannot go on: {message}")]
    Workspace {
        /// The stage.
        title: String,
        /// Why not.
        message: String,
    },
    /// The system starts no further thread.
    #[error(
        "cannot start a thread for {title} ({source}): raise the limit on processes (ulimit -u) or use fewer --jobs"
    )]
    Thread {
        /// The stage that was to run.
        title: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Runs what the plan says is missing and gathers all results.
///
/// Independent stages run at once, each in a worker process. A stage whose inputs turn out to be bytes that are
/// known already is not run. Another process that computes the same key is waited for. At whatever moment the run
/// is killed, what has finished stays, and the next run carries on from there.
///
/// The reporter's last event is [`RunEvent::Finished`], also where the run ends in an error.
///
/// # Errors
/// If the cache or the journal fails. That is no fault of a stage: none counts as failed for it, and what is finished
/// is stored by the next run.
pub fn run(
    study: &Study,
    registry: &Registry,
    plan: &Plan,
    store: &Store,
    options: &RunOptions,
    executor: &dyn Executor,
    reporter: &mut dyn Reporter,
) -> Result<RunOutcome, RunError> {
    let started = Instant::now();
    let begun = store
        .hold(&format!("dcsft run {}", study.name))
        .map_err(RunError::from)
        .and_then(|guard| {
            let journal = Journal::create(store, study, &plan.options.device, &options.program)?;
            Ok((guard, journal))
        });
    match begun {
        Ok((_guard, journal)) => {
            scheduler::Scheduler::new(study, registry, plan, store, options, journal, reporter)
                .run(executor)
        }
        Err(error) => {
            reporter.event(&RunEvent::Error {
                message: error.to_string(),
            });
            reporter.event(&RunEvent::Finished {
                executed: 0,
                cached: 0,
                failed: 0,
                seconds: started.elapsed().as_secs_f64(),
            });
            Err(error)
        }
    }
}
