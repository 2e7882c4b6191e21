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
