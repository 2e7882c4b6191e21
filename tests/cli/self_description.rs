//! `stages`, `schema`, `doctor`, `completions`, help.

use std::process::Stdio;

use serde_json::Value;

use crate::support::{Lab, finish, lines};

const KINDS: [&str; 11] = [
    "command",
    "dataset",
    "difficulty",
    "eval",
    "grpo",
    "import",
    "model",
    "report",
    "rollout",
    "sft",
    "shapes",
];

#[test]
fn stages_lists_every_kind() {
    let lab = Lab::new("");
    let text = lab.ok(&["stages"]);
    let described = lines(&lab.ok(&["stages", "--json"]));
    let names: Vec<&str> = described
        .iter()
        .filter_map(|kind| kind["kind"].as_str())
        .collect();
    assert_eq!(names, KINDS);
    for name in KINDS {
        assert!(
            text.lines().any(|line| line.starts_with(name)),
            "no {name} in\n{text}"
        );
    }
}

#[test]
fn a_kind_is_described_with_inputs_params_and_outputs() {
    let lab = Lab::new("");
    let text = lab.ok(&["stages", "rollout"]);
    for part in [
        "inputs",
        "model",
        "params",
        "temperature",
        "default 0.9",
        "outputs",
        "rollouts",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    for name in KINDS {
        lab.ok(&["stages", name]);
    }
}

#[test]
fn an_unknown_kind_is_a_usage_error() {
    let done = Lab::new("").dcsft(&["stages", "rolout"]);
    assert_eq!(done.code, 2);
    assert!(
        done.stderr
            .contains("help: the kinds are command, dataset,"),
        "{}",
        done.stderr
    );
}

#[test]
fn the_schema_is_json_and_knows_every_kind() {
    let text = Lab::new("").ok(&["schema"]);
    let schema: Value = serde_json::from_str(&text).expect("JSON");
    assert!(schema["$schema"].is_string());
    for name in KINDS {
        assert!(text.contains(&format!("\"{name}\"")), "no {name}");
    }
}

#[test]
fn doctor_checks_the_cache_and_the_device() {
    let lab = Lab::new("");
    let found = lab.dcsft(&["doctor", "--json"]);
    let checks = lines(&found.stdout);
    // How much space is free is the machine's affair; all else is well on one that runs tests.
    let fails: Vec<&Value> = checks.iter().filter(|check| check["ok"] == false).collect();
    assert!(
        fails.iter().all(|check| check["name"] == "free space"),
        "{}",
        found.stdout
    );
    assert_eq!(found.code, i32::from(!fails.is_empty()));
    let names: Vec<&str> = checks
        .iter()
        .filter_map(|check| check["name"].as_str())
        // What a build for GPUs finds on the machine.
        .filter(|name| !cfg!(any(feature = "cuda", feature = "wgpu")) || !is_accelerator(name))
        .collect();
    assert_eq!(
        names,
        [
            "version",
            "threads",
            "device",
            "cache",
            "hard links",
            "locks",
            "free space"
        ]
    );
    let done = lab.dcsft(&["doctor", "--device", "gpu"]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("no device"), "{}", done.stderr);
    let done = lab.dcsft(&["doctor", "--device", "cuda:0,cuda"]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("named twice"), "{}", done.stderr);
}

fn is_accelerator(name: &str) -> bool {
    name == "accelerators" || name.contains(':')
}

#[test]
fn completions_are_printed_for_each_shell() {
    let lab = Lab::new("");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = lab.ok(&["completions", shell]);
        assert!(
            script.contains("dcsft") && script.contains("cache-dir"),
            "{shell}"
        );
        assert!(!script.contains("worker"), "{shell}");
    }
}

#[test]
fn help_names_the_exit_codes_and_hides_the_worker() {
    let lab = Lab::new("");
    let help = lab.ok(&["--help"]);
    assert!(help.contains("3 a locked run diverged"), "{help}");
    assert!(!help.contains("worker"), "{help}");
    assert_eq!(lab.ok(&["help"]), help);
    let bare = lab.dcsft(&[]);
    assert_eq!(bare.code, 2);
    assert!(
        bare.stderr.contains("completions") && !bare.stderr.contains("worker"),
        "{}",
        bare.stderr
    );
    assert!(lab.ok(&["--version"]).starts_with("dcsft "));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let lab = Lab::new("");
    let mut child = lab
        .command(&["schema"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn colours_follow_the_flag() {
    let lab = Lab::new("");
    let coloured = lab.dcsft(&["run", "missing.yaml", "--color", "always"]);
    let plain = lab.dcsft(&["run", "missing.yaml", "--color", "never"]);
    let automatic = finish(&mut lab.command(&["run", "missing.yaml"]));
    assert!(coloured.stderr.contains("\u{1b}["), "{}", coloured.stderr);
    assert!(!plain.stderr.contains('\u{1b}'), "{}", plain.stderr);
    assert_eq!(automatic.stderr, plain.stderr, "no terminal, no colour");
}
