//! Faults of the machine beside the stages: a cache that cannot be written, other processes in the way, a run that is
//! stopped. None of them is a stage's failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dcsft_engine::journal::RunEvent;
use dcsft_engine::plan::{Plan, PlanOptions};
use dcsft_engine::record::Execution;
use dcsft_engine::run::{self, Pause, RunError, RunOptions, RunOutcome};
use dcsft_engine::study::Study;
use serde_json::json;

use crate::support::{Bench, titles};

/// Puts a file where a folder of the store is: nothing can be read or written there, by whatever user.
struct Fault {
    folder: PathBuf,
    away: PathBuf,
}

impl Fault {
    fn at(bench: &Bench, folder: &str) -> Self {
        let folder = bench.store.root().join("v1").join(folder);
        let away = folder.with_extension("away");
        Self { folder, away }
    }

    fn break_it(&self) {
        fs::rename(&self.folder, &self.away).unwrap();
        fs::write(&self.folder, "").unwrap();
    }

    fn mend(&self) {
        fs::remove_file(&self.folder).unwrap();
        fs::rename(&self.away, &self.folder).unwrap();
    }
}

/// Runs, and calls `at` for each event.
fn run_with(
    bench: &Bench,
    study: &Study,
    options: &RunOptions,
    mut at: impl FnMut(&RunEvent),
) -> (Result<RunOutcome, RunError>, Vec<RunEvent>) {
    let mut events = Vec::new();
    let mut reporter = |event: &RunEvent| {
        at(event);
        events.push(event.clone());
    };
    let outcome = run::run(
        study,
        &bench.registry,
        &bench.plan(study),
        &bench.store,
        options,
        &bench.executor(),
        &mut reporter,
    );
    (outcome, events)
}

/// A stage that is done while `folder` of the store cannot be used.
fn unstored(bench: &Bench, study: &Study, folder: &str) -> (RunError, Vec<RunEvent>) {
    let fault = Fault::at(bench, folder);
    let (outcome, events) = run_with(bench, study, &RunOptions::default(), |event| {
        if matches!(event, RunEvent::StageStarted { .. }) {
            fault.break_it();
        }
    });
    fault.mend();
    (outcome.unwrap_err(), events)
}

fn one_stage(bench: &Bench) -> Study {
    bench
        .study()
        .stage("a", "concat", json!({"text": "one", "tag": "a"}), &[])
        .with_execution(|execution| execution.retries = 3)
        .build()
}

#[test]
fn a_store_that_cannot_be_written_ends_the_run_and_the_next_one_stores_the_result() {
    for folder in ["artifacts", "blobs", "records"] {
        let bench = Bench::new();
        let study = one_stage(&bench);
        let (error, events) = unstored(&bench, &study, folder);
        assert!(
            matches!(error, RunError::Unstored { .. }),
            "{folder}: {error}"
        );
        assert_eq!(bench.runs_of("a"), 1, "{folder}: it ran again");
        let blamed = titles(&events, |event| {
            matches!(
                event,
                RunEvent::StageFailed { .. } | RunEvent::StageRetries { .. }
            )
        });
        assert!(blamed.is_empty(), "{folder}: {blamed:?}");
        assert!(
            matches!(
                &events[events.len() - 2..],
                [RunEvent::Error { message }, RunEvent::Finished { .. }] if *message == error.to_string()
            ),
            "{folder}: {events:?}"
        );

        let (outcome, events) = bench.run_with(&study, &RunOptions::default());
        assert_eq!((outcome.executed, outcome.cached), (0, 1), "{folder}");
        assert_eq!(bench.runs_of("a"), 1, "{folder}: it was computed again");
        assert_eq!(bench.text(&study, &outcome, "a"), "one");
        assert_eq!(
            outcome.records[0].as_ref().unwrap().summary["characters"],
            3
        );
        assert_eq!(
            titles(&events, |event| matches!(event, RunEvent::Warning { .. })),
            ["a"]
        );
        let work = fs::read_dir(bench.store.root().join("v1/work")).unwrap();
        assert_eq!(work.count(), 0, "{folder}: the workspace stays behind");
    }
}

/// The workspace of the only unfinished key.
fn workspace(bench: &Bench) -> PathBuf {
    let mut entries = fs::read_dir(bench.store.root().join("v1/work")).unwrap();
    entries.next().unwrap().unwrap().path()
}

/// The output `out` of the one worker that was in a workspace.
fn output(workspace: &Path) -> PathBuf {
    let mut turns = fs::read_dir(workspace.join("outputs")).unwrap();
    turns.next().unwrap().unwrap().path().join("out")
}

