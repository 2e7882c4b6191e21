//! Workers as jobs of a Slurm cluster that shares the cache's folder.
//!
//! A stage's cells that are ready together become one job array. What a job is told lies in the workspace of its key,
//! and so does all that it says: events, its log, and how it ended. So a run may die, or be started again on another
//! login node: whoever takes the key next finds the [`Ticket`] there and follows the job that exists.
//!
//! The cluster's own numbers are not trusted alone. A controller that crashes forgets jobs and gives their numbers to
//! others, while they go on. A job is known by a name that is given once, and by the exit record that its script writes.
//! What the cluster says decides only where there is no such record: a node that was lost, memory or time that ran out.

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

use super::executor::{Ended, Executor, Task};
use crate::stage::Event;
use command::Cluster;
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
    fn has_job(&self, workspace: &Path) -> bool {
        Ticket::read(workspace).is_some()
    }

    fn is_elsewhere(&self) -> bool {
        true
    }

    fn execute(&self, task: &Task<'_>, emit: &mut dyn FnMut(Event)) -> io::Result<Ended> {
        let workspace = task.job.parent().unwrap_or(task.job);
        let ticket = match Ticket::read(workspace).filter(|_| task.adopt) {
            Some(ticket) => {
                emit(Event::Log {
                    message: format!("following {ticket}, which an earlier run has submitted"),
                });
                ticket
            }
            None => match self.submitter.submit(task)? {
                Ok(ticket) => ticket,
                Err(end) => return Ok(Ended { end, seconds: 0.0 }),
            },
        };
        self.states.watch(&ticket.name);
        let followed = follow::Follower::new(task, &ticket, &self.states, self.poll)?
            .until_end(emit, &self.cluster);
        let ended = followed?;
        if !matches!(ended.end, super::executor::End::Interrupted) {
            Ticket::remove(workspace)?;
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
