//! `dcsft worker JOB`: the process in which one stage runs. Started by `dcsft run`, hidden from people.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dcsft_engine::stage::Registry;
use dcsft_engine::worker;

use crate::cli::Worker;
use crate::kernels;

/// What to do where no thread can be started.
const LIMIT: &str = ": raise the limit on processes (ulimit -u)";

/// Runs the job; returns the worker's own exit code.
pub(crate) fn run(args: &Worker, registry: &Registry) -> u8 {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    if let Err(error) = ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)) {
        return worker::refuse(&format!(
            "the worker cannot wait for signals: {error}{LIMIT}"
        ));
    }
    // This thread works in the pool itself: entering the pool from outside costs as much as a small operation.
    let pool = rayon::ThreadPoolBuilder::new()
        .use_current_thread()
        .build_global();
    if let Err(error) = pool {
        return worker::refuse(&format!(
            "the worker cannot start its threads: {error}{LIMIT}"
        ));
    }
    kernels::share();
    worker::main(&args.job, registry, &interrupted, args.events.as_deref())
}
