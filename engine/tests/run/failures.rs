//! Stages that fail, in every way they can.

use std::fs;

use dcsft_engine::journal::{Failure, Reason, RunEvent};
use dcsft_engine::record::Execution;
use dcsft_engine::run::{self, Executor, RunOptions, Submitted, Task};
use serde_json::{Value, json};

use crate::support::{Bench, titles};

fn failure(how: &str) -> (Bench, Failure) {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("bad", "broken", json!({"how": how}), &[])
        .build();
    let outcome = bench.run(&study);
    assert_eq!(outcome.failed.len(), 1);
    assert_eq!((outcome.executed, outcome.is_complete()), (0, false));
    let failure = outcome.failed[0].1.clone();
    (bench, failure)
}

#[test]
fn a_failure_names_its_reason_its_place_and_its_log() {
    let (bench, failure) = failure("fail");
    assert_eq!(failure.message, "as it was told");
    assert_eq!(
        failure.place,
        format!("{}:1:3", bench.dir.path().join("test.yaml").display())
    );
    let log = fs::read_to_string(&failure.log).unwrap();
    assert!(log.contains("about to fail\nas it was told\n"), "{log}");
    assert_eq!(
        failure.tail[failure.tail.len() - 2..],
        ["about to fail", "as it was told"]
    );
    assert!(failure.log.ends_with("logs/bad.log"));
}

#[test]
fn a_panic_is_a_failure_with_message_and_place() {
    let (_bench, failure) = failure("panic");
    assert!(
        failure.message.starts_with("the stage panicked at "),
        "{}",
        failure.message
    );
    assert!(failure.message.contains("kinds.rs:"), "{}", failure.message);
    assert!(
        failure.message.ends_with(": index out of luck"),
        "{}",
        failure.message
    );
}

/// Panics where it should start a worker.
struct Panicking;

impl Executor for Panicking {
    fn submit<'t>(&'t self, _: &'t Task<'t>) -> std::io::Result<Submitted<'t>> {
        panic!("no worker today")
    }
}

/// A run's events where two stages that need nothing of each other ask for this much memory each, of 1 GiB.
fn two_that_ask_for(memory: u64) -> (Result<run::RunOutcome, run::RunError>, Vec<RunEvent>) {
    let bench = Bench::new();
    let mut study = bench
        .study()
        .stage("a", "concat", json!({"text": "a"}), &[])
        .stage("b", "concat", json!({"text": "b"}), &[])
        .build();
    for node in &mut study.nodes {
        node.execution.resources.memory = Some(memory);
    }
    let options = RunOptions {
        jobs: Some(2),
        memory: Some(1 << 30),
        ..RunOptions::default()
    };
    let mut events = Vec::new();
    let outcome = run::run(
        &study,
        &bench.registry,
        &bench.plan(&study),
        &bench.store,
        &options,
        &bench.executor(),
        &mut |event: &RunEvent| events.push(event.clone()),
    );
    (outcome, events)
}

#[test]
fn stages_run_at_once_as_far_as_there_is_the_memory_that_they_ask_for() {
    let (outcome, events) = two_that_ask_for(600 << 20);
    assert_eq!(outcome.unwrap().executed, 2);
    let order: Vec<bool> = events
        .iter()
        .filter_map(|event| match event {
            RunEvent::StageStarted { .. } => Some(true),
            RunEvent::StageFinished { .. } => Some(false),
            _ => None,
        })
        .collect();
    assert_eq!(order, [true, false, true, false], "one after the other");
}

#[test]
fn a_stage_that_asks_for_more_than_there_is_is_refused_before_anything_starts() {
    let (outcome, events) = two_that_ask_for(2 << 30);
    let error = outcome.unwrap_err().to_string();
    assert!(
        error.starts_with(
            "a can never start: it asks for 2.0 GiB of memory, and this machine has 1.0 GiB"
        ),
        "{error}"
    );
    let starts = |event: &&RunEvent| matches!(event, RunEvent::StageStarted { .. });
    assert_eq!(events.iter().filter(starts).count(), 0);
}

