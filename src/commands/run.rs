//! `dcsft run SPEC`.

use std::collections::BTreeSet;
use std::io::Stdout;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dcsft_cache::{Digest, Remote};
use dcsft_engine::journal::{self, RunEvent};
use dcsft_engine::lockfile::Lock;
use dcsft_engine::plan::{Plan, PlannedNode, forecast};
use dcsft_engine::run::{self, Executor, JsonReporter, Pause, Reporter, RunOptions, RunOutcome};
use dcsft_engine::study::Node;
use dcsft_engine::text;
use dcsft_engine::units::duration;
use dcsft_tensor::device::DeviceSpec;

use super::cancel;
use super::place;
use super::{lock, report, results};
use crate::cli::Run;
use crate::collect::Results;
use crate::exit::{Exit, Failure};
use crate::kernels::Kernels;
use crate::output::count;
use crate::program;
use crate::progress;
use crate::remote::{self, Upload, Uploading};
use crate::settings::{App, Project, start_threads, threads_missing};

/// How often a run begins again because results that it had found turned out to rest on damage.
const ROUNDS: u32 = 3;

/// Runs the study, prints the results, writes the report. With `--json` the last event is `finished`, however it ends.
///
/// # Errors
/// A wrong spec; a cache that cannot be used. Failing stages are told of here and end in [`Exit::Failed`].
pub(crate) fn run(app: &App, args: &Run) -> Result<Exit, Failure> {
    let started = Instant::now();
    let mut lines = JsonReporter::new(std::io::stdout());
    let ended = run_and_report(app, args, &mut lines);
    if !app.terminal.json || lines.is_finished() {
        return ended;
    }
    // It ended before it began: the mistake first, then the event that says so.
    ended.map_err(|failure| {
        app.terminal.tell(&failure);
        lines.event(&RunEvent::Finished {
            executed: 0,
            cached: 0,
            failed: 0,
            seconds: started.elapsed().as_secs_f64(),
        });
        Failure::Told(Box::new(failure))
    })
}

