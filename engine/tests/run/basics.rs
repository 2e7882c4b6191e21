//! Running, caching, sharing.

use std::collections::BTreeSet;
use std::fs;

use dcsft_engine::journal::RunEvent;
use dcsft_engine::plan::{NodeState, Plan, PlanError, PlanOptions};
use dcsft_engine::record::Execution;
use dcsft_engine::run::RunOptions;
use serde_json::json;

use crate::support::{Bench, node, titles};

#[test]
fn a_study_runs_once_and_is_cached_after() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("a", "concat", json!({"text": "one,", "tag": "a"}), &[])
        .stage("b", "concat", json!({"text": "two", "tag": "b"}), &["a"])
        .build();
    let first = bench.run(&study);
    assert_eq!(
        (first.executed, first.cached, first.failed.len()),
        (2, 0, 0),
        "{:?}",
        first.failed
    );
    assert_eq!(bench.text(&study, &first, "b"), "one,two");
    assert_eq!(
        first.records[1].as_ref().unwrap().summary,
        json!({"characters": 7})
    );

    let plan = bench.plan(&study);
    assert!(plan.is_complete());
    assert_eq!(
        (
            plan.summary.cached,
            plan.summary.to_run,
            plan.summary.waiting
        ),
        (2, 0, 0)
    );
    let second = bench.run(&study);
    assert_eq!((second.executed, second.cached), (0, 2));
    assert_eq!((bench.runs_of("a"), bench.runs_of("b")), (1, 1));
}

#[test]
fn records_say_how_a_stage_was_run() {
    let bench = Bench::new();
    let study = bench.study().stage("a", "concat", json!({}), &[]).build();
    let outcome = bench
        .run_with(
            &study,
            &RunOptions {
                threads: Some(3),
                ..RunOptions::default()
            },
        )
        .0;
    let execution = Execution::of(outcome.records[0].as_ref().unwrap());
    assert_eq!(execution.threads, Some(3));
    assert_eq!(execution.device.as_deref(), Some("cpu"));
    assert_eq!(execution.attempts, Some(1));
    assert!(execution.seconds > 0.0);
    assert!(execution.peak_rss_bytes.unwrap() > 100_000);
}

#[test]
fn independent_stages_run_at_once_and_share_the_threads() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("a", "meet", json!({"tag": "a", "party": 2}), &[])
        .stage("b", "meet", json!({"tag": "b", "party": 2}), &[])
        .build();
    let options = RunOptions {
        jobs: Some(2),
        threads: Some(4),
        ..RunOptions::default()
    };
    let outcome = bench.run_with(&study, &options).0;
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert_eq!(bench.text(&study, &outcome, "a"), "threads 2");
    assert_eq!(bench.text(&study, &outcome, "b"), "threads 2");
}

#[test]
fn one_job_runs_one_stage_at_a_time() {
    let bench = Bench::new();
    let mut builder = bench.study();
    for name in ["a", "b", "c", "d"] {
        builder = builder.stage(name, "concat", json!({"tag": name}), &[]);
    }
    let study = builder.build();
    let (outcome, events) = bench.run_with(
        &study,
        &RunOptions {
            jobs: Some(1),
            ..RunOptions::default()
        },
    );
    assert_eq!(outcome.executed, 4);
    let mut running = 0;
    for event in events {
        match event {
            RunEvent::StageStarted { .. } => running += 1,
            RunEvent::StageFinished { .. } => running -= 1,
            _ => {}
        }
        assert!(running <= 1);
    }
}

#[test]
fn a_stage_that_reproduces_its_bytes_reruns_nothing_below_it() {
    let bench = Bench::new();
    let study = |text: &str| {
        bench
            .study()
            .stage(
                "a",
                "concat",
                json!({"text": text, "keep": 1, "tag": "a"}),
                &[],
            )
            .stage("b", "concat", json!({"text": "!", "tag": "b"}), &["a"])
            .build()
    };
    bench.run(&study("xy"));
    let changed = study("xz");
    let plan = bench.plan(&changed);
    assert!(matches!(plan.nodes[0].state, NodeState::ToRun { .. }));
    assert!(matches!(plan.nodes[1].state, NodeState::Waits { .. }));
    let outcome = bench.run(&changed);
    assert_eq!((outcome.executed, outcome.cached), (1, 1));
    assert_eq!(bench.runs_of("b"), 1);
}

