//! Result rows and their aggregation.

use std::collections::BTreeMap;

use dcsft_engine::results::aggregate::{aggregate, paired};
use dcsft_engine::results::statistics::mean_and_error;
use dcsft_engine::results::{ResultRow, rows};
use dcsft_engine::study::Study;
use serde_json::{Value, json};

use crate::support::Bench;

#[test]
fn rows_come_from_finished_evaluations_in_the_order_of_the_study() {
    let bench = Bench::new();
    let mut study: Study = bench
        .study()
        .cell(
            "eval",
            "score",
            &[("seed", json!(0)), ("step", json!(100))],
            json!({"value": 0.25}),
            &[],
        )
        .cell(
            "eval",
            "score",
            &[("seed", json!(1)), ("step", json!("final"))],
            json!({"value": 0.5}),
            &[],
        )
        .build();
    study.nodes[0].arm = "sft/easy".into();
    let outcome = bench.run(&study);
    let found = rows(&study, &outcome.records);
    assert!(found.unreadable.is_empty() && found.missing.is_empty());
    assert_eq!(found.nodes, [study.nodes[0].id, study.nodes[1].id]);
    let rows = found.rows;
    let expected = ResultRow {
        arm: "sft/easy".into(),
        axes: BTreeMap::from([("seed".into(), json!(0)), ("step".into(), json!(100))]),
        step: Some(100),
        set: "id".into(),
        split: "id".into(),
        metric: "accuracy".into(),
        value: 0.25,
        n: Some(10),
        ci: Some([0.15, 0.35]),
        stage: "eval".into(),
        model: None,
        data: None,
    };
    assert_eq!(rows[0], expected);
    assert_eq!((rows[1].step, rows[1].value, rows.len()), (None, 0.5, 2));
    let line = serde_json::to_value(&rows[0]).unwrap();
    let names: Vec<&String> = line.as_object().unwrap().keys().collect();
    assert_eq!(
        names,
        [
            "arm", "axes", "step", "set", "split", "metric", "value", "n", "ci", "stage"
        ]
    );
}

fn row(arm: &str, axes: &[(&str, Value)], step: Option<u64>, value: f64) -> ResultRow {
    ResultRow {
        arm: arm.into(),
        axes: axes
            .iter()
            .map(|(axis, value)| ((*axis).to_owned(), value.clone()))
            .collect(),
        step,
        set: "id".into(),
        split: "id".into(),
        metric: "accuracy".into(),
        value,
        n: None,
        ci: None,
        stage: "eval".into(),
        model: None,
        data: None,
    }
}

#[test]
fn results_that_cannot_be_read_and_evaluations_without_any_are_told() {
    let bench = Bench::new();
    let study: Study = bench
        .study()
        .cell(
            "eval",
            "score",
            &[("seed", json!(0))],
            json!({"value": 0.25}),
            &[],
        )
        .cell(
            "eval",
            "score",
            &[("seed", json!(1))],
            json!({"value": 0.5}),
            &[],
        )
        .build();
    let mut records = bench.run(&study).records;
    let mut broken = dcsft_cache::Record::clone(records[0].as_ref().unwrap());
    let good = broken.summary["results"][0].clone();
    let mut bad = good.clone();
    bad["value"] = Value::Null;
    broken.summary = json!({"results": [good, bad, "text"]});
    records[0] = Some(broken.into());
    let found = rows(&study, &records);
    assert_eq!(found.rows.len(), 2);
    let told: Vec<(usize, &str)> = found
        .unreadable
        .iter()
        .map(|(node, what)| (node.0, what.as_str()))
        .collect();
    assert!(
        matches!(told.as_slice(), [(0, first), (0, second)] if first.contains("result 2") && second.contains("result 3")),
        "{told:?}"
    );

    let mut broken = dcsft_cache::Record::clone(records[0].as_ref().unwrap());
    broken.summary = json!({"results": {"accuracy": 0.5}});
    records[0] = Some(broken.into());
    let found = rows(&study, &records);
    assert_eq!(
        (found.rows.len(), found.unreadable.len()),
        (1, 1),
        "{:?}",
        found.unreadable
    );
}