fn run_and_report(
    app: &App,
    args: &Run,
    lines: &mut JsonReporter<Stdout>,
) -> Result<Exit, Failure> {
    let pause = Arc::new(Pause::default());
    // Before any other thread starts.
    #[cfg(unix)]
    run::stop_with_terminal(&pause).map_err(threads_missing)?;
    start_threads()?;
    // The process ends with this command. Freeing thousands of records one by one would be a large part of the time
    // of a run that finds everything in the cache.
    let mut project = ManuallyDrop::new(app.project(&args.spec)?);
    let remote = remote::named(&args.remote, &args.spec.spec)?;
    if let Some(remote) = &remote {
        project.store = project.store.clone().with_remote(Arc::clone(remote));
    }
    // From the first look-up on: what the plan finds must not be collected before the run takes it over.
    let _held =
        project
            .store
            .hold_or_wait(&format!("dcsft run {}", project.study.name), |holder| {
                app.terminal.say(&format!(
                    "waiting for {holder}, which has the cache to itself"
                ));
            })?;
    let plan = ManuallyDrop::new(project.plan(&args.force, args.paranoid)?);
    if let Some(remote) = &remote {
        remote::tell_troubles(app.terminal, remote);
    }
    let locked = args.locked.then(|| lock::read(&project)).transpose()?;
    if let Some(locked) = &locked {
        let (study, store) = (&project.study, &project.store);
        if let Some(divergence) = locked.check_plan(study, &plan, store, args.tolerance)? {
            return lock::diverged(app, &project, locked, args.tolerance, &divergence);
        }
    }
    if !plan.is_complete() {
        check_params(&project, &plan)?;
    }
    let kernels = Kernels::of(&project.devices);
    let executor = place::executor(args, &project.store, &kernels)?;
    let elsewhere = executor.is_elsewhere();
    if !elsewhere {
        check_devices(&project, &plan)?;
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    if !plan.is_complete() {
        handle_ctrl_c(&interrupted, remote.clone())?;
    }
    let options = RunOptions {
        jobs: args.jobs,
        threads: args.threads,
        keep_going: args.keep_going,
        devices: project.devices.clone(),
        gpus: run::gpus_of_this_machine(),
        interrupted,
        program: program::this(),
        pause,
        ..RunOptions::default()
    };
    let mut bars;
    let reporter: &mut dyn Reporter = if app.terminal.json {
        &mut *lines
    } else {
        bars = progress::reporter(app.terminal);
        bars.as_mut()
    };
    let upload = remote.map(|remote| Upload::start(remote, &project.store, &plan));
    let upload = upload.transpose()?;
    let mut reporter = Uploading {
        inner: reporter,
        upload: upload.as_ref(),
    };
    let outcome = rounds(
        app,
        args,
        &project,
        plan,
        &options,
        &*executor,
        &mut reporter,
    );
    if let Some(upload) = upload {
        upload.finish(app.terminal, &args.spec.spec);
    }
    let outcome = outcome?;
    let exit = conclude(app, args, &project, &outcome, locked.as_ref())?;
    if outcome.interrupted && elsewhere {
        leave_or_cancel(app, args, &project, &*executor)?;
    }
    lines.written()?;
    Ok(exit)
}

/// Runs the plan, and another one where results that it had found rest on damage.
fn rounds(
    app: &App,
    args: &Run,
    project: &Project,
    mut plan: ManuallyDrop<Plan>,
    options: &RunOptions,
    executor: &dyn Executor,
    reporter: &mut dyn Reporter,
) -> Result<ManuallyDrop<RunOutcome>, Failure> {
    let mut rounds = 0;
    loop {
        let outcome = run::run(
            &project.study,
            &project.registry,
            &plan,
            &project.store,
            options,
            executor,
            reporter,
        )
        // As an event it was told already.
        .map_err(|error| Failure::Told(Box::new(error.into())))?;
        rounds += 1;
        if outcome.interrupted || rounds == ROUNDS || !rests_on_damage(project, &outcome)? {
            return Ok(ManuallyDrop::new(outcome));
        }
        app.terminal.say(
            "results that were in the cache were computed from what was found damaged now: they are computed again",
        );
        plan = ManuallyDrop::new(project.plan(&[], args.paranoid)?);
    }
}

/// Whether the run has taken over results that are void by now, since an input of theirs was found damaged later.
fn rests_on_damage(project: &Project, outcome: &RunOutcome) -> Result<bool, Failure> {
    let void: BTreeSet<Digest> = project.store.take_voided().into_iter().collect();
    if void.is_empty() {
        return Ok(false);
    }
    for record in outcome.records.iter().flatten() {
        // One that was computed again meanwhile has a record again.
        if void.contains(&record.key) && project.store.lookup(&record.key)?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// No stage that has to run would fail at its start because of what its inputs are.
fn check_params(project: &Project, plan: &Plan) -> Result<(), Failure> {
    let Project {
        study,
        registry,
        store,
        ..
    } = project;
    forecast::problems(study, registry, plan, store).into_result()?;
    Ok(())
}

/// Fails where a stage has to run on a device that this machine or this build does not have: better now than after
/// the stages before it.
fn check_devices(project: &Project, plan: &Plan) -> Result<(), Failure> {
    let computes = |(node, planned): (&Node, &PlannedNode)| {
        let kind = project.registry.get(&node.kind);
        planned.state.record().is_none() && kind.is_some_and(|kind| kind.decl().numeric)
    };
    if !project.study.nodes.iter().zip(&plan.nodes).any(computes) {
        return Ok(());
    }
    for device in &project.devices {
        let found = device.parse::<DeviceSpec>().and_then(DeviceSpec::find);
        found.map_err(Failure::failed)?;
    }
    Ok(())
}

/// An interrupted run leaves its jobs to the cluster, and says so. On a terminal it asks.
fn leave_or_cancel(
    app: &App,
    args: &Run,
    project: &Project,
    executor: &dyn Executor,
) -> Result<(), Failure> {
    let workspaces = cancel::workspaces(project, &project.plan(&[], false)?)?;
    let left = workspaces
        .iter()
        .filter(|workspace| executor.has_job(workspace))
        .count();
    if left == 0 {
        return Ok(());
    }
    let spec = args.spec.spec.display();
    let jobs = count(left, "job", "jobs");
    if app.terminal.asks(&format!("cancel {jobs} too? [y/N] ")) {
        let cancelled = executor.cancel(&workspaces).map_err(Failure::failed)?;
        let jobs = count(cancelled.len(), "job", "jobs");
        app.terminal.say(&format!("{jobs} cancelled"));
    } else {
        app.terminal.help(&format!(
            "{jobs} stay in the cluster's queue: the next run follows them, `dcsft cancel {spec}` ends them"
        ));
    }
    Ok(())
}

fn conclude(
    app: &App,
    args: &Run,
    project: &Project,
    outcome: &RunOutcome,
    locked: Option<&Lock>,
) -> Result<Exit, Failure> {
    for (node, failure) in &outcome.failed {
        tell_failure(app, &project.study.nodes[node.0].title(), failure);
    }
    app.terminal.say(&summary(project, outcome));
    if outcome.interrupted {
        app.terminal
            .help("the next run goes on where this one stopped");
        return Ok(Exit::Interrupted);
    }
    let found = Results::new(&project.study, &outcome.records, &project.store);
    let failed: Vec<String> = outcome
        .failed
        .iter()
        .map(|(node, _)| project.study.nodes[node.0].title())
        .collect();
    let page = if args.no_report {
        None
    } else if !project.store.is_writable() {
        app.terminal.say(
            "the cache cannot be written: no report; `dcsft report --out` writes one elsewhere",
        );
        None
    } else {
        Some(report::update(project, &found, &failed)?)
    };
    if app.terminal.json {
        results::tell_notes(app, &found.tables(false));
    } else {
        results::print_summary(&found, page.as_deref())?;
    }
    if !outcome.failed.is_empty() {
        return Ok(Exit::Failed);
    }
    if let Some(locked) = locked {
        return lock::compare(app, project, locked, args.tolerance, &outcome.records);
    }
    Ok(Exit::Done)
}

/// `31 stages: 12 executed, 19 cached in 4 min 10 s`.
fn summary(project: &Project, outcome: &RunOutcome) -> String {
    let mut parts = vec![
        format!("{} executed", outcome.executed),
        format!("{} cached", outcome.cached),
    ];
    if !outcome.failed.is_empty() {
        parts.push(format!("{} failed", outcome.failed.len()));
    }
    if outcome.skipped > 0 {
        parts.push(format!("{} skipped", outcome.skipped));
    }
    let word = if outcome.interrupted {
        ", interrupted"
    } else {
        ""
    };
    let stages = count(project.study.nodes.len(), "stage", "stages");
    format!(
        "{stages}: {} in {}{word}",
        parts.join(", "),
        duration(outcome.seconds)
    )
}

fn tell_failure(app: &App, stage: &str, failure: &journal::Failure) {
    let terminal = app.terminal;
    let tries = if failure.attempts > 1 {
        format!(" after {} tries", failure.attempts)
    } else {
        String::new()
    };
    let stage = text::line(stage);
    terminal.error(&format!("{stage} failed{tries}: {}", failure.message));
    terminal.to_stderr(&format!("  --> {}", failure.place));
    for line in &failure.tail {
        terminal.to_stderr(&format!("   | {}", text::line(line)));
    }
    terminal.to_stderr(&format!("  log: {}", failure.log.display()));
}

/// The first Ctrl-C ends the run cleanly, and what goes to and from the remote; the second ends all at once.
fn handle_ctrl_c(
    interrupted: &Arc<AtomicBool>,
    remote: Option<Arc<Remote>>,
) -> Result<(), Failure> {
    let flag = Arc::clone(interrupted);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(Exit::Interrupted as i32);
        }
        if let Some(remote) = &remote {
            remote.stop();
        }
    })
    .map_err(threads_missing)
}
