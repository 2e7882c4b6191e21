//! Faults of the machine and of the command line, as programs and people see them.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use dcsft_engine::{run, worker};
use serde_json::Value;

use crate::support::{DATA, Done, Lab, finish, lines};

const RETRIES: &str = r#"
dcsft: 1
name: retries
stages:
  world:
    uses: shapes
    retries: 3
    with: {counts: {pretrain: 4, cold_start: 4, train: 4, val: 4, rendition: 4, adversarial: 4}}
"#;

/// The mistakes that a command has told programs of.
fn mistakes(done: &Done) -> Vec<Value> {
    let events = lines(&done.stdout).into_iter();
    events.filter(|event| event["event"] == "error").collect()
}

#[test]
fn mistakes_in_a_spec_are_json_for_programs() {
    let lab = Lab::new(
        "dcsft: 1\nname: x\nstages:\n  a: {uses: shape}\n  b: {uses: shapes, with: {sede: 1}}\n",
    );
    for command in ["plan", "run", "graph", "results", "why", "lock", "report"] {
        let done = lab.dcsft(&[command, "spec.yaml", "--json"]);
        assert_eq!(done.code, 2, "{command}: {}", done.stderr);
        let found = mistakes(&done);
        assert_eq!(found.len(), 2, "{command}: {}", done.stdout);
        for (mistake, line, text) in [(&found[0], 4, "shape"), (&found[1], 5, "sede")] {
            assert_eq!(mistake["exit"], 2, "{mistake}");
            assert_eq!(mistake["line"], line, "{mistake}");
            assert_eq!(mistake["text"], text, "{mistake}");
            let file = mistake["file"].as_str().expect("a file");
            assert!(file.ends_with("spec.yaml"), "{mistake}");
        }
        assert!(done.stderr.contains("error"), "people are told too");
    }
}

#[test]
fn mistakes_of_the_command_line_and_of_the_machine_are_json_for_programs() {
    let lab = Lab::new(DATA);
    lab.write("file", "");
    let wrong: [(&[&str], &str); 9] = [
        (&["plan", "nowhere.yaml"], "nowhere.yaml"),
        (&["run", "spec.yaml", "--jobs", "0"], "--jobs"),
        (&["frobnicate"], "frobnicate"),
        (&["run"], "SPEC"),
        (&["run", "spec.yaml", "--force", "nothing"], "nothing"),
        (&["run", "spec.yaml", "--device", "tpu"], "tpu"),
        (
            &["plan", "spec.yaml", "--cache-dir", "file/cache"],
            "file/cache",
        ),
        (&["cache", "path", "0000"], "0000"),
        (&["export", "spec.yaml", "world", "out"], "world"),
    ];
    for (args, part) in wrong {
        let done = lab.dcsft(&[args, &["--json"]].concat());
        assert_ne!(done.code, 0, "{args:?}");
        let found = mistakes(&done);
        assert_eq!(found.len(), 1, "{args:?}: {}", done.stdout);
        assert_eq!(found[0]["exit"], done.code, "{args:?}");
        assert!(
            found[0].to_string().contains(part),
            "{args:?}: {}",
            found[0]
        );
        assert!(
            done.stderr.contains("error"),
            "{args:?}: people are told too"
        );
    }
    let help = lab.dcsft(&["run", "--help", "--json"]);
    assert!(help.code == 0 && !help.stdout.contains("\"event\":\"error\""));
}

#[test]
fn a_run_that_cannot_begin_ends_with_finished() {
    let lab = Lab::new(DATA);
    lab.write("file", "");
    for args in [
        &["run", "spec.yaml", "--json", "--cache-dir", "file/cache"][..],
        &["run", "spec.yaml", "--json", "--force", "nothing"],
        &["run", "nowhere.yaml", "--json"],
    ] {
        let done = lab.dcsft(args);
        let events = lines(&done.stdout);
        let names: Vec<_> = events.iter().map(|event| &event["event"]).collect();
        assert_eq!(names, ["error", "finished"], "{args:?}");
    }
}

/// Puts a file where the store has its artifacts, or takes it away.
fn artifacts_are_broken(lab: &Lab, broken: bool) {
    let folder = lab.root().join("cache/v1/artifacts");
    let away = folder.with_extension("away");
    if broken {
        fs::rename(&folder, &away).expect("the folder");
        fs::write(&folder, "").expect("a file");
    } else {
        fs::remove_file(&folder).expect("the file");
        fs::rename(&away, &folder).expect("the folder");
    }
}

