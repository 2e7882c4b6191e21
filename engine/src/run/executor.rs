//! Where a worker process runs: what an executor is given and how an attempt ends.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::pause::Pause;
use crate::journal::Reason;
use crate::stage::Event;

/// One attempt at a stage.
#[derive(Debug)]
pub struct Task<'a> {
    /// The frozen job, as JSON.
    pub job: &'a Path,
    /// Takes the worker's stderr and log lines; appended to.
    pub log: &'a Path,
    /// Threads the worker may use.
    pub threads: usize,
    /// Stop the attempt after this long. Time in which the run is paused, or the worker waits for another one, does not
    /// count.
    pub timeout: Option<Duration>,
    /// Set when the run is interrupted.
    pub interrupted: &'a AtomicBool,
    /// Says when the worker has to stand still.
    pub pause: &'a Pause,
}

/// How an attempt ended, and how long it worked.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// How.
    pub end: End,
    /// Seconds of work, without pauses and waiting.
    pub seconds: f64,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The stage is done; [`crate::worker::done::Done`] says what came out.
    Done,
    /// The stage failed, for a reason of its own.
    Failed(String),
    /// The job is none that the worker can do. Another try would end alike.
    BadJob(String),
    /// The workspace cannot be read or written: the disk is full, say. No fault of the stage's.
    Store(String),
    /// It ran longer than its timeout.
    TimedOut(Duration),
    /// It was stopped because the run is interrupted.
    Interrupted,
    /// Somebody else asked its worker to stop.
    Stopped,
    /// Its worker was killed by this signal.
    Killed(i32),
    /// Its worker was killed when the system's memory ran out.
    OutOfMemory,
    /// Its worker ended without a result; the status in words.
    Vanished(String),
}

impl End {
    /// What is to be said of an attempt that failed: the reason as a word and in words, and whether another try may end
    /// otherwise. None for ends that are no failure of the stage's.
    pub(super) fn failure(&self) -> Option<(Reason, String, bool)> {
        let said = match self {
            Self::Done | Self::Store(_) | Self::Interrupted => return None,
            Self::Failed(message) => (Reason::Failed, message.clone(), true),
            Self::BadJob(message) => (Reason::BadJob, message.clone(), false),
            Self::TimedOut(timeout) => {
                let seconds = timeout.as_secs_f64();
                let message = format!("it was stopped after its timeout of {seconds} s");
                (Reason::TimedOut, message, true)
            }
            Self::Stopped => {
                let message = "its worker was stopped from outside".to_owned();
                (Reason::Stopped, message, true)
            }
            Self::Killed(signal) => {
                let hint = match signal {
                    9 => ": it may have run out of memory, or somebody ended it",
                    6 => ": it gave up, its log may say why",
                    7 | 11 => ": a fault of the program",
                    _ => "",
                };
                let message =
                    format!("its worker ended without a result (killed by signal {signal}{hint})");
                (Reason::Killed, message, true)
            }
            Self::OutOfMemory => {
                let message = "its worker was killed: the system ran out of memory".to_owned();
                (Reason::OutOfMemory, message, true)
            }
            Self::Vanished(status) => {
                let message = format!("its worker ended without a result ({status})");
                (Reason::NoResult, message, true)
            }
        };
        Some(said)
    }
}

/// Runs worker processes somewhere. Called from one thread per running stage.
pub trait Executor: Sync {
    /// Runs one attempt to its end and passes on what the worker says.
    ///
    /// # Errors
    /// If the worker cannot be started or heard.
    fn execute(&self, task: &Task<'_>, emit: &mut dyn FnMut(Event)) -> io::Result<Ended>;
}
