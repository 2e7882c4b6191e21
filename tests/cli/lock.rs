//! `lock` and `run --locked`.

use crate::support::{DATA, Lab, lines};

#[test]
fn a_run_that_reproduces_its_lock_file_ends_in_exit_code_0() {
    let lab = Lab::new(DATA);
    lab.ok(&["run", "spec.yaml"]);
    lab.ok(&["lock", "spec.yaml"]);
    let said = lines(&lab.ok(&["lock", "spec.yaml", "--json"]));
    assert_eq!(said[0]["stages"], 4);
    assert!(
        said[0]["lock"]
            .as_str()
            .is_some_and(|path| path.ends_with("spec.yaml.lock")),
        "{said:?}"
    );
    let text = std::fs::read_to_string(lab.root().join("spec.yaml.lock")).expect("the lock file");
    assert_eq!(text.lines().count(), 1 + 4, "a head and a line per stage");
    assert!(
        !text.contains(&lab.root().display().to_string()),
        "a lock file names no machine's paths"
    );
    lab.ok(&["run", "spec.yaml", "--locked"]);
    lab.ok(&["run", "spec.yaml", "--locked", "--cache-dir", "other"]);
}

#[test]
fn a_changed_key_is_found_before_anything_runs() {
    let lab = Lab::new(DATA);
    lab.ok(&["run", "spec.yaml"]);
    lab.ok(&["lock", "spec.yaml"]);
    let done = lab.dcsft(&["run", "spec.yaml", "--locked", "--set", "vars.train=13"]);
    assert_eq!(done.code, 3, "{}", done.stderr);
    assert!(
        done.stderr.contains("world[seed=0]"),
        "the first stage that diverged: {}",
        done.stderr
    );
    assert!(
        done.stderr.contains("counts.train: 12 -> 13"),
        "{}",
        done.stderr
    );
    let plan = lines(&lab.ok(&["plan", "spec.yaml", "--set", "vars.train=13", "--json"]));
    assert_eq!(
        plan.last().map(|line| line["summary"]["to_run"].clone()),
        Some(3.into()),
        "nothing ran"
    );
}

#[test]
fn other_bytes_of_the_same_work_are_a_divergence() {
    let lab = Lab::new(DATA);
    lab.ok(&["run", "spec.yaml"]);
    lab.ok(&["lock", "spec.yaml"]);
    let path = lab.root().join("spec.yaml.lock");
    let text = std::fs::read_to_string(&path).expect("the lock file");
    let line = text
        .lines()
        .find(|line| line.contains("\"untrained\""))
        .expect("the stage");
    let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let digest = value["outputs"]["model"].as_str().expect("a digest");
    std::fs::write(&path, text.replace(digest, &"0".repeat(64))).expect("write");
    let done = lab.dcsft(&["run", "spec.yaml", "--locked"]);
    assert_eq!(done.code, 3);
    assert!(
        done.stderr
            .contains("untrained did the same work and its output `model` is"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_locked_run_needs_a_lock_file() {
    let lab = Lab::new(DATA);
    let done = lab.dcsft(&["run", "spec.yaml", "--locked"]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("spec.yaml.lock"), "{}", done.stderr);
    assert!(
        done.stderr
            .contains("help: run the spec, then write its lock file with `dcsft lock`"),
        "{}",
        done.stderr
    );
}

#[test]
fn there_is_nothing_to_lock_before_a_run() {
    let lab = Lab::new(DATA);
    let done = lab.dcsft(&["lock", "spec.yaml"]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("untrained"), "{}", done.stderr);
}

/// One evaluation of an untrained model.
const SCORED: &str = r#"
dcsft: 1
name: scored
stages:
  world:
    uses: shapes
    with: {counts: {pretrain: 4, cold_start: 4, train: 4, val: 20, rendition: 4, adversarial: 4}}
  untrained: {uses: model, with: {kind: micro}}
  eval:
    uses: eval
    with: {model: "${untrained}", data: "${world.val}", max_new_tokens: 4}
"#;

/// Changes the line of the evaluation in the lock file.
fn change(lab: &Lab, change: impl Fn(&mut serde_json::Value)) {
    let path = lab.root().join("spec.yaml.lock");
    let text = std::fs::read_to_string(&path).expect("the lock file");
    let changed: String = text
        .lines()
        .map(|line| {
            let mut value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            if value["stage"] == "eval" {
                change(&mut value);
            }
            format!("{value}\n")
        })
        .collect();
    std::fs::write(&path, changed).expect("write");
}

#[test]
fn what_another_arithmetic_has_locked_is_compared_within_a_tolerance() {
    let lab = Lab::new(SCORED);
    lab.ok(&["run", "spec.yaml"]);
    lab.ok(&["lock", "spec.yaml"]);
    // As a lock file that another device has written.
    change(&lab, |eval| {
        eval["key"] = "0".repeat(64).into();
        let metric = &mut eval["metrics"]["val/accuracy"];
        *metric = (metric.as_f64().expect("a number") + 0.01).into();
    });
    let run = |more: &[&str]| {
        let args = [&["run", "spec.yaml", "--locked", "--no-report"], more].concat();
        lab.dcsft(&args)
    };
    let strict = run(&[]);
    assert_eq!(strict.code, 3, "{}", strict.stderr);
    let near = run(&["--tolerance", "0.02"]);
    assert_eq!(near.code, 0, "{}", near.stderr);
    assert!(
        near.stderr.contains(
            "1 result differs from the locked one, by another arithmetic; up to 0.02 is tolerated"
        ),
        "{}",
        near.stderr
    );
    let row = near.stdout.lines().find(|line| line.starts_with("eval "));
    assert!(
        row.is_some_and(|row| row.contains("val/accuracy")),
        "{}",
        near.stdout
    );
    let json = lines(&run(&["--tolerance", "0.02", "--json"]).stdout);
    let compared = json.iter().find(|line| line["event"] == "compared");
    let compared = compared.expect("what was compared");
    assert_eq!(compared["tolerance"], 0.02);
    assert_eq!(compared["apart"][0]["metric"], "val/accuracy");
    let far = run(&["--tolerance", "0.001"]);
    assert_eq!(far.code, 3, "{}", far.stderr);
    assert!(
        far.stderr.contains("which is more than 0.001 away"),
        "{}",
        far.stderr
    );
    // What is asked for has to be the same.
    let other = run(&[
        "--tolerance",
        "0.02",
        "--set",
        "stages.eval.with.max_new_tokens=5",
    ]);
    assert_eq!(other.code, 3, "{}", other.stderr);

    change(&lab, |eval| {
        eval.as_object_mut().expect("a map").remove("work");
    });
    let old = run(&["--tolerance", "0.02"]);
    assert_eq!(old.code, 3);
    assert!(
        old.stderr
            .contains("help: an earlier dcsft wrote the lock file"),
        "{}",
        old.stderr
    );
}

#[test]
fn a_tolerance_needs_a_locked_run_and_a_number() {
    let lab = Lab::new(DATA);
    for (args, words) in [
        (vec!["--tolerance", "0.1"], "--locked"),
        (vec!["--locked", "--tolerance", "-1"], "a number from 0"),
        (
            vec!["--locked", "--tolerance", "much"],
            "a number from 0 such as 1e-3",
        ),
    ] {
        let done = lab.dcsft(&[&["run", "spec.yaml"], &args[..]].concat());
        assert_eq!(done.code, 2);
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    }
}
