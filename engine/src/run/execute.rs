//! One execution of one stage, on a thread of its own: what an earlier run has left, attempts, the result.

use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dcsft_cache::{Digest, Record, file};

use super::commit::Commit;
use super::error::RunError;
use super::executor::{End, Ended, Task, run_to_end};
use super::outcome::{Assignment, Outcome, Shared, Step, Word};
use super::prepare::prepare;
use super::prepared::Prepared;
use super::trouble::Trouble;
use super::{files, job, lines, retry, shards};
use crate::journal::{Failure, Reason};
use crate::stage::{Cost, Event, Shard};
use crate::worker::done::Done;
use crate::worker::{spent, turn};

/// So often a stage whose job was lost is submitted again.
const MOST_LOST: u32 = 10;

/// How many of the log's last lines a failure shows.
const TAIL_LINES: usize = 12;

/// Runs the stage, or one step of it, until it succeeds or has no retries left, unless it cannot or need not start.
///
/// The scheduler waits for an answer, so a panic on this side of the worker is a failure too.
pub(super) fn execute(
    assignment: &Assignment<'_>,
    shared: &Shared<'_>,
    tell: &mut dyn FnMut(Word),
) -> Outcome {
    let attempts = |prepared| Attempts {
        assignment,
        shared,
        prepared,
        shard: assignment.step.shard(),
    };
    let work = AssertUnwindSafe(|| match &assignment.step {
        Step::Whole | Step::Cut(_) => match prepare(assignment, shared) {
            Ok(prepared) => attempts(Arc::new(prepared)).begin(tell),
            Err(outcome) => outcome,
        },
        Step::Shard(prepared, _) => attempts(Arc::clone(prepared)).shard(tell),
        Step::Join(prepared) => attempts(Arc::clone(prepared)).until_stored(false, tell),
    });
    panic::catch_unwind(work).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let message = format!(
            "dcsft itself panicked: {}",
            text.unwrap_or("without a word")
        );
        Outcome::Failed(failure(assignment, shared, Reason::Internal, message, 1))
    })
}

/// Tries once: which try this is, and whether a job is followed that an earlier run has submitted.
type Attempt<'a, T> = dyn Fn(u32, bool, &mut dyn FnMut(Word)) -> Result<T, Trouble> + 'a;

struct Attempts<'a> {
    assignment: &'a Assignment<'a>,
    shared: &'a Shared<'a>,
    prepared: Arc<Prepared>,
    /// What of the stage is computed; none for all.
    shard: Option<Shard>,
}

