//! `dcsft status [SPEC]`: what the last run of a spec did or does, or the latest runs of all.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use dcsft_engine::journal::{self, Entry, RunEvent, RunFolder, RunHeader, RunState, StageLive};
use dcsft_engine::plan::{NodeState, Plan, PlannedNode};
use dcsft_engine::record::Execution;
use dcsft_engine::stage::Summary;
use dcsft_engine::study::StudyId;
use dcsft_engine::units::{date, duration};
use serde_json::json;

use crate::cli::{SpecArgs, Status};
use crate::exit::{Exit, Failure};
use crate::output::{count, print_json, print_table, stdout, table};
use crate::settings::{App, Project};

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

/// What became of a run: a word, and more words.
fn ending(run: &RunFolder) -> (&'static str, String) {
    match run.state() {
        RunState::Ended {
            executed,
            cached,
            failed,
            seconds,
            interrupted,
        } => {
            let word = match (failed, interrupted) {
                (1.., _) => "failed",
                (_, true) => "interrupted",
                _ => "done",
            };
            let mut text = format!("{executed} executed, {cached} cached");
            if failed > 0 {
                text += &format!(", {failed} failed");
            }
            (word, format!("{text} in {}", duration(seconds)))
        }
        RunState::Running => {
            let since = unix_now() - run.header.started_unix as f64;
            let process = run.header.process.map_or(String::new(), |id| {
                let host = run.header.machine.as_ref().and_then(|m| m.host.as_deref());
                format!(", process {id} on {}", host.unwrap_or("this machine"))
            });
            let text = format!("{} so far{process}", duration(since.max(0.0)));
            ("running", format!("{}, {text}", so_far(run)))
        }
        RunState::Killed => ("killed", format!("{} until then", so_far(run))),
        RunState::Unknown => (
            "unfinished",
            format!("{}; killed, or still running", so_far(run)),
        ),
    }
}

/// `12 executed, 3 cached, 2 at work` of a run that has not come to its end.
fn so_far(run: &RunFolder) -> String {
    let (mut executed, mut cached, mut failed, mut started) = (0, 0, 0, 0);
    for entry in run.stages().into_values() {
        match entry.event {
            RunEvent::StageFinished { .. } => executed += 1,
            RunEvent::StageCached { .. } => cached += 1,
            RunEvent::StageFailed { .. } => failed += 1,
            RunEvent::StageStarted { .. } => started += 1,
            _ => {}
        }
    }
    let mut text = format!("{executed} executed, {cached} cached");
    for (number, word) in [(failed, "failed"), (started, "at work")] {
        if number > 0 {
            text += &format!(", {number} {word}");
        }
    }
    text
}

fn unix_now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |age| age.as_secs_f64())
}

/// `tiny --set vars.steps=5`.
fn name(header: &RunHeader) -> String {
    format!("{}{}", header.spec, overrides(header))
}

/// ` --set vars.steps=5`, or nothing.
fn overrides(header: &RunHeader) -> String {
    let words = header.overrides.iter();
    words.map(|text| format!(" --set {text}")).collect()
}