#[test]
fn a_panic_beside_the_worker_fails_the_stage_and_the_run_ends() {
    let bench = Bench::new();
    let study = bench.study().stage("a", "concat", json!({}), &[]).build();
    let outcome = run::run(
        &study,
        &bench.registry,
        &bench.plan(&study),
        &bench.store,
        &RunOptions::default(),
        &Panicking,
        &mut |_: &RunEvent| {},
    )
    .unwrap();
    assert_eq!(
        outcome.failed[0].1.message,
        "dcsft itself panicked: no worker today"
    );
    // Its lock is free again.
    assert_eq!(bench.run(&study).executed, 1);
}

#[test]
fn a_worker_that_dies_without_a_word_is_a_failure() {
    let (_bench, failure) = failure("exit");
    assert_eq!(
        failure.message,
        "its worker ended without a result (exit status: 7)"
    );
}

#[test]
fn a_failure_says_by_a_word_who_ended_the_stage() {
    for (how, reason) in [
        ("fail", Reason::Failed),
        ("panic", Reason::Failed),
        ("exit", Reason::NoResult),
        ("no_output", Reason::NoResult),
        ("abort", Reason::Killed),
    ] {
        assert_eq!(failure(how).1.reason, reason, "{how}");
    }
    let (_bench, killed) = failure("abort");
    assert!(
        killed.message.contains("killed by signal 6"),
        "{}",
        killed.message
    );
}

#[test]
fn an_output_that_no_cache_can_keep_is_the_stages_failure() {
    let (_bench, failure) = failure("link");
    assert_eq!(failure.reason, Reason::Failed);
    assert!(
        failure.message.contains("is a symbolic link"),
        "{}",
        failure.message
    );
}

/// The process that a stage has left behind: whether it still runs.
fn left_behind(bench: &Bench) -> (String, bool) {
    let pid = fs::read_to_string(bench.trace_dir().join("left behind")).unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| &rest[..1]);
    (pid, !matches!(state, "" | "Z" | "X"))
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_that_talks_on_does_not_keep_a_dead_stage_alive() {
    let (bench, failure) = failure("leave_talker");
    assert_eq!(
        failure.message,
        "its worker ended without a result (exit status: 7)"
    );
    let (pid, runs) = left_behind(&bench);
    let _ = std::process::Command::new("kill")
        .args(["-KILL", &pid])
        .status();
    assert!(runs, "the run waited for the talker to end");
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_stage_leaves_behind_in_its_group_ends_with_it() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("a", "broken", json!({"how": "leave_sleeper"}), &[])
        .build();
    assert_eq!(bench.run(&study).executed, 1);
    assert!(!left_behind(&bench).1);
}

#[test]
fn a_line_without_end_is_cut_in_the_log_and_the_journal_keeps_no_lines() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("a", "broken", json!({"how": "shout"}), &[])
        .build();
    let (outcome, events) = bench.run_with(&study, &RunOptions::default());
    assert_eq!(outcome.executed, 1);
    let log = events.iter().find_map(|event| match event {
        RunEvent::StageStarted { log, .. } => Some(log),
        _ => None,
    });
    let log = fs::read_to_string(log.unwrap()).unwrap();
    assert!(
        log.len() < 1_000_000 && log.contains(" bytes more)"),
        "{}",
        log.len()
    );
    assert!(log.contains("about to fail"));
    let journal = bench
        .store
        .runs_dir()
        .join(&outcome.run)
        .join("events.jsonl");
    let journal = fs::read_to_string(journal).unwrap();
    assert!(!journal.contains("about to fail") && journal.contains("stage_finished"));
}

#[test]
fn a_missing_output_is_a_failure() {
    let (_bench, failure) = failure("no_output");
    assert_eq!(
        failure.message,
        "the stage ended without writing its output `out`"
    );
}

