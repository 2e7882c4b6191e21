//! `results` and `report`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{DATA, FINISHED, Lab, lines};

#[test]
fn rows_in_json_have_the_documented_fields() {
    let (lab, _) = &*FINISHED;
    let rows = lines(&lab.ok(&["results", "spec.yaml", "--json"]));
    // Two seeds, three sets, two metrics; cold start once, three SFT arms and GRPO at two steps.
    assert_eq!(rows.len(), 2 * 3 * 2 * (1 + 3 * 2 + 2));
    for row in &rows {
        assert!(
            row["arm"].is_string() && row["axes"].is_object() && row["set"].is_string(),
            "{row}"
        );
        assert!(row["split"] == "id" || row["split"] == "ood", "{row}");
        let value = row["value"].as_f64().expect("a value");
        assert!((0.0..=1.0).contains(&value), "{row}");
        assert_eq!(row["n"], 20, "{row}");
        if row["metric"] == "accuracy" {
            let (low, high) = (
                row["ci"][0].as_f64().expect("low"),
                row["ci"][1].as_f64().expect("high"),
            );
            assert!(low <= value && value <= high, "{row}");
        }
    }
    let steps: std::collections::BTreeSet<_> = rows
        .iter()
        .filter(|row| row["arm"] == "grpo")
        .map(|row| row["step"].as_u64())
        .collect();
    assert_eq!(steps.into_iter().collect::<Vec<_>>(), [Some(2), Some(4)]);
}

#[test]
fn a_checkpoint_that_is_named_without_an_axis_has_its_step_everywhere() {
    let (lab, _) = &*FINISHED;
    lab.write(
        "checkpoints.yaml",
        r#"
dcsft: 1
extends: spec.yaml
name: checkpoints
matrix: {seed: [0]}
stages:
  eval_sft: null
  eval_grpo: null
  early: {uses: eval, with: {model: "${sft[subset=hard].step-2}", data: "${world.val}", max_new_tokens: 8}}
  late:
    uses: eval
    matrix: {checkpoint: [4]}
    with: {model: "${sft[subset=hard].step-${matrix.checkpoint}}", data: "${world.val}", max_new_tokens: 8}
  report: {with: {evals: ["${eval_cold_start[*]}", "${early}", "${late}"]}}
"#,
    );
    lab.ok(&["run", "checkpoints.yaml", "--quiet"]);
    let printed = lines(&lab.ok(&["results", "checkpoints.yaml", "--json"]));
    let steps: BTreeSet<_> = printed
        .iter()
        .filter(|row| row["arm"] == "sft/hard" && row["metric"] == "accuracy")
        .map(|row| row["step"].as_u64())
        .collect();
    assert_eq!(steps, BTreeSet::from([Some(2), Some(4)]));
    let key = lines(&lab.ok(&["plan", "checkpoints.yaml", "--json"]))
        .into_iter()
        .find(|line| line["kind"] == "report")
        .and_then(|line| line["key"].as_str().map(str::to_owned))
        .expect("the key of the report");
    let folder = lab.ok(&["cache", "path", &key]);
    let written = std::fs::read_to_string(format!("{}/results.jsonl", folder.trim()));
    // The stage has them in the order of its inputs.
    let told = |rows: &[Value]| -> BTreeSet<String> { rows.iter().map(Value::to_string).collect() };
    assert_eq!(
        told(&lines(&written.expect("the stage's rows"))),
        told(&printed),
        "the stage `report` and the command line tell the same"
    );
}

#[test]
fn csv_has_one_line_per_row_and_a_heading() {
    let (lab, _) = &*FINISHED;
    let csv = lab.ok(&["results", "spec.yaml", "--format", "csv"]);
    let rows = lines(&lab.ok(&["results", "spec.yaml", "--json"]));
    assert!(
        csv.starts_with("arm,axes,step,set,split,metric,value,n,ci_low,ci_high\n"),
        "{csv}"
    );
    assert_eq!(csv.lines().count(), rows.len() + 1);
}

#[test]
fn the_table_shows_last_steps_and_all_steps_on_demand() {
    let (lab, _) = &*FINISHED;
    let arms = |text: &str, arm: &str| text.lines().filter(|line| line.starts_with(arm)).count();
    let last = lab.ok(&["results", "spec.yaml"]);
    assert_eq!(arms(&last, "sft/hard "), 1, "{last}");
    assert!(
        last.contains("mean ± standard error over 2 seeds"),
        "{last}"
    );
    let all = lab.ok(&["results", "spec.yaml", "--all-steps"]);
    assert_eq!(arms(&all, "sft/hard "), 2, "{all}");
}

