//! Submitting: what is ready within a moment and alike goes as one array.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcsft_cache::{Digest, file};

use super::command::{Cluster, Refused};
use super::options::SlurmOptions;
use super::script::Script;
use super::ticket::Ticket;
use crate::run::executor::{End, Task};
use crate::run::retry;
use crate::study::Resources;

/// How long to gather what is submitted together.
const GATHER: Duration = Duration::from_millis(300);
/// Most tasks of one array; Slurm's own limit is 1001 where nobody has raised it.
const MOST: usize = 1000;
/// How often a submission is tried while the cluster does not answer. The pauses grow to a minute.
const TRIES: u32 = 12;

/// Takes tasks and submits them.
#[derive(Debug)]
pub(super) struct Submitter {
    waiting: Mutex<Waiting>,
    woken: Condvar,
    cluster: Cluster,
    script: Script,
    folder: PathBuf,
    options: SlurmOptions,
}

#[derive(Debug, Default)]
struct Waiting {
    tasks: Vec<Pending>,
    ended: bool,
}

/// A task that is to be submitted.
#[derive(Debug)]
struct Pending {
    alike: Alike,
    workspace: PathBuf,
    job: PathBuf,
    reply: Sender<Result<Ticket, End>>,
}

/// What the tasks of an array have in common: the stage and what it asks for, as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Alike {
    stage: String,
    threads: usize,
    flags: Vec<String>,
}

