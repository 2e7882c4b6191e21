//! `results` and `report`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

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
        let origin = &row["origin"];
        assert!(
            origin["host"].is_string() && origin["dcsft"]["version"].is_string(),
            "{row}"
        );
        assert_eq!(origin["device"], "cpu", "{row}");
        let used: Vec<_> = origin["used_by"].as_array().expect("runs").iter().collect();
        assert!(used.contains(&&origin["made_by"]), "{row}");
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
    let told = |rows: &[Value]| -> BTreeSet<String> {
        let mut rows = rows.to_vec();
        for row in &mut rows {
            // Who made it is no part of a result.
            row.as_object_mut().expect("a row").remove("origin");
        }
        rows.iter().map(Value::to_string).collect()
    };
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
    let heading = "arm,axis.seed,axis.set,axis.step,axis.subset,step,set,split,metric,value,n,ci_low,ci_high,repeats,\
                   repeats_of,stage,model,data\n";
    assert!(csv.starts_with(heading), "{csv}");
    assert_eq!(csv.lines().count(), rows.len() + 1);
}

/// Right answers by sample, as an evaluation kept them.
fn answers(lab: &Lab, evaluation: &str) -> BTreeMap<String, bool> {
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("out");
    lab.ok(&[
        "export",
        "spec.yaml",
        evaluation,
        to.to_str().expect("UTF-8"),
    ]);
    let text = std::fs::read_to_string(to.join("answers.jsonl")).expect("answers");
    let right = |line: Value| {
        let id = line["id"].as_str().expect("an ID").to_owned();
        (id, line["correct"].as_bool().expect("right or wrong"))
    };
    lines(&text).into_iter().map(right).collect()
}

#[test]
fn with_one_seed_arms_are_compared_sample_by_sample() {
    let (lab, _) = &*FINISHED;
    let one = ["--set", "matrix.seed=[0]"];
    let objects =
        lines(&lab.ok(&[&["results", "spec.yaml", "--json", "--seeds"], &one[..]].concat()));
    let compared: Vec<&Value> = objects
        .iter()
        .map(|one| &one["compared"])
        .filter(|one| !one.is_null())
        .collect();
    // Five arms, each two of them, on three sets.
    assert_eq!(compared.len(), 10, "{objects:?}");
    let pair = compared
        .iter()
        .find(|one| one["arm"] == "sft/hard" && one["versus"] == "cold_start")
        .expect("hard against the cold start");
    for set in pair["sets"].as_array().expect("sets") {
        let name = set["set"].as_str().expect("a name");
        let ours = answers(
            lab,
            &format!("eval_sft[seed=0,set={name},step=4,subset=hard]"),
        );
        let theirs = answers(lab, &format!("eval_cold_start[seed=0,set={name}]"));
        let count = |right: bool| {
            ours.iter()
                .filter(|(id, ok)| **ok == right && theirs[*id] != right)
                .count()
        };
        assert_eq!(
            (&set["better"], &set["worse"]),
            (&json!(count(true)), &json!(count(false))),
            "{set}"
        );
        assert_eq!(set["n"], 20, "{set}");
        let difference = (count(true) as f64 - count(false) as f64) / 20.0;
        assert!(
            (set["difference"].as_f64().expect("a number") - difference).abs() < 1e-12,
            "{set}"
        );
        let interval =
            [&set["interval"][0], &set["interval"][1]].map(|end| end.as_f64().expect("an end"));
        assert!(
            interval[0] <= difference && difference <= interval[1],
            "{set}"
        );
    }
    let table = lab.ok(&[&["results", "spec.yaml"], &one[..]].concat());
    assert!(table.contains("exact McNemar"), "{table}");
    assert!(
        table
            .lines()
            .any(|line| line.starts_with("sft/hard ") && line.contains("cold_start")),
        "{table}"
    );
    // With two seeds the seeds tell, and no single run is compared.
    let objects = lines(&lab.ok(&["results", "spec.yaml", "--json", "--seeds"]));
    assert!(
        objects.iter().all(|one| one["compared"].is_null()),
        "{objects:?}"
    );
}

