//! Interrupts, kills, damage, several runs at once.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dcsft_cache::{Digest, Store};
use dcsft_engine::journal::RunEvent;
use dcsft_engine::plan::{Plan, PlanOptions};
use dcsft_engine::record::Execution;
use dcsft_engine::run::{self, RunOptions, RunOutcome};
use dcsft_engine::study::Study;
use serde_json::json;

use crate::kinds;
use crate::support::{self, Bench, Builder, titles};

/// Set in processes that are runs; its value is the test's folder.
pub(crate) const RUNNER: &str = "DCSFT_TEST_RUNNER";

/// Acts as a process that runs [`diamond`].
pub(crate) fn be_runner() -> ! {
    let dir = std::env::var_os(RUNNER).unwrap();
    let dir = Path::new(&dir);
    let store = Store::open(&dir.join("cache")).unwrap();
    let (study, registry) = (diamond(dir), kinds::registry());
    let plan = Plan::new(&study, &registry, &store, PlanOptions::default()).unwrap();
    let executor = support::executor(&dir.join("trace"));
    let options = RunOptions {
        jobs: Some(2),
        ..RunOptions::default()
    };
    let outcome = run::run(
        &study,
        &registry,
        &plan,
        &store,
        &options,
        &executor,
        &mut |_: &RunEvent| {},
    )
    .unwrap();
    assert!(outcome.is_complete(), "{:?}", outcome.failed);
    std::process::exit(0);
}