#[test]
fn a_cache_that_fails_is_said_once_and_costs_no_work() {
    let lab = Lab::new(RETRIES);
    let mut child = lab
        .command(&["run", "spec.yaml", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdout = String::new();
    for line in BufReader::new(child.stdout.take().expect("its stdout")).lines() {
        let line = line.expect("a line") + "\n";
        if line.contains("stage_started") {
            artifacts_are_broken(&lab, true);
        }
        stdout += &line;
    }
    let output = child.wait_with_output().expect("it ends");
    artifacts_are_broken(&lab, false);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let events = lines(&stdout);
    let names: Vec<_> = events
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    assert_eq!(names[names.len() - 2..], ["error", "finished"], "{names:?}");
    assert!(!names.contains(&"stage_failed") && !names.contains(&"stage_retries"));
    assert_eq!(names.iter().filter(|name| **name == "error").count(), 1);
    assert!(stderr.contains("error: world is done"), "{stderr}");
    let log = events
        .iter()
        .find_map(|event| event["log"].as_str())
        .expect("a log");
    let log = fs::read_to_string(log).expect("the log");
    assert_eq!(log.matches("attempt").count(), 1, "{log}");

    let events = lines(&lab.ok(&["run", "spec.yaml", "--json"]));
    let last = events.last().expect("events");
    assert_eq!((&last["executed"], &last["cached"]), (&0.into(), &1.into()));
    lab.ok(&["cache", "verify"]);
}

#[test]
fn the_documents_have_the_graces_of_the_program() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/keys-and-cache.md");
    let text = fs::read_to_string(page).expect("the page");
    let text: Vec<&str> = text.split_whitespace().collect();
    let text = text.join(" ");
    for sentence in [
        format!(
            "Ctrl-C asks the workers to stop, gives them {} seconds",
            run::GRACE.as_secs()
        ),
        format!(
            "have {} seconds to save their state",
            worker::ORPHAN_GRACE.as_secs()
        ),
    ] {
        assert!(text.contains(&sentence), "{sentence}");
    }
}

#[cfg(target_os = "linux")]
const LONG: &str = r#"
dcsft: 1
name: long
stages:
  world:
    uses: shapes
    with: {counts: {pretrain: 4, cold_start: 4, train: 256, val: 4, rendition: 4, adversarial: 4}}
  untrained: {uses: model, with: {kind: micro}}
  trained:
    uses: sft
    with: {model: "${untrained}", data: "${world.train}", steps: 100000, batch_size: 16, learning_rate: 1e-3}
"#;

/// State and parent of a process, as the system has them.
#[cfg(target_os = "linux")]
fn stat(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

#[cfg(target_os = "linux")]
#[test]
fn a_stopped_run_stops_its_workers_and_both_go_on() {
    let lab = Lab::new(LONG);
    let mut child = lab
        .command(&["run", "spec.yaml", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut events = BufReader::new(child.stdout.take().expect("its stdout")).lines();
    let mut trains = || {
        let mut lines = events.by_ref().map_while(Result::ok);
        lines.any(|line| {
            let event: Value = serde_json::from_str(&line).expect("JSON");
            event["event"] == "progress" && event["stage"] == "trained"
        })
    };
    assert!(trains(), "training began");
    let run = child.id();
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let workers: Vec<u32> = numbers
        .filter(|pid| stat(*pid).is_some_and(|(_, parent)| parent == run))
        .collect();
    assert_eq!(workers.len(), 1, "{workers:?}");
    let all = [run, workers[0]];
    let send = |signal: &str| {
        let sent = Command::new("kill")
            .args([signal, &run.to_string()])
            .status();
        assert!(sent.expect("kill").success());
    };
    let until = |wanted: &dyn Fn(&str) -> bool| {
        while !all
            .iter()
            .all(|pid| stat(*pid).is_some_and(|(state, _)| wanted(&state)))
        {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    send("-TSTP");
    until(&|state| state == "T");
    send("-CONT");
    until(&|state| state != "T");
    assert!(trains(), "training goes on");
    send("-INT");
    let rest: Vec<String> = events.map_while(Result::ok).collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{rest:?}");
}

/// Needs another user than root, whom limits do not bind, and root to become that user.
#[cfg(target_os = "linux")]
#[test]
fn too_few_processes_are_a_message_and_no_panic() {
    let lab = Lab::new(DATA);
    let binary = lab.root().join("dcsft");
    fs::copy(env!("CARGO_BIN_EXE_dcsft"), &binary).expect("a copy");
    let own = Command::new("chown")
        .args(["-R", "65534"])
        .arg(lab.root())
        .status();
    let limited = |limit: u32, args: &[&str]| {
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--nproc={limit}"))
            .args([
                "setpriv",
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
            ])
            .arg(&binary)
            .args(args)
            .current_dir(lab.root())
            .env("DCSFT_CACHE", lab.root().join("cache"))
            .stdin(Stdio::null());
        command
    };
    let tried = limited(1000, &["--version"]).output();
    if !own.is_ok_and(|own| own.success()) || !tried.is_ok_and(|tried| tried.status.success()) {
        let message = "this user cannot become another one";
        assert!(std::env::var_os("CI").is_none(), "{message}");
        eprintln!("skipped: {message}");
        return;
    }
    for limit in [1, 2, 3, 4, 5, 6, 8, 12] {
        let done = finish(&mut limited(limit, &["run", "spec.yaml", "--no-report"]));
        assert!(
            done.code <= 1 && !done.stderr.contains("panicked"),
            "{limit}: {}: {}",
            done.code,
            done.stderr
        );
        assert!(
            done.code == 0 || done.stderr.contains("error: "),
            "{limit}: {}",
            done.stderr
        );
    }
}
