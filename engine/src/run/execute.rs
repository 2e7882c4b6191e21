//! One execution of one stage, on a thread of its own: what an earlier run has left, attempts, publication, the record.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dcsft_cache::{Digest, Json, OutputRef, Record, SealedFile, StoreError, file, is_sealed};

use super::error::RunError;
use super::executor::{End, Task};
use super::outcome::{Assignment, Outcome, Shared, Word};
use super::prepare::{Prepared, prepare};
use super::{lines, retry};
use crate::journal::{Failure, Reason};
use crate::key::FileDigests;
use crate::plan::job::params_with_paths;
use crate::record::Execution;
use crate::stage::{Cost, Event, Job};
use crate::worker::done::{self, Done};
use crate::worker::{self, spent, turn};

/// So often a stage whose job was lost is submitted again.
const MOST_LOST: u32 = 10;

/// How many of the log's last lines a failure shows.
const TAIL_LINES: usize = 12;

/// Why there is no result.
enum Trouble {
    /// The stage's own, or its worker's.
    Stage {
        reason: Reason,
        message: String,
        /// Another try may end otherwise.
        again: bool,
    },
    Interrupted,
    /// Its job was lost, through no fault of its own.
    JobLost(String),
    /// Another host took this one for dead, and the key is no longer this run's.
    Lost,
    /// The run cannot go on.
    Broken(RunError),
}

