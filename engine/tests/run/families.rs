//! Results that have parts in common.

use std::collections::BTreeSet;
use std::fs;

use dcsft_engine::plan::{Plan, PlanOptions};
use dcsft_engine::record::Execution;
use dcsft_engine::run::RunOptions;
use dcsft_engine::study::Study;
use serde_json::json;

use crate::support::{Bench, node};

fn tally(bench: &Bench, tag: &str, to: usize, sign: &str) -> Study {
    let params = json!({"tag": tag, "to": to, "sign": sign});
    bench.study().stage("tally", "tally", params, &[]).build()
}

/// Runs it, and gives its text, how much of it was counted, and the seconds spent and spared.
fn run(bench: &Bench, study: &Study, tag: &str) -> (String, usize, f64, f64) {
    let outcome = bench.run(study);
    assert!(outcome.is_complete(), "{:?}", outcome.failed);
    let record = outcome.records[0].as_ref().unwrap();
    let saved = Execution::cost_seconds(record) - Execution::of(record).seconds;
    let text = bench.text(study, &outcome, "tally");
    (
        text,
        bench.runs_of(tag),
        Execution::of(record).seconds,
        saved,
    )
}

#[test]
fn a_result_takes_what_another_of_its_family_has_and_comes_out_the_same() {
    let bench = Bench::new();
    let (_, counted, seconds, saved) = run(&bench, &tally(&bench, "three", 3, ""), "three");
    assert_eq!((counted, saved), (3, 0.0));
    let (text, counted, _, saved) = run(&bench, &tally(&bench, "five", 5, ""), "five");
    assert_eq!(counted, 2);
    assert!((saved - seconds).abs() < 1e-9, "{saved} of {seconds}");
    let (less, counted, ..) = run(&bench, &tally(&bench, "two", 2, ""), "two");
    assert_eq!((less.as_str(), counted), ("0\n1\n", 0));

    let alone = Bench::new();
    let (fresh, counted, ..) = run(&alone, &tally(&alone, "five", 5, ""), "five");
    assert_eq!((fresh, counted), (text, 5));
}

#[test]
fn another_family_lends_nothing() {
    let bench = Bench::new();
    run(&bench, &tally(&bench, "plain", 3, ""), "plain");
    let (text, counted, ..) = run(&bench, &tally(&bench, "signed", 3, "+"), "signed");
    assert_eq!((text.as_str(), counted), ("+0\n+1\n+2\n", 3));
    let study = |part: &str| {
        let params = json!({"tag": part, "to": 3});
        bench
            .study()
            .stage("part", "concat", json!({"text": part}), &[])
            .stage("tally", "tally", params, &["part"])
            .build()
    };
    for part in ["one", "other"] {
        assert!(bench.run(&study(part)).is_complete());
        assert_eq!(bench.runs_of(part), 3, "{part}");
    }
}

#[test]
fn a_stage_that_is_asked_to_run_again_does_all_itself() {
    let bench = Bench::new();
    run(&bench, &tally(&bench, "three", 3, ""), "three");
    let study = tally(&bench, "five", 5, "");
    run(&bench, &study, "five");
    let options = PlanOptions {
        force: BTreeSet::from(["tally".into()]),
        ..PlanOptions::default()
    };
    let plan = Plan::new(&study, &bench.registry, &bench.store, options).unwrap();
    let (outcome, _) = bench.run_plan(&study, &plan, &RunOptions::default());
    assert!(outcome.is_complete());
    assert_eq!(bench.runs_of("five"), 2 + 5);
}

#[test]
fn a_damaged_relative_lends_nothing() {
    let bench = Bench::new();
    let study = tally(&bench, "three", 3, "");
    let outcome = bench.run(&study);
    let digest = outcome.records[node(&study, "tally").id.0]
        .as_ref()
        .unwrap()
        .outputs["out"]
        .digest;
    let file = bench.store.artifact_files(&digest).join("value.txt");
    let mut permissions = fs::metadata(&file).unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "a test's own file")]
    permissions.set_readonly(false);
    fs::set_permissions(&file, permissions).unwrap();
    fs::write(&file, "9\n9\n9\n").unwrap();
    let (text, counted, ..) = run(&bench, &tally(&bench, "five", 5, ""), "five");
    assert_eq!((text.as_str(), counted), ("0\n1\n2\n3\n4\n", 5));
}

/// Twenty-four cells of one family, each on a set of its own; cells differ in what they are made of and in nothing else.
fn many(bench: &Bench, to: usize) -> Study {
    let mut study = bench.study();
    for cell in 0..24 {
        let axes = [("seed", json!(cell))];
        let part = format!("part[seed={cell}]");
        let tag = format!("to-{to}");
        study = study
            .cell(
                "part",
                "concat",
                &axes,
                json!({"text": format!("{cell}:")}),
                &[],
            )
            .cell(
                "tally",
                "tally",
                &axes,
                json!({"tag": tag, "to": to, "wide": true}),
                &[&part],
            );
    }
    study.build()
}

#[test]
fn each_of_many_results_of_a_family_is_lent_to_the_one_with_its_inputs() {
    let bench = Bench::new();
    assert!(bench.run(&many(&bench, 2)).is_complete());
    assert_eq!(bench.runs_of("to-2"), 24 * 2);
    let study = many(&bench, 4);
    let outcome = bench.run(&study);
    assert!(outcome.is_complete());
    // Two of the four are lent to each.
    assert_eq!(bench.runs_of("to-4"), 24 * 2);
    assert_eq!(
        bench.text(&study, &outcome, "tally[seed=7]"),
        "7:0\n7:1\n7:2\n7:3\n"
    );
}
