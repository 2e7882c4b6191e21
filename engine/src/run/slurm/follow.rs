//! Following one job: what it says, and how it ended.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dcsft_cache::file;

use super::command::Cluster;
use super::states::{Seen, States};
use super::ticket::Ticket;
use crate::run::ear::Ear;
use crate::run::executor::{End, Ended, Task};
use crate::stage::Event;

/// Most that is read of events, or of a log, at once.
const MOST: u64 = 4 << 20;
/// How often it is said again that a job waits in the queue.
const SAY: Duration = Duration::from_secs(60);
/// After the cluster says that a job is over, so many more answers are waited for its exit record, which another host
/// has written.
const ANSWERS: u64 = 2;
/// For so long the cluster is waited for to say why a job was stopped.
const EXPLAINED: Duration = Duration::from_secs(45);
/// So many answers in a row that do not know a job, and it is lost.
const UNKNOWN: u64 = 4;

/// One job that is followed.
pub(super) struct Follower<'a> {
    task: &'a Task<'a>,
    ticket: Ticket,
    states: &'a States,
    tick: Duration,
    workspace: PathBuf,
    log: File,
    /// Read so far of the events, and the begun line.
    read: u64,
    begun: Vec<u8>,
    /// When its first word was heard: from then on it works.
    works: Option<Instant>,
    began: Instant,
    said: Option<Instant>,
    /// The number of the answer that knew it, or knew it to live, last.
    answered: u64,
    timed_out: bool,
    /// When its exit record was seen.
    recorded: Option<Instant>,
}

