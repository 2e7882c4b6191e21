//! Stages in shards: the same bytes, each row computed once, whatever is killed, interrupted or cut otherwise.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dcsft_engine::journal::{Reason, RunEvent, RunFolder};
use dcsft_engine::record::Execution;
use dcsft_engine::run::{self, RunOptions, RunOutcome};
use dcsft_engine::stage::Shard;
use dcsft_engine::study::{Shards, Study};
use serde_json::{Value, json};

use crate::support::{Bench, Builder, digest};

const ROWS: usize = 9;

fn with(change: Value) -> Value {
    let mut params = json!({"tag": "rows", "rows": ROWS});
    for (name, value) in change.as_object().unwrap() {
        params[name] = value.clone();
    }
    params
}

fn cut(bench: &Bench, params: Value, shards: Shards) -> Study {
    stage(bench.study(), params, shards).build()
}

fn stage(builder: Builder, params: Value, shards: Shards) -> Builder {
    let builder = builder.stage("squares", "rows", params, &[]);
    builder.with_execution(|execution| execution.shards = shards)
}

fn jobs(jobs: usize) -> RunOptions {
    RunOptions {
        jobs: Some(jobs),
        backoff: Duration::from_millis(1),
        ..RunOptions::default()
    }
}

/// The shards of events that are `wanted`.
fn shards(events: &[RunEvent], wanted: impl Fn(&RunEvent) -> Option<Shard>) -> Vec<String> {
    let mut shards: Vec<Shard> = events.iter().filter_map(wanted).collect();
    shards.sort_unstable();
    shards.iter().map(ToString::to_string).collect()
}

fn started(event: &RunEvent) -> Option<Shard> {
    match event {
        RunEvent::ShardStarted { shard, .. } => Some(*shard),
        _ => None,
    }
}

fn finished(event: &RunEvent) -> Option<Shard> {
    match event {
        RunEvent::ShardFinished { shard, .. } => Some(*shard),
        _ => None,
    }
}

fn squares(bench: &Bench, study: &Study, outcome: &RunOutcome) -> String {
    bench.text(study, outcome, "squares")
}

fn expected() -> String {
    (0..ROWS).map(|row| format!("{}\n", row * row)).collect()
}

#[test]
fn however_a_stage_is_cut_its_bytes_are_the_same_and_each_row_is_computed_once() {
    for count in [1, 2, 3, 7, 20] {
        let bench = Bench::new();
        let study = cut(&bench, with(json!({})), Shards::Count(count));
        let (outcome, events) = bench.run_with(&study, &jobs(3));
        assert_eq!(squares(&bench, &study, &outcome), expected(), "{count}");
        assert_eq!(bench.runs_of("rows"), ROWS, "{count}");
        let cuts: Vec<String> = (1..=count)
            .filter(|_| count > 1)
            .map(|index| format!("{index}/{count}"))
            .collect();
        assert_eq!(shards(&events, started), cuts);
        assert_eq!(shards(&events, finished), cuts);
        let starts = events
            .iter()
            .filter(|event| matches!(event, RunEvent::StageStarted { .. }));
        assert_eq!(starts.count(), 1);
        let last = events.iter().rev().find_map(|event| match event {
            RunEvent::Progress { progress, .. } => Some((progress.done, progress.total)),
            _ => None,
        });
        assert_eq!(last, Some((ROWS as u64, ROWS as u64)), "{count}");
        // The workspace goes with the stage's.
        let key = outcome.records[0].as_ref().unwrap().key;
        assert!(run::shard_workspaces(&bench.store.workspace(&key).unwrap()).is_empty());
    }
}

#[test]
fn shards_are_in_no_key() {
    let bench = Bench::new();
    let whole = cut(&bench, with(json!({})), Shards::Count(1));
    let shards = cut(&bench, with(json!({})), Shards::Count(4));
    let first = bench.run(&whole);
    let second = bench.run(&shards);
    assert_eq!((first.executed, second.executed, second.cached), (1, 0, 1));
    assert_eq!(
        digest(&whole, &first, "squares"),
        digest(&shards, &second, "squares")
    );
}

