//! `dcsft lock SPEC`, and what `dcsft run --locked` compares with.

use std::io::Write;
use std::path::PathBuf;

use dcsft_cache::file;
use dcsft_engine::lockfile::{Divergence, Lock};
use serde_json::json;

use super::plan::records;
use crate::cli;
use crate::exit::{Exit, Failure};
use crate::output::{count, print_json, stdout};
use crate::settings::{App, Project};

/// Writes the lock file of what is in the cache.
///
/// # Errors
/// A stage without a result; a file that cannot be written.
pub(crate) fn run(app: &App, args: &cli::Lock) -> Result<Exit, Failure> {
    let project = app.project(&args.spec)?;
    let plan = project.plan(&[], false)?;
    let lock = Lock::of(&project.study, &records(&plan)).map_err(Failure::failed)?;
    let text = lock.to_text();
    if args.print {
        let mut out = stdout();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        return Ok(Exit::Done);
    }
    let path = path(&project);
    std::fs::write(&path, text).map_err(Failure::write(&path))?;
    if app.terminal.json {
        let mut out = stdout();
        print_json(
            &mut out,
            &json!({"lock": path, "stages": lock.stages.len()}),
        )?;
        out.flush()?;
        return Ok(Exit::Done);
    }
    let stages = count(lock.stages.len(), "stage", "stages");
    app.terminal
        .say(&format!("locked {stages} in {}", path.display()));
    Ok(Exit::Done)
}

/// `SPEC.lock`, beside the spec.
pub(crate) fn path(project: &Project) -> PathBuf {
    let mut name = project.study.spec.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// The lock file of a spec.
///
/// # Errors
/// If there is none, or it cannot be read.
pub(crate) fn read(project: &Project) -> Result<Lock, Failure> {
    let path = path(project);
    let shown = path.display();
    let text = file::text(&path).map_err(|error| {
        Failure::usage(format!("cannot read the lock file {shown}: {error}"))
            .help("run the spec, then write its lock file with `dcsft lock`")
    })?;
    Lock::parse(&text).map_err(|error| {
        Failure::usage(format!("{shown}: {error}")).help("write it anew with `dcsft lock`")
    })
}

/// Says where a run diverged; the end of `run --locked`.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn diverged(
    app: &App,
    project: &Project,
    divergence: &Divergence,
) -> Result<Exit, Failure> {
    app.terminal.error(&format!(
        "the run diverges from {}: {divergence}",
        path(project).display()
    ));
    app.terminal
        .help("if that is meant, write a new lock file with `dcsft lock`");
    if app.terminal.json {
        let mut out = stdout();
        print_json(&mut out, &json!({"event": "diverged", "first": divergence}))?;
        out.flush()?;
    }
    Ok(Exit::Diverged)
}
