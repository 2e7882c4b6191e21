//! Where a worker process runs: what an executor is given and how an attempt ends.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::admission::Admission;
use super::machine::Machine;
use super::options::RunOptions;
use super::pause::Pause;
use crate::journal::Reason;
use crate::stage::Event;
use crate::study::Resources;
use crate::worker;

/// One attempt at a stage.
#[derive(Debug)]
pub struct Task<'a> {
    /// The stage's name in the spec.
    pub stage: &'a str,
    /// What it asks for.
    pub resources: &'a Resources,
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

impl Task<'_> {
    /// The folder that the attempt works in.
    pub(super) fn workspace(&self) -> &Path {
        self.job.parent().unwrap_or(self.job)
    }
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
    /// A batch system ended it at the time limit that it had there.
    TimeLimit,
    /// It was lost through no fault of its own: its node failed, say. It runs again, and that is not counted.
    Lost(String),
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
            Self::TimeLimit => {
                let message = "its job ran into its time limit on the cluster; `resources: {time: ...}` sets it";
                (Reason::TimedOut, message.to_owned(), true)
            }
            Self::Lost(how) => (Reason::Lost, format!("its job was lost: {how}"), true),
            Self::Vanished(status) => {
                let message = format!("its worker ended without a result ({status})");
                (Reason::NoResult, message, true)
            }
        };
        Some(said)
    }

    /// What a worker's exit code says, and its last event; none for codes that are not a worker's.
    pub(super) fn of_exit(code: Option<u8>, last: Option<&Event>) -> Option<Self> {
        let message = || match last {
            Some(Event::Failed { message }) => Some(message.clone()),
            _ => None,
        };
        match code? {
            worker::EXIT_DONE => Some(Self::Done),
            worker::EXIT_STORE => message().map(Self::Store),
            worker::EXIT_BAD_JOB => message().map(Self::BadJob),
            worker::EXIT_FAILED => message().map(Self::Failed),
            worker::EXIT_INTERRUPTED => {
                (last == Some(&Event::Interrupted)).then_some(Self::Stopped)
            }
            _ => None,
        }
    }
}

/// Runs worker processes somewhere. Called from one thread per running stage.
pub trait Executor: Sync {
    /// What a run has to share out that computes on `device`, if its options name no devices.
    fn admission(&self, options: &RunOptions, device: &str) -> Box<dyn Admission> {
        Box::new(Machine::new(options, device))
    }

    /// Whether workers run on other machines: their outputs are nearer to the cache there, and what they say comes late.
    fn is_elsewhere(&self) -> bool {
        false
    }

    /// Has a worker begin the attempt, now or as soon as there is room for it.
    ///
    /// # Errors
    /// If the worker cannot be started.
    fn submit<'t>(&'t self, task: &'t Task<'t>) -> io::Result<Submitted<'t>>;

    /// Whether a job for this workspace was submitted by an earlier run and not seen to its end.
    fn has_job(&self, _workspace: &Path) -> bool {
        false
    }

    /// The job that an earlier run has submitted for the task's workspace, and that goes on; none if there is none any
    /// more.
    ///
    /// # Errors
    /// If it cannot be heard.
    fn adopt<'t>(&'t self, _task: &'t Task<'t>) -> io::Result<Option<Box<dyn Attempt + 't>>> {
        Ok(None)
    }

    /// Ends the jobs of these workspaces that no run follows any more. In words, which these were.
    ///
    /// # Errors
    /// If they cannot be ended.
    fn cancel(&self, _workspaces: &[PathBuf]) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// What became of a submission: an attempt that works, or waits to; or how it ended before it began.
pub type Submitted<'t> = Result<Box<dyn Attempt + 't>, End>;

/// An attempt that was submitted.
pub trait Attempt {
    /// Waits for its end, which comes soon once the run is interrupted, and passes on what the worker says. However many
    /// attempts are waited for, whoever knows their states is asked once for all.
    ///
    /// # Errors
    /// If the worker cannot be heard.
    fn wait(self: Box<Self>, emit: &mut dyn FnMut(Event)) -> io::Result<Ended>;
}

/// Has the executor begin the attempt, or take up the one that an earlier run has submitted, and waits for its end.
pub(super) fn run_to_end(
    executor: &dyn Executor,
    task: &Task<'_>,
    adopt: bool,
    emit: &mut dyn FnMut(Event),
) -> io::Result<Ended> {
    let adopted = match adopt {
        true => executor.adopt(task)?,
        false => None,
    };
    let submitted = match adopted {
        Some(attempt) => Ok(attempt),
        None => executor.submit(task)?,
    };
    match submitted {
        Ok(attempt) => attempt.wait(emit),
        Err(end) => Ok(Ended { end, seconds: 0.0 }),
    }
}
