//! Where a worker process runs. Here: on this machine, as a child of the run.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::process;
use crate::protocol::Event;

/// How often a waiting executor looks at its clock and at the interrupt flag.
const TICK: Duration = Duration::from_millis(50);

/// How long to wait for what a worker said before it ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The command that is a worker: the path of a job file is appended to its arguments.
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    /// The program; normally the running binary itself.
    pub program: PathBuf,
    /// Its arguments before the job file: `["worker"]`.
    pub args: Vec<String>,
    /// Environment variables beside the inherited ones.
    pub env: Vec<(String, String)>,
}

/// One attempt at a stage.
#[derive(Debug)]
pub struct Task<'a> {
    /// The frozen job, as JSON.
    pub job: &'a Path,
    /// Takes the worker's stderr and log lines; appended to.
    pub log: &'a Path,
    /// Threads the worker may use.
    pub threads: usize,
    /// Stop the attempt after this long.
    pub timeout: Option<Duration>,
    /// Set when the run is interrupted.
    pub interrupted: &'a AtomicBool,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The outputs are written.
    Done {
        /// The stage's summary.
        summary: Value,
        /// The worker's peak memory.
        peak_rss_bytes: Option<u64>,
        /// Seconds of work that relatives have spared it.
        saved_seconds: f64,
    },
    /// The stage failed, or the worker died without a word.
    Failed(String),
    /// It was stopped because the run is interrupted.
    Interrupted,
}

/// Runs worker processes somewhere. Called from one thread per running stage.
pub trait Executor: Sync {
    /// Runs one attempt to its end and passes on what the worker says.
    ///
    /// # Errors
    /// If the worker cannot be started or heard.
    fn execute(&self, task: &Task<'_>, emit: &mut dyn FnMut(Event)) -> io::Result<End>;
}

/// Runs workers as child processes on this machine.
#[derive(Clone, Debug)]
pub struct LocalExecutor {
    /// The command that is a worker.
    pub worker: WorkerCommand,
    /// How long a worker may take to end after it was asked to.
    pub grace: Duration,
}

impl Executor for LocalExecutor {
    fn execute(&self, task: &Task<'_>, emit: &mut dyn FnMut(Event)) -> io::Result<End> {
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(task.log)?;
        let mut worker = self.spawn(task, &log)?;
        let lines = read_lines(worker.child.stdout.take());
        let mut ear = Ear {
            log: &mut log,
            emit,
            last: None,
        };
        let mut watch = Watch::new(task, self.grace);
        let status = loop {
            let heard = lines.recv_timeout(TICK);
            match &heard {
                Ok(line) => ear.hear(line)?,
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(1)),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // A worker that talks all the time is watched all the same.
            if (heard.is_err() || watch.is_time())
                && let Some(status) = watch.wait(&mut worker.child)?
            {
                break status;
            }
        };
        // What it said last may still be on its way; a process that it left behind may hold its stdout open.
        while ear.last.is_none()
            && let Ok(line) = lines.recv_timeout(LAST_WORDS)
        {
            ear.hear(&line)?;
        }
        let last = ear.last;
        let end = watch.judge(last, status);
        if let End::Failed(message) = &end {
            writeln!(log, "{message}")?;
        }
        Ok(end)
    }
}

impl LocalExecutor {
    fn spawn(&self, task: &Task<'_>, log: &File) -> io::Result<Worker> {
        let mut command = Command::new(&self.worker.program);
        command
            .args(&self.worker.args)
            .arg(task.job)
            .env("RAYON_NUM_THREADS", task.threads.to_string())
            .envs(self.worker.env.iter().map(|(name, value)| (name, value)))
            // Stays open as long as the run lives: its end tells the worker that the run has died.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log.try_clone()?));
        process::own_group(&mut command);
        let child = command.spawn().map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "cannot start the worker {}: {error}",
                    self.worker.program.display()
                ),
            )
        })?;
        Ok(Worker { child })
    }
}

/// A child that does not outlive the attempt, whichever way that ends.
struct Worker {
    child: Child,
}