#[test]
fn stages_that_select_the_same_content_share_what_follows() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("all", "concat", json!({"text": "abc"}), &[])
        .stage("low", "concat", json!({"keep": 2}), &["all"])
        .stage(
            "high",
            "concat",
            json!({"keep": 2, "text": "unseen"}),
            &["all"],
        )
        .stage(
            "train_low",
            "concat",
            json!({"text": "+", "tag": "train"}),
            &["low"],
        )
        .stage(
            "train_high",
            "concat",
            json!({"text": "+", "tag": "train"}),
            &["high"],
        )
        .build();
    let outcome = bench.run(&study);
    assert_eq!(bench.runs_of("train"), 1);
    assert_eq!((outcome.executed, outcome.cached), (4, 1));
    assert_eq!(bench.text(&study, &outcome, "train_high"), "ab+");
}

#[test]
fn the_plan_counts_equal_work_once_before_it_ran() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("a", "concat", json!({"text": "a"}), &[])
        .stage("also_a", "concat", json!({"text": "a"}), &[])
        .stage("b", "concat", json!({"text": "b"}), &["a"])
        .stage("also_b", "concat", json!({"text": "b"}), &["also_a"])
        .stage("c", "concat", json!({"text": "c"}), &["a"])
        .build();
    let summary = bench.plan(&study).summary;
    assert_eq!(
        (summary.stages, summary.distinct, summary.shared),
        (5, 3, 2)
    );
    assert_eq!((summary.to_run, summary.waiting), (1, 2));
    let outcome = bench.run(&study);
    assert_eq!((outcome.executed, outcome.cached), (3, 2));
    let again = bench.plan(&study).summary;
    assert_eq!((again.cached, again.distinct), (3, 3));
    assert!(again.reused_seconds > 0.0);
}

#[test]
fn labels_matter_only_to_kinds_that_write_them() {
    let bench = Bench::new();
    let study = |name: &str| {
        bench
            .study()
            .stage(name, "concat", json!({"text": "a"}), &[])
            .stage(
                "plain",
                "concat",
                json!({"text": "b", "tag": "plain"}),
                &[name],
            )
            .stage("labels", "labels", json!({}), &[name])
            .build()
    };
    bench.run(&study("first"));
    let renamed = study("second");
    let outcome = bench.run(&renamed);
    assert_eq!((outcome.executed, outcome.cached), (1, 2));
    assert_eq!((bench.runs_of("plain"), bench.runs_of("labels")), (1, 2));
    assert!(
        bench
            .text(&renamed, &outcome, "labels")
            .contains("\"stage\":\"second\"")
    );
}

#[test]
fn a_file_counts_by_content_and_not_by_path() {
    let bench = Bench::new();
    let study = |path: &str| {
        bench
            .study()
            .stage("copy", "read_file", json!({"path": path}), &[])
            .build()
    };
    fs::write(bench.dir.path().join("a.txt"), "same").unwrap();
    fs::write(bench.dir.path().join("b.txt"), "same").unwrap();
    let outcome = bench.run(&study("a.txt"));
    assert_eq!(bench.text(&study("a.txt"), &outcome, "copy"), "same");
    assert_eq!(bench.run(&study("b.txt")).cached, 1);
    fs::write(bench.dir.path().join("b.txt"), "else").unwrap();
    assert_eq!(bench.run(&study("b.txt")).executed, 1);
    assert_eq!(bench.run(&study("a.txt")).cached, 1);
}