#[test]
fn every_two_arms_that_have_curves_are_compared_at_matched_accuracy() {
    let (lab, _) = &*FINISHED;
    let objects = lines(&lab.ok(&["results", "spec.yaml", "--json", "--seeds"]));
    let pairs: BTreeSet<String> = objects
        .iter()
        .filter_map(|one| one["matched_id"].as_object())
        .map(|one| format!("{} {}", one["arm"], one["versus"]))
        .collect();
    // Three arms of SFT and GRPO, at two steps each; the cold start is one point.
    assert_eq!(pairs.len(), 6, "{pairs:?}");
    assert!(
        pairs.iter().all(|pair| !pair.contains("cold_start")),
        "{pairs:?}"
    );
    let page = std::fs::read_to_string(report_of(lab)).expect("the page");
    assert!(
        page.contains("At matched ID accuracy"),
        "the page compares them too"
    );
}

/// Writes the report and names its page.
fn report_of(lab: &Lab) -> std::path::PathBuf {
    lab.ok(&["report", "spec.yaml", "--out", "matched"]);
    lab.root().join("matched/index.html")
}

#[test]
fn the_stage_report_and_the_command_line_give_the_same_means_and_differences() {
    let (lab, _) = &*FINISHED;
    let out = tempfile::tempdir().expect("a folder");
    let folder = out.path().join("out");
    lab.ok(&[
        "export",
        "spec.yaml",
        "report",
        folder.to_str().expect("UTF-8"),
    ]);
    assert!(
        folder
            .join("images")
            .read_dir()
            .expect("images")
            .next()
            .is_some(),
        "the gallery's images are exported too"
    );
    let text = std::fs::read_to_string(folder.join("aggregate.json")).expect("aggregates");
    let aggregate: Value = serde_json::from_str(&text).expect("JSON");
    let printed = lines(&lab.ok(&["results", "spec.yaml", "--json", "--seeds", "--all-steps"]));
    let near = |a: &Value, b: f64| (a.as_f64().expect("a number") - b).abs() < 1e-12;
    let arms = aggregate["arms"].as_array().expect("arms");
    let mut compared = 0;
    for arm in arms.iter().filter(|arm| arm["metric"] == "accuracy") {
        let same = |one: &&Value| {
            ["arm", "step", "set", "split"]
                .iter()
                .all(|key| one[*key] == arm[*key])
        };
        let one = printed.iter().find(same).expect("the same mean");
        let mean = arm["mean"].as_f64().expect("a mean");
        let error = arm["standard_error"].as_f64().expect("an error");
        assert!(near(&one["mean"], mean), "{one} {arm}");
        assert!(near(&one["interval"][0], mean - error), "{one} {arm}");
        assert_eq!((&one["seeds"], &arm["repeats"]), (&json!(2), &json!(2)));
        compared += 1;
    }
    assert_eq!(compared, 3 * (1 + 3 * 2 + 2));
    let differences = aggregate["differences"].as_array().expect("differences");
    let ours = |one: &&Value| {
        one["metric"] == "accuracy"
            && one["set"] == "val"
            && one["step"] == 4
            && one["baseline"]["arm"] == "cold_start"
    };
    let mut compared = 0;
    for one in differences.iter().filter(ours) {
        let same = |other: &&Value| other["arm"] == one["arm"] && other["versus"] == "cold_start";
        let other = printed.iter().find(same).expect("the same difference");
        assert!(
            near(
                &other["id"]["mean"],
                one["mean_difference"].as_f64().expect("a mean")
            ),
            "{other} {one}"
        );
        assert!(
            near(
                &other["id"]["se"],
                one["standard_error"].as_f64().expect("an error")
            ),
            "{other} {one}"
        );
        assert_eq!(
            (&other["id"]["pairs"], &other["id"]["wins"]),
            (&one["pairs"], &one["wins"])
        );
        compared += 1;
    }
    assert_eq!(compared, 4);
}

/// A world and an untrained model, evaluated in an instant.
const INSTANT: &str = r#"
dcsft: 1
name: instant
vars: {seeds: {"X": 2, two: 3}}
stages:
  world:
    uses: shapes
    with: {counts: {pretrain: 4, cold_start: 4, train: 4, val: 8, rendition: 8, adversarial: 8}}
  a: {uses: model, arm: "ARM", with: {kind: micro, seed: 1}}
  b: {uses: model, matrix: {x: ["X"]}, arm: "b", with: {kind: micro, seed: "${vars.seeds.${matrix.x}}"}}
  eval_a: {uses: eval, with: {model: "${a}", data: "${world.val}", max_new_tokens: 4}}
  eval_b: {uses: eval, with: {model: "${b}", data: "${world.val}", max_new_tokens: 4}}
  scenes: {uses: eval, with: {model: "${a}", data: "${world.val}", max_new_tokens: 4, prompt: "<image>scene?"}}
