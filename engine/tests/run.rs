//! The engine end to end, with real worker processes and tiny stage kinds.

#[path = "run/basics.rs"]
mod basics;
#[path = "run/kinds.rs"]
mod kinds;
#[path = "run/support.rs"]
mod support;

/// Not a test: workers are this binary, started with this entry and the path of a job.
#[test]
fn worker_entry() {
    if let Some(job) = support::entry_argument(support::WORKER) {
        support::be_worker(&job);
    }
}
