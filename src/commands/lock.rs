//! `dcsft lock SPEC`, and what `dcsft run --locked` compares with.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use dcsft_cache::{Record, file};
use dcsft_engine::lockfile::{Apart, Divergence, Lock, Tolerance};
use serde_json::json;

use super::plan::records;
use crate::cli;
use crate::exit::{Exit, Failure};
use crate::output::{count, print_json, print_table, stdout, table};
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

/// Compares the results of a run with the lock file, and says what differs; the end of `run --locked`.
///
/// # Errors
/// A cache that cannot be read; stdout that cannot be written.
pub(crate) fn compare(
    app: &App,
    project: &Project,
    locked: &Lock,
    tolerance: Option<Tolerance>,
    records: &[Option<Arc<Record>>],
) -> Result<Exit, Failure> {
    let (study, store) = (&project.study, &project.store);
    let divergence = locked.check_results(study, records, store, tolerance)?;
    if let Some(tolerance) = tolerance {
        tell_apart(app, &locked.apart(study, records), tolerance)?;
    }
    match divergence {
        Some(divergence) => diverged(app, project, locked, tolerance, &divergence),
        None => Ok(Exit::Done),
    }
}

/// Lists the results that are not the locked ones, and says how many other numbers are not.
fn tell_apart(app: &App, apart: &[Apart], tolerance: Tolerance) -> Result<(), Failure> {
    if app.terminal.json {
        let mut out = stdout();
        let line = json!({"event": "compared", "tolerance": tolerance, "apart": apart});
        print_json(&mut out, &line)?;
        return Ok(out.flush()?);
    }
    let shown = |value: &Option<serde_json::Value>| {
        let value = value.as_ref();
        value.map_or_else(|| "-".to_owned(), serde_json::Value::to_string)
    };
    let mut list = table(&["stage", "result", "locked", "now"], &[2, 3]);
    let judged = apart.iter().filter(|apart| apart.judged);
    for apart in judged.clone() {
        list.add_row([
            apart.stage.clone(),
            apart.metric.clone(),
            shown(&apart.locked),
            shown(&apart.found),
        ]);
    }
    match judged.count() {
        0 => app
            .terminal
            .say("no result of an evaluation differs from the locked one"),
        results => {
            let results = count(results, "result differs", "results differ");
            app.terminal.say(&format!(
                "{results} from the locked one, by another arithmetic; up to {} is tolerated",
                tolerance.most()
            ));
            let mut out = stdout();
            print_table(&mut out, &list)?;
            out.flush()?;
        }
    }
    let others = apart.iter().filter(|apart| !apart.judged).count();
    if others > 0 {
        let others = count(others, "number", "numbers");
        app.terminal.say(&format!(
            "{others} of other stages differ too and are not judged; --json lists them"
        ));
    }
    Ok(())
}

/// Says where a run diverged.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn diverged(
    app: &App,
    project: &Project,
    locked: &Lock,
    tolerance: Option<Tolerance>,
    divergence: &Divergence,
) -> Result<Exit, Failure> {
    app.terminal.error(&format!(
        "the run diverges from {}: {divergence}",
        path(project).display()
    ));
    let stage = locked.stages.get(&divergence.stage);
    app.terminal.help(match stage {
        Some(stage) if tolerance.is_some() && stage.work.is_none() => {
            "an earlier dcsft wrote the lock file, without what --tolerance needs; write a new one with `dcsft lock` where \
             it was written"
        }
        _ => "if that is meant, write a new lock file with `dcsft lock`",
    });
    if app.terminal.json {
        let mut out = stdout();
        print_json(&mut out, &json!({"event": "diverged", "first": divergence}))?;
        out.flush()?;
    }
    Ok(Exit::Diverged)
}