fn start_runner(bench: &Bench) -> Child {
    let (program, args) = support::this_binary("runner_entry");
    Command::new(program)
        .args(args)
        .env(RUNNER, bench.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Four stages that take their time.
fn diamond(root: &Path) -> Study {
    let steps = |tag: &str| json!({"tag": tag, "steps": 20, "pause_ms": 4});
    Builder::new(root)
        .stage("top", "steps", steps("top"), &[])
        .stage("left", "steps", steps("left"), &["top"])
        .stage("right", "steps", steps("right"), &["top"])
        .stage("bottom", "steps", steps("bottom"), &["left", "right"])
        .build()
}

fn digests(outcome: &RunOutcome) -> Vec<Digest> {
    outcome
        .records
        .iter()
        .map(|record| record.as_ref().unwrap().outputs["out"].digest)
        .collect()
}

fn slow(bench: &Bench, deaf: bool) -> Study {
    bench
        .study()
        .stage(
            "slow",
            "steps",
            json!({"tag": "slow", "steps": 40, "pause_ms": 10, "deaf": deaf}),
            &[],
        )
        .build()
}

/// Runs, and interrupts once the stage has made five steps.
fn interrupted_run(bench: &Bench, study: &Study) -> (RunOutcome, Vec<RunEvent>) {
    let interrupted = Arc::new(AtomicBool::new(false));
    let options = RunOptions {
        interrupted: Arc::clone(&interrupted),
        ..RunOptions::default()
    };
    let plan = bench.plan(study);
    let mut events = Vec::new();
    let mut reporter = |event: &RunEvent| {
        if matches!(event, RunEvent::Progress { progress, .. } if progress.done >= 5) {
            interrupted.store(true, Ordering::Relaxed);
        }
        events.push(event.clone());
    };
    let outcome = run::run(
        study,
        &bench.registry,
        &plan,
        &bench.store,
        &options,
        &bench.executor(),
        &mut reporter,
    )
    .unwrap();
    (outcome, events)
}

fn first_step(events: &[RunEvent]) -> u64 {
    let log = events.iter().find_map(|event| match event {
        RunEvent::Log { message, .. } => message.strip_prefix("from step "),
        _ => None,
    });
    log.unwrap().parse().unwrap()
}

#[test]
fn an_interrupted_run_ends_cleanly_and_the_next_one_resumes() {
    let bench = Bench::new();
    let study = slow(&bench, false);
    let (outcome, events) = interrupted_run(&bench, &study);
    assert!(outcome.interrupted && !outcome.is_complete());
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert_eq!(
        titles(&events, |event| matches!(
            event,
            RunEvent::StageInterrupted { .. }
        )),
        ["slow"]
    );

    let (outcome, events) = bench.run_with(&study, &RunOptions::default());
    assert!(first_step(&events) >= 5);
    assert_eq!(bench.text(&study, &outcome, "slow"), "slow counted to 40;");
    // Both attempts together slept for 40 steps of 10 ms: what the interrupted one spent counts.
    assert!(Execution::of(outcome.records[0].as_ref().unwrap()).seconds >= 0.4);
}

#[test]
fn a_stage_that_does_not_listen_is_killed_and_still_resumes() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage(
            "slow",
            "steps",
            json!({"tag": "slow", "steps": 400, "pause_ms": 5, "deaf": true}),
            &[],
        )
        .build();
    let (outcome, _) = interrupted_run(&bench, &study);
    assert!(outcome.interrupted && outcome.failed.is_empty());
    let (outcome, events) = bench.run_with(&study, &RunOptions::default());
    assert!(first_step(&events) >= 5);
    assert_eq!(bench.text(&study, &outcome, "slow"), "slow counted to 400;");
}

#[test]
fn nothing_starts_after_an_interrupt() {
    let bench = Bench::new();
    let study = diamond(bench.dir.path());
    let options = RunOptions {
        interrupted: Arc::new(AtomicBool::new(true)),
        ..RunOptions::default()
    };
    let (outcome, _) = bench.run_with(&study, &options);
    assert!(outcome.interrupted);
    assert_eq!(outcome.executed, 0);
    assert_eq!(bench.runs_of("left"), 0);
}

#[test]
fn two_runs_at_once_compute_everything_once() {
    let bench = Bench::new();
    let runners = [
        start_runner(&bench),
        start_runner(&bench),
        start_runner(&bench),
    ];
    for mut runner in runners {
        assert!(runner.wait().unwrap().success());
    }
    for tag in ["top", "left", "right", "bottom"] {
        assert_eq!(bench.runs_of(tag), 1, "{tag}");
    }
}

#[test]
fn ten_kills_at_random_moments_change_no_byte() {
    let undisturbed = Bench::new();
    let expected = digests(&undisturbed.run(&diamond(undisturbed.dir.path())));

    let bench = Bench::new();
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    for kill in 0..10_u32 {
        let mut runner = start_runner(&bench);
        let pause = 5 + (seed.wrapping_mul(2_654_435_761).wrapping_add(kill * 7919)) % 120;
        std::thread::sleep(Duration::from_millis(u64::from(pause)));
        runner.kill().unwrap();
        runner.wait().unwrap();
    }
    let outcome = bench.run(&diamond(bench.dir.path()));
    assert_eq!(digests(&outcome), expected, "seed {seed}");
}

#[test]
fn a_worker_ends_when_its_run_is_killed() {
    let bench = Bench::new();
    let mut runner = start_runner(&bench);
    while bench.runs_of("top") == 0 {
        std::thread::sleep(Duration::from_millis(2));
    }
    runner.kill().unwrap();
    runner.wait().unwrap();
    let study = diamond(bench.dir.path());
    let key = bench.plan(&study).nodes[0].state.key().unwrap();
    // The worker holds this lock for as long as it lives.
    let lock = File::open(bench.store.workspace(&key).unwrap().join("worker.lock")).unwrap();
    lock.lock().unwrap();
    let done = fs::read_to_string(bench.store.workspace(&key).unwrap().join("state/done.txt"))
        .unwrap_or_default();
    assert_ne!(done, "20");
}

#[test]
fn a_damaged_input_is_computed_again() {
    let bench = Bench::new();
    let study = |text: &str| {
        bench
            .study()
            .stage("a", "concat", json!({"text": "one,", "tag": "a"}), &[])
            .stage("b", "concat", json!({"text": text, "tag": "b"}), &["a"])
            .build()
    };
    let first = bench.run(&study("two"));
    let file = bench
        .store
        .artifact_files(&support::digest(&study("two"), &first, "a"))
        .join("value.txt");
    damage(&file);

    let changed = study("three");
    let (outcome, events) = bench.run_with(&changed, &RunOptions::default());
    assert_eq!(
        titles(&events, |event| matches!(
            event,
            RunEvent::StageReopened { .. }
        )),
        ["a"]
    );
    assert_eq!((outcome.executed, outcome.cached), (2, 0));
    assert_eq!(bench.text(&changed, &outcome, "b"), "one,three");
    assert_eq!(bench.runs_of("a"), 2);
}

#[test]
fn all_readers_of_a_damaged_input_wait_until_it_is_computed_again() {
    let bench = Bench::new();
    let study = |text: &str| {
        let mut study =
            bench
                .study()
                .stage("a", "concat", json!({"text": "one,", "tag": "a"}), &[]);
        for reader in ["b", "c", "d"] {
            let params = json!({"text": format!("{text} {reader}"), "tag": reader});
            study = study.stage(reader, "concat", params, &["a"]);
        }
        study.build()
    };
    let first = bench.run(&study("two"));
    damage(
        &bench
            .store
            .artifact_files(&support::digest(&study("two"), &first, "a"))
            .join("value.txt"),
    );

    let changed = study("three");
    let outcome = bench.run(&changed);
    assert_eq!((outcome.executed, outcome.failed.len()), (4, 0));
    for reader in ["b", "c", "d"] {
        assert_eq!(
            bench.text(&changed, &outcome, reader),
            format!("one,three {reader}")
        );
    }
    assert_eq!(bench.runs_of("a"), 2);
}

#[test]
fn a_paranoid_plan_finds_damage_that_a_plain_one_trusts() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("a", "concat", json!({"text": "one"}), &[])
        .build();
    let first = bench.run(&study);
    damage(
        &bench
            .store
            .artifact_files(&support::digest(&study, &first, "a"))
            .join("value.txt"),
    );
    assert!(bench.plan(&study).is_complete());
    let options = PlanOptions {
        paranoid: true,
        ..PlanOptions::default()
    };
    let plan = Plan::new(&study, &bench.registry, &bench.store, options).unwrap();
    let (outcome, _) = bench.run_plan(&study, &plan, &RunOptions::default());
    assert_eq!(outcome.executed, 1);
    assert_eq!(bench.text(&study, &outcome, "a"), "one");
}

#[test]
fn a_removed_artifact_is_computed_again() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("a", "concat", json!({"text": "one"}), &[])
        .build();
    let first = bench.run(&study);
    let files = bench
        .store
        .artifact_files(&support::digest(&study, &first, "a"));
    fs::remove_dir_all(files.parent().unwrap()).unwrap();
    let outcome = bench.run(&study);
    assert_eq!(
        (outcome.executed, bench.text(&study, &outcome, "a").as_str()),
        (1, "one")
    );
}

/// Changes a byte and keeps the size.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    let mut permissions = fs::metadata(path).unwrap().permissions();
    #[expect(
        clippy::permissions_set_readonly_false,
        reason = "a file of a temporary folder"
    )]
    permissions.set_readonly(false);
    fs::set_permissions(path, permissions).unwrap();
    File::create(path).unwrap().write_all(&bytes).unwrap();
}
