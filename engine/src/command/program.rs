//! The process of a command, from its start to the end of whatever it leaves behind.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::json;

use super::environment::{self, MARK, Told};
use super::fill::Places;
use super::heard::{Events, hear};
use super::params::Program;
use crate::lines;
use crate::stage::{StageContext, StageError};

/// How often a waiting worker looks at its program and at the interrupt flag.
const TICK: Duration = Duration::from_millis(50);
/// How long processes that the program leaves behind may take to end by themselves.
const LEFT_BEHIND: Duration = Duration::from_secs(2);
/// How long to hear what is still on its way once all of them have ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs the program in the folder `work` to its end.
///
/// # Errors
/// If it cannot be started or ends badly, and [`StageError::Interrupted`].
pub(super) fn run(
    program: &Program,
    places: &Places,
    work: &Path,
    ctx: &mut StageContext,
) -> Result<(), StageError> {
    let state = ctx.state().join("kept");
    fs::create_dir_all(&state).map_err(StageError::io(&state))?;
    let job = ctx.state().join("job.json");
    let told = json!({
        "inputs": places.inputs,
        "outputs": places.outputs,
        "state": state,
        "device": environment::device(ctx),
        "threads": ctx.threads(),
    });
    fs::write(&job, told.to_string()).map_err(StageError::io(&job))?;
    let events_path = ctx.state().join("events.jsonl");
    let mut events = Events::create(&events_path).map_err(StageError::io(&events_path))?;
    let mark = mark();
    let told = Told {
        job: &job,
        events: &events_path,
        state: &state,
        mark: &mark,
    };
    let variables = environment::variables(&program.env, &program.pass_env, places, &told, ctx)
        .map_err(StageError::failed)?;
    let mut command = command(program, places, work).map_err(StageError::failed)?;
    command
        .env_clear()
        .envs(variables)
        .current_dir(work)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut child = command
        .spawn()
        .map_err(|error| StageError::failed(cannot_start(&command, &error)))?;
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| StageError::failed("the program has no stdout to be heard on"))?;
    let heard = lines::listen(stdout).map_err(|error| {
        StageError::failed(format!("the worker cannot start a thread: {error}"))
    })?;
    let mut watch = Watch {
        child,
        heard,
        events: &mut events,
        asked_to_end: false,
    };
    let status = watch.until_end(ctx)?;
    let interrupted = watch.asked_to_end || ctx.interrupted();
    watch.end_what_is_left(&mark, ctx);
    if interrupted {
        return Err(StageError::Interrupted);
    }
    judge(program, status)
}

/// The command with its arguments filled in.
fn command(program: &Program, places: &Places, work: &Path) -> Result<Command, String> {
    if let Some(script) = &program.shell {
        let mut command = Command::new("sh");
        command.args(["-eu", "-c"]).arg(places.script(script)?);
        return Ok(command);
    }
    let mut words = Vec::new();
    for argument in program.argv.iter().flatten() {
        words.extend(places.argument(argument)?);
    }
    let mut words = words.into_iter();
    let name = words.next().ok_or("there is no program to start")?;
    // A name without a slash is looked for on the PATH, any other in the working folder.
    let mut command = if name.contains('/') {
        Command::new(work.join(name))
    } else {
        Command::new(name)
    };
    command.args(words);
    Ok(command)
}

/// Why a program does not start.
pub(super) fn cannot_start(command: &Command, error: &io::Error) -> String {
    let name = command.get_program().to_string_lossy();
    let hint = match error.kind() {
        io::ErrorKind::NotFound if name.contains('/') => {
            ": a script of your own has to be listed in `files:`, and its first line has to name a program that is there"
        }
        io::ErrorKind::NotFound => ": no folder of PATH has it",
        io::ErrorKind::PermissionDenied => ": it is no program, or not marked as one (chmod +x)",
        _ => "",
    };
    format!("`{name}` cannot be started: {error}{hint}")
}

struct Watch<'a> {
    child: Child,
    heard: Receiver<Vec<u8>>,
    events: &'a mut Events,
    asked_to_end: bool,
}