#[test]
fn paired_differences_agree_with_the_rows() {
    let (lab, _) = &*FINISHED;
    let objects = lines(&lab.ok(&["results", "spec.yaml", "--json", "--seeds"]));
    let difference = objects
        .iter()
        .find(|one| one["arm"] == "sft/hard" && one["versus"] == "cold_start")
        .expect("hard against the cold start");
    let rows = lines(&lab.ok(&["results", "spec.yaml", "--json"]));
    let value = |arm: &str, seed: u64| {
        rows.iter()
            .filter(|row| row["arm"] == arm && row["axes"]["seed"] == seed && row["set"] == "val")
            .filter(|row| row["metric"] == "accuracy" && row["step"] != 2)
            .filter_map(|row| row["value"].as_f64())
            .next_back()
            .expect("a row")
    };
    let gaps = [0, 1].map(|seed| value("sft/hard", seed) - value("cold_start", seed));
    let mean = (gaps[0] + gaps[1]) / 2.0;
    assert!(
        (difference["id"]["mean"].as_f64().expect("a mean") - mean).abs() < 1e-12,
        "{difference}"
    );
    assert_eq!(difference["id"]["pairs"], 2);
}

#[test]
fn markdown_is_a_table() {
    let (lab, _) = &*FINISHED;
    let text = lab.ok(&["results", "spec.yaml", "--format", "markdown"]);
    assert!(text.starts_with("| arm"), "{text}");
    assert!(
        text.lines()
            .nth(1)
            .is_some_and(|line| line.starts_with("|--")),
        "{text}"
    );
}

#[test]
fn results_that_do_not_exist_yet_are_said_to_be_missing() {
    let lab = Lab::new(DATA);
    assert!(
        lab.ok(&["results", "spec.yaml"])
            .contains("no evaluation has a result yet")
    );
    assert_eq!(lab.ok(&["results", "spec.yaml", "--json"]), "");
}

#[test]
fn the_report_is_one_self_contained_page_with_figures_beside_it() {
    let (lab, _) = &*FINISHED;
    let out = lab.root().join("out");
    let printed = lab.ok(&[
        "report",
        "spec.yaml",
        "--out",
        "out",
        "--set",
        "vars.steps=4",
    ]);
    assert!(printed.trim().ends_with("index.html"), "{printed}");
    let page = std::fs::read_to_string(out.join("index.html")).expect("the page");
    for part in [
        "sft/easy+medium",
        "data:image/png;base64,",
        "name: tiny",
        "<svg",
        "of 2 right",
    ] {
        assert!(page.contains(part), "no {part} in the page");
    }
    assert!(!page.contains("<summary>--set"), "overrides are no files");
    for remote in ["src=\"http", "href=\"http", "@import", "url(http"] {
        assert!(!page.contains(remote), "the page loads something: {remote}");
    }
    for figure in [
        "accuracy",
        "steps",
        "time",
        "pass-rates",
        "implicit-filter",
        "dag",
    ] {
        let svg = std::fs::read_to_string(out.join(format!("figures/{figure}.svg"))).expect(figure);
        assert!(svg.starts_with("<svg"), "{figure}");
        let png = std::fs::read(out.join(format!("figures/{figure}.png"))).expect(figure);
        assert!(png.starts_with(b"\x89PNG"), "{figure}");
    }
    for table in ["results.jsonl", "results.csv", "results.md"] {
        assert!(out.join(table).exists(), "{table}");
    }
}

#[test]
fn a_grid_is_compared_at_matched_accuracy() {
    let (lab, _) = &*FINISHED;
    // The same stages as the finished study, but for a second learning rate of each of two arms.
    lab.write(
        "grid.yaml",
        "dcsft: 1\nextends: spec.yaml\nname: grid\nmatrix: {seed: [0]}\nstages:\n  \
         sft: {arm: \"sft/${matrix.subset}\", matrix: {subset: [easy+medium], lr: [1e-3, 2e-3]}, with: {learning_rate: \"${matrix.lr}\"}}\n  \
         grpo: {arm: grpo, matrix: {lr: [1e-3, 2e-3]}, with: {learning_rate: \"${matrix.lr}\"}}\n",
    );
    let text = lab.ok(&["run", "grid.yaml"]);
    assert!(text.contains("sft/easy+medium lr=0.002"), "{text}");
    assert!(
        text.contains("At matched ID accuracy, OOD of sft/easy+medium is"),
        "{text}"
    );
}