#[test]
fn shards_work_at_the_same_time_and_each_has_a_log() {
    let bench = Bench::new();
    let study = cut(&bench, with(json!({"party": 3})), Shards::Count(3));
    let (outcome, events) = bench.run_with(&study, &jobs(3));
    assert_eq!(squares(&bench, &study, &outcome), expected());
    let mut logs: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            RunEvent::ShardStarted { log, .. } | RunEvent::StageStarted { log, .. } => Some(log),
            _ => None,
        })
        .collect();
    logs.sort();
    logs.dedup();
    assert_eq!(logs.len(), 4);
    assert!(logs.iter().all(|log| log.exists()));
}

#[test]
fn auto_shares_the_slots_among_what_could_start() {
    for (slots, others, expected) in [(1, 0, 0), (4, 0, 4), (4, 1, 2)] {
        let bench = Bench::new();
        let mut builder = bench.study();
        for other in 0..others {
            let name = format!("other{other}");
            let steps = json!({"tag": name, "steps": 50, "pause_ms": 10});
            builder = builder.stage(&name, "steps", steps, &[]);
        }
        let study = stage(builder, with(json!({})), Shards::Auto).build();
        let (outcome, events) = bench.run_with(&study, &jobs(slots));
        assert_eq!(squares(&bench, &study, &outcome), self::expected());
        assert_eq!(shards(&events, started).len(), expected, "{slots} slots");
    }
    // Of two accelerators, one for each.
    let bench = Bench::new();
    let study = cut(&bench, with(json!({})), Shards::Auto);
    let options = RunOptions {
        devices: vec!["cuda:0".to_owned(), "cuda:1".to_owned()],
        ..jobs(8)
    };
    let (outcome, events) = bench.run_with(&study, &options);
    assert!(outcome.is_complete());
    let devices: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            RunEvent::ShardStarted { device, .. } => Some(device.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(devices.len(), 2);
    assert!(devices.iter().all(|device| device.starts_with("cuda:")));
}

#[test]
fn a_shard_that_dies_is_tried_again_and_goes_on_where_it_was() {
    let bench = Bench::new();
    fs::write(bench.trace_dir().join("die"), "").unwrap();
    let mut study = cut(&bench, with(json!({"bad": 4})), Shards::Count(2));
    study.nodes[0].execution.retries = 1;
    let (outcome, events) = bench.run_with(&study, &jobs(2));
    assert_eq!(squares(&bench, &study, &outcome), expected());
    assert_eq!(bench.runs_of("rows"), ROWS);
    let retried = |event: &RunEvent| match event {
        RunEvent::ShardRetries { shard, message, .. } => {
            assert!(message.contains("killed by signal"), "{message}");
            Some(*shard)
        }
        _ => None,
    };
    // Rows 4 to 8 are the second half.
    assert_eq!(shards(&events, retried), ["2/2"]);
}

#[test]
fn a_shard_that_fails_fails_the_stage_with_its_words_and_the_next_run_has_the_others() {
    let bench = Bench::new();
    let fail = bench.trace_dir().join("fail");
    fs::write(&fail, "").unwrap();
    let builder = stage(bench.study(), with(json!({"bad": 4})), Shards::Count(3));
    let study = builder
        .stage("below", "concat", json!({}), &["squares"])
        .build();
    let (outcome, _) = bench.run_with(&study, &jobs(1));
    let (_, failure) = &outcome.failed[0];
    assert_eq!(failure.message, "shard 2/3: row 4 is bad");
    assert_eq!((failure.reason, failure.attempts), (Reason::Failed, 1));
    assert!(
        fs::read_to_string(&failure.log)
            .unwrap()
            .contains("row 4 is bad")
    );
    assert!(failure.tail.iter().any(|line| line == "row 4 is bad"));
    assert_eq!((outcome.failed.len(), outcome.skipped), (1, 1));

    // The first shard is done, the second has its first row; the next run cuts otherwise.
    assert_eq!(bench.runs_of("rows"), 4);
    fs::remove_file(fail).unwrap();
    let mut again = study.clone();
    again.nodes[0].execution.shards = Shards::Count(2);
    let (outcome, events) = bench.run_with(&again, &jobs(2));
    assert_eq!(squares(&bench, &again, &outcome), expected());
    assert_eq!(bench.runs_of("rows"), ROWS);
    assert_eq!(shards(&events, started), ["1/2", "2/2"]);
}

#[test]
fn a_timeout_is_that_of_each_shard() {
    let bench = Bench::new();
    fs::write(bench.trace_dir().join("hang"), "").unwrap();
    let mut study = cut(&bench, with(json!({"bad": 8})), Shards::Count(2));
    study.nodes[0].execution.timeout = Some(1.5);
    let (outcome, _) = bench.run_with(&study, &jobs(1));
    let (_, failure) = &outcome.failed[0];
    assert_eq!(failure.reason, Reason::TimedOut);
    assert_eq!(
        failure.message,
        "shard 2/2: it was stopped after its timeout of 1.5 s"
    );
}

/// Runs, and interrupts once so many rows are done.
fn interrupted(bench: &Bench, study: &Study, after: u64) -> (RunOutcome, Vec<RunEvent>) {
    let interrupted = Arc::new(AtomicBool::new(false));
    let options = RunOptions {
        interrupted: Arc::clone(&interrupted),
        ..jobs(2)
    };
    let mut events = Vec::new();
    let mut reporter = |event: &RunEvent| {
        if matches!(event, RunEvent::Progress { progress, .. } if progress.done >= after) {
            interrupted.store(true, Ordering::Relaxed);
        }
        events.push(event.clone());
    };
    let outcome = run::run(
        study,
        &bench.registry,
        &bench.plan(study),
        &bench.store,
        &options,
        &bench.executor(),
        &mut reporter,
    )
    .unwrap();
    (outcome, events)
}

#[test]
fn an_interrupt_stops_all_shards_and_any_cut_goes_on_from_there() {
    for (first, second) in [(3, 3), (4, 1), (1, 3), (3, 2)] {
        let bench = Bench::new();
        let params = with(json!({"rows": 30, "pause_ms": 20}));
        let study = cut(&bench, params.clone(), Shards::Count(first));
        let (outcome, events) = interrupted(&bench, &study, 4);
        assert!(outcome.interrupted && outcome.failed.is_empty());
        let stopped = events
            .iter()
            .filter(|event| matches!(event, RunEvent::StageInterrupted { .. }));
        assert_eq!(stopped.count(), 1, "{first}");
        let rows = bench.runs_of("rows");
        assert!((4..30).contains(&rows), "{rows}");
        let again = cut(&bench, params, Shards::Count(second));
        let (outcome, _) = bench.run_with(&again, &jobs(2));
        assert!(outcome.is_complete());
        assert_eq!(bench.runs_of("rows"), 30, "{first}, then {second}");
        // All attempts together slept for 30 rows of 20 ms.
        let execution = Execution::of(outcome.records[0].as_ref().unwrap());
        assert!(execution.seconds >= 0.6, "{}", execution.seconds);
    }
}

#[test]
fn a_shard_that_an_earlier_run_has_computed_is_not_started_again() {
    let bench = Bench::new();
    let fail = bench.trace_dir().join("fail");
    fs::write(&fail, "").unwrap();
    let study = cut(&bench, with(json!({"bad": 4})), Shards::Count(3));
    bench.run_with(&study, &jobs(1));
    fs::remove_file(fail).unwrap();
    let (outcome, events) = bench.run_with(&study, &jobs(1));
    assert_eq!(squares(&bench, &study, &outcome), expected());
    assert_eq!(shards(&events, started), ["2/3", "3/3"]);
    assert_eq!(shards(&events, finished), ["1/3", "2/3", "3/3"]);
    let folder = RunFolder::open(&bench.store.runs_dir().join(&outcome.run)).unwrap();
    assert_eq!(folder.shards()["squares"], (3, 3));
}