impl Watch<'_> {
    /// Hears what the program says until it has ended.
    fn until_end(&mut self, ctx: &mut StageContext) -> Result<ExitStatus, StageError> {
        let mut looked = Instant::now();
        loop {
            let silent = match self.heard.recv_timeout(TICK) {
                Ok(line) => {
                    hear(&line, ctx);
                    false
                }
                // It has closed its stdout and may go on.
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(Duration::from_millis(5));
                    true
                }
                Err(RecvTimeoutError::Timeout) => true,
            };
            if !silent && looked.elapsed() < TICK {
                continue;
            }
            looked = Instant::now();
            self.events.hear(ctx, false);
            let status = self.child.try_wait().map_err(|error| {
                StageError::failed(format!("the program cannot be waited for: {error}"))
            })?;
            if let Some(status) = status {
                return Ok(status);
            }
            if ctx.interrupted() && !self.asked_to_end {
                self.asked_to_end = true;
                terminate(self.child.id());
            }
        }
    }

    /// Waits a little for processes that the program has left behind, ends them, and hears the last of it.
    fn end_what_is_left(&mut self, mark: &str, ctx: &mut StageContext) {
        let ended = Instant::now();
        let mut left = marked(mark);
        while !left.is_empty() && ended.elapsed() < LEFT_BEHIND && !ctx.interrupted() {
            if !self.drain(TICK, ctx) {
                std::thread::sleep(TICK);
            }
            left = marked(mark);
        }
        if !left.is_empty() {
            let mut names: Vec<&str> = left.iter().map(|(_, name)| name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            if !ctx.interrupted() {
                ctx.warn(format!(
                    "the program ended and left processes behind, which were ended: {}",
                    names.join(", ")
                ));
            }
            // One that is about to start another may do so in between.
            let began = Instant::now();
            while !left.is_empty() && began.elapsed() < LAST_WORDS {
                left.iter().for_each(|(pid, _)| kill(*pid));
                self.drain(Duration::from_millis(10), ctx);
                left = marked(mark);
            }
        }
        let began = Instant::now();
        while began.elapsed() < LAST_WORDS && self.drain(TICK, ctx) {}
        self.events.hear(ctx, true);
    }

    /// Hears lines until none comes for `pause`; false once there is nobody left to say one.
    fn drain(&mut self, pause: Duration, ctx: &mut StageContext) -> bool {
        let began = Instant::now();
        loop {
            match self.heard.recv_timeout(pause) {
                Ok(line) => hear(&line, ctx),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            // It may talk without end.
            if began.elapsed() > LAST_WORDS {
                return true;
            }
        }
    }
}

/// Whether the program ended well.
fn judge(program: &Program, status: ExitStatus) -> Result<(), StageError> {
    let title = program.title();
    if let Some(code) = status.code() {
        let ok = u8::try_from(code).is_ok_and(|code| program.ok_exit_codes.contains(&code));
        if ok {
            return Ok(());
        }
        let wanted: Vec<String> = program.ok_exit_codes.iter().map(u8::to_string).collect();
        return Err(StageError::failed(format!(
            "`{title}` ended with exit code {code}, not {}",
            wanted.join(" or ")
        )));
    }
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let hint = if signal == 9 {
            ": it may have run out of memory, or somebody ended it"
        } else {
            ""
        };
        let message = format!("`{title}` was killed by signal {signal}{hint}");
        return Err(StageError::failed(message));
    }
    Err(StageError::failed(format!("`{title}` ended with {status}")))
}

/// What tells the processes of this attempt from all others.
fn mark() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    format!(
        "{}-{}",
        std::process::id(),
        now.unwrap_or_default().as_nanos()
    )
}

/// The processes that have the mark, with their names, where the system tells.
fn marked(mark: &str) -> Vec<(i32, String)> {
    let wanted = format!("{MARK}={mark}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environ
            .split(|byte| *byte == 0)
            .any(|item| item == wanted.as_bytes())
        {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push((pid, name.trim().to_owned()));
        }
    }
    found
}

/// Asks a process to end.
fn terminate(pid: u32) {
    #[cfg(unix)]
    if let Ok(pid) = i32::try_from(pid) {
        signal(pid, nix::sys::signal::Signal::SIGTERM);
    }
    #[cfg(not(unix))]
    let _ = pid;
}

/// Ends a process at once.
fn kill(pid: i32) {
    #[cfg(unix)]
    signal(pid, nix::sys::signal::Signal::SIGKILL);
    #[cfg(not(unix))]
    let _ = pid;
}

#[cfg(unix)]
fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    // It may have ended by itself meanwhile.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}