fn all(app: &App) -> Result<Exit, Failure> {
    let store = app.store(None)?;
    let mut out = stdout();
    let mut list = table(&["started", "spec", "run", "state", ""], &[]);
    let mut runs = 0;
    for run in journal::runs(&store.runs_dir()).take(LATEST) {
        runs += 1;
        let (word, text) = ending(&run);
        let header = &run.header;
        if app.terminal.json {
            print_json(
                &mut out,
                &json!({
                    "run": header.run, "spec": header.spec, "place": header.place, "overrides": header.overrides,
                    "device": header.device, "started_unix": header.started_unix, "state": word, "detail": text,
                    "program": header.program, "machine": header.machine, "process": header.process,
                }),
            )?;
        } else {
            list.add_row([
                date(header.started_unix),
                name(header),
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

/// The latest run of this spec with these overrides, and a later one with others.
struct Found {
    run: Option<RunFolder>,
    /// The spec was edited after the run.
    edited: bool,
    /// A later run of the spec with other overrides.
    other: Option<RunFolder>,
}

fn find(project: &Project) -> Found {
    let id = StudyId::of(&project.study, project.store.root());
    let mut other = None;
    for run in journal::runs(&project.store.runs_dir()) {
        let Some(study) = run.header.study else {
            continue;
        };
        if study.is_variant_of(&id) {
            let edited = study.content != id.content;
            let run = Some(run);
            return Found { run, edited, other };
        }
        if study.spec == id.spec {
            other.get_or_insert(run);
        }
    }
    Found {
        run: None,
        edited: false,
        other,
    }
}

fn one(app: &App, spec: &SpecArgs) -> Result<Exit, Failure> {
    let mut project = app.project(spec)?;
    let found = find(&project);
    if let Some(run) = &found.run {
        // Its keys have its device's arithmetic in them.
        project.device.clone_from(&run.header.device);
    }
    // What the cache holds now. A run is watched also where that cannot be told: an input may be gone.
    let plan = project.plan(&[], false);
    if let Err(failure) = &plan {
        app.terminal.failure(failure);
        app.terminal
            .help("what follows is what the run said, not what the cache holds now");
    }
    let rows = rows(&project, found.run.as_ref(), plan.as_ref().ok());
    let mut out = stdout();
    if app.terminal.json {
        if found.run.is_some() {
            rows.iter()
                .try_for_each(|row| print_json(&mut out, &row.json()))?;
        }
    } else {
        heading(&mut out, &project, &found)?;
        if found.run.is_some() {
            let mut list = table(&["stage", "state", "time", "detail"], &[2]);
            for row in rows {
                list.add_row([
                    row.title,
                    row.state.to_owned(),
                    row.seconds.map(duration).unwrap_or_default(),
                    row.detail,
                ]);
            }
            writeln!(out)?;
            print_table(&mut out, &list)?;
        }
    }
    out.flush()?;
    Ok(Exit::Done)
}

fn heading(out: &mut impl Write, project: &Project, found: &Found) -> Result<(), Failure> {
    let spec = project.spec_name();
    match &found.run {
        None => {
            let with = match project.study.overrides.is_empty() {
                true => String::new(),
                false => format!(" with --set {}", project.study.overrides.join(" --set ")),
            };
            let (name, root) = (&project.study.name, project.store.root().display());
            writeln!(
                out,
                "`{name}` ({spec}) has not run{with} with the cache {root}"
            )?;
        }
        Some(run) => {
            let header = &run.header;
            let (word, text) = ending(run);
            writeln!(
                out,
                "{} of {}: {word}, {text}",
                header.run,
                date(header.started_unix)
            )?;
            if let Some((program, machine)) = header.program.as_ref().zip(header.machine.as_ref()) {
                let host = machine.host.as_deref().unwrap_or("this machine");
                writeln!(
                    out,
                    "dcsft {program} on {}, {host}: {machine}",
                    header.device
                )?;
            }
            let stages = count(project.study.nodes.len(), "stage", "stages");
            writeln!(out, "{stages} in {spec}{}", overrides(header))?;
            if found.edited {
                writeln!(out, "{spec} has been edited since that run")?;
            }
        }
    }
    if let Some(other) = &found.other {
        let (word, text) = ending(other);
        let (header, with) = (&other.header, overrides(&other.header));
        let with = match with.is_empty() {
            true => " without overrides, or with another environment".to_owned(),
            false => format!(" with{with}"),
        };
        writeln!(
            out,
            "a later run of {spec}{with}: {} of {}, {word}, {text}",
            header.run,
            date(header.started_unix)
        )?;
    }
    Ok(())
}

/// A stage's line.
struct Row {
    title: String,
    state: &'static str,
    seconds: Option<f64>,
    detail: String,
    live: Option<StageLive>,
    executed: Option<Execution>,
}

impl Row {
    fn json(&self) -> serde_json::Value {
        json!({
            "stage": self.title, "state": self.state, "seconds": self.seconds, "detail": self.detail,
            "progress": self.live, "execution": self.executed,
        })
    }
}

fn rows(project: &Project, run: Option<&RunFolder>, plan: Option<&Plan>) -> Vec<Row> {
    let said = run.map(RunFolder::stages).unwrap_or_default();
    let lives = run.is_some_and(|run| run.state() == RunState::Running);
    let live = run.and_then(RunFolder::live).unwrap_or_default();
    let shards = run.map(RunFolder::shards).unwrap_or_default();
    let nodes = project.study.nodes.iter();
    nodes
        .map(|node| {
            let title = node.title();
            let entry = said.get(&title);
            let planned = plan.map(|plan| plan.node(node.id));
            let record = planned.and_then(|planned| planned.state.record());
            let live = live.stages.get(&title).filter(|_| is_at_work(entry));
            let (state, mut detail) = if is_at_work(entry) {
                at_work(entry, shards.get(&title), live, lives)
            } else {
                state(entry, planned)
            };
            for notice in record.map_or(Vec::new(), |record| {
                Summary::read(&record.summary).0.notices()
            }) {
                let separator = if detail.is_empty() { "" } else { "; " };
                detail += &format!("{separator}{notice}");
            }
            let seconds = entry.and_then(|entry| entry.event.result());
            let seconds = seconds.map(|result| result.seconds);
            Row {
                title,
                state,
                seconds: seconds.or_else(|| record.map(|record| Execution::of(record).seconds)),
                detail,
                live: live.cloned(),
                executed: record.map(|record| Execution::of(record)),
            }
        })
        .collect()
}

fn is_at_work(entry: Option<&Entry>) -> bool {
    entry.is_some_and(|entry| matches!(entry.event, RunEvent::StageStarted { .. }))
}

/// Of a stage that has begun and not ended.
fn at_work(
    entry: Option<&Entry>,
    shards: Option<&(u32, u32)>,
    live: Option<&StageLive>,
    lives: bool,
) -> (&'static str, String) {
    let Some(entry) = entry else {
        return ("unknown", String::new());
    };
    let RunEvent::StageStarted { log, .. } = &entry.event else {
        return ("unknown", String::new());
    };
    let mut detail = Vec::new();
    if lives {
        let since = entry.at.map(|at| duration((unix_now() - at).max(0.0)));
        detail.extend(since.map(|since| format!("for {since}")));
    }
    detail.extend(shards.map(|(done, of)| format!("{done} of {of} shards done")));
    detail.extend(live.map(progress));
    detail.push(format!("log: {}", log.display()));
    let word = if lives { "running" } else { "stopped" };
    (word, detail.join("; "))
}

/// `step 120 of 600, loss 0.351, 12.3 samples/s, 4 s ago`.
fn progress(live: &StageLive) -> String {
    let at = &live.progress;
    let mut words = vec![format!("{} {} of {}", at.unit, at.done, at.total)];
    let fields = at.fields.iter();
    words.extend(fields.map(|(name, value)| format!("{name} {value:.4}")));
    words.extend(at.rate.map(|rate| format!("{rate:.1} samples/s")));
    words.push(format!("{} ago", duration((unix_now() - live.at).max(0.0))));
    words.join(", ")
}

/// What the run said of a stage that is not at work, and what the cache holds of it now.
fn state(entry: Option<&Entry>, planned: Option<&PlannedNode>) -> (&'static str, String) {
    let event = entry.map(|entry| &entry.event);
    let ran = event.map_or(("not run", String::new()), word);
    let had = event.and_then(RunEvent::result).map(|result| result.key);
    match planned.map(|planned| &planned.state) {
        None => ran,
        Some(NodeState::Cached { key, .. }) if had == Some(*key) => ran,
        Some(NodeState::Cached { record, .. }) => (
            "in the cache",
            format!("of another run, {}", date(record.created_unix)),
        ),
        // Whatever became of it there, there is no result to be wrong about.
        Some(_) if had.is_none() => ran,
        Some(NodeState::ToRun { key, .. }) if had == Some(*key) => {
            ("lost", "its result is no longer in the cache".to_owned())
        }
        Some(NodeState::ToRun { .. }) => ("changed", "since that run: it has to run".to_owned()),
        Some(NodeState::Waits { .. }) => (
            "unknown",
            "it depends on results that are not in the cache".to_owned(),
        ),
    }
}

/// The last word on a stage.
fn word(event: &RunEvent) -> (&'static str, String) {
    match event {
        RunEvent::StageCached { .. } => ("cached", String::new()),
        RunEvent::StageFinished { .. } => ("executed", String::new()),
        RunEvent::StageWaits { holder, .. } => (
            "waits for another process",
            holder.clone().unwrap_or_default(),
        ),
        RunEvent::StageRetries { message, .. } => ("tries again", message.clone()),
        RunEvent::StageReopened { message, .. } => ("runs again", message.clone()),
        RunEvent::StageFailed { failure, .. } => ("failed", failure.message.clone()),
        RunEvent::StageSkipped { because, .. } => ("skipped", format!("since {because} failed")),
        RunEvent::StageInterrupted { .. } => ("interrupted", String::new()),
        _ => ("unknown", String::new()),
    }
}
