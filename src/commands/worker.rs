//! `dcsft worker JOB`: the process in which one stage runs. Started by `dcsft run`, hidden from people.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dcsft_engine::worker;

use crate::cli::Worker;
use crate::exit::Failure;

/// Runs the job; returns the worker's own exit code.
///
/// # Errors
/// If signals cannot be handled.
pub(crate) fn run(args: &Worker) -> Result<u8, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).map_err(Failure::failed)?;
    // This thread works in the pool itself: entering the pool from outside costs as much as a small operation.
    rayon::ThreadPoolBuilder::new()
        .use_current_thread()
        .build_global()
        .map_err(Failure::failed)?;
    Ok(worker::main(
        &args.job,
        &dcsft_stages::registry(),
        &interrupted,
        true,
    ))
}
