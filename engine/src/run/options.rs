//! What a run is given, and what became of it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use dcsft_cache::Record;

use super::pause::Pause;
use crate::journal::Failure;
use crate::provenance::Program;
use crate::study::NodeId;

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
    /// GPUs of this machine (`cuda:0`) for stages that ask for some and do not compute on the run's device, like programs,
    /// where `devices` has no accelerator.
    pub gpus: Vec<String>,
    /// Bytes of memory for stages that say how much they need; none: what this machine has.
    pub memory: Option<u64>,
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
            gpus: Vec::new(),
            memory: None,
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
