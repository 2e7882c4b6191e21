//! Running a plan: what the scheduler is given and what it gives back.

mod event;
mod execute;
mod executor;
mod process;
mod resources;
mod scheduler;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use dcsft_cache::{Record, Store, StoreError};

pub use event::{Failure, JsonReporter, Reporter, RunEvent, StageResult};
pub use executor::{End, Executor, LocalExecutor, Task, WorkerCommand};

use crate::journal::JournalError;
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
    /// First pause before a retry; doubled each time.
    pub backoff: Duration,
    /// The program that runs, for records and the journal.
    pub program: Program,
    /// Set when the user interrupts the run.
    pub interrupted: Arc<AtomicBool>,
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
}

/// Runs what the plan says is missing and gathers all results.
///
/// Independent stages run at once, each in a worker process. A stage whose inputs turn out to be bytes that are
/// known already is not run. Another process that computes the same key is waited for. At whatever moment the run
/// is killed, what has finished stays, and the next run carries on from there.
///
/// # Errors
/// If the cache or the journal fails.
pub fn run(
    study: &Study,
    registry: &Registry,
    plan: &Plan,
    store: &Store,
    options: &RunOptions,
    executor: &dyn Executor,
    reporter: &mut dyn Reporter,
) -> Result<RunOutcome, RunError> {
    let _guard = store.hold(&format!("dcsft run {}", study.name))?;
    scheduler::Scheduler::new(study, registry, plan, store, options, reporter)?.run(executor)
}