#[test]
fn sets_of_one_name_from_two_places_are_neither_averaged_nor_paired() {
    let origin = |stage: &str, seed: u64| {
        Some(dcsft_engine::stage::Origin {
            stage: stage.into(),
            axes: BTreeMap::from([("seed".to_owned(), json!(seed))]),
            output: "data".into(),
        })
    };
    let mut all = Vec::new();
    for (arm, stage) in [("base", "val"), ("arm", "val"), ("arm", "test")] {
        for index in 0..2 {
            let mut row = row(arm, &[seed(index)], None, 0.5);
            row.data = origin(stage, index);
            all.push(row);
        }
    }
    let groups = aggregate(&all, "seed");
    assert_eq!(
        groups.iter().map(|group| group.repeats).collect::<Vec<_>>(),
        [2, 2, 2]
    );
    let pairs = paired(&groups, "base");
    assert_eq!(pairs.len(), 1);
    assert_eq!(pairs[0].group.data.as_deref(), Some("val.data"));
}

fn seed(value: u64) -> (&'static str, Value) {
    ("seed", json!(value))
}

#[test]
fn mean_and_standard_error_are_the_textbook_ones() {
    let (mean, error) = mean_and_error(&[1.0, 2.0, 3.0, 4.0]);
    // Sample variance 5/3, over 4.
    assert!((mean - 2.5).abs() < 1e-15);
    assert!((error.unwrap() - (5.0_f64 / 12.0).sqrt()).abs() < 1e-15);
    assert_eq!(mean_and_error(&[3.0]), (3.0, None));
}

#[test]
fn rows_are_grouped_over_the_axis_and_nothing_else() {
    let rows = [
        row("a", &[seed(0), ("lr", json!(0.1))], None, 1.0),
        row("a", &[seed(0), ("lr", json!(0.2))], None, 5.0),
        row("a", &[seed(1), ("lr", json!(0.1))], None, 3.0),
        row("a", &[seed(1), ("lr", json!(0.1))], Some(100), 9.0),
    ];
    let groups = aggregate(&rows, "seed");
    let means: Vec<(f64, usize)> = groups
        .iter()
        .map(|group| (group.mean, group.repeats))
        .collect();
    assert_eq!(means, [(2.0, 2), (5.0, 1), (9.0, 1)]);
    assert_eq!(groups[0].values, [(json!(0), 1.0), (json!(1), 3.0)]);
    assert_eq!(
        groups[0].group.axes,
        BTreeMap::from([("lr".into(), json!(0.1))])
    );
}

#[test]
fn differences_are_taken_seed_by_seed() {
    let mut rows = Vec::new();
    for (index, (base, arm)) in [(0.1, 0.3), (0.5, 0.5), (0.7, 1.0)].into_iter().enumerate() {
        rows.push(row("base", &[seed(index as u64)], None, base));
        rows.push(row(
            "arm",
            &[seed(index as u64), ("subset", json!("easy"))],
            None,
            arm,
        ));
    }
    rows.push(row("arm", &[seed(9), ("subset", json!("easy"))], None, 0.0));
    let pairs = paired(&aggregate(&rows, "seed"), "base");
    assert_eq!(pairs.len(), 1);
    let pair = &pairs[0];
    assert_eq!((pair.pairs, pair.wins, pair.ties), (3, 2, 1));
    let (mean, error) = mean_and_error(&[0.3 - 0.1, 0.0, 1.0 - 0.7]);
    assert!((pair.mean_difference - mean).abs() < 1e-15);
    assert!((pair.standard_error.unwrap() - error.unwrap()).abs() < 1e-15);
}

#[test]
fn a_baseline_without_seeds_or_steps_stands_against_all() {
    let rows = [
        row("base", &[], None, 0.5),
        row("arm", &[seed(0)], Some(100), 0.6),
        row("arm", &[seed(1)], Some(100), 0.4),
        row("arm", &[seed(0)], None, 0.9),
    ];
    let pairs = paired(&aggregate(&rows, "seed"), "base");
    let counts: Vec<_> = pairs
        .iter()
        .map(|pair| (pair.group.step, pair.pairs, pair.wins))
        .collect();
    assert_eq!(counts, [(Some(100), 2, 1), (None, 1, 1)]);
}

#[test]
fn arms_are_compared_at_equal_steps_and_axes() {
    let rows = [
        row("base", &[seed(0), ("lr", json!(0.1))], Some(100), 0.5),
        row("base", &[seed(0), ("lr", json!(0.2))], Some(200), 0.6),
        row("arm", &[seed(0), ("lr", json!(0.1))], Some(100), 0.7),
        row("arm", &[seed(0), ("lr", json!(0.2))], Some(100), 0.7),
    ];
    let pairs = paired(&aggregate(&rows, "seed"), "base");
    assert_eq!(pairs.len(), 1);
    assert_eq!(
        (&pairs[0].group.axes, &pairs[0].baseline.axes),
        (&pairs[0].baseline.axes, &pairs[0].group.axes)
    );
}