#[test]
fn a_missing_file_is_an_error_where_it_is_required_and_an_identity_where_not() {
    let bench = Bench::new();
    let study = |required: bool| {
        bench
            .study()
            .stage(
                "copy",
                "read_file",
                json!({"path": "no.txt", "required": required}),
                &[],
            )
            .build()
    };
    let error = Plan::new(
        &study(true),
        &bench.registry,
        &bench.store,
        PlanOptions::default(),
    )
    .unwrap_err();
    assert!(
        error.to_string().starts_with("copy: `path`: there is no "),
        "{error}"
    );
    let absent = bench.run(&study(false));
    assert_eq!(bench.text(&study(false), &absent, "copy"), "absent");
    fs::write(bench.dir.path().join("no.txt"), "here").unwrap();
    assert_eq!(bench.run(&study(false)).executed, 1);
}

#[test]
fn a_file_that_changes_while_the_stage_runs_fails_the_stage() {
    let bench = Bench::new();
    fs::write(bench.dir.path().join("a.txt"), "text").unwrap();
    let study = bench
        .study()
        .stage(
            "copy",
            "read_file",
            json!({"path": "a.txt", "scribble": true}),
            &[],
        )
        .build();
    let outcome = bench.run(&study);
    assert_eq!(
        outcome.failed[0].1.message,
        "the files of `path` changed while the stage ran: run again"
    );
}

#[test]
fn forced_stages_run_again_and_others_do_not() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("a", "concat", json!({"text": "a", "tag": "a"}), &[])
        .stage("b", "concat", json!({"text": "b", "tag": "b"}), &["a"])
        .build();
    bench.run(&study);
    let options = PlanOptions {
        force: BTreeSet::from(["a".to_owned()]),
        ..PlanOptions::default()
    };
    let plan = Plan::new(&study, &bench.registry, &bench.store, options).unwrap();
    let (outcome, _) = bench.run_plan(&study, &plan, &RunOptions::default());
    assert_eq!((outcome.executed, outcome.cached), (1, 1));
    assert_eq!((bench.runs_of("a"), bench.runs_of("b")), (2, 1));

    let options = PlanOptions {
        force: BTreeSet::from(["c".to_owned()]),
        ..PlanOptions::default()
    };
    let error = Plan::new(&study, &bench.registry, &bench.store, options).unwrap_err();
    assert!(matches!(error, PlanError::UnknownForced { .. }));
    assert_eq!(
        error.to_string(),
        "there is no stage `c` to force; stages are a, b"
    );
}

#[test]
fn events_tell_the_run_and_the_last_line_has_the_totals() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("a", "concat", json!({"text": "abc"}), &[])
        .build();
    let (_, events) = bench.run_with(&study, &RunOptions::default());
    assert!(
        matches!(&events[0], RunEvent::Started { spec, stages: 1, cached: 0, .. } if spec == "test")
    );
    assert_eq!(
        titles(&events, |event| matches!(
            event,
            RunEvent::StageFinished { .. }
        )),
        ["a"]
    );
    assert!(events.contains(&RunEvent::Log {
        stage: "a".into(),
        message: "3 characters".into()
    }));
    let last = serde_json::to_value(events.last().unwrap()).unwrap();
    let names: Vec<&String> = last.as_object().unwrap().keys().collect();
    assert_eq!(names, ["event", "executed", "cached", "failed", "seconds"]);
    assert_eq!(
        (&last["event"], &last["executed"]),
        (&json!("finished"), &json!(1))
    );
}

#[test]
fn the_most_urgent_stage_goes_first() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("leaf", "concat", json!({"tag": "leaf"}), &[])
        .stage("root", "concat", json!({"tag": "root"}), &[])
        .stage("middle", "concat", json!({"tag": "middle"}), &["root"])
        .stage("end", "concat", json!({"tag": "end"}), &["middle"])
        .build();
    let (_, events) = bench.run_with(
        &study,
        &RunOptions {
            jobs: Some(1),
            ..RunOptions::default()
        },
    );
    let order = titles(&events, |event| {
        matches!(event, RunEvent::StageStarted { .. })
    });
    assert_eq!(order[..2], ["root", "middle"]);
    assert_eq!(node(&study, "end").inputs[0].1.len(), 1);
}
