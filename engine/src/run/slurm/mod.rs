//! Workers as jobs of a Slurm cluster that shares the cache's folder.
//!
//! A stage's cells that are ready together become one job array. What a job is told lies in the workspace of its key,
//! and so does all that it says: events, its log, and how it ended. So a run may die, or be started again on another
//! login node: whoever takes the key next finds the [`Ticket`] there and follows the job that exists.
//!
//! The cluster's own numbers are not trusted alone. A controller that crashes forgets jobs and gives their numbers to
//! others, while they go on. A job is known by a name that is given once, and by the exit record that its script writes.
//! What the cluster says decides only where there is no such record: a node that was lost, memory or time that ran out.

mod cluster_room;
mod command;
mod follow;
mod options;
mod script;
mod states;
mod submit;
mod ticket;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::RunOptions;
use super::admission::Admission;
use super::executor::{Attempt, End, Ended, Executor, Submitted, Task};
use crate::stage::Event;
use cluster_room::ClusterRoom;
use command::Cluster;
use follow::Follower;
pub use options::SlurmOptions;
use states::States;
use submit::Submitter;
pub use ticket::Ticket;

/// Runs workers as jobs of a Slurm cluster.
#[derive(Debug)]
pub struct SlurmExecutor {
    submitter: Arc<Submitter>,
    states: Arc<States>,
    cluster: Cluster,
    poll: Duration,
}

impl SlurmExecutor {
    /// `program` is the binary that jobs run, on the shared folder and not to be replaced while they do; `folder` takes
    /// scripts, on the shared folder too.
    ///
    /// # Errors
    /// If Slurm's commands are not there, or no thread can be started.
    pub fn new(
        program: &Path,
        env: &[(String, String)],
        folder: PathBuf,
        options: SlurmOptions,
    ) -> io::Result<Self> {
        let cluster = Cluster::find()?;
        let poll = options.poll;
        let states = States::start(cluster.clone(), poll)?;
        let script = script::Script {
            program: program.to_owned(),
            env: env.to_vec(),
        };
        let submitter = Submitter::start(cluster.clone(), script, folder, options)?;
        Ok(Self {
            submitter,
            states,
            cluster,
            poll,
        })
    }
}

impl Drop for SlurmExecutor {
    fn drop(&mut self) {
        self.submitter.end();
        self.states.end();
    }
}

impl Executor for SlurmExecutor {
    fn admission(&self, options: &RunOptions, device: &str) -> Box<dyn Admission> {
        Box::new(ClusterRoom::new(options, device))
    }

    fn is_elsewhere(&self) -> bool {
        true
    }

    fn submit<'t>(&'t self, task: &'t Task<'t>) -> io::Result<Submitted<'t>> {
        match self.submitter.submit(task)? {
            Ok(ticket) => Ok(Ok(self.follow(task, ticket, false)?)),
            Err(end) => Ok(Err(end)),
        }
    }

    fn has_job(&self, workspace: &Path) -> bool {
        Ticket::read(workspace).is_some()
    }

    fn adopt<'t>(&'t self, task: &'t Task<'t>) -> io::Result<Option<Box<dyn Attempt + 't>>> {
        let ticket = Ticket::read(task.workspace());
        ticket
            .map(|ticket| self.follow(task, ticket, true))
            .transpose()
    }

    fn cancel(&self, workspaces: &[PathBuf]) -> io::Result<Vec<String>> {
        let cancelled = cancel(workspaces.iter().cloned())?;
        Ok(cancelled.iter().map(Ticket::to_string).collect())
    }
}

impl SlurmExecutor {
    fn follow<'t>(
        &'t self,
        task: &'t Task<'t>,
        ticket: Ticket,
        adopted: bool,
    ) -> io::Result<Box<dyn Attempt + 't>> {
        self.states.watch(&ticket.name);
        Ok(Box::new(Job {
            follower: Follower::new(task, ticket, &self.states, self.poll)?,
            cluster: &self.cluster,
            adopted,
        }))
    }
}

/// A job of the cluster.
struct Job<'t> {
    follower: Follower<'t>,
    cluster: &'t Cluster,
    /// An earlier run has submitted it.
    adopted: bool,
}

impl Attempt for Job<'_> {
    fn wait(self: Box<Self>, emit: &mut dyn FnMut(Event)) -> io::Result<Ended> {
        let Self {
            follower,
            cluster,
            adopted,
        } = *self;
        if adopted {
            let ticket = follower.ticket();
            emit(Event::Log {
                message: format!("following {ticket}, which an earlier run has submitted"),
            });
        }
        let workspace = follower.workspace().to_owned();
        let ended = follower.until_end(emit, cluster)?;
        if ended.end != End::Interrupted {
            Ticket::remove(&workspace)?;
        }
        Ok(ended)
    }
}

/// Asks the cluster to end the jobs of these workspaces. Returns those it was asked to end.
///
/// # Errors
/// If Slurm's commands are not there or fail.
pub fn cancel(workspaces: impl Iterator<Item = PathBuf>) -> io::Result<Vec<Ticket>> {
    let mut cancelled = Vec::new();
    let mut cluster = None;
    for workspace in workspaces {
        let Some(ticket) = Ticket::read(&workspace) else {
            continue;
        };
        let cluster = match &mut cluster {
            Some(cluster) => cluster,
            none => none.insert(Cluster::find()?),
        };
        cluster.cancel(&ticket)?;
        Ticket::remove(&workspace)?;
        cancelled.push(ticket);
    }
    Ok(cancelled)
}
