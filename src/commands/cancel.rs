//! `dcsft cancel SPEC`: ends the jobs that runs of a spec have left in a batch system's queue.

use dcsft_engine::plan::Plan;
use dcsft_engine::run::{shard_workspaces, slurm};

use crate::cli::Cancel;
use crate::exit::{Exit, Failure};
use crate::output::count;
use crate::settings::{App, Project};

/// Cancels them and says how many there were.
///
/// # Errors
/// A wrong spec; a batch system that does not answer.
pub(crate) fn run(app: &App, args: &Cancel) -> Result<Exit, Failure> {
    let project = app.project(&args.spec)?;
    let plan = project.plan(&[], false)?;
    let cancelled = slurm::cancel(workspaces(&project, &plan)?.into_iter());
    let cancelled = cancelled.map_err(Failure::failed)?;
    for ticket in &cancelled {
        app.terminal.say(&format!("cancelled {ticket}"));
    }
    app.terminal.say(&match cancelled.len() {
        0 => "no jobs of this spec are queued or running".to_owned(),
        jobs => format!("{} cancelled", count(jobs, "job", "jobs")),
    });
    Ok(Exit::Done)
}

/// The workspaces of the stages that have to run, and of their shards.
///
/// # Errors
/// If the cache cannot be used.
pub(crate) fn workspaces(
    project: &Project,
    plan: &Plan,
) -> Result<Vec<std::path::PathBuf>, Failure> {
    let keys = plan
        .nodes
        .iter()
        .filter(|planned| planned.state.record().is_none());
    let keys = keys.filter_map(|planned| planned.state.key());
    let mut workspaces = Vec::new();
    for key in keys {
        let stage = project.store.workspace(&key)?;
        workspaces.extend(shard_workspaces(&stage));
        workspaces.push(stage);
    }
    Ok(workspaces)
}