impl Trouble {
    fn for_good(reason: Reason, message: impl Into<String>) -> Self {
        Self::Stage {
            reason,
            message: message.into(),
            again: false,
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Broken(RunError::Store(error))
    }
}

/// Runs the stage until it succeeds or has no retries left, unless it cannot or need not start.
///
/// The scheduler waits for an answer, so a panic on this side of the worker is a failure too.
pub(super) fn execute(
    assignment: &Assignment<'_>,
    shared: &Shared<'_>,
    tell: &mut dyn FnMut(Word),
) -> Outcome {
    let work = AssertUnwindSafe(|| match prepare(assignment, shared) {
        Ok(prepared) => Attempts {
            assignment,
            shared,
            prepared,
        }
        .run(tell),
        Err(outcome) => outcome,
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

struct Attempts<'a> {
    assignment: &'a Assignment<'a>,
    shared: &'a Shared<'a>,
    prepared: Prepared,
}

impl Attempts<'_> {
    fn run(&self, tell: &mut dyn FnMut(Word)) -> Outcome {
        // A job that an earlier run has submitted goes on, and is followed.
        let workspace = self.shared.store.workspace(self.key());
        let mut adopt = workspace
            .as_deref()
            .is_ok_and(|workspace| self.shared.executor.has_job(workspace));
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
        tell(Word::Started {
            device: self.assignment.device.clone(),
            threads: self.assignment.threads,
            log: self.assignment.log.clone(),
        });
        let (mut attempts, mut lost) = (0, 0);
        loop {
            attempts += 1;
            let ended = self.attempt(attempts, std::mem::take(&mut adopt), tell);
            // Whatever became of it: what another host does now is what counts.
            if ended.is_err() && !self.prepared.lock.is_held() {
                return self.lost(tell);
            }
            let (reason, message, again) = match ended {
                Ok(record) => return Outcome::Done(record),
                Err(Trouble::JobLost(message)) => {
                    // That is the cluster's doing, and not counted: but a job that is lost each time has a reason.
                    lost += 1;
                    attempts -= 1;
                    (Reason::Lost, message, lost <= MOST_LOST)
                }
                Err(Trouble::Lost) => return self.lost(tell),
                Err(Trouble::Interrupted) => return Outcome::Interrupted,
                Err(Trouble::Broken(error)) => return Outcome::Broken(error),
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
                return Outcome::Failed(failure);
            }
            let delay = retry::delay(self.shared.backoff, attempts.max(1) + lost);
            tell(Word::Retries {
                attempts: attempts + lost,
                message,
                delay,
            });
            if !retry::sleep(delay, &self.shared.stop) {
                return Outcome::Interrupted;
            }
        }
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

    /// To be asked before anything is stored.
    fn check_lock(&self) -> Result<(), Trouble> {
        if self.prepared.lock.is_held() {
            Ok(())
        } else {
            Err(Trouble::Lost)
        }
    }

    fn key(&self) -> &Digest {
        &self.assignment.key
    }

    /// Waits for the worker of a run that has died, if there is one, and stores what such a run has finished and could
    /// not store. None if there is nothing of the kind.
    fn left_behind(&self, tell: &mut dyn FnMut(Word)) -> Result<Option<Arc<Record>>, Trouble> {
        let workspace = self.shared.store.workspace(self.key())?;
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
        let doubt = self
            .files_since(&done)
            .or_else(|| self.missing_output(&done));
        let stored = match doubt {
            Some(doubt) => Err(Trouble::for_good(Reason::NoResult, doubt)),
            None => {
                let spent = spent::before(&workspace)
                    + Cost {
                        seconds: done.seconds,
                        cpu_seconds: done.usage.cpu_seconds,
                    };
                self.store(&workspace, done, spent, tell)
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

    fn attempt(
        &self,
        attempts: u32,
        adopt: bool,
        tell: &mut dyn FnMut(Word),
    ) -> Result<Arc<Record>, Trouble> {
        let (assignment, shared) = (self.assignment, self.shared);
        let node = assignment.node;
        let workspace = shared.store.workspace(self.key())?;
        if !adopt {
            // Before the worker starts: what it leaves there is then this attempt's.
            Done::remove(&workspace)
                .and_then(|()| self.write_job(attempts, &workspace))
                .map_err(|error| self.unusable(format!("{}: {error}", workspace.display())))?;
        }
        let _ = log_line(
            &assignment.log,
            &format!("# {} attempt {attempts} key {}", node.title(), self.key()),
        );
        let task = Task {
            stage: &node.stage,
            resources: &node.execution.resources,
            adopt,
            job: &job_path(&workspace),
            log: &assignment.log,
            threads: assignment.threads,
            timeout: node
                .execution
                .timeout
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .filter(|timeout| !timeout.is_zero()),
            interrupted: &shared.stop,
            pause: shared.pause,
        };
        let mut used = None;
        let ended = shared
            .executor
            .execute(&task, &mut |event| match event {
                Event::Used(usage) => used = Some(usage),
                event => tell(Word::Said(event)),
            })
            .map_err(|error| Trouble::Stage {
                reason: Reason::Unstartable,
                message: error.to_string(),
                again: true,
            })?;
        let spent = spent::before(&workspace)
            + Cost {
                seconds: ended.seconds,
                cpu_seconds: used.and_then(|usage| usage.cpu_seconds),
            };
        match &ended.end {
            End::Done => {}
            End::Interrupted => {
                // Only a figure for people: the next run adds it to its own.
                spent::note(&workspace, spent);
                return Err(Trouble::Interrupted);
            }
            End::Store(message) => return Err(self.unusable(message.clone())),
            End::Lost(how) => {
                return Err(Trouble::JobLost(format!("its job was lost: {how}")));
            }
            end => {
                if let Some((reason, message, again)) = end.failure() {
                    return Err(Trouble::Stage {
                        reason,
                        message,
                        again,
                    });
                }
            }
        }
        let Some(done) = Done::read(&workspace, self.key()) else {
            let ended = End::Vanished("exit status: 0".to_owned()).failure();
            let (reason, message, again) = ended.unwrap_or_default();
            return Err(Trouble::Stage {
                reason,
                message,
                again,
            });
        };
        let spent = match shared.executor.hears_late() {
            true => Cost {
                seconds: spent.seconds - ended.seconds + done.seconds,
                ..spent
            },
            false => spent,
        };
        // Files were not compared when an adopted job began.
        let doubt = adopt.then(|| self.files_since(&done)).flatten();
        let checked = match doubt {
            Some(doubt) => Err(Trouble::Stage {
                reason: Reason::FilesChanged,
                message: doubt,
                again: true,
            }),
            None => self.check_files(),
        };
        if let Err(trouble) = checked {
            // The next run must not take it for a result.
            let _ = Done::remove(&workspace);
            return Err(trouble);
        }
        let stored = self.store(&workspace, done, spent, tell);
        if matches!(stored, Err(Trouble::Stage { .. })) {
            let _ = Done::remove(&workspace);
        }
        stored
    }

    /// Puts a finished stage's outputs and its record into the store.
    fn store(
        &self,
        workspace: &Path,
        done: Done,
        spent: Cost,
        tell: &mut dyn FnMut(Word),
    ) -> Result<Arc<Record>, Trouble> {
        let store = self.shared.store;
        self.check_lock()?;
        let outputs = self.publish(workspace, &done)?;
        self.check_lock()?;
        let record = Arc::new(Record {
            format: Record::FORMAT,
            key: *self.key(),
            label: self.assignment.node.title(),
            explain: Json::of(&*self.assignment.preimage),
            outputs,
            summary: done.summary,
            execution: Json::of(&Execution {
                seconds: spent.seconds,
                cpu_seconds: spent.cpu_seconds,
                saved_seconds: done.saved_seconds,
                saved_cpu_seconds: done.usage.saved_cpu_seconds,
                threads: Some(done.threads),
                device: Some(done.device),
                attempts: Some(done.attempt),
                peak_rss_bytes: done.peak_rss_bytes,
                started_unix: Some(done.started_unix_nanos / 1_000_000_000),
                other_cores: done.usage.other_cores,
                shared: done.usage.shared(done.threads),
                machine: Some(done.usage.machine),
                program: Some(done.program),
            }),
            created_unix: unix_seconds(),
        });
        store
            .commit(&record)
            .map_err(|source| self.unstored(source))?;
        if let Some(family) = &self.prepared.family {
            self.shared.families.join(family, &record);
        }
        if let Err(error) = store.clear_workspace(self.key()) {
            tell(Word::Warns(format!(
                "its result is stored; what it worked with stays behind: {error}"
            )));
        }
        Ok(record)
    }

    fn publish(
        &self,
        workspace: &Path,
        done: &Done,
    ) -> Result<BTreeMap<String, OutputRef>, Trouble> {
        let mut published = BTreeMap::new();
        let mut stored = done::stored(workspace);
        for output in self.assignment.node.outputs.iter() {
            let Some(sealed) = done.outputs.get(&output.name) else {
                let message = format!(
                    "the stage ended without writing its output `{}`",
                    output.name
                );
                return Err(Trouble::Stage {
                    reason: Reason::NoResult,
                    message,
                    again: true,
                });
            };
            let found = match stored.get(&output.name) {
                Some(digest) => self.stored_artifact(digest, sealed)?,
                None => None,
            };
            let published_now = match found {
                Some(found) => found,
                None => {
                    let folder = outputs_path(workspace).join(&done.folder);
                    self.publish_one(&folder, &output.name, sealed)?
                }
            };
            stored.insert(output.name.clone(), published_now.digest);
            done::note_stored(workspace, &stored);
            published.insert(output.name.clone(), published_now);
        }
        Ok(published)
    }

    /// An output that was stored before the rest could not be.
    fn stored_artifact(
        &self,
        digest: &Digest,
        sealed: &[SealedFile],
    ) -> Result<Option<OutputRef>, Trouble> {
        let artifact = self.shared.store.artifact(digest)?;
        let artifact = artifact.filter(|artifact| is_sealed(artifact, sealed));
        Ok(artifact.as_ref().map(OutputRef::from))
    }

    fn publish_one(
        &self,
        folder: &Path,
        name: &str,
        sealed: &[SealedFile],
    ) -> Result<OutputRef, Trouble> {
        let changed = || Trouble::Stage {
            reason: Reason::NoResult,
            message: format!("its output `{name}` is not what the stage wrote"),
            again: true,
        };
        let artifact = match self.shared.store.publish(&folder.join(name)) {
            Ok(artifact) => artifact,
            Err(StoreError::NotFound { .. }) => return Err(changed()),
            Err(error) if worker::is_of_the_output(&error) => {
                return Err(Trouble::for_good(Reason::Failed, error.to_string()));
            }
            Err(error) => return Err(self.unstored(error)),
        };
        if is_sealed(&artifact, sealed) {
            Ok(OutputRef::from(&artifact))
        } else {
            Err(changed())
        }
    }

    fn unstored(&self, source: StoreError) -> Trouble {
        Trouble::Broken(RunError::Unstored {
            title: self.assignment.node.title(),
            source,
        })
    }

    fn unusable(&self, message: String) -> Trouble {
        Trouble::Broken(RunError::Workspace {
            title: self.assignment.node.title(),
            message,
        })
    }

    fn write_job(&self, attempt: u32, workspace: &Path) -> io::Result<()> {
        let Assignment { node, .. } = self.assignment;
        let job = Job {
            key: *self.key(),
            attempt,
            program: self.shared.program.clone(),
            kind: node.kind.clone(),
            version: self.assignment.preimage.version,
            params: params_with_paths(node, &self.shared.study.root),
            inputs: self.prepared.inputs.clone(),
            outputs: outputs_path(workspace),
            state: workspace.join("state"),
            device: self.assignment.device.clone(),
            threads: self.assignment.threads,
            relatives: self.prepared.relatives.clone(),
        };
        file::write(&job_path(workspace), serde_json::to_vec(&job)?)
    }

    /// Refuses a result whose files changed while the stage read them: the key would promise what is not so.
    fn check_files(&self) -> Result<(), Trouble> {
        let now = FileDigests::new(self.shared.store, self.shared.paranoid)
            .of(self.assignment.node)
            .map_err(|error| Trouble::Stage {
                reason: Reason::FilesChanged,
                message: error.to_string(),
                again: true,
            })?;
        let planned = self.assignment.files.iter();
        let mut changed = planned.filter(|(field, identity)| now.get(*field) != Some(identity));
        match changed.next() {
            None => Ok(()),
            Some((field, _)) => Err(Trouble::Stage {
                reason: Reason::FilesChanged,
                message: format!("the files of `{field}` changed while the stage ran: run again"),
                again: true,
            }),
        }
    }

    /// Why a result that an earlier run has left may not be that of the user's files as they are. They were not compared
    /// when it ended, so none of them may have been touched since it began.
    fn files_since(&self, done: &Done) -> Option<String> {
        let mut files = self
            .assignment
            .node
            .files
            .iter()
            .flat_map(|param| &param.files);
        let touched = files.find(|(_, path)| match changed_unix_nanos(path) {
            Some(changed) => changed >= done.started_unix_nanos,
            None => true,
        })?;
        Some(format!(
            "{} may have changed meanwhile",
            touched.1.display()
        ))
    }

    fn missing_output(&self, done: &Done) -> Option<String> {
        let mut outputs = self.assignment.node.outputs.iter();
        let missing = outputs.find(|output| !done.outputs.contains_key(&output.name))?;
        Some(format!("its output `{}` is missing", missing.name))
    }
}

/// When a file, or the newest thing in a folder, changed last: content or inode. None where that is not known.
#[cfg(unix)]
fn changed_unix_nanos(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path).ok()?;
    let own = u64::try_from(meta.ctime())
        .ok()?
        .checked_mul(1_000_000_000)?
        .checked_add(u64::try_from(meta.ctime_nsec()).ok()?)?;
    if !meta.is_dir() {
        return Some(own);
    }
    let mut newest = own;
    for entry in fs::read_dir(path).ok()? {
        newest = newest.max(changed_unix_nanos(&entry.ok()?.path())?);
    }
    Some(newest)
}

#[cfg(not(unix))]
fn changed_unix_nanos(_: &Path) -> Option<u64> {
    None
}

pub(super) fn failure(
    assignment: &Assignment<'_>,
    shared: &Shared<'_>,
    reason: Reason,
    message: String,
    attempts: u32,
) -> Failure {
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

fn outputs_path(workspace: &Path) -> PathBuf {
    workspace.join("outputs")
}

fn job_path(workspace: &Path) -> PathBuf {
    workspace.join("job.json")
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| age.as_secs())
}
