//! Running a plan: what the scheduler is given and what it gives back.

mod admission;
mod commit;
mod ear;
mod error;
mod execute;
mod executor;
mod files;
mod job;
mod lines;
mod local;
mod machine;
mod opened;
mod options;
mod outcome;
mod pause;
mod prepare;
mod prepared;
mod process;
mod relatives;
mod reporter;
mod retry;
mod scheduler;
mod shards;
pub mod slurm;
mod trouble;

use std::time::{Duration, Instant};

use dcsft_cache::Store;

use crate::journal::{Journal, RunEvent};
use crate::plan::Plan;
use crate::stage::Registry;
use crate::study::Study;

pub use admission::{Admission, Ask, Share};
pub use error::RunError;
pub use executor::{Attempt, End, Ended, Executor, Submitted, Task};
pub use local::{LocalExecutor, WorkerCommand};
pub use machine::{Machine, gpus_of_this_machine};
pub use options::{RunOptions, RunOutcome};
pub use pause::Pause;
#[cfg(unix)]
pub use pause::stop_with_terminal;
pub use reporter::{JsonReporter, Reporter};
pub use shards::shard_workspaces;

/// How long a worker may take to save its state and end, once it was asked to: after Ctrl-C, after its timeout.
pub const GRACE: Duration = Duration::from_secs(30);

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
            let given = scheduler::Given {
                study,
                registry,
                plan,
                store,
                options,
                executor,
            };
            scheduler::Scheduler::new(given, journal, reporter).run()
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