impl<'a> Follower<'a> {
    pub(super) fn new(
        task: &'a Task<'a>,
        ticket: Ticket,
        states: &'a States,
        poll: Duration,
    ) -> io::Result<Self> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(task.log)?;
        Ok(Self {
            answered: states.of(&ticket).answers,
            task,
            ticket,
            states,
            tick: poll.min(Duration::from_millis(500)),
            workspace: task.workspace().to_owned(),
            log,
            read: 0,
            begun: Vec::new(),
            works: None,
            began: Instant::now(),
            said: None,
            timed_out: false,
            recorded: None,
        })
    }

    pub(super) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    pub(super) fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// Follows the job to its end, or until the run is interrupted: the job goes on then.
    pub(super) fn until_end(
        mut self,
        emit: &mut dyn FnMut(Event),
        cluster: &Cluster,
    ) -> io::Result<Ended> {
        let mut log = self.log.try_clone()?;
        let mut ear = Ear {
            log: &mut log,
            emit,
            last: None,
            waits: false,
        };
        let end = loop {
            // The record first: what was said before it is then there to be read.
            let exit = self.exit_code();
            self.hear(&mut ear)?;
            if let Some(code) = exit
                && self.is_explained(code, ear.last.as_ref())
            {
                break self.judge(code, ear.last.as_ref());
            }
            if self.task.interrupted.load(Ordering::Relaxed) {
                break End::Interrupted;
            }
            if exit.is_none()
                && let Some(end) = self.ended_without_record(&mut ear)
            {
                break end;
            }
            self.end_when_late(cluster)?;
            std::thread::sleep(self.tick);
        };
        let end = match end {
            End::Done | End::Interrupted | End::Store(_) => end,
            _ if self.timed_out => End::TimedOut(self.task.timeout.unwrap_or_default()),
            end => end,
        };
        let seconds = self
            .works
            .map_or(0.0, |works| works.elapsed().as_secs_f64());
        if !matches!(end, End::Interrupted) {
            self.take_log()?;
        }
        if let Some((_, message, _)) = end.failure() {
            writeln!(self.log, "{message}")?;
        }
        Ok(Ended { end, seconds })
    }

    /// Hears what the job has said since the last time.
    fn hear(&mut self, ear: &mut Ear<'_>) -> io::Result<()> {
        loop {
            let Ok(mut file) = file::open(&self.ticket.events(&self.workspace)) else {
                return Ok(());
            };
            self.works.get_or_insert_with(Instant::now);
            file.seek(SeekFrom::Start(self.read))?;
            let mut text = Vec::new();
            let count = file.take(MOST).read_to_end(&mut text)? as u64;
            self.read += count;
            self.begun.extend_from_slice(&text);
            let whole = self.begun.iter().rposition(|byte| *byte == b'\n');
            if let Some(end) = whole {
                let rest = self.begun.split_off(end + 1);
                let lines = std::mem::replace(&mut self.begun, rest);
                for line in lines.split(|byte| *byte == b'\n') {
                    if !line.is_empty() {
                        ear.hear(line)?;
                    }
                }
            }
            if count < MOST {
                return Ok(());
            }
        }
    }

    fn exit_code(&self) -> Option<i32> {
        let text = file::text(&self.ticket.exit(&self.workspace)).ok()?;
        text.trim().parse().ok()
    }

    /// Whether a record can be judged now. A worker that was asked to stop from outside ends before the cluster says for
    /// what it was: a time limit, say. That is waited for, a while.
    fn is_explained(&mut self, code: i32, last: Option<&Event>) -> bool {
        let end = End::of_exit(u8::try_from(code).ok(), last);
        if !matches!(end, Some(End::Stopped)) && (end.is_some() || code <= 128) {
            return true;
        }
        let state = self.states.of(&self.ticket).row.map(|row| row.state);
        let recorded = *self.recorded.get_or_insert_with(Instant::now);
        state.as_deref().and_then(end_of_state).is_some() || recorded.elapsed() >= EXPLAINED
    }

    /// The script's record is what counts; what the cluster says beside it only explains.
    fn judge(&self, code: i32, last: Option<&Event>) -> End {
        let state = self.states.of(&self.ticket).row.map(|row| row.state);
        match End::of_exit(u8::try_from(code).ok(), last) {
            Some(End::Stopped) => match state.as_deref().and_then(end_of_state) {
                Some(end) => end,
                None => End::Stopped,
            },
            Some(end) => end,
            // A shell says 128 and the signal's number.
            None if code > 128 => match state.as_deref().and_then(end_of_state) {
                Some(end) => end,
                None => End::Killed(code - 128),
            },
            None if code == 127 || code == 126 => {
                End::BadJob(format!("{} does not run there: see its log", self.ticket))
            }
            None => End::Vanished(format!("exit status: {code}")),
        }
    }

    /// What became of a job that the cluster says is over, or does not know, though it has left no record.
    fn ended_without_record(&mut self, ear: &mut Ear<'_>) -> Option<End> {
        let Seen { row, answers } = self.states.of(&self.ticket);
        let Some(row) = row else {
            // It may not be in the list yet.
            let unknown = answers.saturating_sub(self.answered);
            return (unknown >= UNKNOWN).then(|| {
                End::Lost(format!(
                    "the cluster does not know {} any more",
                    self.ticket
                ))
            });
        };
        match row.state.as_str() {
            "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_HOLD" | "SPECIAL_EXIT"
            | "RESV_DEL_HOLD" => {
                self.answered = answers;
                self.say_that_it_waits(ear, &row.state, &row.reason);
                None
            }
            "RUNNING" | "COMPLETING" | "SUSPENDED" | "STOPPED" | "SIGNALING" | "STAGE_OUT"
            | "RESIZING" => {
                self.answered = answers;
                None
            }
            state => {
                let waited = answers.saturating_sub(self.answered);
                (waited > ANSWERS).then(|| {
                    end_of_state(state).unwrap_or_else(|| {
                        End::Vanished(format!(
                            "{} is {state} on {}, {}",
                            self.ticket, row.node, row.reason
                        ))
                    })
                })
            }
        }
    }

    fn say_that_it_waits(&mut self, ear: &mut Ear<'_>, state: &str, reason: &str) {
        if self.said.is_some_and(|said| said.elapsed() < SAY) {
            return;
        }
        self.said = Some(Instant::now());
        (ear.emit)(Event::Waits {
            holder: format!("{} ({}, {reason})", self.ticket, state.to_lowercase()),
            seconds: self.began.elapsed().as_secs_f64(),
        });
    }

    /// A timeout counts from when the job began to work, not from when it was submitted.
    fn end_when_late(&mut self, cluster: &Cluster) -> io::Result<()> {
        let (Some(works), Some(timeout)) = (self.works, self.task.timeout) else {
            return Ok(());
        };
        if !self.timed_out && works.elapsed() >= timeout {
            self.timed_out = true;
            cluster.cancel(&self.ticket)?;
        }
        Ok(())
    }

    /// Adds what the worker printed to the stage's log.
    fn take_log(&mut self) -> io::Result<()> {
        let path = self.ticket.log(&self.workspace);
        let Ok(file) = file::open(&path) else {
            return Ok(());
        };
        let mut text = Vec::new();
        file.take(MOST).read_to_end(&mut text)?;
        self.log.write_all(&text)?;
        let _ = fs::remove_file(path);
        Ok(())
    }
}

/// What a state of Slurm's means where the job has left no word of its own.
fn end_of_state(state: &str) -> Option<End> {
    Some(match state {
        "NODE_FAIL" | "BOOT_FAIL" => End::Lost("its node failed".to_owned()),
        "PREEMPTED" | "REVOKED" => End::Lost("it was preempted".to_owned()),
        "TIMEOUT" | "DEADLINE" => End::TimeLimit,
        "OUT_OF_MEMORY" => End::OutOfMemory,
        "CANCELLED" => End::Stopped,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_ends_of_their_own() {
        assert!(matches!(end_of_state("NODE_FAIL"), Some(End::Lost(_))));
        assert!(matches!(end_of_state("PREEMPTED"), Some(End::Lost(_))));
        assert_eq!(end_of_state("TIMEOUT"), Some(End::TimeLimit));
        assert_eq!(end_of_state("OUT_OF_MEMORY"), Some(End::OutOfMemory));
        assert_eq!(end_of_state("CANCELLED"), Some(End::Stopped));
        assert_eq!(end_of_state("FAILED"), None);
    }
}
