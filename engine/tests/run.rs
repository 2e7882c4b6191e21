//! The engine end to end, with real worker processes and tiny stage kinds.

#[path = "run/basics.rs"]
mod basics;
#[path = "run/commands.rs"]
mod commands;
#[path = "run/explain.rs"]
mod explain;
#[path = "run/failures.rs"]
mod failures;
#[path = "run/families.rs"]
mod families;
#[path = "run/faults.rs"]
mod faults;
#[path = "run/gpus.rs"]
mod gpus;
#[path = "run/journals.rs"]
mod journals;
#[path = "run/keys.rs"]
mod keys;
#[path = "run/kinds.rs"]
mod kinds;
#[path = "run/records.rs"]
mod records;
#[path = "run/recovery.rs"]
mod recovery;
#[path = "run/results.rs"]
mod results;
#[path = "run/shards.rs"]
mod shards;
#[path = "run/support.rs"]
mod support;

/// Not a test: workers are this binary, started with this entry and the path of a job.
#[test]
fn worker_entry() {
    if let Some(job) = support::entry_argument(support::WORKER) {
        support::be_worker(&job);
    }
}

/// Not a test: runs that tests kill are this binary, started with this entry.
#[test]
fn runner_entry() {
    if support::entry_argument(recovery::RUNNER).is_some() {
        recovery::be_runner();
    }
}