#[test]
fn what_is_not_as_the_stage_left_it_is_computed_again() {
    let damages: [fn(&Path); 4] = [
        |workspace| fs::write(output(workspace).join("value.txt"), "two").unwrap(),
        |workspace| fs::write(output(workspace).join("more.txt"), "more").unwrap(),
        |workspace| fs::remove_dir_all(output(workspace)).unwrap(),
        |workspace| {
            let path = workspace.join("done.json");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(
                path,
                text.replace(r#"{"characters":3}"#, r#"{"characters":4}"#),
            )
            .unwrap();
        },
    ];
    for (index, damage) in damages.into_iter().enumerate() {
        let bench = Bench::new();
        let study = one_stage(&bench);
        unstored(&bench, &study, "artifacts");
        damage(&workspace(&bench));
        let outcome = bench.run(&study);
        assert_eq!((outcome.executed, bench.runs_of("a")), (1, 2), "{index}");
        assert_eq!(bench.text(&study, &outcome, "a"), "one");
        assert_eq!(
            outcome.records[0].as_ref().unwrap().summary["characters"],
            3
        );
    }
}

#[test]
fn a_result_that_was_left_is_not_taken_if_a_file_may_have_been_another_one() {
    let bench = Bench::new();
    let file = bench.dir.path().join("file.txt");
    fs::write(&file, "text").unwrap();
    let study = bench
        .study()
        .stage("a", "read_file", json!({"path": "file.txt"}), &[])
        .build();
    unstored(&bench, &study, "artifacts");
    assert_eq!(bench.runs_of("read_file"), 1);
    // The same bytes as before, but who knows what they were in between.
    fs::write(&file, "text").unwrap();
    assert_eq!(bench.run(&study).executed, 1);
    assert_eq!(bench.runs_of("read_file"), 2);

    fs::write(&file, "other").unwrap();
    unstored(&bench, &study, "artifacts");
    let outcome = bench.run(&study);
    assert_eq!((outcome.executed, bench.runs_of("read_file")), (0, 3));
    assert_eq!(bench.text(&study, &outcome, "a"), "other");
}

#[test]
fn a_stage_that_is_asked_to_run_again_takes_nothing_that_was_left() {
    let bench = Bench::new();
    let study = one_stage(&bench);
    unstored(&bench, &study, "artifacts");
    let options = PlanOptions {
        force: ["a".to_owned()].into(),
        ..PlanOptions::default()
    };
    let plan = Plan::new(&study, &bench.registry, &bench.store, options).unwrap();
    let (outcome, _) = bench.run_plan(&study, &plan, &RunOptions::default());
    assert_eq!((outcome.executed, bench.runs_of("a")), (1, 2));
}

#[test]
fn a_result_whose_workspace_cannot_be_removed_is_a_result_with_a_warning() {
    let bench = Bench::new();
    let study = one_stage(&bench);
    let key = bench.plan(&study).nodes[0].state.key().unwrap();
    // A folder that cannot be removed, by whatever user.
    let mount = bench.store.workspace(&key).unwrap().join("busy");
    fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(&mount)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        let message = "a file system cannot be mounted here";
        assert!(std::env::var_os("CI").is_none(), "{message}");
        eprintln!("skipped: {message}");
        return;
    }
    let (outcome, events) = bench.run_with(&study, &RunOptions::default());
    let _ = Command::new("umount").arg(&mount).status();
    assert_eq!((outcome.executed, outcome.failed.len()), (1, 0));
    assert_eq!(
        titles(&events, |event| matches!(event, RunEvent::Warning { .. })),
        ["a"]
    );
    assert!(bench.plan(&study).is_complete());
}

#[test]
fn a_run_that_cannot_begin_ends_with_its_last_event_too() {
    let bench = Bench::new();
    let study = one_stage(&bench);
    let plan = bench.plan(&study);
    let fault = Fault::at(&bench, "runs");
    fault.break_it();
    let mut events = Vec::new();
    let outcome = run::run(
        &study,
        &bench.registry,
        &plan,
        &bench.store,
        &RunOptions::default(),
        &bench.executor(),
        &mut |event: &RunEvent| events.push(event.clone()),
    );
    assert!(matches!(outcome, Err(RunError::Journal(_))));
    assert!(
        matches!(
            &events[..],
            [RunEvent::Error { .. }, RunEvent::Finished { .. }]
        ),
        "{events:?}"
    );
}

