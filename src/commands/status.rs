//! `dcsft status [SPEC]`: what the last run of a spec did, or the latest runs of all.

use std::io::Write;

use dcsft_engine::journal::{self, RunReading};
use dcsft_engine::run::RunEvent;
use serde_json::json;

use crate::cli::{SpecArgs, Status};
use crate::exit::{Exit, Failure};
use crate::output::{count, date, print_json, print_table, stdout, table};
use crate::report::scale::duration;
use crate::settings::App;

/// Runs listed without a spec.
const LATEST: usize = 20;

/// Prints it.
///
/// # Errors
/// A wrong spec; a cache that cannot be read.
pub(crate) fn run(app: &App, args: &Status) -> Result<Exit, Failure> {
    match &args.spec {
        Some(spec) => one(
            app,
            &SpecArgs {
                spec: spec.clone(),
                overrides: args.overrides.clone(),
                device: "cpu".to_owned(),
            },
        ),
        None => all(app),
    }
}

/// How a run ended, from its last event.
fn ending(run: &RunReading) -> (&'static str, String) {
    let interrupted = run
        .events
        .iter()
        .any(|event| matches!(event, RunEvent::Interrupted));
    match run.events.last() {
        Some(RunEvent::Finished {
            executed,
            cached,
            failed,
            seconds,
        }) => {
            let word = match (*failed, interrupted) {
                (1.., _) => "failed",
                (_, true) => "interrupted",
                _ => "done",
            };
            let mut text = format!("{executed} executed, {cached} cached");
            if *failed > 0 {
                text += &format!(", {failed} failed");
            }
            (word, format!("{text} in {}", duration(*seconds)))
        }
        _ => ("unfinished", "killed, or still running".to_owned()),
    }
}

fn all(app: &App) -> Result<Exit, Failure> {
    let store = app.store(None)?;
    let mut out = stdout();
    let mut list = table(&["started", "spec", "run", "state", ""], &[]);
    let mut runs = 0;
    for run in journal::runs(&store.runs_dir(), None).take(LATEST) {
        runs += 1;
        let (word, text) = ending(&run);
        if app.terminal.json {
            let header = &run.header;
            print_json(
                &mut out,
                &json!({"run": header.run, "spec": header.spec, "started_unix": header.started_unix, "state": word}),
            )?;
        } else {
            let header = &run.header;
            list.add_row([
                date(header.started_unix),
                header.spec.clone(),
                header.run.clone(),
                word.to_owned(),
                text,
            ]);
        }
    }
    match (app.terminal.json, runs) {
        (true, _) => {}
        (false, 0) => writeln!(out, "no runs in {}", store.root().display())?,
        (false, _) => print_table(&mut out, &list)?,
    }
    out.flush()?;
    Ok(Exit::Done)
}

fn one(app: &App, spec: &SpecArgs) -> Result<Exit, Failure> {
    let project = app.project(spec)?;
    let mut out = stdout();
    let Some(run) = journal::latest(&project.store.runs_dir(), &project.study.name) else {
        if !app.terminal.json {
            writeln!(
                out,
                "`{}` has not run with the cache {}",
                project.study.name,
                project.store.root().display()
            )?;
        }
        out.flush()?;
        return Ok(Exit::Done);
    };
    let stages = run.stages();
    let mut list = table(&["stage", "state", "time", "detail"], &[2]);
    for node in &project.study.nodes {
        let title = node.title();
        let event = stages.get(title.as_str()).copied();
        let (word, detail) = event.map_or(("not run", String::new()), state);
        let seconds = event
            .and_then(RunEvent::result)
            .map(|result| result.seconds);
        if app.terminal.json {
            print_json(
                &mut out,
                &json!({"stage": title, "state": word, "seconds": seconds, "detail": detail}),
            )?;
        } else {
            list.add_row([
                title,
                word.to_owned(),
                seconds.map(duration).unwrap_or_default(),
                detail,
            ]);
        }
    }
    if !app.terminal.json {
        let (word, text) = ending(&run);
        writeln!(
            out,
            "{} of {}: {word}, {text}",
            run.header.run,
            date(run.header.started_unix)
        )?;
        writeln!(
            out,
            "{} in {}\n",
            count(project.study.nodes.len(), "stage", "stages"),
            project.spec_name()
        )?;
        print_table(&mut out, &list)?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// The last word on a stage.
fn state(event: &RunEvent) -> (&'static str, String) {
    match event {
        RunEvent::StageCached { .. } => ("cached", String::new()),
        RunEvent::StageFinished { .. } => ("executed", String::new()),
        RunEvent::StageStarted { log, .. } => ("started", log.display().to_string()),
        RunEvent::StageWaits { .. } => ("waits for another process", String::new()),
        RunEvent::StageRetries { message, .. } => ("tries again", message.clone()),
        RunEvent::StageReopened { message, .. } => ("runs again", message.clone()),
        RunEvent::StageFailed { failure, .. } => ("failed", failure.message.clone()),
        RunEvent::StageSkipped { because, .. } => ("skipped", format!("since {because} failed")),
        RunEvent::StageInterrupted { .. } => ("interrupted", String::new()),
        _ => ("unknown", String::new()),
    }
}
