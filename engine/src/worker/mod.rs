//! The worker process: one frozen job in, events on stdout, nothing planned.

pub mod done;
mod publish;
pub(crate) mod spent;
pub(crate) mod turn;

use std::any::Any;
use std::fs;
use std::io::{self, Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dcsft_cache::StoreError;

use crate::stage::usage::Meter;
use crate::stage::{ContextParts, Cost, Event, Job, Kind, Registry, StageContext, StageError};

use done::Done;
use turn::Turn;

/// The worker did its job, and [`Done`] says what came out.
pub const EXIT_DONE: u8 = 0;
/// The stage failed.
pub const EXIT_FAILED: u8 = 1;
/// The job is not one that this worker can do.
pub const EXIT_BAD_JOB: u8 = 2;
/// The workspace cannot be read or written: the disk is full, say. No fault of the stage's.
pub const EXIT_STORE: u8 = 3;
/// The stage was interrupted.
pub const EXIT_INTERRUPTED: u8 = 130;

/// How long a worker may go on, to save its state, once the run that started it has died. It ends as soon as the state
/// is saved; meanwhile a new run waits for it.
pub const ORPHAN_GRACE: Duration = Duration::from_secs(300);

/// Longest message that a worker sends, in bytes; what is longer is cut.
pub const MAX_MESSAGE: usize = 16 << 10;

/// Where events go instead of stdout.
static EVENTS: OnceLock<fs::File> = OnceLock::new();

/// Why there is no result.
enum Trouble {
    Stage(StageError),
    Store(String),
}

impl From<StageError> for Trouble {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Io { path, source } if is_of_the_disk(&source) => {
                Self::Store(format!("{}: {source}", path.display()))
            }
            error => Self::Stage(error),
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        if is_of_the_output(&error) {
            Self::Stage(StageError::failed(error))
        } else {
            Self::Store(error.to_string())
        }
    }
}

/// Whether an error says that the disk takes nothing more, whoever writes.
fn is_of_the_disk(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// Whether the store refuses what a stage has written, and would refuse it anywhere.
pub(crate) fn is_of_the_output(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unsupported { .. } | StoreError::BadName { .. } | StoreError::Changed { .. }
    )
}

/// Runs the job in the file `job`. Returns the process's exit code.
///
/// `interrupted` is set by the binary's signal handler. What the worker says goes to stdout, and the end of stdin means
/// that the run that started it has died, so it ends too. With a file for `events`, it is nobody's child: it says
/// everything there, and goes on whatever becomes of the run.
pub fn main(
    job: &Path,
    registry: &Registry,
    interrupted: &Arc<AtomicBool>,
    events: Option<&Path>,
) -> u8 {
    if let Some(path) = events {
        match fs::OpenOptions::new().create(true).append(true).open(path) {
            Ok(file) => drop(EVENTS.set(file)),
            Err(error) => return refuse(&format!("{}: {error}", path.display())),
        }
    } else {
        let interrupted = Arc::clone(interrupted);
        let watch = std::thread::Builder::new().spawn(move || end_with_parent(&interrupted));
        if let Err(error) = watch {
            return refuse(&format!(
                "the worker cannot start a thread ({error}): raise the limit on processes (ulimit -u)"
            ));
        }
    }
    let (job, kind) = match read(job, registry) {
        Ok(read) => read,
        Err(message) => {
            fail(&message);
            return EXIT_BAD_JOB;
        }
    };
    let meter = Meter::start();
    let ended = run(job, kind, interrupted, &meter);
    emit(&Event::Used(match &ended {
        Ok(done) => done.usage.clone(),
        Err(_) => meter.stop(Cost::default().cpu_seconds),
    }));
    match ended {
        Ok(_) => {
            emit(&Event::Done);
            EXIT_DONE
        }
        Err(Trouble::Stage(StageError::Interrupted)) => {
            emit(&Event::Interrupted);
            EXIT_INTERRUPTED
        }
        Err(Trouble::Stage(error)) => {
            fail(&error.to_string());
            EXIT_FAILED
        }
        Err(Trouble::Store(message)) => {
            fail(&message);
            EXIT_STORE
        }
    }
}

/// Says why a worker could not even begin, and gives the exit code for that.
pub fn refuse(message: &str) -> u8 {
    fail(message);
    EXIT_FAILED
}

fn fail(message: &str) {
    emit(&Event::Failed {
        message: message.to_owned(),
    });
}