"#;

#[test]
fn names_reach_terminals_and_spreadsheets_as_text_alone() {
    let hostile = r"=1+1|\e]0;title\a\e[2J\x9b2J\u202ex\u200b\u2028\nnext";
    let spec = INSTANT
        .replace("ARM", hostile)
        .replace("\"X\"", &format!("\"{hostile}\""));
    let lab = Lab::new(&spec);
    let hidden = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{200b}\u{2028}".contains(c));
    for command in [
        vec!["plan", "spec.yaml", "--all"],
        vec!["run", "spec.yaml", "-v"],
        vec!["run", "spec.yaml", "--json"],
        vec!["results", "spec.yaml"],
        vec!["results", "spec.yaml", "--seeds", "--json"],
        vec!["results", "spec.yaml", "--json"],
        vec!["results", "spec.yaml", "--format", "csv"],
        vec!["results", "spec.yaml", "--format", "markdown"],
        vec!["status", "spec.yaml"],
        vec!["graph", "spec.yaml"],
        vec!["why", "spec.yaml", "eval_b"],
        vec!["cache", "ls"],
        vec!["lock", "spec.yaml", "--print"],
        vec![
            "plan",
            "spec.yaml",
            "--set",
            "stages.eval_b.matrix.x=[\"\\e[2J\"]",
        ],
        vec!["plan", "spec.yaml", "--force", "\u{1b}[2J"],
    ] {
        let done = lab.dcsft(&command);
        for text in [&done.stdout, &done.stderr] {
            let found: Vec<char> = text.chars().filter(|c| hidden(*c)).collect();
            assert!(found.is_empty(), "{command:?}: {found:?} in {text:?}");
        }
    }
    let csv = lab.ok(&["results", "spec.yaml", "--format", "csv"]);
    assert!(
        csv.lines().skip(1).all(|line| !line.starts_with('=')),
        "{csv}"
    );
    assert!(csv.lines().any(|line| line.starts_with("'=1+1|")), "{csv}");
    let markdown = lab.ok(&["results", "spec.yaml", "--format", "markdown"]);
    let bars = |line: &str| line.replace("\\|", "").matches('|').count();
    let table: Vec<&str> = markdown
        .lines()
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert!(
        table.len() >= 5 && table.iter().all(|line| bars(line) == bars(table[0])),
        "{markdown}"
    );
}

#[test]
fn ways_of_evaluating_one_set_are_told() {
    let lab = Lab::new(
        &INSTANT
            .replace("ARM", "a")
            .replace("[\"X\"]", "[one, two]")
            .replace("\"X\"", "one"),
    );
    lab.ok(&["run", "spec.yaml"]);
    let table = lab.ok(&["results", "spec.yaml"]);
    for text in [
        "a eval=eval_a",
        "a eval=scenes",
        "b x=one",
        "b x=two",
        "note: val: evaluated with different `prompt`",
    ] {
        assert!(table.contains(text), "no {text} in {table}");
    }
}

/// A step of a training that goes on is no last step: the table says so.
#[test]
fn a_step_that_is_not_the_last_one_trained_is_told() {
    let (finished, _) = &*FINISHED;
    let note = "shown at step 2, while training went on to step 4, which no evaluation measures:";
    let whole = finished.dcsft(&["results", "spec.yaml"]);
    assert!(!(whole.stdout + &whole.stderr).contains("while training went on"));
    // The same study, of which the last step of one arm is not evaluated.
    let early = finished.dcsft(&[
        "results",
        "spec.yaml",
        "--set",
        "stages.eval_grpo.matrix.step=[2]",
    ]);
    assert_eq!(early.code, 0, "{}", early.stderr);
    let text = early.stdout + &early.stderr;
    assert!(text.contains(&format!("{note} grpo")), "{text}");
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