#[test]
fn a_failure_ends_the_run_unless_it_is_told_to_keep_going() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("bad", "broken", json!({"how": "fail"}), &[])
        .stage("below", "concat", json!({"tag": "below"}), &["bad"])
        .stage(
            "far_below",
            "concat",
            json!({"tag": "far_below"}),
            &["below"],
        )
        .stage("apart", "concat", json!({"tag": "apart"}), &[])
        .build();
    let (outcome, events) = bench.run_with(
        &study,
        &RunOptions {
            jobs: Some(1),
            ..RunOptions::default()
        },
    );
    assert_eq!(
        (outcome.executed, outcome.failed.len(), outcome.skipped),
        (0, 1, 3)
    );
    assert_eq!(bench.runs_of("apart"), 0);
    let mut skipped = titles(&events, |event| {
        matches!(event, RunEvent::StageSkipped { .. })
    });
    skipped.sort_unstable();
    assert_eq!(skipped, ["below", "far_below"]);

    let options = RunOptions {
        jobs: Some(1),
        keep_going: true,
        ..RunOptions::default()
    };
    let (outcome, _) = bench.run_with(&study, &options);
    assert_eq!(
        (outcome.executed, outcome.failed.len(), outcome.skipped),
        (1, 1, 2)
    );
    assert_eq!((bench.runs_of("apart"), bench.runs_of("below")), (1, 0));
}

#[test]
fn stages_that_share_a_failed_key_fail_once() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("bad", "broken", json!({"how": "fail"}), &[])
        .stage("same", "broken", json!({"how": "fail"}), &[])
        .build();
    let outcome = bench
        .run_with(
            &study,
            &RunOptions {
                keep_going: true,
                ..RunOptions::default()
            },
        )
        .0;
    assert_eq!((outcome.failed.len(), outcome.skipped), (1, 1));
}

fn flaky(failures: u32) -> Value {
    json!({"tag": "flaky", "failures": failures})
}

#[test]
fn retries_run_a_stage_again_with_empty_outputs() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("flaky", "flaky", flaky(2), &[])
        .with_execution(|execution| execution.retries = 2)
        .build();
    let options = RunOptions {
        backoff: std::time::Duration::from_millis(1),
        ..RunOptions::default()
    };
    let (outcome, events) = bench.run_with(&study, &options);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert_eq!(
        titles(&events, |event| matches!(
            event,
            RunEvent::StageRetries { .. }
        )),
        ["flaky", "flaky"]
    );
    let record = outcome.records[0].as_ref().unwrap();
    assert_eq!(Execution::of(record).attempts, Some(3));
    let files = bench
        .store
        .artifact(&record.outputs["out"].digest)
        .unwrap()
        .unwrap()
        .files;
    let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["try-3", "value.txt"]);
}

#[test]
fn retries_run_out() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("flaky", "flaky", flaky(9), &[])
        .with_execution(|execution| execution.retries = 1)
        .build();
    let options = RunOptions {
        backoff: std::time::Duration::from_millis(1),
        ..RunOptions::default()
    };
    let outcome = bench.run_with(&study, &options).0;
    assert_eq!(
        (outcome.failed[0].1.attempts, bench.runs_of("flaky")),
        (2, 2)
    );
}

#[test]
fn a_failure_is_not_cached() {
    let bench = Bench::new();
    let study = bench.study().stage("flaky", "flaky", flaky(1), &[]).build();
    assert_eq!(bench.run(&study).failed.len(), 1);
    let again = bench.run(&study);
    assert_eq!((again.executed, again.failed.len()), (1, 0));
}

#[test]
fn a_timeout_stops_a_stage_that_does_not_listen() {
    let bench = Bench::new();
    let params = json!({"tag": "slow", "steps": 1_000_000, "pause_ms": 5, "deaf": true});
    let study = bench
        .study()
        .stage("slow", "steps", params, &[])
        .with_execution(|execution| execution.timeout = Some(0.3))
        .build();
    let outcome = bench.run(&study);
    assert_eq!(
        outcome.failed[0].1.message,
        "it was stopped after its timeout of 0.3 s"
    );
}

#[test]
fn a_job_of_another_version_is_refused() {
    let bench = Bench::new();
    let study = bench.study().stage("a", "concat", json!({}), &[]).build();
    let newer = dcsft_engine::stage::Registry::new(crate::kinds::numerics)
        .with::<crate::kinds::NewerConcat>();
    let plan =
        dcsft_engine::plan::Plan::new(&study, &newer, &bench.store, Default::default()).unwrap();
    let (outcome, _) = bench.run_plan(&study, &plan, &RunOptions::default());
    let message = &outcome.failed[0].1.message;
    assert_eq!(
        message,
        "the job was planned for version 2 of `concat`, and this binary has version 1: run again"
    );
}