impl Attempts<'_> {
    /// Runs the stage, unless it is to be cut.
    fn begin(&self, tell: &mut dyn FnMut(Word)) -> Outcome {
        // A job that an earlier run has submitted goes on, and is followed.
        let workspace = self.workspace();
        let adopt = workspace.is_ok_and(|workspace| self.shared.executor.has_job(&workspace));
        let left = match adopt {
            true => Ok(None),
            false => self.left_behind(tell),
        };
        match left {
            Ok(Some(record)) => return Outcome::Found(record),
            Ok(None) => {}
            Err(Trouble::Broken(error)) => return Outcome::Broken(error),
            Err(Trouble::Lost) => return self.lost(tell),
            Err(_) => return Outcome::Interrupted,
        }
        tell(self.started());
        match self.assignment.step {
            // A job of the whole is what comes after the shards.
            Step::Cut(of) if !adopt => Outcome::Cut {
                prepared: Arc::clone(&self.prepared),
                of,
            },
            _ => self.until_stored(adopt, tell),
        }
    }

    /// Computes a shard, unless an earlier run has.
    fn shard(&self, tell: &mut dyn FnMut(Word)) -> Outcome {
        let workspace = match self.workspace() {
            Ok(workspace) => workspace,
            Err(Trouble::Broken(error)) => return Outcome::Broken(error),
            Err(_) => return Outcome::Interrupted,
        };
        let adopt = self.shared.executor.has_job(&workspace);
        let done = Done::read(&workspace, self.key());
        if done.is_some() && !adopt && !self.assignment.forced {
            return Outcome::ShardDone { seconds: 0.0 };
        }
        tell(self.started());
        let computed = self.until_done(adopt, tell, &|attempts, adopt, tell| {
            let (_, spent) = self.attempt(attempts, adopt, tell)?;
            // The stage's cost, once it is whole.
            spent::note(&workspace, spent);
            Ok(spent.seconds)
        });
        computed.map_or_else(|outcome| outcome, |seconds| Outcome::ShardDone { seconds })
    }

    fn until_stored(&self, adopt: bool, tell: &mut dyn FnMut(Word)) -> Outcome {
        let stored = self.until_done(adopt, tell, &|attempts, adopt, tell| {
            let (done, spent) = self.attempt(attempts, adopt, tell)?;
            self.finish(done, spent, adopt, tell)
        });
        stored.map_or_else(|outcome| outcome, Outcome::Done)
    }

    /// Tries until it succeeds or no retries are left; then the outcome says why it has not.
    fn until_done<T>(
        &self,
        mut adopt: bool,
        tell: &mut dyn FnMut(Word),
        attempt: &Attempt<'_, T>,
    ) -> Result<T, Outcome> {
        let (mut attempts, mut lost) = (0, 0);
        loop {
            attempts += 1;
            let ended = attempt(attempts, std::mem::take(&mut adopt), tell);
            // Whatever became of it: what another host does now is what counts.
            if ended.is_err() && !self.prepared.lock.is_held() {
                return Err(self.lost(tell));
            }
            let (reason, message, again) = match ended {
                Ok(done) => return Ok(done),
                Err(Trouble::JobLost(message)) => {
                    // That is the cluster's doing, and not counted: but a job that is lost each time has a reason.
                    lost += 1;
                    attempts -= 1;
                    (Reason::Lost, message, lost <= MOST_LOST)
                }
                Err(Trouble::Lost) => return Err(self.lost(tell)),
                Err(Trouble::Interrupted) => return Err(Outcome::Interrupted),
                Err(Trouble::Broken(error)) => return Err(Outcome::Broken(error)),
                Err(Trouble::Stage {
                    reason,
                    message,
                    again,
                }) => (reason, message, again),
            };
            let counted = reason != Reason::Lost;
            if !again || (counted && attempts > self.assignment.node.execution.retries) {
                let attempts = attempts + lost;
                let failure = failure(self.assignment, self.shared, reason, message, attempts);
                return Err(Outcome::Failed(failure));
            }
            let delay = retry::delay(self.shared.backoff, attempts.max(1) + lost);
            tell(Word::Retries {
                attempts: attempts + lost,
                message,
                delay,
            });
            if !retry::sleep(delay, &self.shared.stop) {
                return Err(Outcome::Interrupted);
            }
        }
    }

    fn started(&self) -> Word {
        Word::Started {
            device: self.assignment.device.clone(),
            threads: self.assignment.threads,
            log: self.assignment.log.clone(),
        }
    }

    /// The folder that the worker works in.
    fn workspace(&self) -> Result<PathBuf, Trouble> {
        let stage = self.shared.store.workspace(self.key())?;
        let Some(shard) = self.shard else {
            return Ok(stage);
        };
        let workspace = shards::workspace(&stage, shard);
        fs::create_dir_all(&workspace)
            .map_err(|error| self.unusable(format!("{}: {error}", workspace.display())))?;
        Ok(workspace)
    }

    /// The key is another's: its result is waited for, as that of any other run.
    fn lost(&self, tell: &mut dyn FnMut(Word)) -> Outcome {
        tell(Word::Warns(
            "this run was taken for dead by another host, which computes the stage now".to_owned(),
        ));
        Outcome::Busy {
            holder: self.shared.store.lock_holder(self.key()),
        }
    }

    fn commit(&self) -> Commit<'_> {
        Commit {
            assignment: self.assignment,
            shared: self.shared,
            prepared: &self.prepared,
        }
    }

    fn key(&self) -> &Digest {
        &self.assignment.key
    }

    /// Waits for the worker of a run that has died, if there is one, and stores what such a run has finished and could
    /// not store. None if there is nothing of the kind.
    fn left_behind(&self, tell: &mut dyn FnMut(Word)) -> Result<Option<Arc<Record>>, Trouble> {
        let workspace = self.workspace()?;
        let say = |holder, seconds| tell(Word::Said(Event::Waits { holder, seconds }));
        let turn = turn::wait(&workspace, &self.shared.stop, say)
            .map_err(|error| self.unusable(format!("{}: {error}", workspace.display())))?;
        let Some(_turn) = turn else {
            return Err(Trouble::Interrupted);
        };
        let Some(done) = Done::read(&workspace, self.key()).filter(|_| !self.assignment.forced)
        else {
            return Ok(None);
        };
        let doubt = files::changed_since(self.assignment, &done)
            .or_else(|| missing_output(self.assignment, &done));
        let stored = match doubt {
            Some(doubt) => Err(Trouble::for_good(Reason::NoResult, doubt)),
            None => {
                let spent = spent::before(&workspace)
                    + Cost {
                        seconds: done.seconds,
                        cpu_seconds: done.usage.cpu_seconds,
                    };
                self.commit().store(&workspace, done, spent, tell)
            }
        };
        match stored {
            Ok(record) => {
                tell(Word::Warns(
                    "an earlier run finished it and did not store it; it is stored now".to_owned(),
                ));
                Ok(Some(record))
            }
            Err(Trouble::Stage { message, .. }) => {
                tell(Word::Warns(format!(
                    "an earlier run finished it and did not store it; it runs again: {message}"
                )));
                Ok(None)
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// Has a worker do it once. What came out, and what it took so far.
    fn attempt(
        &self,
        attempts: u32,
        adopt: bool,
        tell: &mut dyn FnMut(Word),
    ) -> Result<(Done, Cost), Trouble> {
        let (assignment, shared) = (self.assignment, self.shared);
        let workspace = self.workspace()?;
        if !adopt {
            // Before the worker starts: what it leaves there is then this attempt's.
            let written = Done::remove(&workspace).and_then(|()| {
                let prepared = &self.prepared;
                job::write(
                    assignment, shared, prepared, attempts, self.shard, &workspace,
                )
            });
            written.map_err(|error| self.unusable(format!("{}: {error}", workspace.display())))?;
        }
        let title = assignment.node.title();
        let shard = self
            .shard
            .map_or_else(String::new, |shard| format!(" {shard}"));
        let _ = log_line(
            &assignment.log,
            &format!("# {title}{shard} attempt {attempts} key {}", self.key()),
        );
        let (ended, spent) = self.work(&workspace, adopt, tell)?;
        self.refuse(&ended.end, &workspace, spent)?;
        let Some(done) = Done::read(&workspace, self.key()) else {
            return Err(Trouble::of(&End::Vanished("exit status: 0".to_owned())));
        };
        let spent = match shared.executor.is_elsewhere() {
            // What is on another machine is heard late, or after its end: its own clock counts.
            true => Cost {
                seconds: spent.seconds - ended.seconds + done.seconds,
                ..spent
            },
            false => spent,
        };
        Ok((done, spent))
    }

    /// Stores what a worker has done, if it is what the key promises.
    fn finish(
        &self,
        done: Done,
        spent: Cost,
        adopted: bool,
        tell: &mut dyn FnMut(Word),
    ) -> Result<Arc<Record>, Trouble> {
        let (assignment, shared) = (self.assignment, self.shared);
        let workspace = self.workspace()?;
        // Files were not compared when an adopted job began.
        let doubt = adopted
            .then(|| files::changed_since(assignment, &done))
            .flatten();
        let checked = match doubt {
            Some(doubt) => Err(Trouble::Stage {
                reason: Reason::FilesChanged,
                message: doubt,
                again: true,
            }),
            None => files::check(assignment, shared),
        };
        if let Err(trouble) = checked {
            // The next run must not take it for a result.
            let _ = Done::remove(&workspace);
            return Err(trouble);
        }
        let stored = self.commit().store(&workspace, done, spent, tell);
        if matches!(stored, Err(Trouble::Stage { .. })) {
            let _ = Done::remove(&workspace);
        }
        stored
    }

    /// Has the executor do the work. How it ended, and what the stage took so far, earlier tries included.
    fn work(
        &self,
        workspace: &Path,
        adopt: bool,
        tell: &mut dyn FnMut(Word),
    ) -> Result<(Ended, Cost), Trouble> {
        let (assignment, shared) = (self.assignment, self.shared);
        let execution = &assignment.node.execution;
        let timeout = execution.timeout.map(Duration::try_from_secs_f64);
        let task = Task {
            stage: &assignment.node.stage,
            resources: &execution.resources,
            job: &job::path(workspace),
            log: &assignment.log,
            threads: assignment.threads,
            timeout: timeout
                .and_then(Result::ok)
                .filter(|timeout| !timeout.is_zero()),
            interrupted: &shared.stop,
            pause: shared.pause,
        };
        let mut used = None;
        let ended = run_to_end(shared.executor, &task, adopt, &mut |event| match event {
            Event::Used(usage) => used = Some(usage),
            event => tell(Word::Said(event)),
        });
        let ended = ended.map_err(|error| Trouble::Stage {
            reason: Reason::Unstartable,
            message: error.to_string(),
            again: true,
        })?;
        let spent = spent::before(workspace)
            + Cost {
                seconds: ended.seconds,
                cpu_seconds: used.and_then(|usage| usage.cpu_seconds),
            };
        Ok((ended, spent))
    }

    /// Passes an end that is done.
    fn refuse(&self, end: &End, workspace: &Path, spent: Cost) -> Result<(), Trouble> {
        match end {
            End::Done => Ok(()),
            End::Interrupted => {
                // Only a figure for people: the next run adds it to its own.
                spent::note(workspace, spent);
                Err(Trouble::Interrupted)
            }
            End::Store(message) => Err(self.unusable(message.clone())),
            end => Err(Trouble::of(end)),
        }
    }

    fn unusable(&self, message: String) -> Trouble {
        Trouble::Broken(RunError::Workspace {
            title: self.assignment.node.title(),
            message,
        })
    }
}

/// The output that the study expects and that is not there, in words.
fn missing_output(assignment: &Assignment<'_>, done: &Done) -> Option<String> {
    let mut outputs = assignment.node.outputs.iter();
    let missing = outputs.find(|output| !done.outputs.contains_key(&output.name))?;
    Some(format!("its output `{}` is missing", missing.name))
}

pub(super) fn failure(
    assignment: &Assignment<'_>,
    shared: &Shared<'_>,
    reason: Reason,
    message: String,
    attempts: u32,
) -> Failure {
    let message = match assignment.step.shard() {
        Some(shard) => format!("shard {shard}: {message}"),
        None => message,
    };
    Failure {
        reason,
        message,
        attempts,
        place: shared.study.place_text(&assignment.node.place),
        log: assignment.log.clone(),
        tail: lines::tail(&assignment.log, TAIL_LINES),
    }
}

fn log_line(log: &Path, line: &str) -> io::Result<()> {
    file::append(log, &format!("{line}\n"))
}
