//! What is wrong is said where it is wrong, and ends in exit code 2.

use crate::support::{DATA, Lab};

/// Each broken spec with what its message must contain.
const BROKEN: [(&str, &str, &[&str]); 11] = [
    (
        "unknown key",
        "dcsft: 1\nname: x\nstagse: {}\nstages: {}\n",
        &["spec.yaml:3:1", "stagse", "stages"],
    ),
    (
        "unknown kind",
        "dcsft: 1\nname: x\nstages:\n  world: {uses: shape}\n",
        &["spec.yaml:4:17", "shape", "shapes"],
    ),
    (
        "unknown param",
        "dcsft: 1\nname: x\nstages:\n  world:\n    uses: shapes\n    with: {sede: 1}\n",
        &["spec.yaml:6:", "sede", "seed"],
    ),
    (
        "wrong type",
        "dcsft: 1\nname: x\nstages:\n  world:\n    uses: shapes\n    with: {seed: many}\n",
        &["spec.yaml:6:18", "many", "whole number"],
    ),
    (
        "unknown stage",
        "dcsft: 1\nname: x\nstages:\n  world: {uses: shapes}\n  s: {uses: sft, with: {model: \"${base}\", data: \"${world.train}\", steps: 1}}\n",
        &["spec.yaml:5:", "base"],
    ),
    (
        "unknown output",
        "dcsft: 1\nname: x\nstages:\n  world: {uses: shapes}\n  m: {uses: model}\n  s: {uses: sft, with: {model: \"${m}\", data: \"${world.trian}\", steps: 1}}\n",
        &["spec.yaml:6:", "trian", "train"],
    ),
    (
        "wrong artifact",
        "dcsft: 1\nname: x\nstages:\n  world: {uses: shapes}\n  s: {uses: sft, with: {model: \"${world.train}\", data: \"${world.train}\", steps: 1}}\n",
        &["spec.yaml:5:", "model"],
    ),
    (
        "missing input",
        "dcsft: 1\nname: x\nstages:\n  m: {uses: model}\n  s: {uses: sft, with: {model: \"${m}\", steps: 1}}\n",
        &["spec.yaml:5:", "data"],
    ),
    (
        "cycle",
        "dcsft: 1\nname: x\nstages:\n  world: {uses: shapes}\n  a: {uses: sft, with: {model: \"${b}\", data: \"${world.train}\", steps: 1}}\n  b: {uses: sft, with: {model: \"${a}\", data: \"${world.train}\", steps: 1}}\n",
        &["a", "b"],
    ),
    (
        "unknown axis value",
        "dcsft: 1\nname: x\nmatrix: {seed: [0, 1]}\nstages:\n  world: {uses: shapes, with: {seed: \"${matrix.seed}\"}}\n  m: {uses: model}\n  s: {uses: sft, with: {model: \"${m}\", data: \"${world[seed=2].train}\", steps: 1}}\n",
        &["spec.yaml:7:", "seed", "0", "1"],
    ),
    (
        "missing file",
        "dcsft: 1\nname: x\nstages:\n  d: {uses: dataset, with: {path: nowhere.json, set: d, split: id}}\n",
        &["spec.yaml:4:", "nowhere.json"],
    ),
];

#[test]
fn broken_specs_are_located_and_end_in_exit_code_2() {
    for (name, spec, parts) in BROKEN {
        let lab = Lab::new(spec);
        let done = lab.dcsft(&["run", "spec.yaml"]);
        assert_eq!(done.code, 2, "{name}: {}", done.stderr);
        assert!(done.stderr.contains("error"), "{name}: {}", done.stderr);
        assert_eq!(done.stdout, "", "{name}");
        for part in parts {
            assert!(
                done.stderr.contains(part),
                "{name}: no `{part}` in\n{}",
                done.stderr
            );
        }
    }
}

#[test]
fn several_mistakes_are_reported_in_one_go() {
    let lab = Lab::new(
        "dcsft: 1\nname: x\nstages:\n  a: {uses: shape}\n  b: {uses: shapes, with: {sede: 1, rho: 3}}\n",
    );
    let done = lab.dcsft(&["plan", "spec.yaml"]);
    assert_eq!(done.code, 2);
    for part in ["shape", "sede", "rho"] {
        assert!(
            done.stderr.contains(part),
            "no `{part}` in\n{}",
            done.stderr
        );
    }
}

#[test]
fn a_missing_spec_is_named() {
    let done = Lab::new("").dcsft(&["run", "nowhere.yaml"]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("nowhere.yaml"), "{}", done.stderr);
}

#[test]
fn a_wrong_override_is_a_mistake_of_the_command_line() {
    let lab = Lab::new(DATA);
    let done = lab.dcsft(&["plan", "spec.yaml", "--set", "vars.trian=3"]);
    assert_eq!(done.code, 2);
    assert!(
        done.stderr.contains("trian") && done.stderr.contains("train"),
        "{}",
        done.stderr
    );
}

#[test]
fn wrong_flags_end_in_exit_code_2() {
    let lab = Lab::new(DATA);
    let wrong: [&[&str]; 6] = [
        &["run"],
        &["frobnicate"],
        &["run", "spec.yaml", "--jobs", "0"],
        &["run", "spec.yaml", "--device", "tpu"],
        &["run", "spec.yaml", "--force", "nothing"],
        &["results", "spec.yaml", "--format", "xml"],
    ];
    for args in wrong {
        let done = lab.dcsft(args);
        assert_eq!(done.code, 2, "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains("error"), "{args:?}: {}", done.stderr);
    }
}

#[test]
fn a_device_that_is_not_there_is_said_before_anything_runs() {
    let lab = Lab::new(crate::support::TINY);
    for device in ["cuda:63", "wgpu:63"] {
        let done = lab.dcsft(&["run", "spec.yaml", "--device", device]);
        assert_eq!(done.code, 1, "{}", done.stderr);
        let said = done.stderr.starts_with(&format!("error: {device} "));
        assert!(said && done.stderr.lines().count() == 1, "{}", done.stderr);
    }
    assert_eq!(lab.ok(&["cache", "ls", "--json"]), "");
}

#[test]
fn a_file_that_is_no_spec_is_quoted_in_part() {
    let lab = Lab::new(&"word ".repeat(10_000));
    let done = lab.dcsft(&["plan", "spec.yaml"]);
    assert_eq!(done.code, 2);
    assert!(
        done.stderr
            .contains("a spec is a map, not the text \"word ")
            && done.stderr.lines().next().map(str::len) < Some(120),
        "{}",
        done.stderr
    );
}

#[test]
fn a_cache_that_cannot_be_written_is_one_sentence() {
    let lab = Lab::new(DATA);
    lab.write("file", "");
    let done = lab.dcsft(&["plan", "spec.yaml", "--cache-dir", "file/cache"]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(
        done.stderr.starts_with("error: ") && done.stderr.lines().count() <= 2,
        "{}",
        done.stderr
    );
}
