//! Whose turn it is in a workspace: one worker at a time, whichever run started it.
//!
//! The lock of a key ends with the run that holds it. A worker of that run may live a little longer, to save its state,
//! or much longer, as a job on another host. Its turn ends with the worker: a lock of the operating system's, and a lease
//! where that does not reach.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dcsft_cache::{Lease, file};

/// How often whoever waits looks again, and how often it says that it waits.
const LOOK: Duration = Duration::from_millis(50);
const SAY: Duration = Duration::from_secs(60);

/// The workspace is one's own for as long as this lives.
#[derive(Debug)]
#[must_use = "the turn is over when this is dropped"]
pub(crate) struct Turn {
    lease: Lease,
    lock: Lock,
}

impl Turn {
    /// Names what belongs to this turn alone.
    pub(crate) fn id(&self) -> &str {
        self.lease.id()
    }

    /// Whether it is still one's turn: nobody on another host took this one for dead.
    pub(crate) fn is_held(&self) -> bool {
        self.lease.is_held()
    }
}

#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Explicitly: a child that was just forked has a copy of the file until it becomes another program.
        let _ = self.0.unlock();
    }
}

/// Waits until no other process has the workspace. `say` is told whom it waits for and for how many seconds it has, at
/// once and then seldom. None if `interrupted`.
///
/// # Errors
/// If the lock's file cannot be used.
pub(crate) fn wait(
    workspace: &Path,
    interrupted: &AtomicBool,
    mut say: impl FnMut(String, f64),
) -> io::Result<Option<Turn>> {
    let mut file = file::open_or_create(&workspace.join("worker.lock"))?;
    let began = Instant::now();
    let mut said: Option<Instant> = None;
    loop {
        let who = match file.try_lock() {
            Ok(()) => match Lease::take(&workspace.join("worker.lease"), "a worker")? {
                Ok(lease) => {
                    let lock = Lock(file);
                    return Ok(Some(Turn { lease, lock }));
                }
                Err(who) => {
                    file.unlock()?;
                    Some(who)
                }
            },
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => None,
        };
        if interrupted.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if said.is_none_or(|said| said.elapsed() >= SAY) {
            said = Some(Instant::now());
            say(
                who.unwrap_or_else(|| holder(&mut file)),
                began.elapsed().as_secs_f64(),
            );
        }
        std::thread::sleep(LOOK);
    }
}

impl Turn {
    /// Says in the lock's file whose turn it is, for those who wait. Only words.
    pub(crate) fn sign(&mut self) {
        let file = &mut self.lock.0;
        let _ = file
            .rewind()
            .and_then(|()| file.set_len(0))
            .and_then(|()| write!(file, "{}", std::process::id()));
    }
}

/// Who has the workspace: `process 4711, the worker of a run that has died; it is stopped`.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let pid = file
        .rewind()
        .and_then(|()| file.read_to_string(&mut text))
        .ok()
        .and_then(|_| text.trim().parse::<u32>().ok());
    match pid {
        Some(pid) => format!(
            "process {pid}, the worker of a run that has died{}",
            activity(pid)
        ),
        None => "the worker of a run that has died".to_owned(),
    }
}

/// What keeps a process from ending, where the system tells.
fn activity(pid: u32) -> &'static str {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything.
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next());
    match state {
        Some('T' | 't') => "; it is stopped: kill -CONT lets it go on, kill -KILL ends it",
        Some('D') => "; it waits for a disk or a device",
        _ => "; it saves its state",
    }
}