impl Submitter {
    /// # Errors
    /// If no thread can be started, or the folder for scripts cannot be made.
    pub(super) fn start(
        cluster: Cluster,
        script: Script,
        folder: PathBuf,
        options: SlurmOptions,
    ) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&folder)?;
        let submitter = Arc::new(Self {
            waiting: Mutex::default(),
            woken: Condvar::new(),
            cluster,
            script,
            folder,
            options,
        });
        let own = Arc::clone(&submitter);
        let thread = std::thread::Builder::new().name("sbatch".to_owned());
        thread.spawn(move || own.submit_for_ever())?;
        Ok(submitter)
    }

    /// Submits a task, with those that come at the same time. How it ended if it could not be submitted.
    pub(super) fn submit(&self, task: &Task<'_>) -> io::Result<Result<Ticket, End>> {
        let (reply, replies) = mpsc::channel();
        let pending = Pending {
            alike: Alike {
                stage: task.stage.to_owned(),
                threads: task.threads,
                flags: flags(&self.options, task.resources, task.threads),
            },
            workspace: task.workspace().to_owned(),
            job: task.job.to_owned(),
            reply,
        };
        self.waiting().tasks.push(pending);
        self.woken.notify_all();
        loop {
            match replies.recv_timeout(Duration::from_millis(100)) {
                Ok(reply) => return Ok(reply),
                Err(RecvTimeoutError::Timeout) if task.interrupted.load(Ordering::Relaxed) => {
                    return Ok(Err(End::Interrupted));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the thread that submits jobs has ended"));
                }
            }
        }
    }

    pub(super) fn end(&self) {
        self.waiting().ended = true;
        self.woken.notify_all();
    }

    fn submit_for_ever(&self) {
        loop {
            let mut waiting = self.waiting();
            while waiting.tasks.is_empty() && !waiting.ended {
                waiting = self
                    .woken
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if waiting.ended {
                return;
            }
            drop(waiting);
            std::thread::sleep(GATHER);
            let mut groups: BTreeMap<Alike, Vec<Pending>> = BTreeMap::new();
            for pending in std::mem::take(&mut self.waiting().tasks) {
                groups
                    .entry(pending.alike.clone())
                    .or_default()
                    .push(pending);
            }
            for (alike, mut tasks) in groups {
                while !tasks.is_empty() {
                    let rest = tasks.split_off(tasks.len().min(MOST));
                    self.submit_array(&alike, &tasks);
                    tasks = rest;
                }
            }
        }
    }

    fn submit_array(&self, alike: &Alike, tasks: &[Pending]) {
        let name = name(&alike.stage, tasks);
        let submitted = self.prepare(&name, alike, tasks).map_err(|error| {
            let folder = self.folder.display();
            End::Store(format!(
                "the job {name} cannot be written in {folder}: {error}"
            ))
        });
        let submitted =
            submitted.and_then(|script| self.try_until_answered(&script, &name, tasks, alike));
        for (index, task) in (1..).zip(tasks) {
            let reply = submitted.clone().and_then(|job| {
                let ticket = Ticket {
                    name: name.clone(),
                    job,
                    index,
                };
                ticket
                    .write(&task.workspace)
                    .map(|()| ticket)
                    .map_err(|error| End::Store(format!("{}: {error}", task.workspace.display())))
            });
            if reply.is_err() {
                let _ = Ticket::remove(&task.workspace);
            }
            let _ = task.reply.send(reply);
        }
    }

    /// Writes the list, the script, the job files, and tickets that do not know their number yet: should the run die
    /// between the submission and its answer, the next one finds the job by its name.
    fn prepare(&self, name: &str, alike: &Alike, tasks: &[Pending]) -> io::Result<PathBuf> {
        let list = self.folder.join(format!("{name}.list"));
        let script = self.folder.join(format!("{name}.sh"));
        let workspaces: String = tasks
            .iter()
            .map(|task| format!("{}\n", task.workspace.display()))
            .collect();
        file::write(&list, workspaces)?;
        file::write(&script, self.script.text(name, &list, alike.threads))?;
        for (index, task) in (1..).zip(tasks) {
            let ticket = Ticket {
                name: name.to_owned(),
                job: 0,
                index,
            };
            clear(&task.workspace)?;
            fs::copy(&task.job, ticket.job_file(&task.workspace))?;
            ticket.write(&task.workspace)?;
        }
        Ok(script)
    }

    fn try_until_answered(
        &self,
        script: &Path,
        name: &str,
        tasks: &[Pending],
        alike: &Alike,
    ) -> Result<u64, End> {
        let mut said = String::new();
        for tries in 1..=TRIES {
            match self.cluster.submit(script, name, tasks.len(), &alike.flags) {
                Ok(job) => return Ok(job),
                Err(Refused::Wrong(said)) => {
                    return Err(End::BadJob(format!("Slurm does not take the job: {said}")));
                }
                Err(Refused::NoAnswer(error)) => said = error,
            }
            // It may have been taken, and the answer got lost.
            if let Ok(Some(job)) = self.cluster.number_of(name) {
                return Ok(job);
            }
            if self.waiting().ended {
                return Err(End::Interrupted);
            }
            std::thread::sleep(retry::delay(Duration::from_secs(1), tries));
        }
        Err(End::Lost(format!("Slurm does not answer: {said}")))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes what earlier jobs were told and said in a workspace. One of them that starts only now finds nothing to do.
fn clear(workspace: &Path) -> io::Result<()> {
    for entry in fs::read_dir(workspace)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let of_a_job = ["job-", "events-", "exit-", "log-"];
        if of_a_job.iter().any(|start| name.starts_with(start)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A name that no other array has: the stage's, and what was drawn.
fn name(stage: &str, tasks: &[Pending]) -> String {
    let plain: String = stage
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .take(40)
        .collect();
    let drawn = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), tasks.len());
    let seed = format!(
        "{} {:?} {drawn}",
        std::process::id(),
        std::time::SystemTime::now()
    );
    let digest = Digest::of_bytes(seed.as_bytes());
    format!("dcsft-{plain}-{}", &digest.to_string()[..12])
}

/// What a stage asks for, in `sbatch`'s words.
fn flags(options: &SlurmOptions, resources: &Resources, threads: usize) -> Vec<String> {
    let mut flags = vec![format!("--cpus-per-task={threads}")];
    let mut flag = |name: &str, value: Option<String>| {
        flags.extend(value.map(|value| format!("--{name}={value}")));
    };
    flag(
        "partition",
        resources.partition.clone().or(options.partition.clone()),
    );
    flag(
        "account",
        resources.account.clone().or(options.account.clone()),
    );
    // Whole minutes and MiB, never less than what was asked for.
    flag(
        "time",
        resources.time.map(|seconds| {
            let minutes = (seconds / 60.0).ceil().max(1.0);
            format!("{minutes:.0}")
        }),
    );
    flag(
        "mem",
        resources
            .memory
            .map(|bytes| format!("{}M", bytes.div_ceil(1 << 20))),
    );
    flag(
        "gres",
        (resources.gpus > 0).then(|| format!("gpu:{}", resources.gpus)),
    );
    flags.extend(options.flags.iter().cloned());
    flags.extend(resources.flags.iter().cloned());
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stage_asks_for_is_rounded_up_and_goes_before_the_defaults() {
        let resources = Resources {
            gpus: 2,
            time: Some(90.0),
            memory: Some(3 << 29),
            partition: Some("big".to_owned()),
            flags: vec!["--constraint=a100".to_owned()],
            ..Resources::default()
        };
        let options = SlurmOptions {
            partition: Some("small".to_owned()),
            account: Some("lab".to_owned()),
            flags: vec!["--nice=10".to_owned()],
            ..SlurmOptions::default()
        };
        assert_eq!(
            flags(&options, &resources, 4),
            [
                "--cpus-per-task=4",
                "--partition=big",
                "--account=lab",
                "--time=2",
                "--mem=1536M",
                "--gres=gpu:2",
                "--nice=10",
                "--constraint=a100",
            ]
        );
    }

    #[test]
    fn names_are_given_once() {
        let names = [name("eval sft/x", &[]), name("eval sft/x", &[])];
        assert!(names[0].starts_with("dcsft-eval_sft_x-"), "{}", names[0]);
        assert_ne!(names[0], names[1]);
    }
}