impl Drop for Worker {
    fn drop(&mut self) {
        process::kill(&mut self.child);
        let _ = self.child.wait();
    }
}

fn read_lines(stdout: Option<ChildStdout>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let Some(stdout) = stdout else { return };
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            if sender.send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Takes what a worker says.
struct Ear<'a> {
    log: &'a mut File,
    emit: &'a mut dyn FnMut(Event),
    /// The event that says how the attempt ended.
    last: Option<Event>,
}

impl Ear<'_> {
    fn hear(&mut self, line: &[u8]) -> io::Result<()> {
        match parse(line) {
            Ok(event @ (Event::Progress(_) | Event::Used(_))) => (self.emit)(event),
            Ok(Event::Log { message }) => {
                writeln!(self.log, "{message}")?;
                (self.emit)(Event::Log { message });
            }
            Ok(Event::Warning { message }) => {
                writeln!(self.log, "warning: {message}")?;
                (self.emit)(Event::Warning { message });
            }
            Ok(end) => self.last = Some(end),
            Err(text) if text.trim().is_empty() => {}
            Err(text) => writeln!(self.log, "{text}")?,
        }
        Ok(())
    }
}

/// An event, or the text of a line that is none: something inside the stage printed.
fn parse(line: &[u8]) -> Result<Event, String> {
    serde_json::from_slice(line).map_err(|_| String::from_utf8_lossy(line).trim_end().to_owned())
}

/// Watches the clock and the interrupt flag of one attempt.
struct Watch<'a> {
    started: Instant,
    timeout: Option<Duration>,
    interrupted: &'a AtomicBool,
    grace: Duration,
    stopping: Option<(Instant, Why)>,
    looked: Instant,
}

#[derive(Clone, Copy, PartialEq)]
enum Why {
    Interrupted,
    TimedOut,
}

impl<'a> Watch<'a> {
    fn new(task: &Task<'a>, grace: Duration) -> Self {
        Self {
            started: Instant::now(),
            timeout: task.timeout,
            interrupted: task.interrupted,
            grace,
            stopping: None,
            looked: Instant::now(),
        }
    }

    /// Whether the last look is long enough ago.
    fn is_time(&self) -> bool {
        self.looked.elapsed() >= TICK
    }

    /// The child's status if it has ended; else stops it if it is time to.
    fn wait(&mut self, child: &mut Child) -> io::Result<Option<ExitStatus>> {
        self.looked = Instant::now();
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        match self.stopping {
            Some((since, _)) if since.elapsed() >= self.grace => process::kill(child),
            Some(_) => {}
            None => {
                if let Some(why) = self.due() {
                    process::terminate(child);
                    self.stopping = Some((Instant::now(), why));
                }
            }
        }
        Ok(None)
    }

    fn due(&self) -> Option<Why> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Some(Why::Interrupted);
        }
        let late = self
            .timeout
            .is_some_and(|timeout| self.started.elapsed() >= timeout);
        late.then_some(Why::TimedOut)
    }

    fn judge(&self, last: Option<Event>, status: ExitStatus) -> End {
        let why = self.stopping.map(|(_, why)| why);
        match last {
            Some(Event::Done {
                summary,
                peak_rss_bytes,
                saved_seconds,
            }) if status.success() => End::Done {
                summary,
                peak_rss_bytes,
                saved_seconds,
            },
            _ if why == Some(Why::TimedOut) => {
                let seconds = self.timeout.unwrap_or_default().as_secs_f64();
                End::Failed(format!("it was stopped after its timeout of {seconds} s"))
            }
            _ if why == Some(Why::Interrupted) => End::Interrupted,
            Some(Event::Failed { message }) => End::Failed(message),
            Some(Event::Interrupted) => {
                End::Failed("its worker was stopped from outside".to_owned())
            }
            _ => End::Failed(format!(
                "its worker ended without a result ({})",
                describe(status)
            )),
        }
    }
}

fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let hint = if signal == 9 {
            ": it may have run out of memory"
        } else {
            ""
        };
        return format!("killed by signal {signal}{hint}");
    }
    status.to_string()
}
