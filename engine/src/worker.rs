//! The worker process: one frozen job in, events on stdout, nothing planned.

use std::any::Any;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::context::{ContextParts, StageContext};
use crate::cost::Cost;
use crate::kind::{Kind, Registry, StageError};
use crate::protocol::{Event, Job};
use crate::usage::Meter;

/// The worker did its job.
pub const EXIT_DONE: u8 = 0;
/// The stage failed.
pub const EXIT_FAILED: u8 = 1;
/// The job is not one that this worker can do.
pub const EXIT_BAD_JOB: u8 = 2;
/// The stage was interrupted.
pub const EXIT_INTERRUPTED: u8 = 130;

/// How long a stage may take to save its state once the run that started it has died.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);

/// Runs the job in the file `job`. Returns the process's exit code.
///
/// `interrupted` is set by the binary's signal handler. With `watch_stdin`, the end of stdin means that the run
/// that started this worker has died, and the worker ends too.
pub fn main(
    job: &Path,
    registry: &Registry,
    interrupted: &Arc<AtomicBool>,
    watch_stdin: bool,
) -> u8 {
    if watch_stdin {
        let interrupted = Arc::clone(interrupted);
        std::thread::spawn(move || end_with_parent(&interrupted));
    }
    let (job, kind) = match read(job, registry) {
        Ok(read) => read,
        Err(message) => {
            emit(&Event::Failed { message });
            return EXIT_BAD_JOB;
        }
    };
    let meter = Meter::start();
    let ended = run(job, kind, interrupted);
    let saved = ended.as_ref().map_or(Cost::default(), |(_, saved)| *saved);
    emit(&Event::Used(meter.stop(saved.cpu_seconds)));
    match ended {
        Ok((summary, saved)) => {
            emit(&Event::Done {
                summary,
                peak_rss_bytes: peak_rss_bytes(),
                saved_seconds: saved.seconds,
            });
            EXIT_DONE
        }
        Err(StageError::Interrupted) => {
            emit(&Event::Interrupted);
            EXIT_INTERRUPTED
        }
        Err(error) => {
            emit(&Event::Failed {
                message: error.to_string(),
            });
            EXIT_FAILED
        }
    }
}

fn read<'a>(path: &Path, registry: &'a Registry) -> Result<(Job, &'a dyn Kind), String> {
    let text = fs::read(path).map_err(|error| format!("the job {}: {error}", path.display()))?;
    let job: Job = serde_json::from_slice(&text)
        .map_err(|error| format!("the job {}: {error}", path.display()))?;
    let kind = registry
        .get(&job.kind)
        .ok_or_else(|| format!("this binary has no stage kind `{}`", job.kind))?;
    if kind.version() != job.version {
        return Err(format!(
            "the job was planned for version {} of `{}`, and this binary has version {}: run again",
            job.version,
            job.kind,
            kind.version()
        ));
    }
    Ok((job, kind))
}

/// Runs the stage. Gives its summary, and the work that relatives have spared it.
fn run(
    job: Job,
    kind: &dyn Kind,
    interrupted: &Arc<AtomicBool>,
) -> Result<(Value, Cost), StageError> {
    let Job {
        params,
        inputs,
        outputs,
        state,
        device,
        threads,
        relatives,
        ..
    } = job;
    let _turn = own_workspace(&state)?;
    // What an earlier attempt wrote is not this attempt's output.
    match fs::remove_dir_all(&outputs) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(StageError::io(&outputs)(error));
        }
        _ => {}
    }
    fs::create_dir_all(&outputs).map_err(StageError::io(&outputs))?;
    let interrupted = Arc::clone(interrupted);
    let emit = Box::new(|event| emit(&event));
    let mut ctx = StageContext::new(ContextParts {
        inputs,
        outputs,
        state,
        device,
        threads,
        interrupted,
        emit,
        relatives,
    });
    catch(|| kind.run(&params, &mut ctx))?;
    let saved = ctx.saved();
    Ok((ctx.into_summary(), saved))
}

/// Waits until a worker of a run that died has left the workspace.
fn own_workspace(state: &Path) -> Result<File, StageError> {
    fs::create_dir_all(state).map_err(StageError::io(state))?;
    let path = state.with_file_name("worker.lock");
    let lock = File::create(&path).map_err(StageError::io(&path))?;
    lock.lock().map_err(StageError::io(&path))?;
    Ok(lock)
}

/// Runs `work`; a panic becomes a failure with its message and place.
fn catch(work: impl FnOnce() -> Result<(), StageError>) -> Result<(), StageError> {
    let place = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&place);
    let printed = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if let Ok(mut place) = seen.lock() {
            *place = info.location().map(ToString::to_string);
        }
        printed(info);
    }));
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let place = place
            .lock()
            .ok()
            .and_then(|place| place.clone())
            .unwrap_or_default();
        Err(StageError::failed(format!(
            "the stage panicked at {place}: {}",
            message_of(panic.as_ref())
        )))
    })
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// Writes an event to stdout. A run that is gone cannot be told; the worker is then ending anyway.
fn emit(event: &Event) {
    if let Ok(mut line) = serde_json::to_vec(event) {
        line.push(b'\n');
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(&line).and_then(|()| stdout.flush());
    }
}

fn end_with_parent(interrupted: &AtomicBool) {
    let mut buffer = [0; 64];
    let mut stdin = io::stdin().lock();
    while matches!(stdin.read(&mut buffer), Ok(1..)) {}
    interrupted.store(true, Ordering::Relaxed);
    std::thread::sleep(ORPHAN_GRACE);
    end_group();
    std::process::exit(i32::from(EXIT_INTERRUPTED));
}

/// Ends everything the stage has started, if the worker leads a group of its own.
fn end_group() {
    #[cfg(unix)]
    if nix::unistd::getpgrp() == nix::unistd::getpid() {
        let _ = nix::sys::signal::killpg(nix::unistd::getpgrp(), nix::sys::signal::Signal::SIGKILL);
    }
}

/// The process's peak resident memory.
///
/// Linux counts what a process had before it became this program into `getrusage`, which is the memory of the run
/// that started it; its status file does not.
fn peak_rss_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kibibytes * 1024)
    }
    #[cfg(all(unix, not(target_os = "linux")))]
    {
        let usage =
            nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).ok()?;
        let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
        u64::try_from(usage.max_rss()).ok().map(|size| size * unit)
    }
    #[cfg(not(unix))]
    None
}
