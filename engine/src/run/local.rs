//! Workers as child processes on this machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::ear::Ear;
use super::executor::{Attempt, End, Ended, Executor, Submitted, Task};
use super::lines;
use super::pause::{Clock, Entered};
use super::process::Group;
use crate::stage::Event;

/// How often a waiting executor looks at its clock and at the interrupt flag.
const TICK: Duration = Duration::from_millis(50);

/// How long to wait, in all, for what a worker said before it ended. Longer than it takes on a busy machine: it is spent
/// only where a process that the worker left behind holds its stdout open.
const LAST_WORDS: Duration = Duration::from_secs(3);

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

/// Runs workers as child processes on this machine.
#[derive(Clone, Debug)]
pub struct LocalExecutor {
    /// The command that is a worker.
    pub worker: WorkerCommand,
    /// How long a worker may take to end after it was asked to.
    pub grace: Duration,
}

impl Executor for LocalExecutor {
    fn submit<'t>(&'t self, task: &'t Task<'t>) -> io::Result<Submitted<'t>> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(task.log)?;
        let watch = Watch::new(task, self.grace);
        let mut group = self.spawn(task, &log)?;
        let heard = lines::listen(group.stdout().ok_or(io::ErrorKind::BrokenPipe)?)?;
        Ok(Ok(Box::new(Child {
            watch,
            group,
            heard,
            log,
        })))
    }
}

/// A worker that is a child of this process.
struct Child<'t> {
    watch: Watch<'t>,
    group: Group,
    heard: Receiver<Vec<u8>>,
    log: File,
}

impl Attempt for Child<'_> {
    fn wait(mut self: Box<Self>, emit: &mut dyn FnMut(Event)) -> io::Result<Ended> {
        let mut ear = Ear {
            log: &mut self.log,
            emit,
            last: None,
            waits: false,
        };
        let status = self
            .watch
            .until_end(&mut self.group, &self.heard, &mut ear)?;
        self.watch.hear_last_words(&self.heard, &mut ear)?;
        let last = ear.last;
        let ended = Ended {
            end: self.watch.judge(last.as_ref(), status),
            seconds: self.watch.worked().as_secs_f64(),
        };
        if let Some((_, message, _)) = ended.end.failure() {
            writeln!(self.log, "{message}")?;
        }
        Ok(ended)
    }
}

impl LocalExecutor {
    fn spawn(&self, task: &Task<'_>, log: &File) -> io::Result<Group> {
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
        Group::spawn(&mut command).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "cannot start the worker {}: {error}",
                    self.worker.program.display()
                ),
            )
        })
    }
}

/// Watches the clock and the flags of one attempt.
struct Watch<'a> {
    task: &'a Task<'a>,
    grace: Duration,
    /// Counts worker and pause.
    entered: Entered<'a>,
    /// Stands still while the run does.
    clock: Clock,
    /// How much of the clock's time the worker has waited for another one.
    waited: Duration,
    looked: Duration,
    stopping: Option<(Duration, Why)>,
    /// Processes that the system has killed for want of memory, when the attempt began.
    killed_before: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Why {
    Interrupted,
    TimedOut,
}

impl<'a> Watch<'a> {
    fn new(task: &'a Task<'a>, grace: Duration) -> Self {
        Self {
            task,
            grace,
            entered: task.pause.enter(),
            clock: Clock::start(),
            waited: Duration::ZERO,
            looked: Duration::ZERO,
            stopping: None,
            killed_before: killed_for_memory(),
        }
    }

    /// Hears what the worker says until it has ended.
    fn until_end(
        &mut self,
        group: &mut Group,
        heard: &Receiver<Vec<u8>>,
        ear: &mut Ear<'_>,
    ) -> io::Result<ExitStatus> {
        let mut looked = Instant::now();
        loop {
            let line = heard.recv_timeout(TICK);
            match &line {
                Ok(line) => ear.hear(line)?,
                // It has closed its stdout and will end.
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            // A worker that talks all the time is watched all the same.
            if line.is_err() || looked.elapsed() >= TICK {
                looked = Instant::now();
                if let Some(status) = self.look(group, ear.waits)? {
                    return Ok(status);
                }
            }
        }
    }

    /// What the worker said last may still be on its way. A process that it left behind may hold its stdout open, and
    /// may even talk: there is one deadline for all of it.
    fn hear_last_words(&self, heard: &Receiver<Vec<u8>>, ear: &mut Ear<'_>) -> io::Result<()> {
        let ended = Instant::now();
        while ear.last.is_none() && !self.task.interrupted.load(Ordering::Relaxed) {
            let Some(left) = LAST_WORDS.checked_sub(ended.elapsed()) else {
                break;
            };
            match heard.recv_timeout(left.min(TICK)) {
                Ok(line) => ear.hear(&line)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Ok(())
    }

    /// The worker's status if it has ended; else stops it, or makes it stand still, if it is time to.
    fn look(&mut self, group: &mut Group, waits: bool) -> io::Result<Option<ExitStatus>> {
        if let Some(status) = group.poll()? {
            return Ok(Some(status));
        }
        if let Some(still) = self.entered.change() {
            group.hold(still);
            self.clock.run(!still);
            self.entered.set(still);
        }
        let now = self.clock.elapsed();
        if waits {
            self.waited += now.saturating_sub(self.looked);
        }
        self.looked = now;
        match self.stopping {
            Some((since, _)) if now.saturating_sub(since) >= self.grace => group.kill(),
            Some(_) => {}
            None => {
                if let Some(why) = self.due() {
                    group.terminate();
                    self.stopping = Some((now, why));
                }
            }
        }
        Ok(None)
    }

    fn due(&self) -> Option<Why> {
        if self.entered.is_still() {
            return None;
        }
        if self.task.interrupted.load(Ordering::Relaxed) {
            return Some(Why::Interrupted);
        }
        let late = self
            .task
            .timeout
            .is_some_and(|timeout| self.worked() >= timeout);
        late.then_some(Why::TimedOut)
    }

    fn worked(&self) -> Duration {
        self.clock.elapsed().saturating_sub(self.waited)
    }

    /// The exit code says what the end was, the last event why.
    fn judge(&self, last: Option<&Event>, status: ExitStatus) -> End {
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        match (self.stopping.map(|(_, why)| why), End::of_exit(code, last)) {
            // Also when it was to save its state: that it could not has to be said.
            (_, Some(end @ (End::Done | End::Store(_)))) => end,
            (Some(Why::TimedOut), _) => End::TimedOut(self.task.timeout.unwrap_or_default()),
            (Some(Why::Interrupted), _) => End::Interrupted,
            (None, Some(end)) => end,
            (None, None) => self.died(status),
        }
    }

    fn died(&self, status: ExitStatus) -> End {
        #[cfg(unix)]
        if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
            let killed = (killed_for_memory(), self.killed_before);
            return match killed {
                (Some(now), Some(before)) if signal == 9 && now > before => End::OutOfMemory,
                _ => End::Killed(signal),
            };
        }
        End::Vanished(status.to_string())
    }
}

/// How many processes the system has killed because memory ran out; none where it does not tell.
fn killed_for_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/vmstat").ok()?;
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    count.trim().parse().ok()
}