/// The first thing that is said of waiting.
fn holder_of(events: &[RunEvent]) -> &str {
    let said = events.iter().find_map(|event| match event {
        RunEvent::StageWaits { holder, .. } => holder.as_deref(),
        _ => None,
    });
    said.expect("it says for whom it waits")
}

#[test]
fn who_computes_a_key_is_named_to_whoever_waits_for_it() {
    let bench = Bench::new();
    let study = one_stage(&bench);
    let key = bench.plan(&study).nodes[0].state.key().unwrap();
    let lock = bench.store.try_lock(&key).unwrap().unwrap();
    lock.say_for("dcsft run other, run 7");
    let mut lock = Some(lock);
    let (outcome, events) = run_with(&bench, &study, &RunOptions::default(), |event| {
        if matches!(event, RunEvent::StageWaits { .. }) {
            lock.take();
        }
    });
    assert_eq!(outcome.unwrap().executed, 1);
    let holder = holder_of(&events);
    assert!(
        holder.starts_with(&format!("process {}", std::process::id()))
            && holder.ends_with("(dcsft run other, run 7)"),
        "{holder}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_stuck_worker_of_a_dead_run_is_named_and_its_time_does_not_count() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("a", "concat", json!({"text": "one", "tag": "a"}), &[])
        .build();
    let key = bench.plan(&study).nodes[0].state.key().unwrap();
    // A process that has the workspace, and is stopped.
    let mut stuck = Command::new("sleep").arg("300").spawn().unwrap();
    let pid = stuck.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-STOP", &pid])
            .status()
            .unwrap()
            .success()
    );
    let stat = format!("/proc/{pid}/stat");
    while !fs::read_to_string(&stat).unwrap().contains(") T ") {
        thread::sleep(Duration::from_millis(2));
    }
    let path = bench.store.workspace(&key).unwrap().join("worker.lock");
    fs::write(&path, &pid).unwrap();
    let lock = fs::File::open(&path).unwrap();
    lock.lock().unwrap();
    let mut lock = Some(lock);
    let (outcome, events) = run_with(&bench, &study, &RunOptions::default(), |event| {
        if matches!(event, RunEvent::StageWaits { .. })
            && let Some(lock) = lock.take()
        {
            lock.unlock().unwrap();
        }
    });
    stuck.kill().unwrap();
    stuck.wait().unwrap();
    assert_eq!(outcome.unwrap().executed, 1);
    let holder = holder_of(&events);
    assert!(
        holder.starts_with(&format!("process {pid}, the worker of a run that has died"))
            && holder.contains("it is stopped"),
        "{holder}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn while_a_run_stands_still_its_workers_and_its_clocks_do_too() {
    const TIMEOUT: Duration = Duration::from_secs(6);
    let bench = Bench::new();
    let study = bench
        .study()
        .stage(
            "slow",
            "steps",
            json!({"tag": "slow", "steps": 40, "pause_ms": 10}),
            &[],
        )
        .with_execution(|execution| execution.timeout = Some(TIMEOUT.as_secs_f64()))
        .build();
    let key = bench.plan(&study).nodes[0].state.key().unwrap();
    let done = bench.store.workspace(&key).unwrap().join("state/done.txt");
    let pause = Arc::new(Pause::default());
    let options = RunOptions {
        pause: Arc::clone(&pause),
        ..RunOptions::default()
    };
    let stopper = {
        let pause = Arc::clone(&pause);
        thread::spawn(move || {
            while fs::read_to_string(&done).is_err() {
                thread::sleep(Duration::from_millis(2));
            }
            pause.begin();
            while !pause.is_complete() {
                thread::sleep(Duration::from_millis(2));
            }
            let began = Instant::now();
            let steps = fs::read_to_string(&done).unwrap();
            while began.elapsed() < TIMEOUT + Duration::from_secs(1) {
                thread::sleep(Duration::from_millis(20));
            }
            let unchanged = fs::read_to_string(&done).unwrap() == steps;
            pause.end();
            (steps, unchanged)
        })
    };
    let (outcome, _) = bench.run_with(&study, &options);
    let (steps, unchanged) = stopper.join().unwrap();
    assert_ne!(steps, "40", "it was done before it could be stopped");
    assert!(unchanged, "it went on");
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert_eq!(bench.text(&study, &outcome, "slow"), "slow counted to 40;");
    let seconds = Execution::of(outcome.records[0].as_ref().unwrap()).seconds;
    assert!(
        seconds < TIMEOUT.as_secs_f64(),
        "the pause counted: {seconds} s"
    );
}