fn read<'a>(path: &Path, registry: &'a Registry) -> Result<(Job, &'a dyn Kind), String> {
    let text = dcsft_cache::file::bytes(path)
        .map_err(|error| format!("the job {}: {error}", path.display()))?;
    let job: Job = serde_json::from_slice(&text)
        .map_err(|error| format!("the job {}: {error}", path.display()))?;
    let kind = registry
        .get(&job.kind)
        .ok_or_else(|| format!("this binary has no stage kind `{}`", job.kind))?;
    if kind.decl().version != job.version {
        return Err(format!(
            "the job was planned for version {} of `{}`, and this binary has version {}: run again",
            job.version,
            job.kind,
            kind.decl().version
        ));
    }
    Ok((job, kind))
}

/// Runs the stage and writes down what came out.
fn run(
    job: Job,
    kind: &dyn Kind,
    interrupted: &Arc<AtomicBool>,
    meter: &Meter,
) -> Result<Done, Trouble> {
    let Job {
        key,
        attempt,
        program,
        params,
        inputs,
        outputs,
        state,
        device,
        accelerators,
        threads,
        relatives,
        publish,
        shard,
        parts,
        ..
    } = job;
    let of_the_workspace =
        |error: io::Error| Trouble::Store(format!("{}: {error}", outputs.display()));
    let workspace = state.parent().unwrap_or(&state).to_owned();
    fs::create_dir_all(&state).map_err(of_the_workspace)?;
    let turn = own_workspace(&workspace, interrupted)?;
    spent::begin(&workspace, &state);
    let (started, began) = (SystemTime::now(), Instant::now());
    // What an earlier attempt wrote is not this attempt's output.
    Done::remove(&workspace).map_err(of_the_workspace)?;
    match fs::remove_dir_all(&outputs) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(of_the_workspace(error));
        }
        _ => {}
    }
    let own = outputs.join(turn.id());
    fs::create_dir_all(&own).map_err(of_the_workspace)?;
    let mut ctx = StageContext::new(ContextParts {
        inputs,
        outputs: own.clone(),
        state,
        device: device.clone(),
        accelerators,
        threads,
        interrupted: Arc::clone(interrupted),
        emit: Box::new(|event| emit(&event)),
        relatives,
        shard,
        parts,
    });
    catch(|| kind.run(&params.value(), &mut ctx))?;
    let saved = ctx.saved();
    let done = Done {
        format: done::FORMAT,
        key,
        folder: turn.id().to_owned(),
        outputs: done::seal_outputs(&own)?,
        summary: ctx.into_summary().to_value(),
        usage: meter.stop(saved.cpu_seconds),
        program,
        peak_rss_bytes: peak_rss_bytes(),
        saved_seconds: saved.seconds,
        started_unix_nanos: started
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|age| u64::try_from(age.as_nanos()).ok())
            .unwrap_or(0),
        seconds: began.elapsed().as_secs_f64(),
        device,
        threads,
        attempt,
    };
    // Whoever has the workspace now writes its own.
    if !turn.is_held() {
        let lost = "it was taken for dead by another host, which has its workspace now";
        return Err(Trouble::Stage(StageError::failed(lost)));
    }
    done.write(&workspace)?;
    if let Some(cache) = publish
        && let Err(error) = publish::all(&cache, (&workspace, &own), &done, &turn)
    {
        let message = format!("the run is left to store the outputs: {error}");
        emit(&Event::Log { message });
    }
    Ok(done)
}

/// Waits until a worker of a run that died has left the workspace, and says so.
fn own_workspace(workspace: &Path, interrupted: &AtomicBool) -> Result<Turn, Trouble> {
    let mut waited = false;
    let turn = turn::wait(workspace, interrupted, |holder, seconds| {
        waited = true;
        emit(&Event::Waits { holder, seconds });
    });
    let turn = turn.map_err(|error| Trouble::Store(format!("{}: {error}", workspace.display())))?;
    let Some(mut turn) = turn else {
        return Err(Trouble::Stage(StageError::Interrupted));
    };
    turn.sign();
    if waited {
        emit(&Event::Log {
            message: "the workspace is free: the stage begins".to_owned(),
        });
    }
    Ok(turn)
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
    let event = match event {
        Event::Log { message } if message.len() > MAX_MESSAGE => &Event::Log {
            message: cut(message),
        },
        Event::Warning { message } if message.len() > MAX_MESSAGE => &Event::Warning {
            message: cut(message),
        },
        Event::Failed { message } if message.len() > MAX_MESSAGE => &Event::Failed {
            message: cut(message),
        },
        event => event,
    };
    if let Ok(mut line) = serde_json::to_vec(event) {
        line.push(b'\n');
        if let Some(mut file) = EVENTS.get() {
            let _ = file.write_all(&line);
            return;
        }
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(&line).and_then(|()| stdout.flush());
    }
}

/// The first [`MAX_MESSAGE`] bytes of a message, and how much was left out.
fn cut(message: &str) -> String {
    let mut end = MAX_MESSAGE;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!(
        "{} ... ({} bytes more)",
        &message[..end],
        message.len() - end
    )
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
